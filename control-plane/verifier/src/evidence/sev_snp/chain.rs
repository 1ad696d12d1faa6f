//! From a pinned root to the key that signed a report.
//!
//! Source: AMD 57230 (VCEK certificate and KDS interface) rev. 0.51 §3.

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::revocation_list::CertificateRevocationList;

use super::Product;
use super::report::{Report, Tcb};
use crate::evidence::x509::{self, Dates};
use crate::judgement::Ledger;

/// What is known about AMD's keys. Nothing in it is believed but the roots that are compiled in.
#[derive(Clone, Debug, Default)]
pub struct Endorsements<'a> {
    /// Certificates, in DER, of any of the chain's steps; those of ASK and ASVK are compiled in as well.
    pub certificates: Vec<&'a [u8]>,
    /// Revocation lists that were given for this report: they must be valid now.
    pub crls: Vec<&'a [u8]>,
    /// Revocation lists of a cache: what they revoke is revoked, but an old one is no evidence against a report.
    pub cached_crls: Vec<&'a [u8]>,
    /// A root instead of AMD's: for tests of chains that AMD does not sign.
    pub(crate) test_root: Option<(Product, &'a [u8])>,
}

impl<'a> Endorsements<'a> {
    /// Endorsements below AMD's roots, or one of a test.
    pub(crate) fn new(
        certificates: Vec<&'a [u8]>,
        crls: Vec<&'a [u8]>,
        cached_crls: Vec<&'a [u8]>,
        test_root: Option<(Product, &'a [u8])>,
    ) -> Self {
        Self {
            certificates,
            crls,
            cached_crls,
            test_root,
        }
    }

    fn root_named(&self, name: &[u8]) -> Option<(Product, &'a [u8])> {
        if let Some(root) = self.test_root {
            return Some(root);
        }
        ROOTS
            .into_iter()
            .find(|(_, der)| x509::parse(der).is_ok_and(|root| root.subject().as_raw() == name))
    }

    fn issuers(&self) -> impl Iterator<Item = &'a [u8]> {
        self.certificates.iter().copied().chain(INTERMEDIATES)
    }
}

/// Whose key signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VekKind {
    /// The chip's.
    Vcek,
    /// A cloud provider's.
    Vlek,
}

/// An endorsement key's certificate with its issuers. Its signature is not yet verified.
#[derive(Debug)]
pub(crate) struct Vek<'a> {
    pub(crate) kind: VekKind,
    pub(crate) product: Product,
    /// The point, uncompressed; `None` unless the key is one of P-384.
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) tcb: Option<Tcb>,
    pub(crate) hardware_id: Option<Vec<u8>>,
    pub(crate) csp_id: Option<String>,
    certificate: X509Certificate<'a>,
    issuer: X509Certificate<'a>,
    root: X509Certificate<'a>,
}

/// Finds the certificate of the signing key, and the issuers that it names.
///
/// Of several, the one whose key signed the report; all checks are made with that one.
pub(crate) fn select<'a>(
    endorsements: &Endorsements<'a>,
    report: &Report,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Option<Vek<'a>> {
    let mut found = Vec::new();
    for der in &endorsements.certificates {
        let Ok(certificate) = x509::parse(der) else {
            continue;
        };
        let kind = match x509::common_name(certificate.subject()) {
            Some("SEV-VCEK") => VekKind::Vcek,
            Some("SEV-VLEK") => VekKind::Vlek,
            Some(_) | None => continue,
        };
        found.push((kind, certificate));
    }
    let signer = found.iter().position(|(_, certificate)| {
        point(certificate).is_some_and(|key| {
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
                .verify(report.signed(), &report.signature())
                .is_ok()
        })
    });
    if found.is_empty() {
        let detail =
            "the certificate of the key that signed the report (VCEK or VLEK) was not given";
        ledger.missing("vek", "endorsement_missing", detail);
        return None;
    }
    let (kind, certificate) = found.swap_remove(signer.unwrap_or(0));
    resolve(kind, certificate, endorsements, now, ledger)
}

fn resolve<'a>(
    kind: VekKind,
    certificate: X509Certificate<'a>,
    endorsements: &Endorsements<'a>,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Option<Vek<'a>> {
    let named: Vec<_> = endorsements
        .issuers()
        .filter_map(|der| x509::parse(der).ok())
        .filter(|issuer| issuer.subject().as_raw() == certificate.issuer().as_raw())
        .collect();
    let signer = named
        .iter()
        .position(|issuer| x509::is_issued_by(&certificate, issuer))
        .unwrap_or(0);
    let issuer = named.into_iter().nth(signer);
    let root = issuer
        .as_ref()
        .and_then(|issuer| endorsements.root_named(issuer.issuer().as_raw()))
        .and_then(|(product, der)| Some((product, x509::parse(der).ok()?)));
    let (Some(issuer), Some((product, root))) = (issuer, root) else {
        let detail = format!("no known authority is named `{}`", certificate.issuer());
        ledger.require("vek_issuer", "vek_issuer_unknown", false, detail);
        return None;
    };
    check_dates("vek_dates", VEK_DATES, &certificate, now, ledger);
    Some(Vek {
        kind,
        product,
        key: point(&certificate),
        tcb: tcb(&certificate, product),
        hardware_id: hardware_id(&certificate, product),
        csp_id: x509::extension(&certificate, OID_CSP_ID).and_then(ia5_string),
        certificate,
        issuer,
        root,
    })
}

