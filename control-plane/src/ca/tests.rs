use std::os::unix::fs::PermissionsExt;

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::peer::{PeerRole, VerifyPeerError, verify_peer, verify_role};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;

use super::*;
use crate::svid_template::validity;

fn trust_domain() -> TrustDomain {
    "factory.example".parse().unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn open(folder: &Path) -> CertificateAuthority {
    CertificateAuthority::open(&folder.join("ca"), &trust_domain(), now())
        .unwrap()
        .0
}

fn result() -> Vec<u8> {
    AttestationResult {
        class: Class::Simulated,
        root: EvidenceKind::Simulated,
        instance: InstanceId([1; 16]),
        evidence_time: now(),
        policy_revision: Revision::default(),
        ear_sha256: [2; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Simulated,
            index: 0,
            claims: Default::default(),
        }],
        inclusion_promise: None,
    }
    .encode()
    .unwrap()
}

fn template(spki: Vec<u8>) -> SvidTemplate {
    let (not_before, not_after) = validity(now(), Duration::from_secs(3600), &[]).unwrap();
    SvidTemplate {
        id: "spiffe://factory.example/ns/inference/workload/llm"
            .parse()
            .unwrap(),
        spki,
        serial: serial([9; 16]),
        not_before,
        not_after,
        result: result(),
    }
}

fn der(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|der| der.clone().into()).collect()
}

#[test]
fn an_issued_certificate_makes_an_attested_peer() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    let key = KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let signed = authority.sign_svid(&template(spki.clone()), now()).unwrap();
    for role in [PeerRole::Client, PeerRole::Server] {
        let peer =
            verify_peer(&der(&signed.chain), &authority.trust_bundle(), role, now()).unwrap();
        assert_eq!(peer.id(), &template(vec![]).id);
        assert_eq!(peer.serial().as_bytes(), serial([9; 16]));
        assert_eq!(peer.spki_sha256(), &sha256(&spki));
        assert_eq!(peer.authority_spki_sha256(), &signed.authority_spki_sha256);
        assert!(peer.result().is_some());
    }
}

#[test]
fn a_workloads_certificate_is_no_control_plane_and_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    let pins = [authority.root_pin()];
    let role = authority
        .certify_role(MeshRole::ControlPlane, now())
        .unwrap();
    let holder = verify_role(
        &role.chain,
        &pins,
        &trust_domain(),
        MeshRole::ControlPlane,
        now(),
    );
    assert_eq!(
        holder.unwrap().leaf_sha256,
        sha256(role.chain.first().unwrap())
    );
    let other = verify_role(
        &role.chain,
        &pins,
        &trust_domain(),
        MeshRole::MeshState,
        now(),
    );
    assert!(matches!(other, Err(VerifyPeerError::Role)));
    let as_peer = verify_peer(
        &role.chain,
        &authority.trust_bundle(),
        PeerRole::Client,
        now(),
    );
    assert!(matches!(as_peer, Err(VerifyPeerError::Role)));

    let key = KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let svid = authority.sign_svid(&template(spki), now()).unwrap();
    let mut chain = der(&svid.chain);
    chain.push(authority.root.certificate.clone());
    let as_control_plane = verify_role(
        &chain,
        &pins,
        &trust_domain(),
        MeshRole::ControlPlane,
        now(),
    );
    assert!(matches!(as_control_plane, Err(VerifyPeerError::Role)));
}

#[test]
fn a_second_opening_finds_the_same_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let facts = open(folder.path()).facts();
    let (second, made) =
        CertificateAuthority::open(&folder.path().join("ca"), &trust_domain(), now()).unwrap();
    assert_eq!(second.facts(), facts);
    assert_eq!(made, []);
}

#[test]
fn keys_are_private_files_and_wider_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path());
    let key = folder.path().join("ca/root.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let again = CertificateAuthority::open(&folder.path().join("ca"), &trust_domain(), now());
    assert!(matches!(
        again,
        Err(CaError::File(FileError::TooWide { .. }))
    ));
}

