//! Claims: what an attestation result says about a peer, with the types by which policy compares them.
//!
//! [`CATALOG`] is the one list of claim names. Config refuses a name that is not in it, the verifier can only produce
//! names that are in it, so policy never waits for a claim that nothing makes.

mod catalog;
mod texts;
mod value;

use std::fmt;
use std::str::FromStr;

pub use self::catalog::{CATALOG, ClaimDefinition, claims_of, definition};
pub use self::texts::Texts;
pub use self::value::{
    ClaimType, ClaimValue, HexVersion, ParseClaimError, ParseTimeError, ParseVersionError, Time,
    Version,
};

/// Where a piece of evidence comes from. A closed set: a new kind must be met everywhere.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EvidenceKind {
    /// A TPM 2.0 quote.
    Tpm,
    /// A report of AMD SEV-SNP.
    SevSnp,
    /// A quote of Intel TDX.
    Tdx,
    /// Azure's vTPM, above AMD SEV-SNP.
    AzSnpVtpm,
    /// Azure's vTPM, above Intel TDX.
    AzTdxVtpm,
    /// A report of an NVIDIA GPU or NVSwitch; one piece per device.
    NvidiaGpu,
    /// A document of AWS Nitro Enclaves.
    Nitro,
    /// No hardware at all: for laptops and tests, refused unless the trust domain was created for it (promise 10).
    Simulated,
}

impl EvidenceKind {
    /// All kinds that are built.
    pub const ALL: [Self; 8] = [
        Self::Tpm,
        Self::SevSnp,
        Self::Tdx,
        Self::AzSnpVtpm,
        Self::AzTdxVtpm,
        Self::NvidiaGpu,
        Self::Nitro,
        Self::Simulated,
    ];

    /// The word in policy, certificates, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::SevSnp => "sev_snp",
            Self::Tdx => "tdx",
            Self::AzSnpVtpm => "az_snp_vtpm",
            Self::AzTdxVtpm => "az_tdx_vtpm",
            Self::NvidiaGpu => "nvidia_gpu",
            Self::Nitro => "nitro",
            Self::Simulated => "simulated",
        }
    }

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tpm => "TPM 2.0",
            Self::SevSnp => "AMD SEV-SNP",
            Self::Tdx => "Intel TDX",
            Self::AzSnpVtpm => "Azure vTPM above AMD SEV-SNP",
            Self::AzTdxVtpm => "Azure vTPM above Intel TDX",
            Self::NvidiaGpu => "NVIDIA GPU",
            Self::Nitro => "AWS Nitro Enclaves",
            Self::Simulated => "simulation",
        }
    }

    /// Whether evidence of this kind can be the binding root, which commits to all the rest (DESIGN §5.3). Whether it
    /// is one depends on what is beside it: [`Self::binding_root`].
    pub fn is_binding_root(self) -> bool {
        match self {
            Self::Tpm
            | Self::SevSnp
            | Self::Tdx
            | Self::AzSnpVtpm
            | Self::AzTdxVtpm
            | Self::Nitro
            | Self::Simulated => true,
            Self::NvidiaGpu => false,
        }
    }

    /// The binding root of a set of pieces, given by their kinds: the one piece that comes from what runs the
    /// workload itself; a TPM only where nothing stronger is there. `None` where no piece or more than one could be it:
    /// such a set proves nothing. A simulation stands alone.
    pub fn binding_root(pieces: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut strong = Vec::new();
        let (mut tpms, mut all) = (0_usize, 0_usize);
        for kind in pieces {
            all += 1;
            match kind {
                Self::Tpm => tpms += 1,
                Self::NvidiaGpu => {}
                Self::SevSnp
                | Self::Tdx
                | Self::AzSnpVtpm
                | Self::AzTdxVtpm
                | Self::Nitro
                | Self::Simulated => strong.push(kind),
            }
        }
        match (strong.as_slice(), tpms) {
            ([Self::Simulated], _) => (all == 1).then_some(Self::Simulated),
            ([root], 0 | 1) => Some(*root),
            ([], 1) => Some(Self::Tpm),
            _ => None,
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
    fn a_set_has_one_root_and_a_tpm_only_where_nothing_stronger_is() {
        use EvidenceKind::{NvidiaGpu, SevSnp, Simulated, Tdx, Tpm};
        let root = |kinds: &[EvidenceKind]| EvidenceKind::binding_root(kinds.iter().copied());
        assert_eq!(root(&[Tpm]), Some(Tpm));
        assert_eq!(root(&[NvidiaGpu, NvidiaGpu, SevSnp]), Some(SevSnp));
        assert_eq!(root(&[Tpm, NvidiaGpu]), Some(Tpm));
        assert_eq!(root(&[Tpm, NvidiaGpu, Tdx]), Some(Tdx));
        assert_eq!(root(&[Simulated]), Some(Simulated));
        for none in [
            &[][..],
            &[NvidiaGpu],
            &[Tpm, Tpm],
            &[SevSnp, SevSnp],
            &[SevSnp, Tdx],
            &[Tpm, Tpm, SevSnp],
            &[Tpm, Simulated],
            &[NvidiaGpu, Simulated],
        ] {
            assert_eq!(root(none), None, "{none:?}");
        }
    }
}
