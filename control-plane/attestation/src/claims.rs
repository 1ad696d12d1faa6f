//! Claims: what an attestation result says about a peer, with the types by which policy compares them.
//!
//! [`CATALOG`] is the one list of claim names. Config refuses a name that is not in it, the verifier can only produce
//! names that are in it, so policy never waits for a claim that nothing makes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Where a piece of evidence comes from. A closed set: a new kind must be met everywhere.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EvidenceKind {
    /// A TPM 2.0 quote.
    Tpm,
    /// No hardware at all: for laptops and tests, refused unless the trust domain was created for it (promise 10).
    Simulated,
}

impl EvidenceKind {
    /// All kinds that are built.
    pub const ALL: [Self; 2] = [Self::Tpm, Self::Simulated];

    /// The word in policy, certificates, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Simulated => "simulated",
        }
    }

    /// Whether evidence of this kind can be the binding root, which commits to all the rest (DESIGN §5.3).
    pub fn is_binding_root(self) -> bool {
        match self {
            Self::Tpm | Self::Simulated => true,
        }
    }
}

impl FromStr for EvidenceKind {
    type Err = UnknownKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKindError(text.to_owned()))
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind of evidence that is built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a kind of evidence")]
pub struct UnknownKindError(pub String);

/// How much an attestation result is worth, weakest first. The class of a set is that of its weakest part.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Made up: proves nothing.
    Simulated,
    /// Real in protocol, but the root of trust is a program (a software TPM, or a TPM whose maker is not proven).
    Software,
    /// The root of trust is hardware whose maker vouches for it.
    Hardware,
}

impl Class {
    /// All classes, weakest first.
    pub const ALL: [Self; 3] = [Self::Simulated, Self::Software, Self::Hardware];

    /// The word in policy, certificates, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Software => "software",
            Self::Hardware => "hardware",
        }
    }
}

impl FromStr for Class {
    type Err = UnknownClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| UnknownClassError(text.to_owned()))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no class.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a class of attestation")]
pub struct UnknownClassError(pub String);

/// How values of a claim compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClaimType {
    /// `true` or `false`.
    Bool,
    /// An unsigned number; `>=` and its kin compare as numbers.
    Number,
    /// A text; equality only.
    Text,
    /// Dotted numbers (`570.86.15`); `>=` and its kin compare part by part.
    Version,
    /// A set of texts; a requirement names a member.
    Set,
}

/// One claim that policy may read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClaimDefinition {
    /// The kind of evidence that produces it.
    pub kind: EvidenceKind,
    /// Its stable name.
    pub name: &'static str,
    /// How it compares.
    pub value: ClaimType,
    /// One sentence for documentation, schema and `explain`.
    pub doc: &'static str,
}

/// All claims that policy may read. Names are stable: they are written in policy and in certificates.
pub const CATALOG: &[ClaimDefinition] = &[
    claim(
        EvidenceKind::Tpm,
        "image",
        ClaimType::Text,
        "Name of the reference image whose PCR values matched.",
    ),
    claim(
        EvidenceKind::Tpm,
        "ek_sha256",
        ClaimType::Text,
        "SHA-256 of the endorsement key's public area, in hex: which TPM it is.",
    ),
    claim(
        EvidenceKind::Tpm,
        "ek_certified",
        ClaimType::Bool,
        "Whether a pinned manufacturer vouches for the endorsement key.",
    ),
    claim(
        EvidenceKind::Tpm,
        "firmware",
        ClaimType::Number,
        "Firmware version that the TPM signs into each quote.",
    ),
    claim(
        EvidenceKind::Tpm,
        "reset_count",
        ClaimType::Number,
        "How often the TPM was reset: grows with each boot.",
    ),
    claim(
        EvidenceKind::Tpm,
        "restart_count",
        ClaimType::Number,
        "How often the TPM resumed since its last reset.",
    ),
    claim(
        EvidenceKind::Tpm,
        "event_log",
        ClaimType::Bool,
        "Whether a boot event log was replayed to the quoted PCR values.",
    ),
    claim(
        EvidenceKind::Tpm,
        "secure_boot",
        ClaimType::Bool,
        "Whether UEFI Secure Boot was on, by the replayed event log.",
    ),
    claim(
        EvidenceKind::Simulated,
        "image",
        ClaimType::Text,
        "The image name that the simulation was told to claim.",
    ),
];

const fn claim(
    kind: EvidenceKind,
    name: &'static str,
    value: ClaimType,
    doc: &'static str,
) -> ClaimDefinition {
    ClaimDefinition {
        kind,
        name,
        value,
        doc,
    }
}

/// The definition of a claim, if there is such a claim.
pub fn definition(kind: EvidenceKind, name: &str) -> Option<&'static ClaimDefinition> {
    CATALOG
        .iter()
        .find(|claim| claim.kind == kind && claim.name == name)
}

/// One to six numbers with dots between; missing parts count as 0, so `570.86` equals `570.86.0`.
#[derive(Clone, Debug)]
pub struct Version {
    parts: [u64; Self::MAX_PARTS],
    written: u8,
}

