//! `vouchsafe who-can`, `diff` and `test`: what a policy means, asked before it acts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};
use vouchsafe_config::load;
use vouchsafe_config::policy::Decision;
use vouchsafe_config::policy_test::Expected;
use vouchsafe_config::reason::diff::{Difference, diff};
use vouchsafe_config::reason::who_can::{Door, Shut, WhoCan, who_can};
use vouchsafe_config::reason::{Grant, Subject};
use vouchsafe_config::set::{Options, PolicySet};

use super::{Format, Outcome, json, now, table};

/// What `who-can` is told.
#[derive(Debug, clap::Args)]
pub(super) struct WhoCanRequest {
    /// The door: `<namespace>/<name>:<port>`, like `inference/llm:openai`.
    door: Door,
    /// Also who reaches it through others, each by a shortest way.
    #[arg(long)]
    transitively: bool,
    /// Files and folders of policy.
    #[arg(long, default_value = ".")]
    policy: Vec<PathBuf>,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl WhoCanRequest {
    pub(super) fn run(&self) -> Outcome {
        let now = now();
        let set = match load::policy(&self.policy, Options { now: Some(now) }) {
            Ok(set) => set,
            Err(problems) => return Outcome::misused(problems.to_string()),
        };
        match who_can(&set, &self.door, self.transitively, now) {
            Ok(found) => Outcome::good(match self.output {
                Format::Table => show_who_can(&found, self.transitively),
                Format::Json => json(&who_can_json(&found)),
            }),
            Err(error) => Outcome::misused(format!("error: {error}\n")),
        }
    }
}

fn show_who_can(found: &WhoCan, transitively: bool) -> String {
    let mut output = String::new();
    if found.is_audited {
        output.push_str(
            "audit: the port only counts what policy denies, so every attested peer of the mesh comes in\n",
        );
    }
    if found.direct.is_empty() {
        let _ = writeln!(output, "nobody: no rule opens {}", found.door);
    } else {
        let mut rows = Vec::new();
        for reach in &found.direct {
            for grant in &reach.grants {
                let until = grant.until.as_ref();
                rows.push(vec![
                    reach.subject.to_string(),
                    grant.ask.clone(),
                    grant.client.clone(),
                    grant.server.clone(),
                    until.map_or_else(|| "-".to_owned(), Clone::clone),
                    grant.rule.clone(),
                ]);
            }
        }
        let head = [
            "CLIENT",
            "MAY",
            "IF IT IS",
            "AND THE SERVER IS",
            "UNTIL",
            "BY",
        ];
        output.push_str(&table(&head, rows));
    }
    for shut in &found.shut {
        let _ = writeln!(
            output,
            "revoked: {}, by {}: {}",
            whom(shut, found),
            shut.by,
            shut.reason
        );
    }
    if transitively && found.indirect.is_empty() {
        output.push_str("nobody reaches it through others\n");
    } else if transitively {
        let rows = found.indirect.iter().map(|one| {
            let via: Vec<String> = one.via.iter().map(ToString::to_string).collect();
            vec![one.subject.to_string(), via.join(" -> ")]
        });
        output.push('\n');
        output.push_str(&table(&["REACHES IT", "THROUGH"], rows.collect()));
    }
    output
}

/// For whom a door is shut, in words.
fn whom(shut: &Shut, found: &WhoCan) -> String {
    let Some(who) = &shut.who else {
        return "whoever it means by certificate or evidence".to_owned();
    };
    let instances = match shut.is_whole {
        true => "",
        false => "some instances of ",
    };
    match who {
        Subject::Workload(name) if *name == found.door.workload => {
            format!("{instances}{name}, the workload behind the door itself")
        }
        Subject::Workload(_) | Subject::Namespace(..) | Subject::Id(_) => {
            format!("{instances}{who}")
        }
    }
}

fn who_can_json(found: &WhoCan) -> Value {
    let names = |names: &[vouchsafe_attestation::name::WorkloadName]| -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    };
    let direct = found.direct.iter().map(|reach| {
        json!({
            "client": reach.subject.to_string(),
            "workloads": names(&reach.workloads),
            "grants": grants(&reach.grants),
        })
    });
    let indirect = found.indirect.iter().map(|one| {
        let via: Vec<String> = one.via.iter().map(ToString::to_string).collect();
        json!({"client": one.subject.to_string(), "via": via})
    });
    let revoked = found.shut.iter().map(|shut| {
        json!({
            "who": shut.who.as_ref().map(ToString::to_string),
            "every_instance": shut.is_whole,
            "by": shut.by.document,
            "file": shut.by.file,
            "line": shut.by.line,
            "reason": shut.reason,
        })
    });
    json!({
        "door": found.door.to_string(),
        "audit": found.is_audited,
        "revoked": revoked.collect::<Vec<_>>(),
        "direct": direct.collect::<Vec<_>>(),
        "indirect": indirect.collect::<Vec<_>>(),
    })
}

