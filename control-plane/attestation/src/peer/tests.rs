//! Every way in which a certificate is wrong, each with exactly its reason.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::*;
use crate::claims::{ClaimValue, Claims, Class, EvidenceKind};
use crate::result::{DeviceResult, InstanceId};
use crate::revision::Revision;
use crate::svid::{ATTESTATION_RESULT_OID, ROLE_OID};

const LLM: &str = "spiffe://factory.example/ns/inference/workload/llm";
const CONTROL_PLANE: &str = "spiffe://factory.example/vouchsafe/control-plane";
/// 2030-01-01.
const NOW: u64 = 1_893_456_000;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2029, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 1);
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn der(ca: &Ca) -> CertificateDer<'static> {
    let certificate: &rcgen::Certificate = ca.as_ref();
    certificate.der().clone()
}

/// A leaf that breaks no rule.
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(LLM)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.not_before = date_time_ymd(2029, 12, 31);
    params.not_after = date_time_ymd(2030, 1, 2);
    params.custom_extensions = vec![result_extension()];
    params
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = good();
    change(&mut params);
    params
}

fn role_leaf() -> CertificateParams {
    with(|params| {
        params.subject_alt_names = vec![uri(CONTROL_PLANE)];
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &ROLE_OID,
            MeshRole::ControlPlane.to_der(),
        )];
    })
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn result_extension() -> CustomExtension {
    let mut claims = Claims::default();
    claims
        .set(EvidenceKind::Tpm, "image", ClaimValue::Text("a".into()))
        .unwrap();
    let result = AttestationResult {
        class: Class::Software,
        root: EvidenceKind::Tpm,
        instance: InstanceId([1; 16]),
        evidence_time: UNIX_EPOCH + Duration::from_secs(NOW),
        policy_revision: Revision {
            epoch: 1,
            sequence: 1,
        },
        ear_sha256: [0; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Tpm,
            index: 0,
            claims,
        }],
        inclusion_promise: None,
    };
    CustomExtension::from_oid_content(&ATTESTATION_RESULT_OID, result.encode().unwrap())
}

fn issue(params: &CertificateParams, ca: &Ca) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, ca).unwrap().into()
}

fn authority(trust_domain: &str, ca: &Ca, attested: bool) -> Authority {
    Authority::new(trust_domain.parse().unwrap(), &der(ca), attested).unwrap()
}

/// `factory.example` attests, `other.example` does too, `spire.example` does not.
struct World {
    factory: Ca,
    other: Ca,
    spire: Ca,
    bundle: TrustBundle,
}

impl World {
    fn new() -> Self {
        let (factory, other, spire) = (ca("factory"), ca("other"), ca("spire"));
        let bundle = TrustBundle::new(vec![
            authority("factory.example", &factory, true),
            authority("other.example", &other, true),
            authority("spire.example", &spire, false),
        ]);
        Self {
            factory,
            other,
            spire,
            bundle: bundle.unwrap(),
        }
    }

    fn verify_at(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        seconds: u64,
    ) -> Result<Peer, VerifyPeerError> {
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        verify_peer(chain, &self.bundle, role, now)
    }

    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Peer, VerifyPeerError> {
        self.verify_at(chain, PeerRole::Client, NOW)
    }

