//! What each fuzz target does with its bytes. Ordinary tests replay the corpora through the same functions
//! (`tests/corpus.rs` of the crate), so that a crash that was found once stays fixed on stable.

use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use vouchsafe_attestation::connection_proof::ConnectionProof;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::Leaf;
use vouchsafe_attestation::trust_bundle::TrustBundle;

/// The extension of a certificate: what is read is written again as the same bytes, unless it has claims of a later
/// version, which are left out.
pub fn attestation_result(data: &[u8]) {
    if let Ok(result) = AttestationResult::decode(data) {
        let again = result.encode().expect("what was read fits its own bounds");
        assert!(again.len() <= data.len());
        assert_eq!(
            AttestationResult::decode(&again).expect("what we write"),
            result
        );
    }
}

/// A leaf certificate, and a chain of it under no authority: never a peer.
pub fn leaf(data: &[u8]) {
    let _ = Leaf::parse(data);
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let chain = [CertificateDer::from(data)];
    assert!(verify_peer(&chain, &TrustBundle::default(), PeerRole::Client, now).is_err());
}

/// A SPIFFE ID: what parses prints as it was written.
pub fn spiffe_id(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = text.parse::<SpiffeId>()
    {
        assert_eq!(id.to_string(), text);
    }
}

/// A proof over a connection: what is read is written again as the same bytes.
pub fn connection_proof(data: &[u8]) {
    if let Ok(proof) = ConnectionProof::parse(data) {
        assert_eq!(proof.encode().as_deref(), Some(data));
    }
}
