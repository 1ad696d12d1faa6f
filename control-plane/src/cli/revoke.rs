//! `vouchsafe revoke`: ends trust by predicate, shows beforehand whom that means, and ends such an end again.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use vouchsafe_api::v1::{ChangeRequest, PolicyFile, StatusRequest};
use vouchsafe_attestation::claims::{ClaimType, EvidenceKind, definition};
use vouchsafe_attestation::name::WorkloadName;

use super::change::{self, Limits};
use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, show_time, table};
use crate::rpc::operator::REVOCATIONS_FOLDER;

/// What `revoke` is told.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    // Not an `Option`: clap never fills one whose fields are flattened again.
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Says whom a revocation would mean: workloads, instances, live connections, and who depends on them. With a name and
    /// no predicate: whom the revocation of that name means now.
    Explain(Box<Wanted>),
    /// Ends a revocation: whoever it means may be trusted again. The record keeps who did it, and why.
    End(End),
    /// Shows all revocations.
    List(Ask),
}

#[derive(Debug, clap::Args)]
struct End {
    /// `namespace/name` of the revocation.
    name: WorkloadName,
    /// Why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    ask: Ask,
}

/// A revocation. All predicates that are given must hold; of one that is given several times one must.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// What it is called: `namespace/name`.
    name: Option<WorkloadName>,
    /// Serial number of a certificate, in hex.
    #[arg(long)]
    serial: Vec<String>,
    /// SHA-256 of a public key.
    #[arg(long)]
    spki: Vec<String>,
    /// Pattern of SPIFFE IDs; `*` is one segment of the path, `**` at the end all the rest.
    #[arg(long)]
    spiffe_id: Vec<String>,
    /// Workload: `namespace/name`.
    #[arg(long)]
    workload: Vec<String>,
    /// Machine, by its `Node` document: `namespace/name`.
    #[arg(long)]
    node: Vec<String>,
    /// Hardware identity, as evidence proves it: of a TPM, a processor, a GPU.
    #[arg(long)]
    hardware_id: Vec<String>,
    /// Measurement in hex, or name of a reference image.
    #[arg(long)]
    measurement: Vec<String>,
    /// Intel's advisory that explains a device's level.
    #[arg(long)]
    advisory: Vec<String>,
    /// SHA-256 of the public key of an issuing authority, as `vouchsafe status` shows it.
    #[arg(long)]
    authority: Vec<String>,
    /// Class of attestation results: `hardware`, `software`, `simulated`.
    #[arg(long)]
    class: Vec<String>,
    /// Results that were made under an older policy than this revision.
    #[arg(long)]
    policy_revision_below: Option<String>,
    /// Claim of a device: `sev_snp.tcb.microcode<72`, `nvidia_gpu.driver<570.86`, `tpm.image=llm-1`.
    #[arg(long)]
    claim: Vec<String>,
    /// What becomes of live connections: `cut`, `drain`, `deny_new`. What is new is denied in any case.
    #[arg(long, default_value = "cut")]
    action: String,
    /// Why: it stands in the document, in the record and in `explain`.
    #[arg(long, default_value = "")]
    reason: String,
    /// When it ends by itself, like `2026-12-24T00:00:00Z`; by default never.
    #[arg(long)]
    expires: Option<String>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

impl Arguments {
    pub(super) async fn run(self) -> Outcome {
        match self.command {
            Some(Command::List(ask)) => list(&ask).await,
            Some(Command::End(end)) => end.run().await,
            Some(Command::Explain(mut wanted)) => {
                wanted.limits.dry_run = true;
                match (&wanted.name, wanted.predicates()) {
                    (Some(name), Ok(found)) if found.is_empty() => explain(name, &wanted.ask).await,
                    _ => wanted.run().await,
                }
            }
            None => self.wanted.run().await,
        }
    }
}

