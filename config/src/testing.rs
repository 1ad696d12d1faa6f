//! What tests of this crate share: peers, made through the only door there is to one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{Peer, PeerRole, verify_peer};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::ATTESTATION_RESULT_OID;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};
use vouchsafe_attestation::trust_domain::TrustDomain;

/// The trust domain of tests.
pub(crate) fn trust_domain() -> TrustDomain {
    "factory.example".parse().unwrap()
}

/// When tests happen: inside the default validity of generated certificates.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A result of one device, whose evidence is this old.
pub(crate) fn result(
    class: Class,
    kind: EvidenceKind,
    claims: &[(&str, ClaimValue)],
    age: Duration,
) -> AttestationResult {
    let mut held = Claims::default();
    for (name, value) in claims {
        held.set(kind, name, value.clone()).unwrap();
    }
    AttestationResult {
        class,
        root: kind,
        instance: InstanceId([7; 16]),
        evidence_time: now() - age,
        policy_revision: Revision::default(),
        ear_sha256: [0; 32],
        devices: vec![DeviceResult {
            kind,
            index: 0,
            claims: held,
        }],
        inclusion_promise: None,
    }
}

/// A fresh TPM result.
pub(crate) fn attested() -> AttestationResult {
    let image = [("image", ClaimValue::Text("llm-1".to_owned()))];
    result(Class::Software, EvidenceKind::Tpm, &image, Duration::ZERO)
}

/// A peer of this workload, by a certificate.
pub(crate) fn workload_peer(workload: &str, result: Option<&AttestationResult>) -> Peer {
    let workload: WorkloadName = workload.parse().unwrap();
    let id = SpiffeId::for_workload(&trust_domain(), &workload);
    peer(id.as_str(), result)
}

/// A peer with this SPIFFE ID.
pub(crate) fn peer(id: &str, result: Option<&AttestationResult>) -> Peer {
    let id: SpiffeId = id.parse().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    let uri = id.as_str().try_into().unwrap();
    leaf.subject_alt_names = vec![SanType::URI(uri)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if let Some(result) = result {
        let der = result.encode().unwrap();
        let extension = CustomExtension::from_oid_content(&ATTESTATION_RESULT_OID, der);
        leaf.custom_extensions.push(extension);
    }
    let leaf = leaf
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let authority = Authority::new(
        id.trust_domain().clone(),
        certificate.der(),
        result.is_some(),
    );
    let bundle = TrustBundle::new(vec![authority.unwrap()]).unwrap();
    verify_peer(&[leaf.der().clone()], &bundle, PeerRole::Client, now()).unwrap()
}