    #[track_caller]
    fn refused(&self, chain: &[CertificateDer<'_>], reason: &str) -> VerifyPeerError {
        match self.verify(chain) {
            Ok(peer) => panic!("accepted, expected `{reason}`: {peer:?}"),
            Err(error) => {
                assert_eq!(error.reason(), reason, "{error:?}");
                error
            }
        }
    }

    /// A leaf of the right authority that breaks one rule of the profile.
    #[track_caller]
    fn breaks(
        &self,
        change: impl FnOnce(&mut CertificateParams),
        rule: impl FnOnce(&ProfileError) -> bool,
    ) {
        let leaf = issue(&with(change), &self.factory);
        match self.refused(&[leaf], "certificate_profile") {
            VerifyPeerError::Profile(error) => assert!(rule(&error), "{error:?}"),
            other => panic!("not of the profile: {other:?}"),
        }
    }
}

#[test]
fn a_leaf_that_breaks_no_rule_is_an_attested_peer() {
    let world = World::new();
    let leaf = issue(&good(), &world.factory);
    for role in [PeerRole::Client, PeerRole::Server] {
        let peer = world
            .verify_at(std::slice::from_ref(&leaf), role, NOW)
            .unwrap();
        assert_eq!(peer.id().as_str(), LLM);
        assert_eq!(
            peer.result().map(|result| result.class),
            Some(Class::Software)
        );
        assert_eq!(
            peer.authority_spki_sha256(),
            authority("factory.example", &world.factory, true).spki_sha256()
        );
    }
}

#[test]
fn a_leaf_below_an_intermediate_is_accepted_with_it_and_not_without() {
    let world = World::new();
    let intermediate = CertifiedIssuer::signed_by(
        ca_params("intermediate"),
        KeyPair::generate().unwrap(),
        &world.factory,
    )
    .unwrap();
    let leaf = issue(&good(), &intermediate);
    assert!(world.verify(&[leaf.clone(), der(&intermediate)]).is_ok());
    world.refused(&[leaf], "untrusted_authority");
}

#[test]
fn a_peer_names_every_authority_of_its_path_and_no_other() {
    let world = World::new();
    let below = |name: &str, issuer: &CertifiedIssuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::signed_by(ca_params(name), key, issuer).unwrap()
    };
    let upper = below("upper", &world.spire);
    let (lower, beside) = (below("lower", &upper), below("beside", &upper));
    let spki = |one: &CertifiedIssuer<'static, KeyPair>| {
        let authority = authority("spire.example", one, false);
        *authority.spki_sha256()
    };
    let leaf = with(|params| {
        params.subject_alt_names = vec![uri("spiffe://spire.example/gateway")];
        params.custom_extensions.clear();
    });
    let leaf = issue(&leaf, &lower);
    let chain = [leaf, der(&beside), der(&upper), der(&lower)];
    let peer = world.verify(&chain).unwrap();
    assert_eq!(peer.authority_spki_sha256(), &spki(&world.spire));
    assert_eq!(
        peer.intermediate_spki_sha256(),
        [spki(&lower), spki(&upper)]
    );
    let direct = world.verify(&[issue(&good(), &world.factory)]).unwrap();
    assert_eq!(direct.intermediate_spki_sha256(), [[0; 32]; 0]);
}

#[test]
fn validity_is_judged_at_the_given_time() {
    let world = World::new();
    let chain = [issue(&good(), &world.factory)];
    let at = |seconds| {
        world
            .verify_at(&chain, PeerRole::Client, seconds)
            .map(drop)
            .map_err(|error| error.reason())
    };
    const DAY: u64 = 86_400;
    assert_eq!(at(NOW - DAY - 1), Err("certificate_not_yet_valid"));
    assert_eq!(at(NOW - DAY), Ok(()));
    assert_eq!(at(NOW + DAY), Ok(()));
    assert_eq!(at(NOW + DAY + 1), Err("certificate_expired"));
}

#[test]
fn an_authority_past_its_end_speaks_for_nobody() {
    let world = World::new();
    let leaf = with(|params| params.not_after = date_time_ymd(2040, 1, 1));
    let chain = [issue(&leaf, &world.factory)];
    let late = world.verify_at(&chain, PeerRole::Client, NOW + 800 * 86_400);
    assert_eq!(late.unwrap_err().reason(), "foreign_trust_domain");
}

#[test]
fn certificates_of_others_are_refused() {
    let world = World::new();
    world.refused(&[issue(&good(), &ca("stranger"))], "untrusted_authority");
    // The name of our authority is not its key.
    world.refused(&[issue(&good(), &ca("factory"))], "untrusted_authority");
    let key = KeyPair::generate().unwrap();
    let self_signed = good().self_signed(&key).unwrap();
    world.refused(&[self_signed.into()], "untrusted_authority");
    world.refused(&[], "no_certificate");
}

#[test]
fn an_authority_speaks_for_its_own_trust_domain_only() {
    let world = World::new();
    world.refused(&[issue(&good(), &world.other)], "untrusted_authority");
    let foreign = with(|params| {
        params.subject_alt_names = vec![uri("spiffe://nowhere.example/ns/a/workload/b")]
    });
    world.refused(&[issue(&foreign, &world.factory)], "foreign_trust_domain");
}