impl Wanted {
    async fn run(&self) -> Outcome {
        let Some(called) = &self.name else {
            return Outcome::misused(format!("error: {UNNAMED}\n"));
        };
        if self.reason.trim().is_empty() && !self.limits.dry_run {
            return Outcome::misused("error: say why with `--reason`: it stands in the record\n");
        }
        let document = match self.document() {
            Ok(document) => document,
            Err(message) => return Outcome::misused(format!("error: {message}\n")),
        };
        let mut request = self.limits.request("revoke", &self.reason);
        let name = format!(
            "{REVOCATIONS_FOLDER}/{}.{}.yaml",
            called.namespace, called.name
        );
        request.files.push(PolicyFile {
            name: name.clone(),
            text: document.clone(),
        });
        let response = match change::ask(request, &self.ask).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        if response.not_writable {
            return Outcome {
                status: 3,
                output: document,
                error: format!(
                    "error: {}; put the document above where the folder comes from\n",
                    response.refused
                ),
            };
        }
        let end = match &self.expires {
            Some(expires) => format!("at {expires}, or by"),
            None => "only by".to_owned(),
        };
        let headline = format!(
            "revoked by {called}, in {name}; it ends {end} `vouchsafe revoke end {called} --reason …`"
        );
        change::show(&response, self.limits.dry_run, &headline, self.ask.output)
    }

    /// `match`, as the flags say it.
    fn predicates(&self) -> Result<Map<String, Value>, String> {
        let mut found = Map::new();
        for (key, values) in [
            ("serial", &self.serial),
            ("spki_sha256", &self.spki),
            ("spiffe_id", &self.spiffe_id),
            ("workload", &self.workload),
            ("node", &self.node),
            ("hardware_id", &self.hardware_id),
            ("measurement", &self.measurement),
            ("advisory", &self.advisory),
            ("authority_sha256", &self.authority),
            ("class", &self.class),
        ] {
            if !values.is_empty() {
                found.insert(key.to_owned(), json!(values));
            }
        }
        if let Some(revision) = &self.policy_revision_below {
            found.insert("policy_revision_below".to_owned(), json!(revision));
        }
        if !self.claim.is_empty() {
            found.insert("device".to_owned(), devices(&self.claim)?);
        }
        Ok(found)
    }

    /// The document, as a person would write it.
    fn document(&self) -> Result<String, String> {
        let found = self.predicates()?;
        if found.is_empty() {
            return Err("say whom it means: `--workload`, `--serial`, `--claim` and so on; `vouchsafe revoke --help` lists them".to_owned());
        }
        let called = self.name.as_ref().ok_or(UNNAMED)?;
        let (namespace, name) = (&called.namespace, &called.name);
        let reason = match self.reason.as_str() {
            // Only asked about: nobody will read it.
            "" => "asked about",
            reason => reason,
        };
        let mut text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  match:\n"
        );
        for (key, value) in &found {
            text.push_str(&format!("    {key}: {}\n", flow(value)));
        }
        text.push_str(&format!(
            "  action: {}\n  reason: {}\n",
            json!(self.action),
            json!(reason)
        ));
        if let Some(expires) = &self.expires {
            text.push_str(&format!("  expires: {}\n", json!(expires)));
        }
        Ok(text)
    }
}

/// `device` of a match, from `kind.claim<value`.
fn devices(claims: &[String]) -> Result<Value, String> {
    let mut devices: BTreeMap<EvidenceKind, Map<String, Value>> = BTreeMap::new();
    for claim in claims {
        let shape = || {
            format!(
                "--claim `{claim}`: expected `<kind>.<claim><comparison><value>`, like `sev_snp.tcb.microcode<72` or `tpm.image=llm-1`"
            )
        };
        let at = claim.find(['<', '>', '=']).ok_or_else(shape)?;
        let (name, comparison) = claim.split_at(at);
        let (kind, name) = name.trim().split_once('.').ok_or_else(shape)?;
        let kind: EvidenceKind = kind
            .parse()
            .map_err(|error| format!("--claim `{claim}`: {error}"))?;
        let known = definition(kind, name)
            .ok_or_else(|| format!("--claim `{claim}`: `{kind}` has no claim `{name}`"))?;
        let comparison = comparison.trim();
        let value = match comparison.strip_prefix('=') {
            Some(value) => equal(known.value, value.trim()),
            None => json!(comparison),
        };
        insert(devices.entry(kind).or_default(), name, value).ok_or_else(|| {
            format!("--claim `{claim}`: the claim is given twice; write the document yourself")
        })?;
    }
    let devices = devices
        .into_iter()
        .map(|(kind, claims)| (kind.to_string(), Value::Object(claims)));
    Ok(Value::Object(devices.collect()))
}

