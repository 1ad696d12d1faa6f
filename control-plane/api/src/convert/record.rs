//! The leaf encoding of the record: what the control plane writes down for ever.
//!
//! A leaf is `vouchsafe/v1/record\0`, then the kind of event, then its fields in a fixed order, each field as its name
//! and its value, everything framed by length (u64 big-endian). There is one encoding of an event, so a leaf's hash
//! stands for it, and a leaf that this build did not write is refused rather than half understood. Numbers are u64
//! big-endian, times are Unix milliseconds, lists are one field per entry under the same name.
//!
//! The leaf hash is [`vouchsafe_attestation::merkle::leaf_hash`] (RFC 6962 §2.1), so that the tiles of a transparency
//! log can hold the same leaves. A leaf has at most [`MAX_LEAF_BYTES`], which fits the u16 of C2SP tlog-tiles.

pub mod standing;

use std::fmt::Write as _;
use std::time::SystemTime;

use vouchsafe_attestation::merkle::{Hash, leaf_hash};
use vouchsafe_attestation::revision::Revision;

use self::standing::{BrakeChange, ForcedRenewal, StandingChange};
use super::{ConvertError, frame, time, unix_ms};

/// Largest leaf.
pub const MAX_LEAF_BYTES: usize = 32 * 1024;

/// One entry of the record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordEntry {
    /// When, by the control plane's clock; milliseconds are kept.
    pub time: SystemTime,
    /// What.
    pub event: Event,
}

/// What is worth recording.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A certificate was issued.
    Issued(Box<Issuance>),
    /// An attestation was refused.
    Refused(Box<Refused>),
    /// Another policy is in force.
    PolicyChanged {
        /// From this revision on.
        revision: Revision,
        /// Merkle root over the resources of the mesh.
        root: Hash,
        /// Number of documents.
        documents: u64,
    },
    /// An authority, or the holder of a role of the mesh itself, came to be.
    AuthorityCreated {
        /// `root`, `issuing`, `control-plane`, `mesh-state`.
        role: String,
        /// SHA-256 of its SubjectPublicKeyInfo.
        spki_sha256: [u8; 32],
        /// End of its certificate.
        not_after: SystemTime,
    },
    /// A revocation is in force that was not, or another of its name is.
    Revoked(Box<RevocationAct>),
    /// A revocation that was in force is so no longer: whoever it meant may be trusted again.
    RevocationEnded(Box<RevocationAct>),
    /// An operator asked for a change of policy, and it was found good; the change itself follows.
    OperatorAct(Box<OperatorAct>),
    /// Peers are to treat an instance otherwise than before.
    StandingChanged(Box<StandingChange>),
    /// So many are silent at once that silence cuts nobody, or no longer.
    BrakeChanged(Box<BrakeChange>),
    /// Certificates are renewed ahead of time.
    RenewalForced(Box<ForcedRenewal>),
}

/// What became of a revocation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevocationAct {
    /// `namespace/name` of its document.
    pub name: String,
    /// SHA-256 of the document.
    pub document_sha256: [u8; 32],
    /// `deny_new`, `drain`, `cut`; empty where the document is gone.
    pub action: String,
    /// Why, as the document says; empty where it is gone.
    pub reason: String,
    /// When it ends by itself, in Unix milliseconds; 0 for never.
    pub expires_ms: u64,
    /// `new`, `changed`, `removed`, `expired`.
    pub how: String,
    /// Whose act it was.
    pub actor: String,
    /// Why he did it, in his words; empty where he said nothing.
    pub why: String,
}

/// What an operator did by the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperatorAct {
    /// `revoke`, `end_revocation`, `apply`, `rollback`, `prepare_authority`; of a canary `canary 10%`, `promote`, `canary_ended`.
    pub act: String,
    /// Who, as the operator socket knows him.
    pub actor: String,
    /// Why, in his words.
    pub reason: String,
    /// Files of the policy folder that it writes or removes.
    pub files: Vec<String>,
    /// Connections that sidecars said would end.
    pub would_drop: u64,
    /// Of so many live ones.
    pub live: u64,
    /// Sidecars that did not say.
    pub unanswered: u64,
    /// What he allowed to end, as he wrote it.
    pub max_drop: String,
}

