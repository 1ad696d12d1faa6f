//! The leaf encoding of the record: what the control plane writes down for ever.
//!
//! A leaf is `vouchsafe/v1/record\0`, then the kind of event, then its fields in a fixed order, each field as its name
//! and its value, everything framed by length (u64 big-endian). There is one encoding of an event, so a leaf's hash
//! stands for it, and a leaf that this build did not write is refused rather than half understood. Numbers are u64
//! big-endian, times are Unix milliseconds, lists are one field per entry under the same name.
//!
//! The leaf hash is [`vouchsafe_attestation::merkle::leaf_hash`] (RFC 6962 §2.1), so that the tiles of a transparency
//! log can hold the same leaves. A leaf has at most [`MAX_LEAF_BYTES`], which fits the u16 of C2SP tlog-tiles.

pub mod acts;
pub mod attestation;
mod fields;
pub mod refusals;
pub mod standing;

use std::fmt::Write as _;
use std::time::SystemTime;

use vouchsafe_attestation::merkle::{Hash, leaf_hash};
use vouchsafe_attestation::revision::Revision;

use self::acts::{OperatorAct, RevocationAct};
use self::attestation::{Issuance, Refused};
use self::fields::{Fields, Value, leaf, revision_fields};
use self::refusals::RefusalsSummed;
use self::standing::{BrakeChange, ForcedRenewal, StandingChange};
use super::ConvertError;

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
    /// Attestations of strangers were refused so often that they are counted.
    RefusalsSummed(Box<RefusalsSummed>),
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
            b"refusals_summed" => fields.refusals_summed()?,
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
            Event::RefusalsSummed(sum) => {
                fields.extend(sum.fields());
                "refusals_summed"
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
mod tests;
