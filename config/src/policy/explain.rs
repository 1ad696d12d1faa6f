//! Why a decision is what it is: every rule of the door, with the first condition that failed.

use std::fmt;

use super::authorize::{Failure, Question, Watch, judge};
use super::{Decision, Policy, RuleId, RuleSource};

/// A decision with the verdict on each rule of the door.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What [`super::authorize`] decides.
    pub decision: Decision,
    /// The revocation that means the peer: then no rule is asked.
    pub revocation: Option<RevokedBy>,
    /// The rules of the door, in the order of their documents.
    pub rules: Vec<ExplainedRule>,
}

/// A revocation that means the peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevokedBy {
    /// Where it was written.
    pub source: RuleSource,
    /// Why, in its author's words.
    pub reason: String,
}

/// A rule and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedRule {
    /// Where it was written.
    pub source: RuleSource,
    /// `Ok`: it allows.
    pub verdict: Result<(), Failure>,
}

impl Policy {
    /// Decides as [`super::authorize`] does, and keeps why.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        struct Notes(Vec<(RuleId, Result<(), Failure>)>);
        impl Watch for Notes {
            const SEES_ALL: bool = true;

            fn rule(&mut self, rule: RuleId, verdict: Result<(), Failure>) -> bool {
                self.0.push((rule, verdict));
                true
            }
        }
        let mut notes = Notes(Vec::new());
        let decision = judge(self, question, &mut notes);
        let rules = notes.0.into_iter().filter_map(|(rule, verdict)| {
            let source = self.source(rule)?.clone();
            Some(ExplainedRule { source, verdict })
        });
        let revoked = self.revoked(&question.peer, question.now);
        Explanation {
            decision,
            revocation: revoked.map(|one| RevokedBy {
                source: one.source.clone(),
                reason: one.reason.clone(),
            }),
            rules: rules.collect(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From => f.write_str("is not for this client"),
            Self::Expired => f.write_str("has expired"),
            Self::Unattested => f.write_str("demands an attestation result, and the peer has none"),
            Self::Class(found) => write!(f, "does not accept class `{found}`"),
            Self::TooOld { age, within } => write!(
                f,
                "demands evidence of the last {}, and the peer's is {} old",
                crate::scalar::show_duration(*within),
                crate::scalar::show_duration(*age),
            ),
            Self::Claims(kind, None) => {
                write!(
                    f,
                    "demands claims of `{kind}`, and the peer has proven no such device"
                )
            }
            Self::Claims(kind, Some(claim)) => {
                write!(f, "demands another `{claim}` of `{kind}`")
            }
            Self::Request => f.write_str("does not allow this request"),
            Self::Binding => f.write_str(
                "demands `binding: exporter`, and the peer has not proven its key over this connection",
            ),
        }
    }
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.document, self.file, self.line)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decision {
            Decision::Allow(_) => writeln!(f, "ALLOW")?,
            Decision::Audit(reason) => {
                writeln!(f, "ADMIT (audit): would be denied, {}", reason.as_str())?;
            }
            Decision::Deny(reason) => writeln!(f, "DENY: {}", reason.as_str())?,
        }
        if let Some(revocation) = &self.revocation {
            return writeln!(f, "  - {}: {}", revocation.source, revocation.reason);
        }
        if self.rules.is_empty() {
            writeln!(f, "  no rule opens this door")?;
        }
        for rule in &self.rules {
            match &rule.verdict {
                Ok(()) => writeln!(f, "  + {} allows", rule.source)?,
                Err(failure) => writeln!(f, "  - {} {failure}", rule.source)?,
            }
        }
        Ok(())
    }
}
