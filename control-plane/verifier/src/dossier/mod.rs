//! A dossier: evidence and endorsements as files, judged at a given time.
//!
//! This is what a person or a program has who wants to know about evidence outside an attestation: files, as vendors'
//! tools write them. Here their roles are found; the judging is [`crate::evidence`]'s. A file whose role is not clear is
//! taken for the evidence, so that garbage is refused rather than skipped.
//!
//! Source: DESIGN §5.

pub(crate) mod az_vtpm;
pub(crate) mod content;
mod dcap;
mod nitro;
pub(crate) mod nvidia_gpu;
pub(crate) mod sev_snp;
mod tpm;

use std::time::SystemTime;

use serde::Serialize;
use vouchsafe_attestation::claims::{EvidenceKind, definition};

use self::content::Contents;
use crate::evidence;
use crate::evidence::az_vtpm::hcl::Hardware;
use crate::evidence::dcap::Tee;
use crate::fit;
use crate::judgement::{BindingState, Check, Judgement, Ledger};
use crate::reference_value::HardwareReference;
use crate::vendor_roots::VendorRoots;

/// Kinds of evidence that can be judged from files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// Intel SGX.
    Sgx,
    /// Azure's vTPM above AMD SEV-SNP.
    AzSnpVtpm,
    /// Azure's vTPM above Intel TDX.
    AzTdxVtpm,
    /// NVIDIA GPUs and NVSwitches.
    NvidiaGpu,
    /// AWS Nitro Enclaves.
    Nitro,
    /// A TPM.
    Tpm,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::SevSnp,
        Self::Tdx,
        Self::Sgx,
        Self::AzSnpVtpm,
        Self::AzTdxVtpm,
        Self::NvidiaGpu,
        Self::Nitro,
        Self::Tpm,
    ];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevSnp => "sev_snp",
            Self::Tdx => "tdx",
            Self::Sgx => "sgx",
            Self::AzSnpVtpm => "az_snp_vtpm",
            Self::AzTdxVtpm => "az_tdx_vtpm",
            Self::NvidiaGpu => "nvidia_gpu",
            Self::Nitro => "nitro",
            Self::Tpm => "tpm",
        }
    }

    /// The kind by which profiles speak of it; `None` for SGX, which is judged from files only.
    pub fn evidence_kind(self) -> Option<EvidenceKind> {
        match self {
            Self::SevSnp => Some(EvidenceKind::SevSnp),
            Self::Tdx => Some(EvidenceKind::Tdx),
            Self::Sgx => None,
            Self::AzSnpVtpm => Some(EvidenceKind::AzSnpVtpm),
            Self::AzTdxVtpm => Some(EvidenceKind::AzTdxVtpm),
            Self::NvidiaGpu => Some(EvidenceKind::NvidiaGpu),
            Self::Nitro => Some(EvidenceKind::Nitro),
            Self::Tpm => Some(EvidenceKind::Tpm),
        }
    }

    /// What is compared with what by a check of this kind, for auditors. Empty where no table speaks of the check.
    pub fn about(self, check: &str) -> &'static str {
        let (own, below): (&[Check], &[Check]) = match self {
            Self::SevSnp => (evidence::sev_snp::checks::CHECKS, &[]),
            Self::Tdx | Self::Sgx => (evidence::dcap::checks::CHECKS, &[]),
            Self::AzSnpVtpm => (
                evidence::az_vtpm::checks::CHECKS,
                evidence::sev_snp::checks::CHECKS,
            ),
            Self::AzTdxVtpm => (
                evidence::az_vtpm::checks::CHECKS,
                evidence::dcap::checks::CHECKS,
            ),
            Self::NvidiaGpu => (evidence::nvidia_gpu::checks::CHECKS, &[]),
            Self::Nitro => (evidence::nitro::CHECKS, &[]),
            Self::Tpm => (evidence::tpm::checks::CHECKS, &[]),
        };
        let row = own.iter().chain(below).find(|row| row.name == check);
        // What profiles demand of a claim is a check with the claim's name.
        let claim = || definition(self.evidence_kind()?, check).map(|claim| claim.doc);
        row.map(|row| row.about).or_else(claim).unwrap_or_default()
    }
}