#[test]
fn a_key_of_another_certificate_is_noticed() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(one.path());
    open(other.path());
    fs::copy(
        other.path().join("ca/root.key"),
        one.path().join("ca/root.key"),
    )
    .unwrap();
    let again = CertificateAuthority::open(&one.path().join("ca"), &trust_domain(), now());
    assert!(matches!(again, Err(CaError::Damaged { .. })));
}

#[test]
fn rotation_keeps_both_authorities_until_the_old_one_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(authority.rotate(now() + day).unwrap(), []);
    assert_eq!(authority.rotate(now() + day * 4).unwrap().len(), 1);
    assert_eq!(authority.bundle().len(), 2);
    assert_eq!(authority.rotate(now() + day * 7).unwrap().len(), 0);
    assert_eq!(authority.bundle().len(), 1);
    let again =
        CertificateAuthority::open(&folder.path().join("ca"), &trust_domain(), now() + day * 7);
    assert_eq!(again.unwrap().0.bundle().len(), 1);
}

#[test]
fn a_request_proves_its_key_and_nothing_else() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(uri("spiffe://factory.example/vouchsafe/control-plane").unwrap());
    let request = params.serialize_request(&key).unwrap();
    let verified = CertifiedRequest::verify(request.der()).unwrap();
    assert_eq!(
        verified.spki(),
        rcgen::PublicKeyData::subject_public_key_info(&key)
    );
    let whole = request.der().to_vec();
    for at in 0..whole.len() {
        assert!(CertifiedRequest::verify(&whole[..at]).is_err(), "{at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        // The wrapping outside of what is signed may be read laxly; a proof of another key never comes of it.
        if let Ok(other) = CertifiedRequest::verify(&flipped) {
            assert_eq!(other, verified, "{at}");
        }
    }
}

#[test]
fn nothing_secret_shows_in_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    let role = authority.certify_role(MeshRole::MeshState, now()).unwrap();
    let shown = format!("{authority:?} {role:?}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("key_pair"));
}

#[test]
fn a_clock_that_went_back_gets_an_authority_that_is_valid_then() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    // Within the minute before it was made, the first one still signs.
    let within = now() - Duration::from_secs(59);
    assert_eq!(authority.rotate(within).unwrap(), vec![]);
    let behind = now() - Duration::from_secs(600);
    assert!(authority.begins_after(behind));
    assert!(matches!(
        authority.issuer_end(behind),
        Err(CaError::NoIssuer)
    ));
    let made = authority.rotate(behind).unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(
        authority.issuer_spki(behind).unwrap(),
        made[0].spki_sha256,
        "it signs at once: there is no other"
    );
    assert_eq!(authority.rotate(behind).unwrap(), vec![]);
    // Both are believed, and survive a restart.
    assert_eq!(authority.bundle().len(), 2);
    let facts = |authority: &CertificateAuthority| {
        let mut facts = authority.facts();
        facts.sort_by_key(|one| one.spki_sha256);
        facts
    };
    assert_eq!(facts(&open(folder.path())), facts(&authority));
    // However often it leaps, what it makes is bounded.
    for leap in 1..100 {
        let _ = authority.rotate(behind - Duration::from_secs(600 * leap));
    }
    assert_eq!(authority.bundle().len(), MAX_ISSUING);
}

#[test]
fn a_prepared_authority_is_believed_at_once_and_signs_when_its_turn_comes() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path());
    let first = authority.issuer_spki(now()).unwrap();
    let later = now() + Duration::from_secs(60);
    let prepared = authority.prepare(later).unwrap();
    assert_eq!(authority.bundle().len(), 2);
    assert_eq!(authority.issuer_spki(later).unwrap(), first);
    let turn = now() + ISSUING_LIFETIME * 5 / 6;
    assert_eq!(authority.issuer_spki(turn).unwrap(), prepared.spki_sha256);
    authority.prepare(later).unwrap();
    authority.prepare(later).unwrap();
    assert!(matches!(
        authority.prepare(later),
        Err(CaError::TooMany(MAX_PREPARED))
    ));
}
