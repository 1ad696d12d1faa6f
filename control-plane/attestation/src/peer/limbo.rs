//! The x509-limbo suite against our path validation.
//!
//! Its leaves name DNS hosts, so our profile refuses every one of them before a path is looked for; that alone would
//! prove nothing. So each case goes through [`verify_path`] too, the very function that `verify_peer` uses, with the
//! case's roots as authorities. What limbo refuses we must refuse, but for [`BY_DESIGN`].
//!
//! `testdata/limbo.json` is C2SP/x509-limbo (Apache-2.0) with only the fields that are used here.

use std::collections::BTreeMap;

use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use super::*;

/// Cases that limbo refuses and path validation alone accepts, by what decides them elsewhere.
const BY_DESIGN: &[(&str, &[&str])] = &[
    (
        "host names are no identity here: the leaf's profile demands one SPIFFE ID instead",
        &[
            "rfc5280::san::ip-in-dns",
            "rfc5280::san::noncritical-with-empty-subject",
            "rfc5280::san::underscore-dns",
            "webpki::cn::case-mismatch",
            "webpki::cn::ipv4-hex-mismatch",
            "webpki::cn::ipv4-leading-zeros-mismatch",
            "webpki::cn::ipv6-non-rfc5952-mismatch",
            "webpki::cn::ipv6-uncompressed-mismatch",
            "webpki::cn::ipv6-uppercase-mismatch",
            "webpki::cn::not-in-san",
            "webpki::cn::punycode-not-in-san",
            "webpki::cn::utf8-vs-punycode-mismatch",
            "webpki::san::mismatch-apex-subdomain-san",
            "webpki::san::mismatch-domain-san",
            "webpki::san::mismatch-subdomain-apex-san",
            "webpki::san::mismatch-subdomain-san",
            "webpki::san::no-san",
            "webpki::san::public-suffix-multi-label-wildcard-san",
            "webpki::san::public-suffix-private-namespace-wildcard-san",
            "webpki::san::public-suffix-wildcard-san",
            "webpki::san::san-critical-with-nonempty-subject",
            "webpki::san::san-wildcard-only",
            "webpki::san::san-wildcard-only-tld",
            "webpki::san::unicode-emoji-san",
            "webpki::san::wildcard-embedded-leftmost-san",
            "webpki::san::wildcard-embedded-ulabel-san",
            "webpki::san::wildcard-match-across-labels-san",
            "webpki::san::wildcard-not-in-leftmost-san",
        ],
    ),
    (
        "constraints on host names bind no SPIFFE ID: which trust domain an authority speaks for is the bundle's matter",
        &[
            "pathological::nc-dos-3",
            "rfc5280::nc::invalid-dnsname-leading-period",
            "rfc5280::nc::not-allowed-in-ee-critical",
            "rfc5280::nc::not-allowed-in-ee-noncritical",
            "rfc5280::nc::permitted-dns-match-noncritical",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-null",
        ],
    ),
    (
        "decided by the leaf's profile before a path is looked for",
        &[
            "rfc5280::leaf-ku-keycertsign",
            "rfc5280::serial::too-long",
            "rfc5280::serial::zero",
        ],
    ),
    (
        "an anchor is a name and a key that the operator pinned: what else its certificate says binds nobody (RFC 5280 \
         §6.1.1 d)",
        &[
            "rfc5280::aki::cross-signed-root-missing-aki",
            "rfc5280::ca-empty-subject",
            "rfc5280::root-non-critical-basic-constraints",
            "rfc5280::ski::root-missing-ski",
            "rfc5280::unknown-critical-extension-root",
            "webpki::aki::root-with-aki-all-fields",
            "webpki::aki::root-with-aki-authoritycertissuer",
            "webpki::aki::root-with-aki-authoritycertserialnumber",
            "webpki::aki::root-with-aki-missing-keyidentifier",
            "webpki::aki::root-with-aki-ski-mismatch",
            "webpki::eku::root-has-eku",
            "webpki::forbidden-rsa-not-divisible-by-8-in-root",
        ],
    ),
    (
        "rules for issuers that relying parties need not check: key identifiers only help to build paths",
        &[
            "rfc5280::aki::critical-aki",
            "rfc5280::aki::intermediate-missing-aki",
            "rfc5280::aki::leaf-missing-aki",
            "rfc5280::pc::ica-noncritical-pc",
            "rfc5280::ski::critical-ski",
            "rfc5280::ski::intermediate-missing-ski",
            "webpki::malformed-aia",
        ],
    ),
    (
        "SPIFFE leaves may leave extended key usage out; where stated it is enforced (X509-SVID §4.4)",
        &[
            "webpki::eku::ee-anyeku",
            "webpki::eku::ee-critical-eku",
            "webpki::eku::ee-without-eku",
        ],
    ),
    (
        "the handshake decides: no TLS 1.3 signature scheme of ours fits such a leaf key",
        &[
            "webpki::forbidden-dsa-leaf",
            "webpki::forbidden-p192-leaf",
            "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
            "webpki::forbidden-weak-rsa-in-leaf",
        ],
    ),
    (
        "no CRLs: certificates live for an hour, and revocation is a part of the mesh state",
        &[
            "crl::crlnumber-critical",
            "crl::crlnumber-missing",
            "crl::issuer-missing-crlsign",
            "crl::revoked-certificate-with-crl",
        ],
    ),
    (
        "limits that the case's caller sets; ours is a fixed length of chain",
        &[
            "pathlen::max-chain-depth-0-exhausted",
            "pathlen::max-chain-depth-1-exhausted",
        ],
    ),
];