/// A certificate that was issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuance {
    /// `enroll` or `renew`.
    pub purpose: String,
    /// Whose.
    pub spiffe_id: String,
    /// Which instance.
    pub instance: [u8; 16],
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// SHA-256 of the certified SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the issuing authority's SubjectPublicKeyInfo.
    pub authority_spki_sha256: [u8; 32],
    /// Start of the certificate.
    pub not_before: SystemTime,
    /// End of the certificate.
    pub not_after: SystemTime,
    /// Class of the evidence.
    pub class: String,
    /// Kinds of the evidence, the binding root last.
    pub kinds: Vec<String>,
    /// Hardware identities that the evidence proved, `<kind>:<hex>`.
    pub hardware: Vec<String>,
    /// How the instance is a member: `node <namespace>/<name>`, `join_token <hash>`.
    pub member: String,
    /// Policy that the evidence was appraised by.
    pub policy_revision: Revision,
    /// SHA-256 over the evidence.
    pub evidence_sha256: [u8; 32],
    /// SHA-256 of the full attestation result.
    pub result_sha256: [u8; 32],
}

/// An attestation that was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The name that was asked for; empty when it could not be read.
    pub workload: String,
    /// Stable word.
    pub reason: String,
    /// What was expected and found: for operators, never sent to the peer.
    pub detail: String,
    /// Address of the peer.
    pub peer: String,
    /// SHA-256 over the evidence; zeros when none came.
    pub evidence_sha256: [u8; 32],
    /// Policy in force.
    pub policy_revision: Revision,
}

impl RecordEntry {
    /// The canonical leaf, of at most [`MAX_LEAF_BYTES`]. Texts too long for a leaf are cut at a character, and where all
    /// together are too much for one, all of them more, and the last entries of lists left out: the record never refuses
    /// to record, and what it records can be read.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, fields) = self.fields();
        let mut most = MAX_TEXT_BYTES;
        loop {
            let leaf = leaf(kind, fields.iter(), most);
            if leaf.len() <= MAX_LEAF_BYTES {
                return leaf;
            }
            if most <= LEAST_TEXT_BYTES {
                break;
            }
            most /= 2;
        }
        // A list without end: what comes first in it is kept.
        let lists = fields.iter().filter(|(_, value)| value.is_entry()).count();
        let size = |kept: usize| {
            let mut left = kept;
            let wanted = fields.iter().filter(move |(_, value)| {
                let is_kept = !value.is_entry() || left > 0;
                left = left.saturating_sub(usize::from(value.is_entry()));
                is_kept
            });
            leaf(kind, wanted, LEAST_TEXT_BYTES)
        };
        let kept = (0..lists).collect::<Vec<_>>();
        let fitting = kept.partition_point(|kept| size(*kept).len() <= MAX_LEAF_BYTES);
        size(fitting.saturating_sub(1))
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// [`ConvertError`] for anything that [`Self::encode`] does not write.
    pub fn decode(leaf: &[u8]) -> Result<Self, ConvertError> {
        super::bounded("leaf", MAX_LEAF_BYTES, leaf.len())?;
        let mut fields = Fields(leaf.strip_prefix(LABEL).ok_or(MALFORMED)?);
        let entry = match fields.framed()? {
            b"issued" => fields.issued()?,
            b"refused" => fields.refused()?,
            b"policy_changed" => Self {
                time: fields.time("time")?,
                event: Event::PolicyChanged {
                    revision: fields.revision()?,
                    root: fields.array("root")?,
                    documents: fields.number("documents")?,
                },
            },
            b"authority_created" => Self {
                time: fields.time("time")?,
                event: Event::AuthorityCreated {
                    role: fields.text("role")?,
                    spki_sha256: fields.array("spki_sha256")?,
                    not_after: fields.time("not_after")?,
                },
            },
            b"revoked" => Self {
                time: fields.time("time")?,
                event: Event::Revoked(Box::new(fields.revocation()?)),
            },
            b"revocation_ended" => Self {
                time: fields.time("time")?,
                event: Event::RevocationEnded(Box::new(fields.revocation()?)),
            },
            b"operator_act" => Self {
                time: fields.time("time")?,
                event: Event::OperatorAct(Box::new(fields.operator_act()?)),
            },
            b"standing_changed" => fields.standing_changed()?,
            b"brake_changed" => fields.brake_changed()?,
            b"renewal_forced" => fields.renewal_forced()?,
            _ => return Err(MALFORMED),
        };
        // What is left over, or was written in another way, is not ours.
        if entry.encode() != leaf {
            return Err(MALFORMED);
        }
        Ok(entry)
    }

