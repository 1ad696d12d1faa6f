//! AMD's endorsements by themselves, without a report.
//!
//! Source: AMD 57230 (VCEK certificate and KDS interface) rev. 0.51 §3 and §4.

use std::time::SystemTime;

use x509_parser::certificate::X509Certificate;

use super::Product;
use super::chain::{INTERMEDIATES, ROOTS, hardware_id, tcb};
use super::report::Tcb;
use crate::endorsement::need::AmdSigner;
use crate::endorsement::object::{EndorsementError, Validity};
use crate::evidence::x509;
use crate::vendor_roots::VendorRoots;

/// Verifies the certificate of a chip's key, up to AMD's root.
pub(crate) fn verify_vcek(
    der: &[u8],
    product: Product,
    chip_id: &[u8],
    versions: Tcb,
    authorities: &[&[u8]],
    root_der: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let vcek = x509::parse(der).map_err(|_| EndorsementError::Malformed("a certificate in DER"))?;
    if !is_vcek_of(&vcek, product, chip_id, versions) {
        let found = tcb(&vcek, product).map_or_else(String::new, |found| format!(" at {found}"));
        return Err(EndorsementError::Subject(format!(
            "`{}`{found}",
            vcek.subject()
        )));
    }
    let given: Vec<Vec<u8>> = authorities
        .iter()
        .filter_map(|file| x509::certificates(file))
        .flatten()
        .collect();
    let known = given.iter().map(Vec::as_slice).chain(INTERMEDIATES);
    let root = x509::parse(root_der).map_err(|_| EndorsementError::Malformed("a root"))?;
    for der in known {
        let Ok(authority) = x509::parse(der) else {
            continue;
        };
        if is_named(&authority, product, AmdSigner::Vcek) && x509::is_issued_by(&vcek, &authority) {
            let path = [root, authority, vcek];
            x509::verify_path(&path, root_der, now)?;
            return Ok(Validity::of_path(&path));
        }
    }
    Err(EndorsementError::Signature(vcek.issuer().to_string()))
}

/// Whether a certificate says that it is of the key that this chip has at these versions.
pub(crate) fn is_vcek_of(
    certificate: &X509Certificate<'_>,
    product: Product,
    chip_id: &[u8],
    versions: Tcb,
) -> bool {
    x509::common_name(certificate.subject()) == Some("SEV-VCEK")
        && hardware_id(certificate, product).as_deref() == Some(chip_id)
        && tcb(certificate, product) == Some(versions)
}

/// Verifies an authority and the root above it, in AMD's order: the authority first.
pub(crate) fn verify_chain(
    pem: &[u8],
    product: Product,
    signer: AmdSigner,
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let chain = x509::certificates(pem).unwrap_or_default();
    let path: Result<Vec<_>, _> = chain.iter().rev().map(|der| x509::parse(der)).collect();
    let path = path.map_err(|_| EndorsementError::Malformed("a chain of certificates"))?;
    let [_, authority] = path.as_slice() else {
        return Err(EndorsementError::Malformed("one authority and its root"));
    };
    x509::verify_path(&path, root, now)?;
    if !(is_named(authority, product, signer) && x509::is_authority(authority)) {
        return Err(EndorsementError::Subject(authority.subject().to_string()));
    }
    Ok(Validity::of_path(&path))
}

/// Verifies the root's list.
pub(crate) fn verify_crl(
    der: &[u8],
    root: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let root = x509::parse(root).map_err(|_| EndorsementError::Malformed("a root"))?;
    let signer = Validity::of_path(std::slice::from_ref(&root));
    Validity::of_crl(der, &root)?.within(&signer, now)
}

fn is_named(authority: &X509Certificate<'_>, product: Product, signer: AmdSigner) -> bool {
    let expected = match signer {
        AmdSigner::Vcek => format!("SEV-{}", product.as_str()),
        AmdSigner::Vlek => format!("SEV-VLEK-{}", product.as_str()),
    };
    x509::common_name(authority.subject()) == Some(expected.as_str())
}

/// The root that a product's certificates must lead to.
pub(crate) fn root_of(product: Product, roots: &VendorRoots) -> &[u8] {
    let test = roots.amd().filter(|(held, _)| *held == product);
    let mut pinned = ROOTS.into_iter();
    test.or_else(|| pinned.find(|(held, _)| *held == product))
        .map_or(&[], |(_, der)| der)
}