struct Case {
    id: String,
    refused: bool,
    role: PeerRole,
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    now: SystemTime,
}

fn cases() -> Vec<Case> {
    let suite: Value = serde_json::from_str(include_str!("../../testdata/limbo.json")).unwrap();
    let cases = suite["testcases"].as_array().unwrap();
    cases.iter().map(Case::read).collect()
}

impl Case {
    fn read(case: &Value) -> Self {
        let list = |name: &str| -> Vec<CertificateDer<'static>> {
            let all = case[name].as_array().unwrap().iter();
            all.map(|pem| certificate(pem.as_str().unwrap())).collect()
        };
        let mut chain = vec![certificate(case["peer_certificate"].as_str().unwrap())];
        chain.extend(list("untrusted_intermediates"));
        Self {
            id: case["id"].as_str().unwrap().to_owned(),
            refused: case["expected_result"] == "FAILURE",
            role: match case["validation_kind"].as_str().unwrap() {
                "CLIENT" => PeerRole::Client,
                _ => PeerRole::Server,
            },
            roots: list("trusted_certs"),
            chain,
            now: now(&case["validation_time"]),
        }
    }

    /// What path validation says, with those roots that can be authorities at all.
    fn path(&self) -> Result<(), VerifyPeerError> {
        let trust_domain: TrustDomain = "limbo.example".parse().unwrap();
        let seconds = crate::svid::unix_seconds(self.now);
        let authorities: Vec<Authority> = self
            .roots
            .iter()
            .filter_map(|root| Authority::new(trust_domain.clone(), root, false).ok())
            .filter(|authority| authority.is_valid_at(seconds))
            .collect();
        let authorities: Vec<&Authority> = authorities.iter().collect();
        let (leaf, intermediates) = split(&self.chain)?;
        verify_path(leaf, intermediates, &authorities, self.role, self.now).map(drop)
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Where a case has no time of its own it means the present: one within all its certificates.
fn now(time: &Value) -> SystemTime {
    let seconds = match time.as_str() {
        None => 1_790_000_000,
        Some(text) => unix_seconds_of(text),
    };
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Seconds of `YYYY-MM-DDTHH:MM:SS+00:00` (days from civil, proleptic Gregorian).
fn unix_seconds_of(text: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    u64::try_from(days * 86_400 + seconds).unwrap_or(0)
}

#[test]
fn path_validation_refuses_what_limbo_refuses_but_for_what_others_decide() {
    let accepted: Vec<String> = cases()
        .into_iter()
        .filter(|case| case.refused && case.path().is_ok())
        .map(|case| case.id)
        .collect();
    let mut listed: Vec<&str> = BY_DESIGN
        .iter()
        .flat_map(|(_, cases)| cases.iter().copied())
        .collect();
    listed.sort_unstable();
    let mut found: Vec<&str> = accepted.iter().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn no_limbo_leaf_is_a_peer() {
    for case in cases() {
        let trust_domain: TrustDomain = "limbo.example".parse().unwrap();
        let authorities = case
            .roots
            .iter()
            .filter_map(|root| Authority::new(trust_domain.clone(), root, false).ok())
            .collect();
        let bundle = TrustBundle::new(authorities).unwrap_or_default();
        let refused = verify_peer(&case.chain, &bundle, case.role, case.now).map(drop);
        let reason = refused.map_err(|error| error.reason());
        assert!(
            matches!(reason, Err("certificate_profile" | "chain_too_long")),
            "{}: {reason:?}",
            case.id
        );
    }
}

#[test]
fn what_limbo_accepts_validates_but_for_what_we_refuse_on_purpose() {
    let mut refused = BTreeMap::new();
    for case in cases().into_iter().filter(|case| !case.refused) {
        if let Err(error) = case.path() {
            refused.insert(case.id, error.reason());
        }
    }
    let listed: BTreeMap<String, &str> = STRICTER
        .iter()
        .map(|(id, reason)| ((*id).to_owned(), *reason))
        .collect();
    assert_eq!(refused, listed);
}

/// Cases that limbo accepts and we refuse.
///
/// All of them fail closed: constraints on names that no SPIFFE path uses, authorities presented as leaves, self-issued
/// intermediates, and a chain of more than eight certificates.
const STRICTER: &[(&str, &str)] = &[
    ("cve::cve-2024-0567", "chain_too_long"),
    ("pathlen::self-issued-certs-pathlen", "untrusted_authority"),
    (
        "pathlen::validation-ignores-pathlen-in-leaf",
        "certificate_path",
    ),
    ("rfc5280::ca-as-leaf", "certificate_path"),
    ("rfc5280::nc::nc-permits-email-domain", "certificate_path"),
    ("rfc5280::nc::nc-permits-email-exact", "certificate_path"),
    (
        "rfc5280::nc::nc-permits-email-literal-asterisk-exact-match",
        "certificate_path",
    ),
    (
        "rfc5280::nc::nc-permits-email-literal-double-asterisk",
        "certificate_path",
    ),
    (
        "rfc5280::nc::nc-permits-email-literal-mid-asterisk",
        "certificate_path",
    ),
    ("rfc5280::nc::permitted-dn-match", "certificate_path"),
    ("rfc5280::nc::permitted-self-issued", "untrusted_authority"),
];