impl std::str::FromStr for Kind {
    type Err = UnknownKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKindError(text.to_owned()))
    }
}

/// The text names no kind that can be judged from files.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a kind of evidence that can be judged from files")]
pub struct UnknownKindError(pub String);

/// A file.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name without folders.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// What evidence is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expected {
    /// What the guest's report data must be, for SEV-SNP, TDX and SGX.
    ReportData([u8; 64]),
    /// What the nonce must be, for the other kinds.
    Nonce(Vec<u8>),
}

impl Expected {
    fn as_report_data(&self) -> Option<&[u8; 64]> {
        match self {
            Self::ReportData(data) => Some(data),
            Self::Nonce(_) => None,
        }
    }
}

/// What is demanded, by kind. The default demands what is good for everybody and names no reference value.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Of AMD SEV-SNP.
    pub sev_snp: evidence::sev_snp::Rules,
    /// Of Intel TDX and SGX.
    pub dcap: evidence::dcap::Rules,
    /// Of Azure's vTPMs; what is below one has the rules of its kind.
    pub az_vtpm: evidence::az_vtpm::Rules,
    /// Of NVIDIA's devices.
    pub nvidia_gpu: evidence::nvidia_gpu::Rules,
    /// Of AWS Nitro Enclaves.
    pub nitro: evidence::nitro::Rules,
    /// Of TPMs.
    pub tpm: evidence::tpm::rules::Rules,
}

/// Files in their two roles.
#[derive(Clone, Copy, Debug)]
pub struct Dossier<'a> {
    /// What is judged, and endorsements that came with it: those must be good.
    pub files: &'a [File<'a>],
    /// A cache of endorsements: used where it helps, ignored where it is old.
    pub endorsements: &'a [File<'a>],
}

/// A judgement of evidence that was bound to nothing. It can be shown, and becomes nothing else.
#[must_use = "a judgement that nobody reads protects nothing"]
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Glance(Judgement);

impl Glance {
    /// What was found.
    pub fn judgement(&self) -> &Judgement {
        &self.0
    }
}

/// Verifies evidence that must be bound to what is expected.
pub fn verify(
    kind: Kind,
    dossier: Dossier<'_>,
    expected: &Expected,
    rules: &Rules,
    now: SystemTime,
) -> Judgement {
    verify_below(&VendorRoots::PINNED, kind, dossier, expected, rules, now)
}

/// Verifies evidence that must be bound to what is expected, below given roots.
pub(crate) fn verify_below(
    roots: &VendorRoots,
    kind: Kind,
    dossier: Dossier<'_>,
    expected: &Expected,
    rules: &Rules,
    now: SystemTime,
) -> Judgement {
    judge(
        kind,
        dossier,
        Some(expected),
        Demand::Rules(rules),
        roots,
        now,
    )
}

/// Verifies evidence that must be bound to what is expected, against what a profile demands of it.
pub fn verify_against(
    kind: Kind,
    dossier: Dossier<'_>,
    expected: &Expected,
    reference: &HardwareReference,
    now: SystemTime,
) -> Judgement {
    let demand = Demand::Reference(reference);
    judge(
        kind,
        dossier,
        Some(expected),
        demand,
        &VendorRoots::PINNED,
        now,
    )
}

/// Looks at evidence without asking when and for whom it was made, against what a profile demands of it.
pub fn inspect_against(
    kind: Kind,
    dossier: Dossier<'_>,
    reference: &HardwareReference,
    now: SystemTime,
) -> Glance {
    let demand = Demand::Reference(reference);
    Glance(judge(
        kind,
        dossier,
        None,
        demand,
        &VendorRoots::PINNED,
        now,
    ))
}