/// Checks signatures, dates and revocation of the chain.
pub(crate) fn check(
    vek: &Vek<'_>,
    endorsements: &Endorsements<'_>,
    require_crl: bool,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let issuer_name = vek.issuer.subject().to_string();
    let signed = x509::is_issued_by(&vek.certificate, &vek.issuer);
    ledger.require("vek_signature", "vek_signature", signed, issuer_name);
    let rooted = x509::is_issued_by(&vek.issuer, &vek.root);
    ledger.require(
        "ask_signature",
        "ask_signature",
        rooted,
        vek.root.subject().to_string(),
    );
    check_role(vek, ledger);
    check_dates("ask_dates", ASK_DATES, &vek.issuer, now, ledger);
    check_dates("ark_dates", ARK_DATES, &vek.root, now, ledger);
    check_revocation(vek, endorsements, require_crl, now, ledger);
}

/// An ASK signs chips' keys only, an ASVK providers' keys only.
fn check_role(vek: &Vek<'_>, ledger: &mut Ledger) {
    let name = x509::common_name(vek.issuer.subject()).unwrap_or_default();
    let expected = match vek.kind {
        VekKind::Vcek => format!("SEV-{}", vek.product.as_str()),
        VekKind::Vlek => format!("SEV-VLEK-{}", vek.product.as_str()),
    };
    let detail = format!("issuer `{name}`, expected `{expected}`");
    ledger.require("vek_role", "vek_role", name == expected, detail);
}

