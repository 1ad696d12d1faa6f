//! Reference values: what evidence is compared with. The control plane makes them from an `AttestationProfile`.
//!
//! Source: RFC 9334 §2.1 (reference values, appraisal policy for evidence).

use std::collections::BTreeMap;
use std::time::SystemTime;

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::condition::Condition;

use crate::dossier::Rules;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::ima::{self, policy::Policy};
use crate::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};

/// A profile: evidence must fit one alternative wholly. Without alternatives nothing fits.
#[derive(Clone, Debug, Default)]
pub struct ReferenceValues {
    /// Tried in order; the first that fits is taken.
    pub any_of: Vec<Alternative>,
}

/// One way to satisfy a profile: evidence has exactly the kinds that are named here.
#[derive(Clone, Debug, Default)]
pub struct Alternative {
    /// What a TPM must prove.
    pub tpm: Option<TpmReference>,
    /// What a simulation must claim.
    pub simulated: Option<SimulatedReference>,
    /// What hardware must prove, by kind: SEV-SNP, TDX, Azure's vTPMs, NVIDIA's GPUs, Nitro.
    pub hardware: BTreeMap<EvidenceKind, HardwareReference>,
}

/// What a kind of hardware must prove beyond what is good for everybody.
#[derive(Clone, Debug, Default)]
pub struct HardwareReference {
    /// What its verifier demands.
    pub rules: Rules,
    /// Images, one of which must match, for every kind that has an `image` claim; none means that nothing matches.
    pub images: Vec<HardwareImage>,
    /// Claims and what they may be; a claim that is not made fails.
    pub conditions: Vec<Condition>,
    /// How many GPUs must have shown themselves, switches not counted; `None` for any number, and for other kinds.
    pub gpus: Option<u32>,
}

/// An image by what the hardware measured of it.
#[derive(Clone, Debug, Default)]
pub struct HardwareImage {
    /// Its name: becomes the claim `image`.
    pub name: String,
    /// What the verifier shows of the evidence, by name, that must all be equal (a text) or contained (in a set): hex in
    /// lower case. Empty matches nothing.
    pub values: Vec<(String, String)>,
    /// First instant at which it no longer counts.
    pub until: Option<SystemTime>,
}

/// What a TPM must prove.
#[derive(Clone, Debug)]
pub struct TpmReference {
    /// Images, one of which must match; none means that nothing matches.
    pub images: Vec<TpmImage>,
    /// Weakest class that is accepted.
    pub class: Class,
    /// Whether a pinned root must vouch for the endorsement key (or must not); `None` leaves it open.
    pub ek_certified: Option<bool>,
    /// What the replayed event log must say of Secure Boot; `None` leaves it open.
    pub secure_boot: Option<bool>,
    /// What the kernel's measurement list may hold; `None` does not ask for it.
    pub ima: Option<Policy>,
}

/// An image by the PCR values that booting it leaves.
#[derive(Clone, Debug)]
pub struct TpmImage {
    /// Its name: becomes the claim `image`.
    pub name: String,
    /// Values that must all match. Empty matches nothing.
    pub pcrs: PcrValues,
    /// First instant at which it no longer counts.
    pub until: Option<SystemTime>,
}

/// What a simulation must claim.
#[derive(Clone, Debug)]
pub struct SimulatedReference {
    /// Names of images, one of which must be claimed.
    pub images: Vec<String>,
}

impl Alternative {
    /// The kinds of evidence that it names, in the order of [`EvidenceKind::ALL`].
    pub fn kinds(&self) -> Vec<EvidenceKind> {
        EvidenceKind::ALL
            .into_iter()
            .filter(|kind| match kind {
                EvidenceKind::Tpm => self.tpm.is_some(),
                EvidenceKind::Simulated => self.simulated.is_some(),
                EvidenceKind::SevSnp
                | EvidenceKind::Tdx
                | EvidenceKind::AzSnpVtpm
                | EvidenceKind::AzTdxVtpm
                | EvidenceKind::NvidiaGpu
                | EvidenceKind::Nitro => self.hardware.contains_key(kind),
            })
            .collect()
    }
}

impl ReferenceValues {
    /// What a quote must cover so that every image can be told apart, and the firmware's PCRs 0 to 7 besides, in each
    /// bank that some image uses: so an event log can be replayed. SHA-256 where no image says otherwise.
    pub fn pcr_selection(&self) -> PcrSelection {
        let mut selection = PcrSelection::default();
        let references = self.any_of.iter().filter_map(|one| one.tpm.as_ref());
        for image in references.flat_map(|tpm| &tpm.images) {
            for (hash, set) in image.pcrs.selection().banks() {
                selection.add(hash, set);
            }
        }
        let mut banks: Vec<_> = selection.banks().map(|(hash, _)| hash).collect();
        if banks.is_empty() {
            banks.push(HashAlgorithm::Sha256);
        }
        let lists = { self.any_of.iter() }.filter_map(|one| one.tpm.as_ref()?.ima.as_ref());
        let measured = PcrSet::new(lists.map(|_| ima::PCR)).unwrap_or_default();
        for hash in banks {
            selection.add(hash, PcrSet::FIRMWARE);
            selection.add(hash, measured);
        }
        selection
    }
}
