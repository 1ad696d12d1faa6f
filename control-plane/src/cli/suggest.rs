//! `vouchsafe suggest`: the rules that a port in `audit` lacks, from what sidecars told the control plane, or from their
//! access logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::json;
use vouchsafe_api::convert::mesh_state::report::{Audited, AuditedClient};
use vouchsafe_api::v1::{AuditedAt, ListAuditedRequest, StatusRequest};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_config::load::{self, Overlay};
use vouchsafe_config::policy::{Binding, Decision, Direction, Question, Request};
use vouchsafe_config::reason::suggest::{Seen, SeenRequest, Suggestion, suggest};
use vouchsafe_config::reason::who_can::Door;
use vouchsafe_config::revocation::Bearer;
use vouchsafe_config::set::{Options, PolicySet};

use super::client::{connect, failed};
use super::explain_log::lines;
use super::log_line::{Line, read_line};
use super::{DEFAULT_DATA, Format, Outcome, json};

/// What `suggest` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Access logs of sidecars; `-` for standard input. Without any, the running control plane is asked what its sidecars
    /// told it since they started.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// Files and folders of policy; by default this folder with logs, and the control plane's own without.
    #[arg(long)]
    policy: Vec<PathBuf>,
    /// Data folder of the control plane.
    #[arg(long, default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Documents ready to paste, or JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// What one sort of thing that was seen is judged by once more.
#[derive(Debug)]
struct Facts {
    count: usize,
    reason: String,
    serial: Vec<u8>,
    result: Option<AttestationResult>,
    time: SystemTime,
}

#[derive(Debug, Default)]
struct Gathered {
    seen: BTreeMap<Seen, Facts>,
    /// Beyond what is kept of them.
    beyond: usize,
    unreadable: usize,
}

impl Arguments {
    pub(super) async fn run(&self) -> Outcome {
        if !self.log.is_empty() {
            return self.of_logs();
        }
        match self.ask().await {
            Ok((gathered, policy)) => self.outcome(Ok(gathered), &policy),
            Err(outcome) => outcome,
        }
    }

    fn of_logs(&self) -> Outcome {
        let here = [PathBuf::from(".")];
        let policy = match self.policy.as_slice() {
            [] => &here,
            policy => policy,
        };
        self.outcome(self.gather(), policy)
    }

    fn outcome(&self, gathered: Result<Gathered, String>, policy: &[PathBuf]) -> Outcome {
        match gathered.and_then(|gathered| self.answer(&gathered, policy)) {
            Ok(outcome) => outcome,
            Err(message) => Outcome::misused(format!("error: {message}\n")),
        }
    }

    /// What sidecars told the control plane, and where its policy lies.
    async fn ask(&self) -> Result<(Gathered, Vec<PathBuf>), Outcome> {
        let mut client = connect(&self.data).await?;
        let mut gathered = Gathered::default();
        let told = client.list_audited(ListAuditedRequest {}).await;
        let mut told = told.map_err(|status| failed(&status))?.into_inner();
        while let Some(one) = told.message().await.map_err(|status| failed(&status))? {
            gathered.hear(one);
        }
        let policy = match self.policy.is_empty() {
            false => self.policy.clone(),
            true => {
                let status = client.status(StatusRequest {}).await;
                let status = status.map_err(|status| failed(&status))?.into_inner();
                vec![PathBuf::from(status.policy_folder)]
            }
        };
        Ok((gathered, policy))
    }

    fn answer(&self, gathered: &Gathered, policy: &[PathBuf]) -> Result<Outcome, String> {
        let read = |overlay: &Overlay| {
            load::policy_with(policy, overlay, Options::default())
                .map_err(|problems| problems.to_string())
        };
        let set = read(&Overlay::default())?;
        let mesh = set
            .mesh()
            .ok_or("the policy has no Mesh document, so the trust domain is unknown")?;
        let taken: BTreeSet<WorkloadName> = set
            .access_policies()
            .map(|rule| rule.name.clone())
            .collect();
        // What a rule denies for lack of evidence is not to be opened by another rule.
        let lacks_rule = |facts: &Facts| facts.reason == "no_rule" || facts.reason == "request";
        let wanted: Vec<(Seen, usize)> = { gathered.seen.iter() }
            .filter(|(_, facts)| lacks_rule(facts))
            .map(|(seen, facts)| (seen.clone(), facts.count))
            .collect();
        let suggestions = suggest(&wanted, &mesh.trust_domain, &taken);
        let overlay = Overlay {
            written: { suggestions.iter().enumerate() }
                .map(|(at, one)| {
                    (
                        PathBuf::from(format!("suggestion-{}.yaml", at + 1)),
                        one.text.clone(),
                    )
                })
                .collect(),
            ..Overlay::default()
        };
        let extended = read(&overlay)?;
        let open = still_denied(&extended, &gathered.seen);
        Ok(self.show(gathered, &suggestions, &open))
    }