fn check_dates(
    name: &'static str,
    [not_yet, expired]: [&'static str; 2],
    certificate: &X509Certificate<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let validity = certificate.validity();
    let detail = format!("{} to {}", validity.not_before, validity.not_after);
    let (reason, holds) = match x509::validity(now, validity) {
        Dates::Valid => (name, true),
        Dates::NotYet => (not_yet, false),
        Dates::Expired => (expired, false),
    };
    ledger.require(name, reason, holds, detail);
}

/// AMD lists revoked ASKs and ASVKs; endorsement keys are left behind by raising versions instead.
fn check_revocation(
    vek: &Vek<'_>,
    endorsements: &Endorsements<'_>,
    require_crl: bool,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let mut is_settled = false;
    let mut has_old = false;
    for (der, strict) in lists(endorsements) {
        match check_list(vek, der, strict, now, ledger) {
            Listed::Settled => is_settled = true,
            Listed::Old => has_old = true,
            Listed::Other => {}
        }
    }
    match (is_settled, require_crl, has_old) {
        (true, ..) => {}
        (false, true, true) => {
            ledger.missing(
                "crl",
                "crl_expired",
                "the cached revocation list is not valid now",
            );
        }
        (false, true, false) => {
            ledger.missing(
                "crl",
                "crl_missing",
                "no revocation list of the root was given",
            );
        }
        (false, false, _) => {
            ledger.skip("crl", "no valid revocation list of the root was given");
        }
    }
}

/// What a revocation list is worth.
enum Listed {
    /// The check was made with it.
    Settled,
    /// A cached list that is not valid now, and does not name the authority.
    Old,
    /// Of another root; or of a cache and no good.
    Other,
}

fn lists<'e, 'a>(
    endorsements: &'e Endorsements<'a>,
) -> impl Iterator<Item = (&'a [u8], bool)> + use<'e, 'a> {
    let given = endorsements.crls.iter().map(|der| (*der, true));
    given.chain(endorsements.cached_crls.iter().map(|der| (*der, false)))
}

/// A list that was given must be good; one of a cache is used where it is.
fn check_list(
    vek: &Vek<'_>,
    der: &[u8],
    is_given: bool,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Listed {
    let mut refuse = |reason, detail: String| {
        if is_given {
            ledger.require("crl", reason, false, detail);
            return Listed::Settled;
        }
        Listed::Other
    };
    let crl = match x509::parse_crl(der) {
        Ok(crl) => crl,
        Err(error) => return refuse("crl_malformed", error.to_string()),
    };
    if crl.issuer().as_raw() != vek.root.subject().as_raw() {
        return Listed::Other;
    }
    if !x509::is_crl_of(&crl, &vek.root) {
        return refuse("crl_signature", "not signed by the root".to_owned());
    }
    let serial = vek.issuer.raw_serial();
    if x509::is_revoked(&crl, serial) {
        ledger.require("crl", "ask_revoked", false, hex::encode(serial));
        return Listed::Settled;
    }
    let (reason, holds, detail) = freshness(&crl, now);
    if !holds && !is_given {
        return Listed::Old;
    }
    ledger.require("crl", reason, holds, detail);
    Listed::Settled
}

/// Judges a revocation list that stands alone.
pub(crate) fn check_crl_alone(der: &[u8], now: SystemTime, ledger: &mut Ledger) {
    let Some(crl) = ledger.succeed("crl", "crl_malformed", x509::parse_crl(der)) else {
        return;
    };
    let signed = ROOTS
        .iter()
        .any(|(_, root)| x509::parse(root).is_ok_and(|root| x509::is_crl_of(&crl, &root)));
    let issuer = crl.issuer().to_string();
    ledger.require("crl", "crl_signature", signed, issuer);
    let (reason, holds, detail) = freshness(&crl, now);
    ledger.require("crl", reason, holds, detail);
}

/// Whether a list counts now, with its reason. One without an end would be good for ever.
fn freshness(crl: &CertificateRevocationList<'_>, now: SystemTime) -> (&'static str, bool, String) {
    let until = crl.next_update().map_or(i64::MIN, |at| at.timestamp());
    let next = crl.next_update().map(|at| at.to_string());
    let detail = format!("{} to {}", crl.last_update(), next.unwrap_or_default());
    match x509::dates(now, crl.last_update().timestamp(), Some(until)) {
        Dates::Valid => ("crl", true, detail),
        Dates::NotYet => ("crl_not_yet_valid", false, detail),
        Dates::Expired => ("crl_expired", false, detail),
    }
}

fn point(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let key = certificate.public_key();
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let data = &key.subject_public_key.data;
    let fits = key.algorithm.algorithm.to_id_string() == OID_EC_PUBLIC_KEY
        && curve.to_id_string() == OID_P384
        && data.len() == 97;
    fits.then(|| data.to_vec())
}

/// Versions that AMD states; `None` unless all that the product has are there.
pub(super) fn tcb(certificate: &X509Certificate<'_>, product: Product) -> Option<Tcb> {
    let part = |number: u8| {
        let value = x509::extension(certificate, &format!("{OID_TCB}.{number}"))?;
        small_integer(value)
    };
    let fmc = match product {
        Product::Milan | Product::Genoa => None,
        Product::Turin => Some(part(9)?),
    };
    Some(Tcb {
        fmc,
        bootloader: part(1)?,
        tee: part(2)?,
        snp: part(3)?,
        microcode: part(8)?,
    })
}

/// `INTEGER` from 0 to 255.
fn small_integer(der: &[u8]) -> Option<u8> {
    match der {
        [0x02, 0x01, value @ 0..=0x7f] | [0x02, 0x02, 0x00, value @ 0x80..=0xff] => Some(*value),
        _ => None,
    }
}

/// The chip's name: 64 bytes, or 8 on Turin; bare, or as an `OCTET STRING`.
pub(super) fn hardware_id(certificate: &X509Certificate<'_>, product: Product) -> Option<Vec<u8>> {
    let length = match product {
        Product::Milan | Product::Genoa => 64,
        Product::Turin => 8,
    };
    let value = x509::extension(certificate, OID_HARDWARE_ID)?;
    let id = match value {
        [0x04, stated, id @ ..] if id.len() == length && usize::from(*stated) == length => id,
        id => id,
    };
    (id.len() == length).then(|| id.to_vec())
}

fn ia5_string(der: &[u8]) -> Option<String> {
    match der {
        [0x16, length, text @ ..] if text.len() == usize::from(*length) && text.is_ascii() => {
            Some(String::from_utf8_lossy(text).into_owned())
        }
        _ => None,
    }
}

const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P384: &str = "1.3.132.0.34";
const OID_TCB: &str = "1.3.6.1.4.1.3704.1.3";
const OID_HARDWARE_ID: &str = "1.3.6.1.4.1.3704.1.4";
const OID_CSP_ID: &str = "1.3.6.1.4.1.3704.1.5";

const VEK_DATES: [&str; 2] = ["vek_not_yet_valid", "vek_expired"];
const ASK_DATES: [&str; 2] = ["ask_not_yet_valid", "ask_expired"];
const ARK_DATES: [&str; 2] = ["ark_not_yet_valid", "ark_expired"];

/// AMD's roots. `roots/README.md` says where they come from.
pub(super) const ROOTS: [(Product, &[u8]); 3] = [
    (
        Product::Milan,
        include_bytes!("../../../roots/amd-milan-ark.der"),
    ),
    (
        Product::Genoa,
        include_bytes!("../../../roots/amd-genoa-ark.der"),
    ),
    (
        Product::Turin,
        include_bytes!("../../../roots/amd-turin-ark.der"),
    ),
];

/// AMD's intermediate authorities, so that a report needs only the certificate of its own key.
pub(super) const INTERMEDIATES: [&[u8]; 6] = [
    include_bytes!("../../../roots/amd-milan-ask.der"),
    include_bytes!("../../../roots/amd-milan-asvk.der"),
    include_bytes!("../../../roots/amd-genoa-ask.der"),
    include_bytes!("../../../roots/amd-genoa-asvk.der"),
    include_bytes!("../../../roots/amd-turin-ask.der"),
    include_bytes!("../../../roots/amd-turin-asvk.der"),
];
