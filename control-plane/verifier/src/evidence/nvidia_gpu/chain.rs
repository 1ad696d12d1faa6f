//! A device's certificates: from NVIDIA's root over model, provisioner and chip to the firmware that signs.
//!
//! The chip's certificate was made in the factory and stays; that of the firmware is made by the chip at each boot, from
//! what it measured (DICE), so a new firmware has another key and another number.

use std::time::SystemTime;

use x509_parser::certificate::X509Certificate;

use super::report::Report;
use super::signature::is_debug;
use crate::der::{OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, SHA384};
use crate::evidence::x509::{self, PathError};
use crate::judgement::Ledger;

/// What a device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Architecture {
    /// A GPU: H100 and its kin.
    Hopper,
    /// A GPU: B100, B200 and their kin.
    Blackwell,
    /// An NVSwitch of the third generation.
    Ls10,
}

impl Architecture {
    /// The word in rules and claims.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hopper => "hopper",
            Self::Blackwell => "blackwell",
            Self::Ls10 => "ls10",
        }
    }

    /// Whether it is an NVSwitch and no GPU.
    pub(crate) fn is_switch(self) -> bool {
        match self {
            Self::Hopper | Self::Blackwell => false,
            Self::Ls10 => true,
        }
    }

    /// By the chip's name without underscores.
    fn of(chip: &str) -> Option<Self> {
        match chip {
            _ if chip.starts_with("GH1") => Some(Self::Hopper),
            _ if chip.starts_with("GB1") || chip.starts_with("GB2") => Some(Self::Blackwell),
            "LS10" => Some(Self::Ls10),
            _ => None,
        }
    }
}

/// Which device it is, by its certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    /// What it is.
    pub(crate) architecture: Architecture,
    /// The chip, as its manifests write it: `GH100`.
    pub(crate) chip: String,
    /// As NVIDIA's own verifiers write it: `GH100 A01 GSP BROM`.
    pub(crate) hardware_model: String,
    /// Number of the chip's certificate in hex: which chip it is, for ever.
    pub(crate) chip_id: String,
    /// Number of the firmware's certificate in decimal: NVIDIA's `ueid`. Another firmware has another one.
    pub(crate) ueid: String,
}

impl Identity {
    /// Reads who a path says that it is.
    pub(crate) fn of(path: &[X509Certificate<'_>]) -> Option<Self> {
        let [.., chip_certificate, leaf] = path else {
            return None;
        };
        let hardware_model = x509::common_name(chip_certificate.subject())?.to_owned();
        let (chip, _) = hardware_model.split_once(' ')?;
        let chip = chip.replace('_', "");
        Some(Self {
            architecture: Architecture::of(&chip)?,
            chip,
            chip_id: hex::encode(chip_certificate.serial.to_bytes_be()),
            ueid: leaf.serial.to_string(),
            hardware_model,
        })
    }
}

/// Verifies a chain; who the device is, if that can be said.
pub(crate) fn check(
    path: &[X509Certificate<'_>],
    root: &[u8],
    now: SystemTime,
    ledger: &mut Ledger,
) -> Option<Identity> {
    let detail = format!("{} certificates", path.len());
    let is_whole = (MIN_CERTIFICATES..=MAX_CERTIFICATES).contains(&path.len());
    if !ledger.require("chain_length", "chain_incomplete", is_whole, detail) {
        return None;
    }
    let result = x509::verify_path(path, root, now);
    let reason = match result {
        Ok(()) => "chain",
        Err(PathError::Root(_) | PathError::Empty) => "root_not_pinned",
        Err(PathError::Step(_)) => "chain_incomplete",
        Err(PathError::Depth(_) | PathError::Critical(..)) => "chain_constraints",
        Err(PathError::NotYet(..)) => "certificate_not_yet_valid",
        Err(PathError::Expired(..)) => "certificate_expired",
    };
    ledger.succeed("chain", reason, result);
    // The end of the chain is a key of firmware that was measured; a chip's own key signs no reports.
    let is_leaf = path.last().is_some_and(|leaf| !leaf.is_ca());
    ledger.require(
        "chain_leaf",
        "chain_incomplete",
        is_leaf,
        "the last one is no authority",
    );
    let debug = path
        .iter()
        .find_map(|held| x509::common_name(held.subject()).filter(|name| is_debug(name)));
    let detail = debug.unwrap_or("no certificate is for debugging");
    ledger.require("production", "debug_part", debug.is_none(), detail);
    let identity = Identity::of(path);
    let detail = identity
        .as_ref()
        .map_or("no chip that is known here", |found| &found.hardware_model);
    ledger.require(
        "architecture",
        "architecture_unknown",
        identity.is_some(),
        detail,
    );
    identity
}

/// The certificate of the key names the firmware that holds it; the report must name the same.
pub(crate) fn check_firmware(
    report: &Report<'_>,
    leaf: &X509Certificate<'_>,
    is_required: bool,
    ledger: &mut Ledger,
) {
    let certified = [TCB_INFO, TCB_INFO_BLACKWELL]
        .into_iter()
        .find_map(|oid| x509::extension(leaf, oid))
        .and_then(firmware_digest);
    let (holds, reason, detail) = match (report.firmware_id(), certified) {
        (Some(found), Some(certified)) => {
            let holds = found == certified;
            (holds, "firmware_id_mismatch", hex::encode(certified))
        }
        (Some(_), None) => {
            let detail = "not in the certificate".to_owned();
            (false, "firmware_id_mismatch", detail)
        }
        (None, _) if is_required => {
            let detail = "not in the report".to_owned();
            (false, "firmware_id_missing", detail)
        }
        (None, _) => return ledger.skip("firmware_id", "the report names none"),
    };
    ledger.require("firmware_id", reason, holds, detail);
}

/// The digest of firmware that a certificate names. Hopper and switches write the sequence of RIoT: version, key, digest;
/// Blackwell writes a `DiceTcbInfo`, whose second digest is zero.
fn firmware_digest(tcb_info: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(tcb_info);
    let mut parts = outer.inside(SEQUENCE, "TcbInfo").ok()?;
    outer.end("TcbInfo").ok()?;
    let mut found = None;
    while !parts.0.is_empty() {
        let (tag, content) = parts.any("TcbInfo").ok()?;
        let digest = match tag {
            SEQUENCE => firmware_id(content),
            FWIDS => Reader(content)
                .content(SEQUENCE, "fwids")
                .ok()
                .and_then(firmware_id),
            _ => None,
        };
        if digest.is_some() && found.is_some() {
            return None;
        }
        found = found.or(digest);
    }
    found.filter(|digest| digest.iter().any(|byte| *byte != 0))
}

/// `FWID`: `SEQUENCE { OBJECT IDENTIFIER, OCTET STRING }`, with SHA-384.
fn firmware_id(content: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(content);
    let algorithm = reader.content(OBJECT_IDENTIFIER, "hashAlg").ok()?;
    let digest = reader.content(OCTET_STRING, "digest").ok()?;
    reader.end("FWID").ok()?;
    (algorithm == SHA384 && digest.len() == 48).then_some(digest)
}

/// Root, something between, firmware. NVIDIA's have five.
const MIN_CERTIFICATES: usize = 3;
const MAX_CERTIFICATES: usize = 8;
const TCB_INFO: &str = "2.23.133.5.4.1";
const TCB_INFO_BLACKWELL: &str = "2.23.133.5.4.1.1";
/// Field 6 of a `DiceTcbInfo`.
const FWIDS: u8 = 0xa6;