impl Version {
    /// NVIDIA VBIOS versions have five parts (`96.00.9F.00.01` is written in decimal by the verifier); one to spare.
    pub const MAX_PARTS: usize = 6;
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = [0; Self::MAX_PARTS];
        let mut written = 0;
        let mut slots = parts.iter_mut();
        for part in text.split('.') {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let slot = slots.next().filter(|_| digits).ok_or(ParseVersionError)?;
            *slot = part.parse().map_err(|_| ParseVersionError)?;
            written += 1;
        }
        Ok(Self { parts, written })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().take(self.written.into()).enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write!(f, "{part}")?;
        }
        Ok(())
    }
}

/// The text is not a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected one to six numbers with dots between")]
pub struct ParseVersionError;

/// The value of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimValue {
    /// Of type [`ClaimType::Bool`].
    Bool(bool),
    /// Of type [`ClaimType::Number`].
    Number(u64),
    /// Of type [`ClaimType::Text`].
    Text(String),
    /// Of type [`ClaimType::Version`].
    Version(Version),
    /// Of type [`ClaimType::Set`].
    Set(BTreeSet<String>),
}

impl ClaimValue {
    /// The type that the value has.
    pub fn claim_type(&self) -> ClaimType {
        match self {
            Self::Bool(_) => ClaimType::Bool,
            Self::Number(_) => ClaimType::Number,
            Self::Text(_) => ClaimType::Text,
            Self::Version(_) => ClaimType::Version,
            Self::Set(_) => ClaimType::Set,
        }
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Version(value) => write!(f, "{value}"),
            Self::Set(values) => f.write_str(
                &values
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        }
    }
}

/// The claims of one device: names of [`CATALOG`] with values of their types, and nothing else.
///
/// Small (at most a few dozen), so a sorted vector beats a map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claims(Vec<(&'static ClaimDefinition, ClaimValue)>);

impl Claims {
    /// Sets a claim of `kind`, replacing an earlier value.
    ///
    /// # Errors
    /// [`SetClaimError`] when the catalog has no such claim or the value is of another type.
    pub fn set(
        &mut self,
        kind: EvidenceKind,
        name: &str,
        value: ClaimValue,
    ) -> Result<(), SetClaimError> {
        let definition =
            definition(kind, name).ok_or_else(|| SetClaimError::Unknown(name.to_owned()))?;
        if definition.value != value.claim_type() {
            return Err(SetClaimError::Type(definition.name));
        }
        match self
            .0
            .binary_search_by(|(held, _)| held.name.cmp(definition.name))
        {
            Ok(at) => self.0.splice(at..=at, [(definition, value)]).for_each(drop),
            Err(at) => self.0.insert(at, (definition, value)),
        }
        Ok(())
    }

    /// The value of a claim, if the device made it.
    pub fn get(&self, name: &str) -> Option<&ClaimValue> {
        let at = self
            .0
            .binary_search_by(|(held, _)| held.name.cmp(name))
            .ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// All claims, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &ClaimValue)> {
        self.0
            .iter()
            .map(|(definition, value)| (definition.name, value))
    }
}

/// Why a claim can't be set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SetClaimError {
    /// Not in [`CATALOG`] for this kind.
    #[error("`{0}` is not a claim of this kind of evidence")]
    Unknown(String),
    /// The value is not of the claim's type.
    #[error("the value of `{0}` is of another type")]
    Type(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_keep_to_the_catalog_and_its_types() {
        let mut claims = Claims::default();
        assert_eq!(
            claims.set(EvidenceKind::Tpm, "image", ClaimValue::Text("a".into())),
            Ok(())
        );
        assert_eq!(
            claims.set(EvidenceKind::Tpm, "image", ClaimValue::Text("b".into())),
            Ok(())
        );
        assert_eq!(
            claims.set(EvidenceKind::Tpm, "image", ClaimValue::Bool(true)),
            Err(SetClaimError::Type("image"))
        );
        assert!(matches!(
            claims.set(EvidenceKind::Tpm, "imagee", ClaimValue::Bool(true)),
            Err(SetClaimError::Unknown(_))
        ));
        assert_eq!(
            claims.iter().collect::<Vec<_>>(),
            [("image", &ClaimValue::Text("b".into()))]
        );
    }

    #[test]
    fn versions_compare_part_by_part() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("570.86") < version("570.124"));
        assert!(version("570.86.15") > version("570.86"));
        assert_eq!(version("570.86"), version("570.86.0"));
        assert_eq!(version("1.20").to_string(), "1.20");
        for text in ["", ".", "1.", "a", "1.2.3.4.5.6.7", "-1", "+1"] {
            assert_eq!(text.parse::<Version>(), Err(ParseVersionError), "{text}");
        }
    }

    #[test]
    fn the_catalog_names_each_claim_once() {
        let mut names: Vec<_> = CATALOG
            .iter()
            .map(|claim| (claim.kind, claim.name))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOG.len());
    }
}
