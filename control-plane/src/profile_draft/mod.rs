//! From evidence of a machine, or from what its maker publishes, to an `AttestationProfile` that a person reviews. Pure.
//!
//! The draft is ready to paste: it passes `vouchsafe check`, and a comment at each value says where it comes from. What
//! identifies a machine's software is written as a demand; what changes from boot to boot stands beside it as a comment.
//! Evidence is judged offline before its values are used, and the draft says how that ended; a value that a failed
//! judgement shows may be anybody's.
//!
//! Source: DESIGN §4; TCG PC Client Platform Firmware Profile 1.06 §3.3.4; systemd's `TPM2_PCR_MEASUREMENTS`.

mod corim;
mod hardware;
mod tpm;

use std::time::SystemTime;

use vouchsafe_verifier::corim::CorimError;
use vouchsafe_verifier::dossier::{self, Dossier, File, Kind, Rules};
use vouchsafe_verifier::judgement::{Judgement, Outcome, Status, Value};

/// Files that belong together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Kind of evidence, where the place says it.
    pub kind: Option<Kind>,
    /// Names without folders, and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What the draft is to be called.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Name of the profile.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of the image that the values are of.
    pub image: String,
    /// What a manifest must be signed by: a certificate or public key in DER.
    pub corim_key: Option<Vec<u8>>,
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// No file is anything that reference values can be taken from.
    #[error("`{0}` is no evidence, event log or manifest that reference values can be taken from")]
    Unknown(String),
    /// The evidence can't be read, or shows no value.
    #[error("the {kind} evidence shows no value to demand: {why}")]
    NoValue {
        /// Kind of evidence.
        kind: &'static str,
        /// What was found.
        why: String,
    },
    /// The manifest can't be used.
    #[error("failed to read the manifest `{file}`")]
    Corim {
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: CorimError,
    },
}

/// What one kind of evidence must show: lines of YAML below the kind, without its indentation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Section {
    kind: &'static str,
    lines: Vec<String>,
}

/// Drafts a profile.
///
/// # Errors
/// [`DraftError`] if some group yields no value.
pub fn draft(groups: &[Group], asked: &Asked, now: SystemTime) -> Result<String, DraftError> {
    let mut sections: Vec<Section> = Vec::new();
    for group in groups {
        sections.extend(section(group, asked, now)?);
    }
    sections.sort_by_key(|section| section.kind);
    sections.dedup_by_key(|section| section.kind);
    let mut text = format!(
        "# Drawn up by `vouchsafe attest reference`. Review it before it counts: the values are what this machine, or\n\
         # this manifest, says.\n\
         apiVersion: vouchsafe.dev/v1alpha1\n\
         kind: AttestationProfile\n\
         metadata: {{name: {}, namespace: {}}}\n\
         spec:\n  any_of:\n",
        quoted(&asked.name),
        quoted(&asked.namespace)
    );
    for (index, section) in sections.iter().enumerate() {
        let start = if index == 0 { "-" } else { " " };
        text += &format!("    {start} {}:\n", section.kind);
        for line in &section.lines {
            text += &format!("          {line}\n");
        }
    }
    Ok(text)
}

fn section(group: &Group, asked: &Asked, now: SystemTime) -> Result<Vec<Section>, DraftError> {
    let manifest = group.files.iter().find(|(_, bytes)| corim::begins(bytes));
    if let Some((name, bytes)) = manifest {
        return corim::sections(name, bytes, asked);
    }
    let kind = group
        .kind
        .or_else(|| detect(&group.files))
        .or_else(|| fitting(&group.files, now));
    let Some(kind) = kind else {
        let names: Vec<_> = group.files.iter().map(|(name, _)| name.as_str()).collect();
        return Err(DraftError::Unknown(names.join(", ")));
    };
    let judgement = judge(kind, &group.files, now);
    let section = match kind {
        Kind::Tpm => tpm::section(&group.files, &judgement, asked)?,
        other => hardware::section(other, &group.files, &judgement, asked)?,
    };
    Ok(vec![section])
}

fn judge(kind: Kind, files: &[(String, Vec<u8>)], now: SystemTime) -> Judgement {
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let glance = dossier::inspect(kind, dossier, &Rules::default(), now);
    glance.judgement().clone()
}

/// The kind by the form of the first file that has one.
fn detect(files: &[(String, Vec<u8>)]) -> Option<Kind> {
    files.iter().find_map(|(_, bytes)| {
        let head = bytes.get(..64).unwrap_or(bytes);
        let has = |wanted: &[u8]| head.windows(wanted.len()).any(|found| found == wanted);
        match bytes.as_slice() {
            [4 | 5, 0, 2 | 3, 0, 0x81, ..] => Some(Kind::Tdx),
            [0x84, 0x44, ..] | [0xd2, 0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, ..] => Some(Kind::Nitro),
            [0x11, 0xe0, ..] => Some(Kind::NvidiaGpu),
            // Versions 2 to 5, and the length of every report.
            [2..=5, 0, 0, 0, ..] if bytes.len() == SEV_SNP_REPORT => Some(Kind::SevSnp),
            _ if has(b"SoftwareIdentity") => Some(Kind::NvidiaGpu),
            [0xff, b'T', b'C', b'G', ..] | [0x0a, ..] => Some(Kind::Tpm),
            _ if has(b"Spec ID Event") => Some(Kind::Tpm),
            _ => None,
        }
    })
}

/// The kind whose verifier can make most of files whose form says nothing, such as JSON of a tool.
fn fitting(files: &[(String, Vec<u8>)], now: SystemTime) -> Option<Kind> {
    let passed = |kind: &Kind| {
        let judgement = judge(*kind, files, now);
        let checks = judgement.checks.iter();
        checks.filter(|one| one.outcome == Outcome::Passed).count()
    };
    let kind = Kind::ALL.into_iter().max_by_key(passed)?;
    (passed(&kind) > 0).then_some(kind)
}

/// How the judgement ended, as the first comment of a section.
fn judged(judgement: &Judgement) -> String {
    let word = match judgement.status {
        Status::Affirming => "affirming",
        Status::Warning => "warning",
        Status::Contraindicated => "contraindicated",
    };
    format!(
        "# judged offline, bound to nothing: {word} ({})",
        judgement.reason
    )
}

fn text_claim<'a>(judgement: &'a Judgement, name: &str) -> Option<&'a str> {
    match judgement.claims.get(name)? {
        Value::Text(text) => Some(text),
        Value::Bool(_) | Value::Number(_) | Value::Set(_) => None,
    }
}

fn set_claim<'a>(judgement: &'a Judgement, name: &str) -> &'a [String] {
    match judgement.claims.get(name) {
        Some(Value::Set(values)) => values,
        Some(Value::Bool(_) | Value::Number(_) | Value::Text(_)) | None => &[],
    }
}

/// A text in YAML's double quotes, so that nothing in it is taken for anything else.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => vec!['?'],
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}

/// One line of a comment, whatever a file says.
fn comment(text: &str) -> String {
    text.chars()
        .take(160)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

const SEV_SNP_REPORT: usize = 1184;

#[cfg(test)]
mod tests;
