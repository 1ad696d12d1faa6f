//! Responses of our own, in which every input of every check can be turned, and NVIDIA's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::maker::{Answerer, Authority, key, params, revoked, time};
use super::*;
use crate::der::Reader;

macro_rules! vector {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/testdata/nvidia/hopper-550.90.07-full/",
            $name
        ))
    };
}

struct Pair {
    issuer: Authority,
    certificate: Vec<u8>,
}

fn pair() -> Pair {
    let issuer = Authority::root("issuer");
    let certificate = issuer.certify(&params("leaf", 4000), &key());
    Pair {
        issuer,
        certificate,
    }
}

fn judge(pair: &Pair, change: impl FnOnce(&mut Answerer)) -> Result<Answer, OcspError> {
    let mut answerer = Answerer::default();
    change(&mut answerer);
    let bytes = answerer.answer(&pair.certificate, &pair.issuer);
    Response::parse(&bytes)?.verify(&pair.certificate, &pair.issuer.der, Some(b"sent"))
}

#[test]
fn response_as_it_should_be_is_good() {
    let pair = pair();
    for change in [
        |_: &mut Answerer| {},
        |a: &mut Answerer| a.by_issuer = true,
        |a: &mut Answerer| a.by_name = true,
        |a: &mut Answerer| a.hash = SHA1,
        |a: &mut Answerer| a.hash = SHA256,
        |a: &mut Answerer| a.hash = SHA512,
        |a: &mut Answerer| a.nonce = Some(b"sent"),
        // Without a word on its use a key may be used for what its extended use says (RFC 5280 §4.2.1.3).
        |a: &mut Answerer| a.responder_has_key_usage = false,
        |a: &mut Answerer| a.certificates = 8,
    ] {
        let answer = judge(&pair, change).unwrap();
        assert_eq!(answer.status, CertificateStatus::Good);
        assert_eq!(answer.next_update, time(2001));
    }
}

#[test]
fn every_check_of_a_response_fails_by_itself() {
    let pair = pair();
    let check = |reason: &str, change: fn(&mut Answerer)| {
        let error = judge(&pair, change).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    };
    check("ocsp_refused", |a| a.response_status = 3);
    check("ocsp_malformed", |a| a.trailing = true);
    check("ocsp_malformed", |a| a.critical = true);
    check("ocsp_malformed", |a| a.status = vec![0x80, 1, 0]);
    check("ocsp_malformed", |a| a.status = vec![0x83, 0]);
    check("ocsp_other_certificate", |a| a.serial_is_other = true);
    check("ocsp_other_certificate", |a| a.issuer_name_is_other = true);
    check("ocsp_other_certificate", |a| a.issuer_key_is_other = true);
    check("ocsp_other_certificate", |a| a.hash = &[0x2a, 3]);
    check("ocsp_other_certificate", |a| a.twice = true);
    check("ocsp_responder", |a| a.responder_is_of_other = true);
    check("ocsp_responder", |a| a.responder_is_missing = true);
    check("ocsp_responder", |a| a.responder_may_answer = false);
    check("ocsp_responder", |a| a.responder_may_sign = false);
    check("ocsp_responder", |a| a.responder_is_critical = true);
    check("ocsp_malformed", |a| a.certificates = 9);
    check("ocsp_malformed", |a| {
        a.nonce = Some(b"sent");
        a.nonce_is_twice = true;
    });
    check("ocsp_responder", |a| a.responder_until = 1999);
    check("ocsp_signature", |a| a.signed_by_other = true);
    check("ocsp_signature", |a| {
        (a.by_issuer, a.signed_by_other) = (true, true);
    });
    check("ocsp_nonce", |a| a.nonce = Some(b"other"));
}

#[test]
fn response_about_one_certificate_says_nothing_about_another() {
    let pair = pair();
    let bytes = Answerer::default().answer(&pair.certificate, &pair.issuer);
    let response = Response::parse(&bytes).unwrap();
    let sibling = pair.issuer.certify(&params("leaf", 4000), &key());
    let found = response.verify(&sibling, &pair.issuer.der, None);
    assert_eq!(found, Err(OcspError::OtherCertificate));
    let namesake = Authority::root("issuer");
    let found = response.verify(&pair.certificate, &namesake.der, None);
    assert_eq!(found, Err(OcspError::OtherCertificate));
}

