//! NVIDIA's manifests by themselves, without a report, and how they are named.
//!
//! A manifest's name says of which chip and version it is, and the signed document must say the same: the service
//! answers for an old product's name with a genuine manifest even where the device is another one.
//!
//! Source: NVIDIA attestation SDK (names of manifests); TCG Reference Integrity Manifest Information Model.

use std::time::SystemTime;

use super::NVIDIA;
use super::report::Report;
use super::rim::Rim;
use crate::endorsement::need::RimId;
use crate::endorsement::object::{EndorsementError, Validity};
use crate::evidence::x509;
use crate::judgement::{BindingState, Ledger, Status};

/// Verifies a manifest, up to the root of reference values.
pub(crate) fn verify_rim(
    document: &[u8],
    id: &str,
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let rim = Rim::parse(document).map_err(|_| EndorsementError::Malformed("a manifest"))?;
    if !is_named(&rim, id) {
        let found = format!("{} version {}", rim.product, rim.version);
        return Err(EndorsementError::Subject(found));
    }
    let chain = rim.certificates();
    let path: Result<Vec<_>, _> = chain.iter().rev().map(|der| x509::parse(der)).collect();
    let path = path.map_err(|_| EndorsementError::Malformed("a chain of certificates"))?;
    // Says which step of the chain fails; the ledger below says it of the whole.
    x509::verify_path(&path, root, now)?;
    let mut ledger = Ledger::default();
    rim.check_signature(root, now, &mut ledger);
    let judgement = ledger.conclude(BindingState::NotChecked);
    if judgement.status != Status::Affirming {
        return Err(EndorsementError::Signature(judgement.reason.to_owned()));
    }
    Ok(Validity::of_path(&path))
}

/// Certificates of a manifest's signature, leaf first, the root included.
pub(crate) fn certificates_of_rim(document: &[u8]) -> Vec<Vec<u8>> {
    Rim::parse(document).map_or_else(|_| Vec::new(), |rim| rim.certificates())
}

/// Whether a chain, leaf first, ends in the root of NVIDIA's devices and each step is signed; without dates.
pub(crate) fn is_below_device_root(chain: &[Vec<u8>]) -> bool {
    let parsed: Result<Vec<_>, _> = chain.iter().map(|der| x509::parse(der)).collect();
    let Ok(parsed) = parsed else { return false };
    let is_rooted = chain.last().is_some_and(|root| root == NVIDIA.device);
    is_rooted
        && parsed
            .iter()
            .zip(parsed.iter().skip(1))
            .all(|(certificate, issuer)| x509::is_issued_by(certificate, issuer))
}

/// `NV_GPU_DRIVER_GH100_550.90.07`, `NV_GPU_CC_DRIVER_GB100_575.32`: chip and version; `…VBIOS_…_96009F0001` and
/// `NV_SWITCH_BIOS_…`: the version without dots.
fn is_named(rim: &Rim, id: &str) -> bool {
    let Some((head, version)) = id.rsplit_once('_') else {
        return false;
    };
    let is_driver = head.contains("_DRIVER_");
    let same_version = match is_driver {
        true => rim.version.eq_ignore_ascii_case(version),
        false => rim.version.replace('.', "").eq_ignore_ascii_case(version),
    };
    let same_chip = !is_driver
        || head
            .rsplit_once('_')
            .is_some_and(|(_, chip)| rim.product.eq_ignore_ascii_case(chip));
    same_version && same_chip
}

/// The names of the manifests that a report is compared with; the chip's name is in the leaf of its chain.
pub(crate) fn rim_ids(report: &[u8], leaf: &[u8]) -> Vec<RimId> {
    let Ok(report) = Report::parse(report) else {
        return Vec::new();
    };
    let chip = x509::parse(leaf).ok().and_then(|leaf| {
        let name = x509::common_name(leaf.subject())?;
        Some(name.split(' ').next()?.to_ascii_uppercase())
    });
    let Some(chip) = chip else { return Vec::new() };
    let driver = report.driver_version().map(|version| match chip.as_str() {
        "GH100" => format!("NV_GPU_DRIVER_GH100_{version}"),
        _ => format!("NV_GPU_CC_DRIVER_{chip}_{version}"),
    });
    let board = match report.driver_version() {
        Some(_) => report.board().map(|board| format!("GPU_VBIOS_{board}")),
        // Switches do not say of which board they are; there is one.
        None => Some(format!("SWITCH_BIOS_{SWITCH_BOARD}")),
    };
    let firmware = report.vbios_version().zip(board).map(|(version, board)| {
        let version = version.replace('.', "");
        format!("NV_{board}_{version}").to_ascii_uppercase()
    });
    [driver, firmware]
        .into_iter()
        .flatten()
        .filter_map(RimId::new)
        .collect()
}

/// Project and SKUs of the NVSwitch that attests (LS10), as NVIDIA's own tools name it.
const SWITCH_BOARD: &str = "5612_0002_890";