    /// The leaf's hash.
    pub fn hash(&self) -> Hash {
        leaf_hash(&self.encode())
    }

    /// One line of JSON for people and programs: `kind`, then the fields of the leaf, binary ones in hex.
    pub fn to_json(&self) -> String {
        let (kind, fields) = self.fields();
        let mut out = format!("{{\"kind\":\"{kind}\"");
        let mut fields = fields.into_iter().peekable();
        while let Some((name, value)) = fields.next() {
            if !value.is_entry() {
                let _ = write!(out, ",\"{name}\":{}", value.json());
                continue;
            }
            let mut entries = vec![value.json()];
            while let Some((_, more)) = fields.next_if(|(next, _)| *next == name) {
                entries.push(more.json());
            }
            let _ = write!(out, ",\"{name}\":[{}]", entries.join(","));
        }
        out.push('}');
        out
    }

    fn fields(&self) -> (&'static str, Vec<(&'static str, Value<'_>)>) {
        let mut fields = vec![("time", Value::Time(self.time))];
        let kind = match &self.event {
            Event::Issued(issued) => {
                fields.extend(issued.fields());
                "issued"
            }
            Event::Refused(refused) => {
                fields.extend(refused.fields());
                "refused"
            }
            Event::PolicyChanged {
                revision,
                root,
                documents,
            } => {
                fields.extend(revision_fields(*revision));
                fields.push(("root", Value::Bytes(root)));
                fields.push(("documents", Value::Number(*documents)));
                "policy_changed"
            }
            Event::AuthorityCreated {
                role,
                spki_sha256,
                not_after,
            } => {
                fields.push(("role", Value::Text(role)));
                fields.push(("spki_sha256", Value::Bytes(spki_sha256)));
                fields.push(("not_after", Value::Time(*not_after)));
                "authority_created"
            }
            Event::Revoked(act) => {
                fields.extend(act.fields());
                "revoked"
            }
            Event::RevocationEnded(act) => {
                fields.extend(act.fields());
                "revocation_ended"
            }
            Event::OperatorAct(act) => {
                fields.extend(act.fields());
                "operator_act"
            }
            Event::StandingChanged(change) => {
                fields.extend(change.fields());
                "standing_changed"
            }
            Event::BrakeChanged(change) => {
                fields.extend(change.fields());
                "brake_changed"
            }
            Event::RenewalForced(forced) => {
                fields.extend(forced.fields());
                "renewal_forced"
            }
        };
        (kind, fields)
    }
}