#[test]
fn status_is_what_the_issuer_says() {
    let pair = pair();
    let status = |status: Vec<u8>| judge(&pair, |a| a.status = status).unwrap().status;
    let at = time(1500);
    let (forever, hold) = (false, true);
    for (reason, is_hold) in [(None, forever), (Some(1), forever), (Some(6), hold)] {
        let expected = CertificateStatus::Revoked { at, is_hold };
        assert_eq!(status(revoked(reason)), expected);
    }
    let unknown = maker::UNKNOWN_STATUS.to_vec();
    assert_eq!(status(unknown), CertificateStatus::Unknown);
}

#[test]
fn answer_holds_from_its_beginning_to_its_end_and_no_longer_than_its_responder() {
    let pair = pair();
    let second = Duration::from_secs(1);
    let check = |change: fn(&mut Answerer), now: SystemTime, expected: Freshness| {
        let answer = judge(&pair, change).unwrap();
        assert_eq!(answer.freshness(now), expected);
    };
    check(|_| {}, time(2000) - TOLERANCE - second, Freshness::NotYet);
    check(|_| {}, time(2000) - TOLERANCE, Freshness::Current);
    check(|_| {}, time(2001), Freshness::Current);
    check(|_| {}, time(2001) + second, Freshness::Stale);
    check(|a| a.next_update = None, time(2001), Freshness::Current);
    let without_end = |a: &mut Answerer| a.next_update = None;
    check(without_end, time(2001) + second, Freshness::Stale);
    let short = |a: &mut Answerer| (a.next_update, a.responder_until) = (Some(2900), 2100);
    check(short, time(2100), Freshness::Current);
    check(short, time(2101), Freshness::Stale);
}

#[test]
fn every_flip_and_every_truncation_of_a_response_fails() {
    let pair = pair();
    let whole = Answerer::default().answer(&pair.certificate, &pair.issuer);
    assert!(judge_bytes(&whole, &pair).is_ok());
    for index in 0..whole.len() {
        assert!(
            judge_bytes(&whole[..index], &pair).is_err(),
            "cut at {index}"
        );
        let mut flipped = whole.clone();
        flipped[index] ^= 1 << (index % 8);
        let found = judge_bytes(&flipped, &pair);
        assert!(found.is_err(), "byte {index} flipped: {found:?}");
    }
}

fn judge_bytes(bytes: &[u8], pair: &Pair) -> Result<Answer, OcspError> {
    Response::parse(bytes)?.verify(&pair.certificate, &pair.issuer.der, None)
}

#[test]
fn request_names_the_certificate_as_the_response_does() {
    let pair = pair();
    let request = request(&pair.certificate, &pair.issuer.der, Some(b"nonce")).unwrap();
    let response = Answerer::default().answer(&pair.certificate, &pair.issuer);
    let id = find(&response, 0x30, &[0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48]);
    assert!(contains(&request, id), "{}", hex::encode(&request));
    assert!(contains(&request, b"nonce"));
}

/// The element with this tag that begins with `content`.
fn find<'a>(bytes: &'a [u8], tag: u8, content: &[u8]) -> &'a [u8] {
    let at = (0..bytes.len())
        .find(|at| {
            let mut reader = Reader(&bytes[*at..]);
            let found = reader.content(tag, "");
            found.is_ok_and(|found| found.starts_with(content))
        })
        .unwrap();
    Reader(&bytes[at..]).element(tag, "").unwrap().whole
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// NVIDIA's response, its certificate's place in the chain.
const OF_DEVICE: [(&str, usize); 3] = [
    (vector!("ocsp-gpu_certificate_l4.b64"), 1),
    (vector!("ocsp-gpu_certificate_l3.b64"), 2),
    (vector!("ocsp-gpu_certificate_l2.b64"), 3),
];

#[test]
fn nvidias_responses_are_good() {
    let chain = x509::certificates(vector!("chain.pem").as_bytes()).unwrap();
    for (response, index) in OF_DEVICE {
        let bytes = STANDARD.decode(response.trim()).unwrap();
        let parsed = Response::parse(&bytes).unwrap();
        let answer = parsed
            .verify(&chain[index], &chain[index + 1], None)
            .unwrap();
        assert_eq!(answer.status, CertificateStatus::Good);
        let lifetime = answer.next_update.duration_since(answer.this_update);
        assert_eq!(lifetime.unwrap(), Duration::from_secs(86_400));
        assert!(!parsed.is_about(&chain[index - 1], &chain[index]).unwrap());
    }
}

#[test]
fn response_that_is_larger_than_any_is_not_read() {
    let bytes = vec![0x30; 64 * 1024 + 1];
    let found = Response::parse(&bytes).err();
    assert_eq!(found, Some(OcspError::TooLarge(bytes.len())));
}