/// What is demanded: by a kind's verifier alone, or of images and claims too.
#[derive(Clone, Copy)]
enum Demand<'a> {
    Rules(&'a Rules),
    Reference(&'a HardwareReference),
}

/// Looks at evidence without asking when and for whom it was made.
pub fn inspect(kind: Kind, dossier: Dossier<'_>, rules: &Rules, now: SystemTime) -> Glance {
    let demand = Demand::Rules(rules);
    Glance(judge(
        kind,
        dossier,
        None,
        demand,
        &VendorRoots::PINNED,
        now,
    ))
}

fn judge(
    kind: Kind,
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    demand: Demand<'_>,
    roots: &VendorRoots,
    now: SystemTime,
) -> Judgement {
    let mut ledger = Ledger::default();
    let (Demand::Rules(rules) | Demand::Reference(HardwareReference { rules, .. })) = demand;
    match kind {
        Kind::SevSnp => sev_snp::judge(dossier, expected, &rules.sev_snp, roots, now, &mut ledger),
        Kind::Tdx => dcap::judge(
            Tee::Tdx,
            dossier,
            expected,
            &rules.dcap,
            roots,
            now,
            &mut ledger,
        ),
        Kind::Sgx => dcap::judge(
            Tee::Sgx,
            dossier,
            expected,
            &rules.dcap,
            roots,
            now,
            &mut ledger,
        ),
        Kind::AzSnpVtpm => az_vtpm::judge(
            Hardware::SevSnp,
            dossier,
            expected,
            rules,
            roots,
            now,
            &mut ledger,
        ),
        Kind::AzTdxVtpm => az_vtpm::judge(
            Hardware::Tdx,
            dossier,
            expected,
            rules,
            roots,
            now,
            &mut ledger,
        ),
        Kind::NvidiaGpu => nvidia_gpu::judge(
            dossier,
            expected,
            &rules.nvidia_gpu,
            roots,
            now,
            &mut ledger,
        ),
        Kind::Tpm => tpm::judge(dossier, expected, &rules.tpm, now, &mut ledger),
        Kind::Nitro => nitro::judge(dossier, expected, &rules.nitro, roots, now, &mut ledger),
    }
    if let (Demand::Reference(reference), Some(kind)) = (demand, kind.evidence_kind()) {
        fit::check(kind, reference, now, &mut ledger);
    }
    ledger.conclude(match expected {
        Some(_) => BindingState::Checked,
        None => BindingState::NotChecked,
    })
}

impl<'a> Dossier<'a> {
    /// What the files hold.
    fn opened(self) -> Contents {
        Contents::of(self.judged())
    }

    /// What the cache holds.
    fn cached(self) -> Contents {
        Contents::of(self.endorsements.iter().copied())
    }

    /// Files that are judged, without those that only describe a case of a test.
    fn judged(self) -> impl Iterator<Item = File<'a>> {
        self.files
            .iter()
            .copied()
            .filter(|file| file.name != CASE_FILE)
    }
}

/// Certificates of all files, in DER.
fn certificates<'a>(files: impl Iterator<Item = File<'a>>) -> Vec<Vec<u8>> {
    Contents::of(files).certificates
}

fn slices(held: &[Vec<u8>]) -> Vec<&[u8]> {
    held.iter().map(Vec::as_slice).collect()
}

/// The one piece of evidence; more than one is refused, since nobody says which is meant.
fn only<T>(found: Vec<T>, ledger: &mut Ledger) -> Option<T> {
    let count = found.len();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only),
        (None, _) => {
            ledger.missing(
                "evidence",
                "evidence_missing",
                "no file is evidence of this kind",
            );
            None
        }
        (Some(_), Some(_)) => {
            let detail = format!("{count} files could be the evidence");
            ledger.require("evidence", "evidence_ambiguous", false, detail);
            None
        }
    }
}

/// An expectation of the other sort than the kind has.
fn refuse_expectation(detail: &'static str, ledger: &mut Ledger) {
    ledger.require("binding", "expectation_unsuitable", false, detail);
}

/// Describes a case of the vectors; no evidence.
const CASE_FILE: &str = "case.json";

#[cfg(test)]
mod tests;