/// A value that a claim equals, in the form that documents demand of its type.
fn equal(claim: ClaimType, text: &str) -> Value {
    match (claim, text) {
        (ClaimType::Bool, "true") => json!(true),
        (ClaimType::Bool, "false") => json!(false),
        // One that is no number is refused with the rest of the document.
        (ClaimType::Number, text) => text
            .parse::<u64>()
            .map_or_else(|_| json!(text), |number| json!(number)),
        (_, text) => json!(text),
    }
}

/// Puts a claim into its families; `None` where it is there already.
fn insert(into: &mut Map<String, Value>, name: &str, value: Value) -> Option<()> {
    match name.split_once('.') {
        None => into.insert(name.to_owned(), value).is_none().then_some(()),
        Some((family, rest)) => {
            let family = into.entry(family).or_insert_with(|| json!({}));
            insert(family.as_object_mut()?, rest, value)
        }
    }
}

/// YAML in one line; keys are words of ours, texts are quoted as in JSON, which YAML reads.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

impl End {
    async fn run(&self) -> Outcome {
        // Nothing that lives rests on a revocation, so nothing can end with it.
        let limits = Limits {
            max_drop: change::MaxDrop {
                number: 100,
                is_percent: true,
            },
            allow_unanswered: true,
            replace: false,
            dry_run: false,
        };
        let mut request = limits.request("end_revocation", &self.reason);
        request.end_revocation = self.name.to_string();
        let response = match change::ask(request, &self.ask).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        let headline = format!("revocation {} is ended", self.name);
        change::show(&response, false, &headline, self.ask.output)
    }
}