impl Issuance {
    fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("purpose", Value::Text(&self.purpose)),
            ("spiffe_id", Value::Text(&self.spiffe_id)),
            ("instance", Value::Bytes(&self.instance)),
            ("serial", Value::Bytes(&self.serial)),
            ("spki_sha256", Value::Bytes(&self.spki_sha256)),
            (
                "authority_spki_sha256",
                Value::Bytes(&self.authority_spki_sha256),
            ),
            ("not_before", Value::Time(self.not_before)),
            ("not_after", Value::Time(self.not_after)),
            ("class", Value::Text(&self.class)),
        ];
        let entries = |list: &'static str| move |entry| (list, Value::Entry(entry));
        fields.extend(self.kinds.iter().map(String::as_str).map(entries("kinds")));
        fields.extend(
            self.hardware
                .iter()
                .map(String::as_str)
                .map(entries("hardware")),
        );
        fields.push(("member", Value::Text(&self.member)));
        fields.extend(revision_fields(self.policy_revision));
        fields.push(("evidence_sha256", Value::Bytes(&self.evidence_sha256)));
        fields.push(("result_sha256", Value::Bytes(&self.result_sha256)));
        fields
    }
}

impl Refused {
    fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("workload", Value::Text(&self.workload)),
            ("reason", Value::Text(&self.reason)),
            ("detail", Value::Text(&self.detail)),
            ("peer", Value::Text(&self.peer)),
            ("evidence_sha256", Value::Bytes(&self.evidence_sha256)),
        ];
        fields.extend(revision_fields(self.policy_revision));
        fields
    }
}

impl RevocationAct {
    fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        vec![
            ("name", Value::Text(&self.name)),
            ("document_sha256", Value::Bytes(&self.document_sha256)),
            ("action", Value::Text(&self.action)),
            ("reason", Value::Text(&self.reason)),
            ("expires", Value::Number(self.expires_ms)),
            ("how", Value::Text(&self.how)),
            ("actor", Value::Text(&self.actor)),
            ("why", Value::Text(&self.why)),
        ]
    }
}

impl OperatorAct {
    fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("act", Value::Text(&self.act)),
            ("actor", Value::Text(&self.actor)),
            ("reason", Value::Text(&self.reason)),
        ];
        let files = self.files.iter().map(String::as_str);
        fields.extend(files.map(|file| ("files", Value::Entry(file))));
        fields.push(("would_drop", Value::Number(self.would_drop)));
        fields.push(("live", Value::Number(self.live)));
        fields.push(("unanswered", Value::Number(self.unanswered)));
        fields.push(("max_drop", Value::Text(&self.max_drop)));
        fields
    }
}

fn revision_fields(revision: Revision) -> [(&'static str, Value<'static>); 2] {
    [
        ("policy_epoch", Value::Number(revision.epoch)),
        ("policy_sequence", Value::Number(revision.sequence)),
    ]
}

/// A leaf whose texts have at most so many bytes each.
fn leaf<'f, 'a: 'f>(
    kind: &str,
    fields: impl Iterator<Item = &'f (&'static str, Value<'a>)>,
    most: usize,
) -> Vec<u8> {
    let mut out = LABEL.to_vec();
    frame(&mut out, kind.as_bytes());
    for (name, value) in fields {
        frame(&mut out, name.as_bytes());
        frame(&mut out, &value.encode(most));
    }
    out
}

enum Value<'a> {
    Text(&'a str),
    Entry(&'a str),
    Bytes(&'a [u8]),
    Number(u64),
    Time(SystemTime),
}

impl Value<'_> {
    fn is_entry(&self) -> bool {
        matches!(self, Self::Entry(_))
    }

    fn encode(&self, most: usize) -> Vec<u8> {
        match self {
            Self::Text(text) | Self::Entry(text) => cut(text, most).as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Number(number) => number.to_be_bytes().to_vec(),
            Self::Time(time) => unix_ms(*time).to_be_bytes().to_vec(),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Text(text) | Self::Entry(text) => json_string(cut(text, MAX_TEXT_BYTES)),
            Self::Bytes(bytes) => {
                let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                format!("\"{hex}\"")
            }
            Self::Number(number) => number.to_string(),
            Self::Time(time) => unix_ms(*time).to_string(),
        }
    }
}

/// A JSON string (RFC 8259 §7): quotes, backslashes and control characters escaped.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The longest prefix of whole characters within so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = text.floor_char_boundary(most);
    text.get(..end).unwrap_or_default()
}

