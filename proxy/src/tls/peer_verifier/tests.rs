//! Whom a sidecar believes in a handshake, and for how long without verifying again.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use vouchsafe_config::policy::Policy;
use vouchsafe_config::revocation::{Action, Bearer};
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

use super::*;
use crate::state::Svid;
use crate::svid::test_control_plane::{Pki, now, trust_domain};
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};

fn verifier(role: PeerRole) -> (PeerVerifier, Vec<CertificateDer<'static>>) {
    verifier_with(role, |root| {
        Authority::new(trust_domain(), root, false).unwrap()
    })
}

/// One that believes an authority, made of its own root or not.
fn verifier_with(
    role: PeerRole,
    believed: impl FnOnce(&CertificateDer<'static>) -> Authority,
) -> (PeerVerifier, Vec<CertificateDer<'static>>) {
    let own = Pki::new().unattested("inference/llm");
    let root = believed(own.chain.last().unwrap());
    let bundle = TrustBundle::new(vec![root]).unwrap();
    let identity = Arc::new(IdentityEpoch {
        number: 1,
        svid: Arc::new(Svid {
            chain: own.chain.clone(),
            key: own.private_key(),
            not_after: now() + Duration::from_secs(3600),
        }),
        bundle: Arc::new(bundle),
    });
    let clock = Arc::new(MeshClock::host());
    (PeerVerifier::new(&identity, &clock, role), own.chain)
}

#[test]
fn a_known_peer_is_refused_once_its_certificate_has_ended() {
    let (verifier, chain) = verifier(PeerRole::Client);
    let leaf = &chain[0];
    let first = verifier.outcome(leaf, &[], now()).unwrap();
    let again = verifier.outcome(leaf, &[], now()).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it was verified twice");
    let end = first.peer.not_after();
    assert!(
        verifier
            .known(&first.leaf_sha256, end - Duration::from_secs(1))
            .is_some()
    );
    assert!(verifier.known(&first.leaf_sha256, end).is_none());
    // The authority of this mesh ends at the same time.
    let later = end + Duration::from_secs(1);
    assert!(verifier.outcome(leaf, &[], later).is_err());
}

#[test]
fn a_known_peer_stays_known_with_its_issuer_behind_it() {
    let (verifier, chain) = verifier(PeerRole::Server);
    let alone = verifier.outcome(&chain[0], &[], now()).unwrap();
    let with_issuer = verifier.outcome(&chain[0], &chain[1..], now()).unwrap();
    assert!(Arc::ptr_eq(&alone, &with_issuer));
}

#[test]
fn a_clock_that_went_back_makes_nobody_known() {
    let (verifier, chain) = verifier(PeerRole::Client);
    let known = verifier.outcome(&chain[0], &[], now()).unwrap();
    let before = now() - Duration::from_secs(1);
    assert!(verifier.known(&known.leaf_sha256, before).is_none());
}

#[test]
fn another_certificate_is_not_known() {
    let (verifier, chain) = verifier(PeerRole::Server);
    verifier.outcome(&chain[0], &[], now()).unwrap();
    let other = Pki::new().unattested("inference/llm").chain;
    let refused = verifier.outcome(&other[0], &[], now());
    assert!(refused.is_err(), "a leaf of another authority passed");
}

/// A mesh in which an authority with this key is revoked.
fn revoked(authority: &[u8]) -> Policy {
    let text = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec: {{trust_domain: factory.example}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r, namespace: a}}\nspec:\n  match: {{authority_sha256: [\"{}\"]}}\n  action: cut\n  reason: drill\n",
        hex::encode(sha256(authority))
    );
    let sources = vec![Source::new("policy.yaml", text)];
    let set = PolicySet::parse(sources, Options { now: None });
    set.unwrap_or_else(|problems| panic!("{problems:?}"))
        .policy(&trust_domain())
}

#[test]
fn who_is_certified_below_a_revoked_authority_is_revoked_however_far_below() {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let (params, key) = authority("above");
    let root_spki = key.subject_public_key_info();
    let anchor = params.self_signed(&key).unwrap();
    let root = Issuer::new(params, key);
    let (params, key) = authority("below");
    let spki = key.subject_public_key_info();
    let intermediate = params.signed_by(&key, &root).unwrap();
    let issuer = Issuer::new(params, key);
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    let id = "spiffe://spire.example/gateway".try_into().unwrap();
    leaf.subject_alt_names = vec![SanType::URI(id)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();

    let foreign = "spire.example".parse().unwrap();
    let anchor = Authority::new(foreign, anchor.der(), false).unwrap();
    let (verifier, _) = verifier_with(PeerRole::Client, |_| anchor);
    let chain = [intermediate.der().clone()];
    let verified = verifier.outcome(leaf.der(), &chain, now()).unwrap();
    let bearer = Bearer::from(&verified.peer);
    for authority in [&root_spki, &spki] {
        let policy = revoked(authority);
        let found = policy.revoked(&bearer, now()).map(|one| one.action);
        assert_eq!(found, Some(Action::Cut));
    }
    let other = KeyPair::generate().unwrap().subject_public_key_info();
    assert!(revoked(&other).revoked(&bearer, now()).is_none());
}

#[test]
fn what_log_lines_say_of_a_peer_is_its_id_class_and_serial() {
    let (verifier, chain) = verifier(PeerRole::Client);
    let verified = verifier.outcome(&chain[0], &[], now()).unwrap();
    let fields = std::str::from_utf8(&verified.logged).unwrap();
    let fields = fields.strip_prefix(',').unwrap();
    let line: serde_json::Value = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
    let peer = &verified.peer;
    let serial = hex::encode(peer.serial().as_bytes());
    assert_eq!(
        line,
        serde_json::json!({"peer_id": peer.id().as_str(), "class": verified.class(), "serial": serial})
    );
}

#[test]
fn no_more_than_the_latest_peers_are_kept() {
    let (verifier, chain) = verifier(PeerRole::Client);
    let known = verifier.outcome(&chain[0], &[], now()).unwrap();
    for number in 0..=MAX_KNOWN {
        let mut leaf_sha256 = [0; 32];
        leaf_sha256[..8].copy_from_slice(&number.to_be_bytes());
        let other = Arc::new(Verified::new(known.peer.clone(), leaf_sha256));
        verifier.remember(&other, now());
    }
    assert_eq!(verifier.known.lock().unwrap().len(), MAX_KNOWN);
    assert!(verifier.known(&known.leaf_sha256, now()).is_none());
}
