//! The flags of `vouchsafe revoke`, and the document that they make.
//!
//! The document is read here by what reads all documents, before anybody is asked, so that a slip is blamed on its flag and
//! not on a file that nobody wrote.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use vouchsafe_attestation::claims::{ClaimType, EvidenceKind, definition};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_config::parse_duration;
use vouchsafe_config::problem::{Problem, Severity};
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

/// Whom a revocation means. All predicates that are given must hold; of one that is given several times one must.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Predicates {
    /// Serial number of a certificate, in hex.
    #[arg(long)]
    pub(super) serial: Vec<String>,
    /// SHA-256 of a public key.
    #[arg(long)]
    pub(super) spki: Vec<String>,
    /// Pattern of SPIFFE IDs; `*` is one segment of the path, `**` at the end all the rest.
    #[arg(long)]
    pub(super) spiffe_id: Vec<String>,
    /// Workload: `namespace/name`.
    #[arg(long)]
    pub(super) workload: Vec<Reference>,
    /// Machine, by its `Node` document: `namespace/name`.
    #[arg(long)]
    pub(super) node: Vec<Reference>,
    /// Hardware identity, as evidence proves it: of a TPM, a processor, a GPU (`vouchsafe status -o wide`).
    #[arg(long)]
    pub(super) hardware_id: Vec<String>,
    /// Measurement in hex, or name of a reference image.
    #[arg(long)]
    pub(super) measurement: Vec<String>,
    /// Intel's advisory that explains a device's level.
    #[arg(long)]
    pub(super) advisory: Vec<String>,
    /// SHA-256 of the public key of an issuing authority, as `vouchsafe authority list` shows it.
    #[arg(long)]
    pub(super) authority: Vec<String>,
    /// Class of attestation results.
    #[arg(long, value_enum)]
    pub(super) class: Vec<ClassWord>,
    /// Results that were made under an older policy than this revision.
    #[arg(long)]
    pub(super) policy_revision_below: Option<String>,
    /// Claim of a device: `sev_snp.tcb.microcode<72`, `nvidia_gpu.driver<570.86`, `tpm.image=llm-1`.
    #[arg(long)]
    pub(super) claim: Vec<String>,
}

/// A class of attestation results.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum ClassWord {
    Hardware,
    Software,
    Simulated,
}

/// What becomes of live connections. What is new is denied in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum ActionWord {
    /// They end at once.
    Cut,
    /// They may finish what they have, and take on nothing new.
    Drain,
    /// They stay until they end by themselves.
    #[value(name = "deny_new", alias = "deny-new")]
    DenyNew,
}

impl ActionWord {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
            Self::DenyNew => "deny_new",
        }
    }
}

/// A document by its name: `namespace/name`, or a name in the revocation's own namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reference {
    Full(WorkloadName),
    Beside(Name),
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains('/') {
            true => text
                .parse()
                .map(Self::Full)
                .map_err(|error| format!("{error}")),
            false => text
                .parse()
                .map(Self::Beside)
                .map_err(|error| format!("{error}")),
        }
    }
}

impl Reference {
    pub(super) fn within(&self, namespace: &Name) -> WorkloadName {
        match self {
            Self::Full(name) => name.clone(),
            Self::Beside(name) => WorkloadName {
                namespace: namespace.clone(),
                name: name.clone(),
            },
        }
    }
}

/// When a revocation ends: a moment, or how long from now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expiry {
    At(SystemTime),
    In(Duration),
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(duration) = parse_duration(text).filter(|one| !one.is_zero()) {
            return Ok(Self::In(duration));
        }
        let strict = text.as_bytes().get(10) == Some(&b'T');
        let time = text.parse::<jiff::Timestamp>().ok().filter(|_| strict);
        time.map(|time| Self::At(time.into())).ok_or_else(|| {
            "expected a moment like `2026-12-24T00:00:00Z`, or how long from now, like `24h` or `7d`"
                .to_owned()
        })
    }
}

impl Expiry {
    /// The moment, in whole seconds.
    ///
    /// # Errors
    /// It is over.
    pub(super) fn at(self, now: SystemTime) -> Result<SystemTime, String> {
        let end = match self {
            Self::At(end) => end,
            Self::In(duration) => now + duration,
        };
        let since = end
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        match end > now {
            true => Ok(end),
            false => Err(format!(
                "--expires: {} is over, so the revocation would mean nobody",
                show(end)
            )),
        }
    }
}

/// RFC 3339 in UTC.
pub(super) fn show(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

/// What stands in a document beside whom it means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'t> {
    pub(super) name: &'t WorkloadName,
    pub(super) action: ActionWord,
    pub(super) reason: &'t str,
    pub(super) expires: Option<SystemTime>,
}