/// The unread rest of a leaf.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn framed(&mut self) -> Result<&'a [u8], ConvertError> {
        let (length, rest) = self.0.split_first_chunk::<8>().ok_or(MALFORMED)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| MALFORMED)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(value)
    }

    fn value(&mut self, name: &'static str) -> Result<&'a [u8], ConvertError> {
        if self.framed()? != name.as_bytes() {
            return Err(MALFORMED);
        }
        self.framed()
    }

    fn text(&mut self, name: &'static str) -> Result<String, ConvertError> {
        let value = self.value(name)?.to_vec();
        String::from_utf8(value).map_err(|_| MALFORMED)
    }

    fn entries(&mut self, name: &'static str) -> Result<Vec<String>, ConvertError> {
        let mut entries = Vec::new();
        loop {
            if !self.is_next(name)? {
                return Ok(entries);
            }
            entries.push(self.text(name)?);
        }
    }

    fn is_next(&self, name: &'static str) -> Result<bool, ConvertError> {
        Ok(Fields(self.0).framed()? == name.as_bytes())
    }

    fn array<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], ConvertError> {
        self.value(name)?.try_into().map_err(|_| MALFORMED)
    }

    fn number(&mut self, name: &'static str) -> Result<u64, ConvertError> {
        Ok(u64::from_be_bytes(self.array(name)?))
    }

    fn time(&mut self, name: &'static str) -> Result<SystemTime, ConvertError> {
        time(name, self.number(name)?)
    }

    fn revision(&mut self) -> Result<Revision, ConvertError> {
        Ok(Revision {
            epoch: self.number("policy_epoch")?,
            sequence: self.number("policy_sequence")?,
        })
    }

    fn revocation(&mut self) -> Result<RevocationAct, ConvertError> {
        Ok(RevocationAct {
            name: self.text("name")?,
            document_sha256: self.array("document_sha256")?,
            action: self.text("action")?,
            reason: self.text("reason")?,
            expires_ms: self.number("expires")?,
            how: self.text("how")?,
            actor: self.text("actor")?,
            why: self.text("why")?,
        })
    }

    fn operator_act(&mut self) -> Result<OperatorAct, ConvertError> {
        Ok(OperatorAct {
            act: self.text("act")?,
            actor: self.text("actor")?,
            reason: self.text("reason")?,
            files: self.entries("files")?,
            would_drop: self.number("would_drop")?,
            live: self.number("live")?,
            unanswered: self.number("unanswered")?,
            max_drop: self.text("max_drop")?,
        })
    }

    fn issued(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::Issued(Box::new(Issuance {
                purpose: self.text("purpose")?,
                spiffe_id: self.text("spiffe_id")?,
                instance: self.array("instance")?,
                serial: self.value("serial")?.to_vec(),
                spki_sha256: self.array("spki_sha256")?,
                authority_spki_sha256: self.array("authority_spki_sha256")?,
                not_before: self.time("not_before")?,
                not_after: self.time("not_after")?,
                class: self.text("class")?,
                kinds: self.entries("kinds")?,
                hardware: self.entries("hardware")?,
                member: self.text("member")?,
                policy_revision: self.revision()?,
                evidence_sha256: self.array("evidence_sha256")?,
                result_sha256: self.array("result_sha256")?,
            })),
        })
    }

    fn refused(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::Refused(Box::new(Refused {
                workload: self.text("workload")?,
                reason: self.text("reason")?,
                detail: self.text("detail")?,
                peer: self.text("peer")?,
                evidence_sha256: self.array("evidence_sha256")?,
                policy_revision: self.revision()?,
            })),
        })
    }
}