#[test]
fn exactly_one_spiffe_id_is_demanded() {
    let world = World::new();
    world.breaks(
        |params| {
            params
                .subject_alt_names
                .push(uri("spiffe://factory.example/ns/a/workload/b"))
        },
        |error| matches!(error, ProfileError::SeveralUris),
    );
    world.breaks(
        |params| {
            params
                .subject_alt_names
                .push(uri("https://factory.example/"))
        },
        |error| matches!(error, ProfileError::SeveralUris),
    );
    world.breaks(
        |params| params.subject_alt_names = vec![uri("https://factory.example/llm")],
        |error| matches!(error, ProfileError::SpiffeId(_)),
    );
    world.breaks(
        |params| {
            params.subject_alt_names = vec![SanType::DnsName("llm.example".try_into().unwrap())];
        },
        |error| matches!(error, ProfileError::NoSpiffeId),
    );
    world.breaks(
        |params| params.subject_alt_names.clear(),
        |error| matches!(error, ProfileError::NoSpiffeId),
    );
}

#[test]
fn a_leaf_must_be_a_leaf() {
    let world = World::new();
    world.breaks(
        |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        |error| matches!(error, ProfileError::KeyUsage),
    );
    world.breaks(
        |params| params.key_usages.push(KeyUsagePurpose::CrlSign),
        |error| matches!(error, ProfileError::KeyUsage),
    );
    world.breaks(
        |params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        |error| matches!(error, ProfileError::KeyUsage),
    );
    world.breaks(
        |params| params.key_usages.clear(),
        |error| matches!(error, ProfileError::KeyUsage),
    );
    world.breaks(
        |params| {
            params.key_usages.clear();
            // digitalSignature, not critical.
            let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
            params.custom_extensions.push(usage);
        },
        |error| matches!(error, ProfileError::KeyUsage),
    );
    world.breaks(
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |error| matches!(error, ProfileError::Authority | ProfileError::KeyUsage),
    );
    world.breaks(
        |params| {
            // CA: TRUE, though key usage is a leaf's.
            let constraints =
                CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
            params.custom_extensions.push(constraints);
        },
        |error| matches!(error, ProfileError::Authority),
    );
}

#[test]
fn an_unknown_critical_extension_is_refused_and_an_uncritical_one_is_not() {
    let world = World::new();
    let unknown = |critical| {
        with(|params| {
            let mut extension = CustomExtension::from_oid_content(&[2, 25, 1, 2, 3], vec![5, 0]);
            extension.set_criticality(critical);
            params.custom_extensions.push(extension);
        })
    };
    world.refused(&[issue(&unknown(true), &world.factory)], "certificate_path");
    assert!(
        world
            .verify(&[issue(&unknown(false), &world.factory)])
            .is_ok()
    );
}

#[test]
fn an_attestation_result_stands_once_and_can_be_read() {
    let world = World::new();
    world.breaks(
        |params| params.custom_extensions.push(result_extension()),
        |error| matches!(error, ProfileError::RepeatedExtension(_)),
    );
    world.breaks(
        |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(
                &ATTESTATION_RESULT_OID,
                vec![0x30, 0],
            )];
        },
        |error| matches!(error, ProfileError::Result(_)),
    );
}

#[test]
fn a_result_is_demanded_of_attesting_authorities_and_of_no_other() {
    let world = World::new();
    let without = with(|params| params.custom_extensions.clear());
    world.refused(&[issue(&without, &world.factory)], "no_attestation_result");
    let spire = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://spire.example/anything")];
    };
    world.refused(
        &[issue(&with(spire), &world.spire)],
        "attestation_result_not_vouched_for",
    );
    let plain = with(|params| {
        spire(params);
        params.custom_extensions.clear();
    });
    let peer = world.verify(&[issue(&plain, &world.spire)]).unwrap();
    assert!(matches!(peer, Peer::Unattested(_)));
}

#[test]
fn extended_key_usage_must_allow_the_role() {
    let world = World::new();
    let server_only = issue(
        &with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        &world.factory,
    );
    world.refused(std::slice::from_ref(&server_only), "certificate_path");
    assert!(
        world
            .verify_at(&[server_only], PeerRole::Server, NOW)
            .is_ok()
    );
}