impl Predicates {
    pub(super) fn is_empty(&self) -> bool {
        self.entries().is_ok_and(|found| found.is_empty())
    }

    /// `match`, as the flags say it.
    fn entries(&self) -> Result<Map<String, Value>, String> {
        let mut found = Map::new();
        let words = |references: &[Reference]| -> Vec<String> {
            let words = references.iter();
            words
                .map(|reference| match reference {
                    Reference::Full(name) => name.to_string(),
                    Reference::Beside(name) => name.to_string(),
                })
                .collect()
        };
        let classes = self.class.iter().map(|class| match class {
            ClassWord::Hardware => "hardware".to_owned(),
            ClassWord::Software => "software".to_owned(),
            ClassWord::Simulated => "simulated".to_owned(),
        });
        for (key, values) in [
            ("serial", &self.serial),
            ("spki_sha256", &self.spki),
            ("spiffe_id", &self.spiffe_id),
            ("workload", &words(&self.workload)),
            ("node", &words(&self.node)),
            ("hardware_id", &self.hardware_id),
            ("measurement", &self.measurement),
            ("advisory", &self.advisory),
            ("authority_sha256", &self.authority),
            ("class", &classes.collect()),
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
    ///
    /// # Errors
    /// What is wrong with which flag.
    pub(super) fn document(&self, terms: &Terms<'_>) -> Result<String, String> {
        let found = self.entries()?;
        if found.is_empty() {
            return Err("say whom it means: `--workload`, `--serial`, `--claim` and so on; `vouchsafe revoke --help` lists them".to_owned());
        }
        let (namespace, name) = (&terms.name.namespace, &terms.name.name);
        let mut text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  match:\n"
        );
        for (key, value) in &found {
            text.push_str(&format!("    {key}: {}\n", flow(value)));
        }
        text.push_str(&format!(
            "  action: {}\n  reason: {}\n",
            json!(terms.action.as_str()),
            json!(terms.reason)
        ));
        if let Some(expires) = terms.expires {
            text.push_str(&format!("  expires: {}\n", json!(show(expires))));
        }
        self.read(&text, &terms.name.namespace)?;
        Ok(text)
    }

    /// Reads the document beside machines of the names that it says: whether there are such is asked of the control plane.
    fn read(&self, text: &str, namespace: &Name) -> Result<(), String> {
        let mut beside = String::new();
        let mut names: Vec<WorkloadName> = Vec::new();
        for node in &self.node {
            let full = node.within(namespace);
            if !names.contains(&full) {
                beside.push_str(&format!(
                    "apiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {{name: {}, namespace: {}}}\nspec: {{hardware: {{simulated_machine: machine}}}}\n---\n",
                    full.name, full.namespace
                ));
                names.push(full);
            }
        }
        let whole = format!("{beside}{text}");
        let source = Source::new("the flags", whole.clone());
        let Err(problems) = PolicySet::parse(vec![source], Options::default()) else {
            return Ok(());
        };
        let errors = problems.iter();
        let errors = errors.filter(|problem| problem.severity == Severity::Error);
        let lines: Vec<String> = errors.map(|problem| blamed(problem, &whole)).collect();
        Err(lines.join("\nerror: "))
    }
}

/// A mistake of the document, as one of its flag.
fn blamed(problem: &Problem, text: &str) -> String {
    let path = problem.path.strip_prefix("spec.").unwrap_or(&problem.path);
    let path = path.strip_prefix("match.").unwrap_or(path);
    let key = path.split(['.', '[']).next().unwrap_or_default();
    let flag = match key {
        "serial" => "--serial",
        "spki_sha256" => "--spki",
        "spiffe_id" => "--spiffe-id",
        "workload" => "--workload",
        "node" => "--node",
        "hardware_id" => "--hardware-id",
        "measurement" => "--measurement",
        "advisory" => "--advisory",
        "authority_sha256" => "--authority",
        "class" => "--class",
        "policy_revision_below" => "--policy-revision-below",
        "device" => "--claim",
        "action" => "--action",
        "reason" => "--reason",
        "expires" => "--expires",
        _ => "the flags",
    };
    let allowed = problem.allowed.as_ref();
    let allowed = allowed.map_or_else(String::new, |allowed| format!("; allowed: {allowed}"));
    let hint = problem.hint.as_ref();
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    let found = text.get(problem.span.range()).unwrap_or_default();
    let found = found.trim_matches('"');
    format!("{flag} `{found}`: {}{allowed}{hint}", problem.message)
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

#[cfg(test)]
mod tests;