    fn gather(&self) -> Result<Gathered, String> {
        let mut gathered = Gathered::default();
        for log in &self.log {
            lines(log, |text| {
                if text.contains("\"decision\":\"audit\"") {
                    match read_line(text) {
                        Ok(line) => gathered.take(line),
                        Err(_) => gathered.unreadable += 1,
                    }
                }
                true
            })?;
        }
        Ok(gathered)
    }

    fn show(
        &self,
        gathered: &Gathered,
        suggestions: &[Suggestion],
        open: &[(String, usize)],
    ) -> Outcome {
        let total: usize = gathered.seen.values().map(|facts| facts.count).sum();
        let output = match self.output {
            Format::Json => json(&json!({
                "audited": total,
                "suggestions": suggestions.iter().map(|one| json!({
                    "door": one.door.to_string(),
                    "seen": one.seen,
                    "document": one.text,
                })).collect::<Vec<_>>(),
                "still_denied": open.iter().map(|(what, count)| json!({"what": what, "seen": count})).collect::<Vec<_>>(),
                "beyond": gathered.beyond,
                "unreadable": gathered.unreadable,
            })),
            Format::Table => {
                let documents: Vec<String> = suggestions
                    .iter()
                    .map(|one| format!("# {}: seen {} times\n{}", one.door, one.seen, one.text))
                    .collect();
                let mut out = documents.join("---\n");
                let _ = writeln!(
                    out,
                    "# {total} audited, which these {} rules and the policy would allow, but for {}",
                    suggestions.len(),
                    open.iter().map(|(_, count)| count).sum::<usize>()
                );
                for (what, count) in open {
                    let _ = writeln!(out, "#   still denied, {count} times: {what}");
                }
                for (count, what) in [
                    (
                        gathered.beyond,
                        "more, of sorts that are not kept: run it again once these rules are in force",
                    ),
                    (gathered.unreadable, "lines could not be read"),
                ] {
                    if count > 0 {
                        let _ = writeln!(out, "#   {count} {what}");
                    }
                }
                out
            }
        };
        match open.is_empty() && gathered.beyond == 0 && gathered.unreadable == 0 {
            true => Outcome::good(output),
            false => Outcome::bad(output),
        }
    }
}

impl Gathered {
    fn take(&mut self, line: Line) {
        if line.direction != Direction::Inbound {
            // The door's own sidecar has logged it as well.
            return;
        }
        let Some(seen) = line.seen() else {
            self.unreadable += 1;
            return;
        };
        let facts = Facts {
            count: 1,
            reason: line.reason,
            serial: line.serial,
            result: line.result,
            time: line.time,
        };
        self.add(seen, facts);
    }

    /// Takes what one sidecar told the control plane.
    fn hear(&mut self, told: AuditedAt) {
        self.beyond += count(told.beyond);
        let (Some(client), Some(audited)) = (told.client, told.audited) else {
            return;
        };
        let read = Audited::try_from(audited)
            .ok()
            .zip(AuditedClient::try_from(client).ok());
        let door = told
            .workload
            .parse()
            .ok()
            .zip({ read.as_ref() }.and_then(|(one, _)| one.port.parse().ok()));
        let (Some((audited, client)), Some((workload, port))) = (read, door) else {
            self.unreadable += 1;
            return;
        };
        let seen = Seen {
            door: Door { workload, port },
            client: client.id,
            class: client.class,
            ask: audited.ask.map(|ask| SeenRequest {
                method: ask.method,
                path: ask.path,
                grpc: ask.grpc,
                is_pattern: !ask.grpc,
            }),
        };
        let facts = Facts {
            count: count(audited.count),
            reason: audited.reason,
            serial: client.serial,
            result: AttestationResult::decode(&client.result).ok(),
            time: audited.last,
        };
        self.add(seen, facts);
    }

