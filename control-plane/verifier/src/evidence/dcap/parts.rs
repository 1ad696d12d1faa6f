//! Intel's endorsements one by one, as a cache keeps them: each verified by itself, and put together for a quote.
//!
//! Intel's services answer five questions separately, and their answers live for different times. A part is a JSON object
//! with some of the members of [`Collateral`].
//!
//! Source: Intel SGX and TDX PCS API v4.

use std::time::SystemTime;

use serde::Deserialize;
use x509_parser::certificate::X509Certificate;

use super::collateral::{self, Collateral, QeIdentity, TcbInfo, timestamp};
use super::quote::{Body, Quote};
use super::{TCB_SIGNER, fmspc, is_text_signed};
use crate::endorsement::need::{IntelTee, PckCa};
use crate::endorsement::object::{EndorsementError, Validity};
use crate::evidence::x509;

/// Some members of the collateral.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Part {
    pck_crl_issuer_chain: Option<String>,
    root_ca_crl: Option<String>,
    pck_crl: Option<String>,
    tcb_info_issuer_chain: Option<String>,
    tcb_info: Option<String>,
    tcb_info_signature: Option<String>,
    qe_identity_issuer_chain: Option<String>,
    qe_identity: Option<String>,
    qe_identity_signature: Option<String>,
}

impl Part {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // A folder of endorsements holds certificates and manifests as well.
        if bytes.len() > MAX_BYTES || bytes.first() != Some(&b'{') {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }

    fn read(bytes: &[u8]) -> Result<Self, EndorsementError> {
        Self::parse(bytes).ok_or(EndorsementError::Malformed("a part of Intel's collateral"))
    }
}

/// What a quote of this platform is judged by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) tee: IntelTee,
    pub(crate) fmspc: [u8; 6],
    pub(crate) ca: PckCa,
}

impl Wanted {
    /// Reads it from a quote; unverified.
    pub(crate) fn of(quote: &[u8]) -> Option<Self> {
        let fmspc = fmspc(quote)?;
        let quote = Quote::parse(quote).ok()?;
        let tee = match quote.body {
            Body::Sgx(_) => IntelTee::Sgx,
            Body::Tdx(_) => IntelTee::Tdx,
        };
        let chain = x509::certificates(quote.pck_chain)?;
        let leaf = x509::parse(chain.first()?).ok()?;
        let issuer = x509::common_name(leaf.issuer())?;
        let ca = [PckCa::Processor, PckCa::Platform]
            .into_iter()
            .find(|ca| ca.common_name() == issuer)?;
        Some(Self { tee, fmspc, ca })
    }
}

/// Puts the collateral of a quote together from the parts of a cache; `None` unless all parts are there.
///
/// Nothing is verified: the texts only choose, and the quote's judgement verifies all of them.
pub(crate) fn assemble<'a>(
    quote: &[u8],
    files: impl Iterator<Item = &'a [u8]>,
) -> Option<Collateral> {
    let wanted = Wanted::of(quote)?;
    let parts: Vec<Part> = files.filter_map(Part::parse).collect();
    let find = |fits: &dyn Fn(&Part) -> Option<bool>| {
        parts.iter().find(|part| fits(part) == Some(true)).cloned()
    };
    let tcb = find(&|part| {
        let info: TcbInfo = serde_json::from_str(part.tcb_info.as_ref()?).ok()?;
        let same = info.fmspc.eq_ignore_ascii_case(&hex::encode(wanted.fmspc));
        Some(same && is_about(info.id.as_deref(), wanted.tee))
    })?;
    let qe = find(&|part| {
        let identity: QeIdentity = serde_json::from_str(part.qe_identity.as_ref()?).ok()?;
        Some(identity.id == qe_name(wanted.tee))
    })?;
    let pck = find(&|part| {
        part.pck_crl.as_ref()?;
        let chain = x509::certificates(part.pck_crl_issuer_chain.as_ref()?.as_bytes())?;
        let issuer = x509::parse(chain.first()?).ok()?;
        Some(x509::common_name(issuer.subject()) == Some(wanted.ca.common_name()))
    })?;
    let root = find(&|part| Some(part.root_ca_crl.is_some()))?;
    Some(Collateral {
        pck_crl_issuer_chain: pck.pck_crl_issuer_chain?,
        root_ca_crl: root.root_ca_crl?,
        pck_crl: pck.pck_crl?,
        tcb_info_issuer_chain: tcb.tcb_info_issuer_chain?,
        tcb_info: tcb.tcb_info?,
        tcb_info_signature: tcb.tcb_info_signature?,
        qe_identity_issuer_chain: qe.qe_identity_issuer_chain?,
        qe_identity: qe.qe_identity?,
        qe_identity_signature: qe.qe_identity_signature?,
    })
}

/// Whether a text is the identity of a kind's quoting enclaves; unverified.
pub(crate) fn is_identity_of(text: &str, tee: IntelTee) -> bool {
    serde_json::from_str::<QeIdentity>(text).is_ok_and(|identity| identity.id == qe_name(tee))
}

fn is_about(id: Option<&str>, tee: IntelTee) -> bool {
    match tee {
        IntelTee::Sgx => id.is_none_or(|id| id == "SGX"),
        IntelTee::Tdx => id == Some("TDX"),
    }
}