const MALFORMED: ConvertError = ConvertError::Malformed {
    field: "leaf",
    expected: "a record entry of version 1",
};
/// Versioned, NUL-terminated.
const LABEL: &[u8] = b"vouchsafe/v1/record\0";
/// Longest text of a leaf: a refusal's detail, which quotes expected and found values, is the longest of them.
const MAX_TEXT_BYTES: usize = 4096;
/// Texts are not cut below this: words, names and digests stay whole.
const LEAST_TEXT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_800_000_000_000 + ms)
    }

    const REVISION: Revision = Revision {
        epoch: 1,
        sequence: 7,
    };

    fn entries() -> Vec<RecordEntry> {
        let issued = Issuance {
            purpose: "enroll".into(),
            spiffe_id: "spiffe://factory.example/ns/inference/workload/llm".into(),
            instance: [1; 16],
            serial: vec![2; 16],
            spki_sha256: [3; 32],
            authority_spki_sha256: [4; 32],
            not_before: at(0),
            not_after: at(3_600_000),
            class: "software".into(),
            kinds: vec!["tpm".into()],
            hardware: vec!["tpm_ek_sha256:aa".into(), "snp_chip_id:bb".into()],
            member: "node inference/gpu-07".into(),
            policy_revision: REVISION,
            evidence_sha256: [5; 32],
            result_sha256: [6; 32],
        };
        let refused = Refused {
            workload: "inference/llm".into(),
            reason: "pcr_mismatch".into(),
            detail: "PCR 7: expected \"aa\", found\n\"bb\"".into(),
            peer: "127.0.0.1:4711".into(),
            evidence_sha256: [0; 32],
            policy_revision: REVISION,
        };
        let without_lists = Issuance {
            kinds: vec![],
            hardware: vec![],
            ..issued.clone()
        };
        let revocation = RevocationAct {
            name: "app/incident-7".into(),
            document_sha256: [9; 32],
            action: "cut".into(),
            reason: "stolen \"laptop\"".into(),
            expires_ms: 0,
            how: "new".into(),
            actor: "uid 0".into(),
            why: String::new(),
        };
        let act = OperatorAct {
            act: "revoke".into(),
            actor: "uid 0".into(),
            reason: "incident 7".into(),
            files: vec![],
            would_drop: 3,
            live: 4,
            unanswered: 1,
            max_drop: "100%".into(),
        };
        [
            Event::Issued(Box::new(issued)),
            Event::Issued(Box::new(without_lists)),
            Event::Refused(Box::new(refused)),
            Event::PolicyChanged {
                revision: REVISION,
                root: [7; 32],
                documents: 12,
            },
            Event::AuthorityCreated {
                role: "root".into(),
                spki_sha256: [8; 32],
                not_after: at(9),
            },
            Event::Revoked(Box::new(revocation.clone())),
            Event::RevocationEnded(Box::new(revocation)),
            Event::OperatorAct(Box::new(act.clone())),
            Event::OperatorAct(Box::new(OperatorAct {
                files: vec!["revocations/app.incident-7.yaml".into(), "b.yaml".into()],
                ..act
            })),
            Event::StandingChanged(Box::new(StandingChange {
                workload: "inference/llm".into(),
                instance: [9; 16],
                standing: "revoked".into(),
                reason: "ima_file".into(),
                detail: "no rule allows `/tmp/x`".into(),
                evidence_sha256: [10; 32],
                difference: vec!["PCR 10 of sha256: aa is bb".into(), "file `/tmp/x`".into()],
            })),
            Event::BrakeChanged(Box::new(BrakeChange {
                scope: "mesh".into(),
                state: "held".into(),
                silent: 40,
                of: 100,
            })),
            Event::RenewalForced(Box::new(ForcedRenewal {
                scope: "inference/llm".into(),
                actor: "uid 0".into(),
                reason: "key ceremony".into(),
                start: at(10),
                end: at(600_010),
            })),
            // As it was written when nobody was named.
            Event::RenewalForced(Box::new(ForcedRenewal {
                scope: "mesh".into(),
                actor: String::new(),
                reason: "key ceremony".into(),
                start: at(10),
                end: at(600_010),
            })),
        ]
        .into_iter()
        .map(|event| RecordEntry { time: at(1), event })
        .collect()
    }

    #[test]
    fn every_entry_has_one_encoding_and_comes_back() {
        for entry in entries() {
            assert_eq!(RecordEntry::decode(&entry.encode()).unwrap(), entry);
        }
    }

    #[test]
    fn no_prefix_no_trailing_byte_and_no_flipped_bit_is_the_same_entry() {
        for entry in entries() {
            let leaf = entry.encode();
            for end in 0..leaf.len() {
                assert!(RecordEntry::decode(&leaf[..end]).is_err(), "{end}");
            }
            assert!(RecordEntry::decode(&[leaf.as_slice(), &[0]].concat()).is_err());
            for at in 0..leaf.len() {
                let mut flipped = leaf.clone();
                flipped[at] ^= 1;
                if let Ok(other) = RecordEntry::decode(&flipped) {
                    assert_ne!(other, entry);
                }
            }
        }
    }

    #[test]
    fn json_is_escaped_and_shows_lists_as_lists() {
        let json: Vec<String> = entries().iter().map(RecordEntry::to_json).collect();
        assert!(json[0].contains(r#""hardware":["tpm_ek_sha256:aa","snp_chip_id:bb"]"#));
        assert!(json[0].contains(r#""kinds":["tpm"]"#));
        assert!(json[2].contains(r#"expected \"aa\", found\u000a\"bb\""#));
    }

    #[test]
    fn a_long_detail_is_cut_not_lost() {
        let mut entry = entries().remove(2);
        let Event::Refused(refused) = &mut entry.event else {
            unreachable!("the third entry is a refusal");
        };
        refused.detail = "ä".repeat(5000);
        let read = RecordEntry::decode(&entry.encode()).unwrap();
        let Event::Refused(read) = read.event else {
            unreachable!("a refusal stays one");
        };
        assert_eq!(read.detail, "ä".repeat(2048));
    }

    #[test]
    fn whatever_is_recorded_fits_a_leaf_and_comes_back() {
        let long = "\u{10ffff}".repeat(10_000);
        for (lines, of) in [
            (17, &long),
            (65, &long),
            (10_000, &long),
            (10_000, &"x".into()),
        ] {
            let list: Vec<String> = (0..lines).map(|number| format!("{number} {of}")).collect();
            for mut entry in entries() {
                match &mut entry.event {
                    Event::Issued(issued) => issued.hardware.clone_from(&list),
                    Event::StandingChanged(change) => change.difference.clone_from(&list),
                    Event::OperatorAct(act) => act.files.clone_from(&list),
                    Event::Refused(refused) => refused.detail.clone_from(of),
                    Event::Revoked(act) | Event::RevocationEnded(act) => {
                        act.reason.clone_from(of);
                        act.why.clone_from(of);
                    }
                    Event::PolicyChanged { .. }
                    | Event::AuthorityCreated { .. }
                    | Event::BrakeChanged(_)
                    | Event::RenewalForced(_) => {}
                }
                let leaf = entry.encode();
                assert!(leaf.len() <= MAX_LEAF_BYTES, "{lines}: {}", leaf.len());
                let read = RecordEntry::decode(&leaf).unwrap();
                assert_eq!(read.encode(), leaf);
                if let Event::StandingChanged(change) = read.event {
                    assert!(change.difference.len() >= lines.min(17));
                    assert!(change.difference[0].starts_with("0 "));
                    assert_eq!(change.reason, "ima_file");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = RecordEntry::decode(&[LABEL, &bytes].concat());
            let _ = RecordEntry::decode(&bytes);
        }
    }
}