#[test]
fn a_chain_is_at_most_eight_certificates_long() {
    let world = World::new();
    let leaf = issue(&good(), &world.factory);
    let padding = der(&world.other);
    let chain = |length| {
        let mut chain = vec![leaf.clone()];
        chain.resize(length, padding.clone());
        chain
    };
    assert!(world.verify(&chain(8)).is_ok());
    world.refused(&chain(9), "chain_too_long");
}

#[test]
fn a_role_of_the_mesh_is_no_workload() {
    let world = World::new();
    world.refused(&[issue(&role_leaf(), &world.factory)], "wrong_role");
    // The name without the extension, and the extension without the name.
    let name_only = with(|params| params.subject_alt_names = vec![uri(CONTROL_PLANE)]);
    world.refused(&[issue(&name_only, &world.factory)], "wrong_role");
    let extension_only = with(|params| {
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(
                &ROLE_OID,
                MeshRole::ControlPlane.to_der(),
            ));
    });
    world.refused(&[issue(&extension_only, &world.factory)], "wrong_role");
}

#[track_caller]
fn check_role(chain: &[CertificateDer<'_>], pin: &Ca, expected: Result<(), &str>) {
    let pins = [*authority("factory.example", pin, true).spki_sha256()];
    let found = verify_role(
        chain,
        &pins,
        &"factory.example".parse().unwrap(),
        MeshRole::ControlPlane,
        UNIX_EPOCH + Duration::from_secs(NOW),
    );
    let found = found.map(drop).map_err(|error| error.reason());
    assert_eq!(found, expected);
}

#[test]
fn the_control_plane_is_known_by_root_pin_name_and_role() {
    let world = World::new();
    let root = &world.factory;
    let leaf = issue(&role_leaf(), root);
    check_role(&[leaf.clone(), der(root)], root, Ok(()));
    check_role(
        &[leaf.clone(), der(root)],
        &world.other,
        Err("untrusted_authority"),
    );
    check_role(
        std::slice::from_ref(&leaf),
        root,
        Err("untrusted_authority"),
    );
    // A pinned root that did not sign the leaf.
    check_role(
        &[leaf, der(&world.other)],
        &world.other,
        Err("untrusted_authority"),
    );
    check_role(&[], root, Err("no_certificate"));
}

#[test]
fn neither_a_workload_nor_a_roleless_leaf_of_the_root_is_the_control_plane() {
    let world = World::new();
    let root = &world.factory;
    check_role(&[issue(&good(), root), der(root)], root, Err("wrong_role"));
    let name_only = with(|params| {
        params.subject_alt_names = vec![uri(CONTROL_PLANE)];
        params.custom_extensions.clear();
    });
    check_role(
        &[issue(&name_only, root), der(root)],
        root,
        Err("wrong_role"),
    );
    let another_role = with(|params| {
        params.subject_alt_names = vec![uri(CONTROL_PLANE)];
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &ROLE_OID,
            MeshRole::MeshState.to_der(),
        )];
    });
    check_role(
        &[issue(&another_role, root), der(root)],
        root,
        Err("wrong_role"),
    );
    let another_domain = {
        let mut params = role_leaf();
        params.subject_alt_names = vec![uri("spiffe://other.example/vouchsafe/control-plane")];
        params
    };
    check_role(
        &[issue(&another_domain, root), der(root)],
        root,
        Err("wrong_role"),
    );
}

#[test]
fn no_bit_of_a_leaf_can_be_changed() {
    let world = World::new();
    let leaf = issue(&good(), &world.factory);
    for at in 0..leaf.len() {
        for bit in 0..8 {
            let mut flipped = leaf.to_vec();
            flipped[at] ^= 1 << bit;
            let chain = [CertificateDer::from(flipped)];
            assert!(world.verify(&chain).is_err(), "byte {at} bit {bit}");
        }
    }
    for end in 0..leaf.len() {
        let chain = [CertificateDer::from(leaf[..end].to_vec())];
        assert!(world.verify(&chain).is_err(), "{end} bytes");
    }
}
