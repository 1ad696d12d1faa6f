//! What the micro benches share: an authority, leaves with and without claims, and the peers that they make.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::ATTESTATION_RESULT_OID;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};

/// A chain of one leaf and the bundle that its authority is in.
pub(crate) struct Certified {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) bundle: TrustBundle,
}

/// A fixed present within the validity of all certificates here: 2026-06-01.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

/// Makes a P-256 authority and a leaf of workload `bench/client` under it, with an attestation result or without.
pub(crate) fn certified(with_result: bool) -> anyhow::Result<Certified> {
    let trust_domain = "bench.test".parse()?;
    let authority_key = KeyPair::generate()?;
    let mut authority = validity(CertificateParams::default());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = validity(CertificateParams::default());
    leaf.subject_alt_names = vec![SanType::URI(
        "spiffe://bench.test/ns/bench/workload/client".try_into()?,
    )];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    if with_result {
        let result = result()?.encode().context("the result is within bounds")?;
        leaf.custom_extensions
            .push(CustomExtension::from_oid_content(
                &ATTESTATION_RESULT_OID,
                result,
            ));
    }
    let certificate = leaf.signed_by(&KeyPair::generate()?, &issuer)?;
    Ok(Certified {
        chain: vec![certificate.der().clone()],
        bundle: TrustBundle::new(vec![Authority::new(trust_domain, root.der(), with_result)?])?,
    })
}

/// What a TPM proves of a machine.
fn result() -> anyhow::Result<AttestationResult> {
    let mut claims = Claims::default();
    for (name, value) in [
        ("image", ClaimValue::Text("llm-12".into())),
        ("ek_sha256", ClaimValue::Text("ab".repeat(32))),
        ("ek_certified", ClaimValue::Bool(true)),
        ("firmware", ClaimValue::Number(7)),
        ("event_log", ClaimValue::Bool(true)),
        ("secure_boot", ClaimValue::Bool(true)),
    ] {
        claims.set(EvidenceKind::Tpm, name, value)?;
    }
    Ok(AttestationResult {
        class: Class::Hardware,
        root: EvidenceKind::Tpm,
        instance: InstanceId([7; 16]),
        evidence_time: now() - Duration::from_secs(60),
        policy_revision: Revision {
            epoch: 1,
            sequence: 42,
        },
        ear_sha256: [9; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Tpm,
            index: 0,
            claims,
        }],
        inclusion_promise: None,
    })
}

fn validity(mut certificate: CertificateParams) -> CertificateParams {
    certificate.not_before = date_time_ymd(2026, 1, 1);
    certificate.not_after = date_time_ymd(2027, 1, 1);
    certificate
}
