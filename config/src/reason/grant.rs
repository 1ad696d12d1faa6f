//! Grants: what one rule admits, in words and by whom.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::inclusion::{Ask, demands_less};
use crate::access::{AccessPolicy, Demands, Selector};
use crate::policy::RuleSource;
use crate::scalar;
use crate::set::PolicySet;

/// Who comes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// A workload of this mesh.
    Workload(WorkloadName),
    /// All workloads of a namespace that bear these labels, also those to come.
    Namespace(Name, BTreeMap<String, String>),
    /// A peer that another authority names.
    Id(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "{name}"),
            Self::Namespace(namespace, labels) => {
                write!(f, "{namespace}/*")?;
                for (key, value) in labels {
                    write!(f, " {key}={value}")?;
                }
                Ok(())
            }
            Self::Id(id) => f.write_str(id),
        }
    }
}

impl From<&Selector> for Subject {
    fn from(selector: &Selector) -> Self {
        match selector {
            Selector::Workload(name) => Self::Workload(name.clone()),
            Selector::Namespace { namespace, labels } => {
                Self::Namespace(namespace.clone(), labels.clone())
            }
            Selector::SpiffeId(id) => Self::Id(id.as_str().to_owned()),
        }
    }
}

/// What one rule admits of one sort, for people and programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The sort of request: `GET /v1/models`, `connections`.
    pub ask: String,
    /// What the client must have proven.
    pub client: String,
    /// What the server must have proven to its client.
    pub server: String,
    /// End of a break-glass rule.
    pub until: Option<String>,
    /// The rule, with file and line.
    pub rule: String,
}

impl Grant {
    /// `POST /v1/chat, if client is attested, server is attested, until 2026-12-24T00:00:00Z`.
    pub(super) fn in_words(&self) -> String {
        let until = self.until.as_ref();
        let until = until.map_or_else(String::new, |until| format!(", until {until}"));
        format!(
            "{}, if client is {}, server is {}{until}",
            self.ask, self.client, self.server
        )
    }
}

/// A grant as it is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'s> {
    pub(super) rule: &'s AccessPolicy,
    pub(super) ask: Ask<'s>,
}

impl<'s> Part<'s> {
    /// The parts of a rule; none where it has ended.
    pub(super) fn all(rule: &'s AccessPolicy, now: SystemTime) -> Vec<Self> {
        let glass = rule.break_glass.as_ref();
        if glass.is_some_and(|glass| glass.expires <= now) {
            return Vec::new();
        }
        let asks = Ask::all(&rule.allow).into_iter();
        asks.map(|ask| Self { rule, ask }).collect()
    }

    pub(super) fn includes(&self, other: &Self) -> bool {
        let ends_later = match (&self.rule.break_glass, &other.rule.break_glass) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => wide.expires >= narrow.expires,
            (Some(_), None) => false,
        };
        ends_later
            && self.ask.includes(&other.ask)
            && demands_less(&self.rule.client, &other.rule.client)
            && demands_less(&self.rule.server, &other.rule.server)
    }

    pub(super) fn describe(&self) -> Grant {
        let glass = self.rule.break_glass.as_ref();
        Grant {
            ask: self.ask.to_string(),
            client: describe_demands(&self.rule.client),
            server: describe_demands(&self.rule.server),
            until: glass.map(|glass| scalar::show_time(glass.expires)),
            rule: show_source(&self.rule.source),
        }
    }
}

fn show_source(source: &RuleSource) -> String {
    source.to_string()
}

/// `attested, class hardware, within 20m, tpm {image: base-1}`.
fn describe_demands(demands: &Demands) -> String {
    if demands.danger_unattested {
        let bound = if demands.exporter_binding {
            ", bound by exporter"
        } else {
            ""
        };
        return format!("may be unattested{bound}");
    }
    let mut words = vec!["attested".to_owned()];
    if !demands.classes.is_empty() {
        let classes: Vec<&str> = demands.classes.iter().map(|class| class.as_str()).collect();
        words.push(format!("class {}", classes.join(" or ")));
    }
    if let Some(within) = demands.attested_within {
        words.push(format!("within {}", scalar::show_duration(within)));
    }
    for requirement in &demands.require {
        let conditions = requirement.conditions.iter();
        let conditions: Vec<String> = conditions.map(|condition| condition.describe()).collect();
        words.push(format!(
            "{} {{{}}}",
            requirement.kind,
            conditions.join(", ")
        ));
    }
    if demands.exporter_binding {
        words.push("bound by exporter".to_owned());
    }
    words.join(", ")
}

/// Whether a selector admits a subject, all of it, in a policy.
pub(super) fn selects(
    selector: &Selector,
    subject: &Subject,
    set: &PolicySet,
    trust_domain: Option<&TrustDomain>,
) -> bool {
    match (selector, subject) {
        (Selector::SpiffeId(id), Subject::Id(wanted)) => id.as_str() == wanted,
        (Selector::SpiffeId(id), Subject::Workload(name)) => trust_domain
            .is_some_and(|trust_domain| *id == SpiffeId::for_workload(trust_domain, name)),
        (selector, Subject::Workload(name)) => set
            .workload(name)
            .is_some_and(|workload| selector.admits(workload)),
        (Selector::Namespace { namespace, labels }, Subject::Namespace(wanted, borne)) => {
            namespace == wanted
                && labels
                    .iter()
                    .all(|(key, value)| borne.get(key) == Some(value))
        }
        (Selector::Workload(_) | Selector::Namespace { .. } | Selector::SpiffeId(_), _) => false,
    }
}
