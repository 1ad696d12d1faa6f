//! What each fuzz target does with its bytes. Ordinary tests replay the corpora through the same functions
//! (`tests/corpus.rs` of the verifier), so that a crash that was found once stays fixed on stable.

use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use vouchsafe_verifier::endorsement::EkRoots;
use vouchsafe_verifier::evidence::tpm::attest::Quote;
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::public::{Curve, Key, PublicArea};
use vouchsafe_verifier::evidence::tpm::signature::Signature;
use vouchsafe_verifier::evidence::tpm::{CheckedOffer, Offer};

/// A public area, by itself and as either key of an offer.
pub fn public_area(data: &[u8]) {
    if let Ok(public) = PublicArea::parse(data) {
        assert_eq!(public.as_bytes(), data);
        assert_eq!(public.name().len(), 2 + public.name_hash.digest_len());
    }
    let offer = Offer {
        ek_public: data.to_vec(),
        ek_chain: Vec::new(),
        ak_public: data.to_vec(),
    };
    // No key is both a storage key and a restricted signing key.
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    assert!(CheckedOffer::check(&offer, &EkRoots::default(), now).is_err());
}

/// A `TPMS_ATTEST`.
pub fn quote(data: &[u8]) {
    if let Ok(quote) = Quote::parse(data) {
        assert!(quote.extra_data.len() <= data.len());
        assert!(quote.selection.banks().count() <= 2);
    }
}

/// A `TPMT_SIGNATURE`.
pub fn signature(data: &[u8]) {
    let _ = Signature::parse(data);
}

/// A boot event log: parsed, replayed, asked for Secure Boot.
pub fn event_log(data: &[u8]) {
    if let Ok(log) = EventLog::parse(data) {
        assert!(log.events().len() <= data.len() / 16);
        for hash in HashAlgorithm::ALL {
            for pcr in 0..8 {
                if let Some(value) = log.replay(hash, pcr) {
                    assert_eq!(value.len(), hash.digest_len());
                }
            }
            let _ = log.secure_boot(hash);
        }
    }
}

/// A certificate of an endorsement key, without any pinned root: never certified.
pub fn ek_certificate(data: &[u8]) {
    let key = Key::Ecc {
        curve: Curve::P256,
        x: vec![1; 32],
        y: vec![2; 32],
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let chain = [CertificateDer::from(data)];
    assert!(EkRoots::default().verify(&chain, &key, now).is_err());
}