fn grants(grants: &[Grant]) -> Vec<Value> {
    grants.iter().map(grant).collect()
}

fn grant(grant: &Grant) -> Value {
    json!({
        "ask": grant.ask,
        "client": grant.client,
        "server": grant.server,
        "until": grant.until,
        "rule": grant.rule,
    })
}

/// What `diff` is told.
#[derive(Debug, clap::Args)]
pub(super) struct DiffRequest {
    /// The policy as it is: a file or a folder.
    old: PathBuf,
    /// The policy as it would be.
    new: PathBuf,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// What makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Widening)]
    fail_on: FailOn,
}

/// What makes the exit code of `diff` 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum FailOn {
    /// Something may be admitted that was not.
    Widening,
    /// Anything differs.
    Change,
}

impl DiffRequest {
    pub(super) fn run(&self) -> Outcome {
        let now = now();
        let read = |path: &PathBuf| {
            let paths = std::slice::from_ref(path);
            load::policy(paths, Options { now: Some(now) })
        };
        let (old, new) = match (read(&self.old), read(&self.new)) {
            (Ok(old), Ok(new)) => (old, new),
            (old, new) => {
                let problems = [old.err(), new.err()].into_iter().flatten();
                let text: Vec<String> = problems.map(|one| one.to_string()).collect();
                return Outcome::misused(text.concat());
            }
        };
        let difference = diff(&old, &new, now);
        let output = match self.output {
            Format::Table => show_diff(&difference),
            Format::Json => json(&diff_json(&difference)),
        };
        let is_bad = match self.fail_on {
            FailOn::Widening => difference.may_widen(),
            FailOn::Change => !difference.is_empty(),
        };
        if is_bad {
            Outcome::bad(output)
        } else {
            Outcome::good(output)
        }
    }
}

fn show_diff(difference: &Difference) -> String {
    if difference.is_empty() {
        return "the policies mean the same\n".to_owned();
    }
    let mut output = String::new();
    for change in &difference.doors {
        let (door, subject) = (&change.door, &change.subject);
        let _ = writeln!(output, "{door} {} for {subject}", change.change.as_str());
        for (line, rule) in change.lines() {
            let _ = writeln!(output, "  {line}: {rule}");
        }
    }
    for change in &difference.ports {
        let sign = if change.may_widen { '+' } else { '-' };
        let _ = writeln!(output, "{}\n  {sign} {}", change.door, change.what);
    }
    for change in &difference.revocations {
        let sign = if change.may_widen { '+' } else { '-' };
        let _ = writeln!(
            output,
            "revocation {}\n  {sign} {}",
            change.name, change.what
        );
    }
    for change in &difference.names {
        match &change.workload {
            Some(workload) => {
                let _ = writeln!(output, "who is {workload}\n  ? {}", change.what);
            }
            None => {
                let _ = writeln!(output, "mesh\n  ? {}", change.what);
            }
        }
    }
    output
}