    fn add(&mut self, seen: Seen, facts: Facts) {
        if let Some(held) = self.seen.get_mut(&seen) {
            held.count += facts.count;
        } else if self.seen.len() < MAX_SORTS {
            self.seen.insert(seen, facts);
        } else {
            self.beyond += facts.count;
        }
    }
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What would be denied with the suggestions beside the policy, and why.
fn still_denied(set: &PolicySet, seen: &BTreeMap<Seen, Facts>) -> Vec<(String, usize)> {
    let Some(mesh) = set.mesh() else {
        return Vec::new();
    };
    let policy = set.policy(&mesh.trust_domain);
    let mut open = Vec::new();
    for (one, facts) in seen {
        let Ok(id) = one.client.parse() else {
            continue;
        };
        let request = one.ask.as_ref().map(|ask| Request {
            method: &ask.method,
            path: &ask.path,
            grpc: ask.grpc,
        });
        let explanation = policy.explain(&Question {
            direction: Direction::Inbound,
            local: &one.door.workload,
            peer: Bearer {
                id: &id,
                serial: Some(&facts.serial),
                spki_sha256: None,
                authority_spki_sha256: None,
                intermediate_spki_sha256: &[],
                result: facts.result.as_ref(),
            },
            // As our sidecars do wherever a rule asks for it.
            binding: Binding::Exporter(facts.time),
            port: &one.door.port,
            number: None,
            request: request.as_ref(),
            now: facts.time,
        });
        let reason = match explanation.decision {
            Decision::Allow(_) => continue,
            Decision::Audit(reason) | Decision::Deny(reason) => reason.as_str(),
        };
        let asked = one.ask.as_ref();
        let asked = asked.map_or_else(String::new, |ask| format!(" {} {}", ask.method, ask.path));
        let what = format!("{} -> {}{asked}: {reason}", one.client, one.door);
        open.push((what, facts.count));
    }
    open
}

/// Sorts of things that are kept, so that a log bounds what it takes to read it.
const MAX_SORTS: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::super::explain_log::tests::line;
    use super::*;

    fn example() -> PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/ai-factory")
    }

    fn asked(lines: &[serde_json::Value], output: Format) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        std::fs::write(&log, text.join("\n")).unwrap();
        Arguments {
            log: vec![log],
            policy: vec![example()],
            data: PathBuf::new(),
            output,
        }
        .of_logs()
    }

    fn audited(path: &str, reason: &str) -> serde_json::Value {
        let mut line = line(path, reason);
        line["decision"] = "audit".into();
        line
    }

    #[test]
    fn what_was_audited_becomes_documents_that_would_allow_it() {
        let lines = [
            audited("/v1/files/17", "request"),
            audited("/v1/files/18", "request"),
            audited("/v1/rerank", "no_rule"),
            line("/v1/denied", "request"),
        ];
        let outcome = asked(&lines, Format::Table);
        assert_eq!(outcome.status, 0, "{}{}", outcome.output, outcome.error);
        assert!(
            outcome.output.contains("kind: AccessPolicy"),
            "{}",
            outcome.output
        );
        assert!(
            outcome.output.contains("\"/v1/files/*\", \"/v1/rerank\""),
            "{}",
            outcome.output
        );
        assert!(!outcome.output.contains("denied\""), "{}", outcome.output);
        assert!(
            outcome.output.contains("# 3 audited, which these 1 rules"),
            "{}",
            outcome.output
        );
    }

    #[test]
    fn what_sidecars_told_is_added_up_and_proposed_as_logs_are() {
        use vouchsafe_api::v1;
        let told = |path: &str, count: u64| AuditedAt {
            workload: "inference/llm".to_owned(),
            client: Some(v1::AuditedClient {
                id: "spiffe://factory.example/ns/edge/workload/gateway".to_owned(),
                class: "software".to_owned(),
                ..v1::AuditedClient::default()
            }),
            audited: Some(v1::Audited {
                port: "openai".to_owned(),
                reason: "request".to_owned(),
                method: "GET".to_owned(),
                path: path.to_owned(),
                count,
                first_ms: 1_795_401_600_000,
                last_ms: 1_795_401_600_000,
                ..v1::Audited::default()
            }),
            ..AuditedAt::default()
        };
        let mut gathered = Gathered::default();
        for (path, count) in [("/v1/files/*", 3), ("/v1/files/*", 4), ("no path", 1)] {
            gathered.hear(told(path, count));
        }
        gathered.hear(AuditedAt {
            beyond: 9,
            ..AuditedAt::default()
        });
        assert_eq!((gathered.beyond, gathered.unreadable), (9, 1));
        let arguments = Arguments {
            log: Vec::new(),
            policy: Vec::new(),
            data: PathBuf::new(),
            output: Format::Table,
        };
        let outcome = arguments.answer(&gathered, &[example()]).unwrap();
        for words in ["seen 7 times", "\"/v1/files/*\"", "9 more, of sorts"] {
            assert!(
                outcome.output.contains(words),
                "{words}: {}",
                outcome.output
            );
        }
    }

    #[test]
    fn lack_of_evidence_is_not_mended_by_a_rule() {
        let outcome = asked(&[audited("/v1/files", "claims")], Format::Table);
        assert_eq!(outcome.status, 1);
        assert!(
            !outcome.output.contains("kind: AccessPolicy"),
            "{}",
            outcome.output
        );
        assert!(
            outcome.output.contains("still denied, 1 times"),
            "{}",
            outcome.output
        );
    }
}