fn qe_name(tee: IntelTee) -> &'static str {
    match tee {
        IntelTee::Sgx => "QE",
        IntelTee::Tdx => "TD_QE",
    }
}

/// Verifies the levels of one FMSPC.
pub(crate) fn verify_tcb_info(
    bytes: &[u8],
    tee: IntelTee,
    platform: [u8; 6],
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let part = Part::read(bytes)?;
    let text = part.tcb_info.unwrap_or_default();
    let chain = part.tcb_info_issuer_chain.unwrap_or_default();
    let signature = part.tcb_info_signature.unwrap_or_default();
    let signer = verify_signed(&text, &signature, &chain, root, now)?;
    let info: TcbInfo =
        serde_json::from_str(&text).map_err(|_| EndorsementError::Malformed("TCB info"))?;
    let same = info.fmspc.eq_ignore_ascii_case(&hex::encode(platform));
    if !(same && is_about(info.id.as_deref(), tee)) {
        let found = format!("{:?} of FMSPC {}", info.id, info.fmspc);
        return Err(EndorsementError::Subject(found));
    }
    let number = info.tcb_evaluation_data_number.into();
    dated(&info.issue_date, &info.next_update, number)?.within(&signer, now)
}

/// Verifies the identity of quoting enclaves.
pub(crate) fn verify_qe_identity(
    bytes: &[u8],
    tee: IntelTee,
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let part = Part::read(bytes)?;
    let text = part.qe_identity.unwrap_or_default();
    let chain = part.qe_identity_issuer_chain.unwrap_or_default();
    let signature = part.qe_identity_signature.unwrap_or_default();
    let signer = verify_signed(&text, &signature, &chain, root, now)?;
    let identity: QeIdentity =
        serde_json::from_str(&text).map_err(|_| EndorsementError::Malformed("a QE identity"))?;
    if identity.id != qe_name(tee) {
        return Err(EndorsementError::Subject(format!("`{}`", identity.id)));
    }
    let number = identity.tcb_evaluation_data_number.into();
    dated(&identity.issue_date, &identity.next_update, number)?.within(&signer, now)
}

/// Verifies the list of an authority of PCK certificates.
pub(crate) fn verify_pck_crl(
    bytes: &[u8],
    ca: PckCa,
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let part = Part::read(bytes)?;
    let chain = part.pck_crl_issuer_chain.unwrap_or_default();
    let chain = x509::certificates(chain.as_bytes())
        .ok_or(EndorsementError::Malformed("a chain of issuers"))?;
    let path = verify_path(&chain, root, now)?;
    let issuer = path.last().ok_or(EndorsementError::Malformed("a chain"))?;
    if x509::common_name(issuer.subject()) != Some(ca.common_name()) {
        return Err(EndorsementError::Subject(issuer.subject().to_string()));
    }
    let signer = Validity::of_path(&path);
    Validity::of_crl(&list(part.pck_crl.as_deref())?, issuer)?.within(&signer, now)
}

/// Verifies the root's list.
pub(crate) fn verify_root_crl(
    bytes: &[u8],
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let part = Part::read(bytes)?;
    let der = list(part.root_ca_crl.as_deref())?;
    let issuer = x509::parse(root).map_err(|_| EndorsementError::Malformed("a root"))?;
    let signer = Validity::of_path(std::slice::from_ref(&issuer));
    Validity::of_crl(&der, &issuer)?.within(&signer, now)
}

fn list(text: Option<&str>) -> Result<Vec<u8>, EndorsementError> {
    text.and_then(collateral::list)
        .ok_or(EndorsementError::Malformed("a revocation list"))
}

/// Verifies a text that Intel's signing key signed, and returns how long the key is good.
fn verify_signed(
    text: &str,
    signature: &str,
    chain: &str,
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let chain = x509::certificates(chain.as_bytes())
        .ok_or(EndorsementError::Malformed("a chain of issuers"))?;
    let path = verify_path(&chain, root, now)?;
    // Anyone with a PCK certificate is below the same root: the signer must be Intel's signing authority by name.
    let named = path
        .last()
        .is_some_and(|signer| x509::common_name(signer.subject()) == Some(TCB_SIGNER));
    if named && is_text_signed(&path, text, signature) {
        Ok(Validity::of_path(&path))
    } else {
        Err(EndorsementError::Signature("by Intel's signing key".into()))
    }
}

fn verify_path<'a>(
    chain: &'a [Vec<u8>],
    root: &[u8],
    now: SystemTime,
) -> Result<Vec<X509Certificate<'a>>, EndorsementError> {
    let path: Result<Vec<_>, _> = chain.iter().rev().map(|der| x509::parse(der)).collect();
    let path = path.map_err(|_| EndorsementError::Malformed("a chain of issuers"))?;
    x509::verify_path(&path, root, now)?;
    Ok(path)
}

fn dated(from: &str, until: &str, number: u64) -> Result<Validity, EndorsementError> {
    match (timestamp(from), timestamp(until)) {
        (Some(from), Some(until)) => Ok(Validity {
            number,
            from,
            until,
        }),
        _ => Err(EndorsementError::Malformed("dated as Intel writes dates")),
    }
}

/// Intel's longest part is the list of platforms, twice as long in hex.
const MAX_BYTES: usize = 4 * 1024 * 1024;