fn diff_json(difference: &Difference) -> Value {
    let doors = difference.doors.iter().map(|change| {
        json!({
            "door": change.door.to_string(),
            "client": change.subject.to_string(),
            "change": change.change.as_str(),
            "gains": grants(&change.gains),
            "losses": grants(&change.losses),
            "terms": change.terms.iter().map(|terms| json!({
                "before": grant(&terms.before),
                "after": grant(&terms.after),
            })).collect::<Vec<_>>(),
        })
    });
    let ports = difference.ports.iter().map(|change| {
        json!({
            "door": change.door.to_string(),
            "what": change.what,
            "may_widen": change.may_widen,
        })
    });
    let revocations = difference.revocations.iter().map(|change| {
        json!({
            "revocation": change.name.to_string(),
            "what": change.what,
            "may_widen": change.may_widen,
        })
    });
    let names = difference.names.iter().map(|change| {
        let workload = change.workload.as_ref().map(ToString::to_string);
        json!({"workload": workload, "what": change.what})
    });
    json!({
        "may_widen": difference.may_widen(),
        "doors": doors.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "names": names.collect::<Vec<_>>(),
        "revocations": revocations.collect::<Vec<_>>(),
    })
}

/// What `test` is told.
#[derive(Debug, clap::Args)]
pub(super) struct TestRequest {
    /// Files and folders of policy, with the `PolicyTest` files beside it.
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl TestRequest {
    pub(super) fn run(&self) -> Outcome {
        let now = now();
        let set = load::policy(&self.paths, Options { now: Some(now) });
        let tests = load::policy_tests(&self.paths);
        let (set, tests) = match (set, tests) {
            (Ok(set), Ok(tests)) => (set, tests),
            (set, tests) => {
                let problems = [set.err(), tests.err()].into_iter().flatten();
                let text: Vec<String> = problems.map(|one| one.to_string()).collect();
                return Outcome::misused(text.concat());
            }
        };
        let Some(mesh) = set.mesh() else {
            let message =
                "error: the policy has no Mesh document, so the trust domain is unknown\n";
            return Outcome::misused(message);
        };
        if tests.iter().all(|test| test.expectations.is_empty()) {
            let message = "error: no expectation was found: write a document of `kind: PolicyTest` into a file of its own\n";
            return Outcome::misused(message);
        }
        self.ask(&set, &tests, &mesh.trust_domain, now)
    }

    fn ask(
        &self,
        set: &PolicySet,
        tests: &[vouchsafe_config::policy_test::PolicyTest],
        trust_domain: &vouchsafe_attestation::trust_domain::TrustDomain,
        now: SystemTime,
    ) -> Outcome {
        let policy = set.policy(trust_domain);
        let (mut met, mut failed) = (0_usize, 0_usize);
        let mut text = String::new();
        let mut rows = Vec::new();
        for test in tests {
            for expectation in &test.expectations {
                let fared = expectation.run(&policy, trust_domain, now);
                let place = format!("{}:{}", test.file, expectation.line);
                if fared.is_met {
                    met += 1;
                } else {
                    failed += 1;
                    let _ = write!(
                        text,
                        "FAILED {place} {}\n  expected {}\n  found    {}",
                        expectation.name,
                        show_expected(&expectation.expected),
                        fared.explanation
                    );
                }
                rows.push(json!({
                    "name": expectation.name,
                    "place": place,
                    "met": fared.is_met,
                    "expected": show_expected(&expectation.expected),
                    "found": show_found(fared.explanation.decision),
                }));
            }
        }
        let output = match self.output {
            Format::Table => format!("{text}{met} met, {failed} failed\n"),
            Format::Json => json(&json!({"met": met, "failed": failed, "expectations": rows})),
        };
        if failed == 0 {
            Outcome::good(output)
        } else {
            Outcome::bad(output)
        }
    }
}

fn show_expected(expected: &Expected) -> String {
    let more = match (&expected.reason, &expected.rule) {
        (Some(reason), _) => format!(": {reason}"),
        (None, Some(rule)) => format!(" by AccessPolicy {rule}"),
        (None, None) => String::new(),
    };
    format!("{}{more}", expected.decision)
}

fn show_found(decision: Decision) -> String {
    match decision {
        Decision::Allow(_) => "allow".to_owned(),
        Decision::Audit(reason) => format!("audit: {}", reason.as_str()),
        Decision::Deny(reason) => format!("deny: {}", reason.as_str()),
    }
}

#[cfg(test)]
mod tests;