/// Whom a revocation that exists means.
async fn explain(name: &WorkloadName, ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let status = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let name = name.to_string();
    let Some(held) = status.revocations.iter().find(|one| one.name == name) else {
        return Outcome::misused(format!(
            "error: there is no revocation `{name}` (`vouchsafe revoke list`); whom a new one would mean is asked with its predicates\n"
        ));
    };
    let request = ChangeRequest {
        explain_revocation: name,
        dry_run: true,
        ..ChangeRequest::default()
    };
    let response = match client.change(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    Outcome::good(change::explained(held, &response, ask.output))
}

/// All revocations, as `status` has them.
async fn list(ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let status = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let rows = status.revocations.iter();
    if ask.output == Format::Json {
        let rows: Vec<Value> = rows.map(super::status::revocation_json).collect();
        return Outcome::good(json(&json!(rows)));
    }
    let rows: Vec<Vec<String>> = rows
        .map(|one| {
            vec![
                one.name.clone(),
                one.action.clone(),
                match (one.in_force, one.ends_soon) {
                    (false, _) => "has ended".to_owned(),
                    (true, true) => format!("{}, SOON", show_time(one.expires_ms)),
                    (true, false) => show_time(one.expires_ms),
                },
                format!("{}:{}", file_name(&one.file), one.line),
                one.reason.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Outcome::good("no revocation\n");
    }
    Outcome::good(table(
        &["REVOCATION", "ACTION", "ENDS", "WRITTEN IN", "REASON"],
        rows,
    ))
}

fn file_name(file: &str) -> &str {
    let name = Path::new(file).file_name().and_then(|name| name.to_str());
    name.unwrap_or(file)
}

/// What to do without a name.
const UNNAMED: &str = "say what it is called and whom it means, as in `vouchsafe revoke platform/incident-7 --workload edge/gateway --reason stolen`";

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use vouchsafe_config::set::Options;
    use vouchsafe_config::set::PolicySet;
    use vouchsafe_config::source::Source;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(options: &[&str]) -> Wanted {
        let line = ["revoke", "platform/r", "--reason", "they said \"so\""];
        Line::try_parse_from(line.iter().chain(options))
            .unwrap_or_else(|error| panic!("{error}"))
            .wanted
    }

    /// The documents that a revocation needs beside itself.
    const BESIDE: &str = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: gpu-07, namespace: platform}\nspec: {hardware: {gpu_ueids: [\"17\"]}}\n---\n";

    fn read(text: &str) -> PolicySet {
        let source = Source::new("r.yaml", format!("{BESIDE}{text}"));
        PolicySet::parse(vec![source], Options::default())
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    #[test]
    fn every_predicate_is_a_flag_whose_document_says_the_same() {
        let sha = "ab".repeat(32);
        for (flag, value, line) in [
            ("--serial", "5e0c41", "serial: [\"5e0c41\"]".to_owned()),
            ("--spki", &*sha, format!("spki_sha256: [\"{sha}\"]")),
            (
                "--spiffe-id",
                "spiffe://factory.example/ns/edge/**",
                "spiffe_id: [\"spiffe://factory.example/ns/edge/**\"]".to_owned(),
            ),
            (
                "--workload",
                "edge/gateway",
                "workload: [\"edge/gateway\"]".to_owned(),
            ),
            ("--node", "gpu-07", "node: [\"gpu-07\"]".to_owned()),
            (
                "--hardware-id",
                "9f3c",
                "hardware_id: [\"9f3c\"]".to_owned(),
            ),
            (
                "--measurement",
                "5fee30d",
                "measurement: [\"5fee30d\"]".to_owned(),
            ),
            (
                "--advisory",
                "INTEL-SA-00828",
                "advisory: [\"INTEL-SA-00828\"]".to_owned(),
            ),
            (
                "--authority",
                &*sha,
                format!("authority_sha256: [\"{sha}\"]"),
            ),
            ("--class", "software", "class: [\"software\"]".to_owned()),
            (
                "--policy-revision-below",
                "1.42",
                "policy_revision_below: \"1.42\"".to_owned(),
            ),
            (
                "--claim",
                "sev_snp.tcb.microcode<72",
                "device: {sev_snp: {tcb: {microcode: \"<72\"}}}".to_owned(),
            ),
            (
                "--claim",
                "nvidia_gpu.driver<570.86",
                "device: {nvidia_gpu: {driver: \"<570.86\"}}".to_owned(),
            ),
            (
                "--claim",
                "nvidia_gpu.vbios<=96.00.9F.00.01",
                "device: {nvidia_gpu: {vbios: \"<=96.00.9F.00.01\"}}".to_owned(),
            ),
            (
                "--claim",
                "tdx.tcb_status=OutOfDate",
                "device: {tdx: {tcb_status: \"OutOfDate\"}}".to_owned(),
            ),
            (
                "--claim",
                "tpm.firmware=7",
                "device: {tpm: {firmware: 7}}".to_owned(),
            ),
            (
                "--claim",
                "sev_snp.debug=true",
                "device: {sev_snp: {debug: true}}".to_owned(),
            ),
            (
                "--claim",
                "nvidia_gpu.driver=570.10",
                "device: {nvidia_gpu: {driver: \"570.10\"}}".to_owned(),
            ),
        ] {
            let document = wanted(&[flag, value]).document().unwrap();
            assert!(document.contains(&format!("    {line}\n")), "{document}");
            let set = read(&document);
            let revocation = set.revocations().next().unwrap();
            assert_eq!(revocation.reason, "they said \"so\"");
            assert_eq!(revocation.action.as_str(), "cut");
        }
    }

    #[test]
    fn flags_stand_beside_each_other_and_one_claim_s_families_stay_together() {
        let document = wanted(&[
            "--claim",
            "sev_snp.tcb.microcode<72",
            "--claim",
            "sev_snp.tcb.snp<23",
            "--claim",
            "tpm.firmware<7",
            "--workload",
            "edge/gateway",
            "--workload",
            "edge/other",
            "--action",
            "drain",
            "--expires",
            "2026-12-24T00:00:00Z",
        ])
        .document()
        .unwrap();
        assert!(
            document.contains("tcb: {microcode: \"<72\", snp: \"<23\"}"),
            "{document}"
        );
        assert!(
            document.contains("workload: [\"edge/gateway\", \"edge/other\"]"),
            "{document}"
        );
        let set = read(&document);
        let revocation = set.revocations().next().unwrap();
        assert_eq!(revocation.matches.devices.len(), 2);
        assert!(revocation.expires.is_some());
        assert_eq!(revocation.action.as_str(), "drain");
    }

    #[test]
    fn what_can_t_be_said_by_a_flag_is_refused() {
        for (options, words) in [
            (&[][..], "say whom it means"),
            (&["--claim", "tpm"], "expected `<kind>.<claim>"),
            (&["--claim", "tpm.imagee=x"], "no claim `imagee`"),
            (&["--claim", "tpn.image=x"], "tpn"),
            (
                &["--claim", "tpm.firmware<7", "--claim", "tpm.firmware>3"],
                "given twice",
            ),
        ] {
            let error = wanted(options).document().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
