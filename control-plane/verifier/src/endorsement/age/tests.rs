//! What real judgements rest on, with dates that other tools read too.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::*;
use crate::dossier::{Kind, Rules, inspect};
use crate::judgement::{Judgement, Status};

type Named = Vec<(String, Vec<u8>)>;

fn case(folder: &str) -> Named {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(folder);
    let mut files: Named = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn borrowed(files: &Named) -> Vec<File<'_>> {
    files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

fn at(date: &str) -> SystemTime {
    time(timestamp(date).unwrap())
}

fn used_of(kind: Kind, files: &Named, cache: &Named, now: SystemTime) -> (Judgement, Vec<Dated>) {
    let (files, endorsements) = (borrowed(files), borrowed(cache));
    let dossier = Dossier {
        files: &files,
        endorsements: &endorsements,
    };
    let judge = |dossier: Dossier<'_>| {
        inspect(kind, dossier, &Rules::default(), now)
            .judgement()
            .clone()
    };
    (judge(dossier), used(dossier, judge))
}

fn names(found: &[Dated]) -> Vec<(&str, &str)> {
    found
        .iter()
        .map(|one| (one.file.as_str(), one.what.as_str()))
        .collect()
}

#[test]
fn a_report_rests_on_its_key_and_not_on_what_a_cache_has_besides() {
    let files = case("snp/milan-v2-vcek");
    let cache = [case("snp/turin-v5-azure-aci"), files.clone()].concat();
    let now = at("2025-06-01T00:00:00Z");
    let (judgement, found) = used_of(Kind::SevSnp, &files, &cache, now);
    assert_eq!(judgement.status, Status::Affirming);
    assert_eq!(names(&found), [("vek.der", "certificate `SEV-VCEK`")]);
    let [key] = found.as_slice() else { panic!() };
    assert_eq!(key.state(now), State::Valid);
    assert_eq!(key.age(now), now.duration_since(key.issued()).unwrap());
    let end = key.until().unwrap();
    assert_eq!(key.state(end), State::Valid);
    assert_eq!(key.state(end + Duration::from_secs(1)), State::Expired);
    assert_eq!(key.state(UNIX_EPOCH), State::NotYetValid);
    assert_eq!(key.age(UNIX_EPOCH), Duration::ZERO);
}

#[test]
fn a_quote_rests_on_its_chain_and_on_what_intel_says() {
    let files = case("tdx/v4-uptodate-dstack");
    let now = at("2025-07-01T00:00:00Z");
    let (judgement, found) = used_of(Kind::Tdx, &files, &Vec::new(), now);
    assert_eq!(judgement.status, Status::Affirming);
    let held = names(&found);
    for wanted in [
        ("collateral.json", "TCB info of FMSPC b0c06f000000"),
        ("collateral.json", "identity of `TD_QE`"),
        ("collateral.json", "revocation list of `Intel SGX Root CA`"),
        ("collateral.json", "certificate `Intel SGX TCB Signing`"),
    ] {
        assert!(held.contains(&wanted), "{wanted:?} in {held:#?}");
    }
    assert!(
        found.iter().all(|one| one.state(now) == State::Valid),
        "{found:#?}"
    );
}

#[test]
fn an_endorsement_that_ended_is_among_those_that_count() {
    let files = case("tdx/neg-collateral-expired");
    let now = at("2025-09-01T00:00:00Z");
    let (judgement, found) = used_of(Kind::Tdx, &files, &Vec::new(), now);
    assert_ne!(judgement.status, Status::Affirming);
    assert!(
        found
            .iter()
            .any(|one| one.file == "collateral.json" && one.state(now) == State::Expired),
        "{} {found:#?}",
        judgement.reason
    );
}

#[test]
fn a_device_rests_on_chain_manifests_and_answers() {
    let files = case("nvidia/hopper-550.90.07-full");
    let now = at("2025-10-24T12:00:00Z");
    let (_, found) = used_of(Kind::NvidiaGpu, &files, &Vec::new(), now);
    let of = |file: &str| { found.iter() }.find(|one| one.file == file).cloned();
    let driver = of("driver-rim.xml").unwrap();
    assert!(driver.what.contains("version 550.90.07"), "{}", driver.what);
    assert_eq!(driver.state(now), State::Valid);
    assert!(of("vbios-rim.xml").is_some() && of("chain.pem").is_some());
    let stale = of("ocsp-gpu_certificate_l2.b64").unwrap();
    assert!(stale.what.starts_with("OCSP answer"), "{}", stale.what);
    assert_eq!(stale.state(now), State::Expired);
}

#[test]
fn an_enclaves_document_brings_its_chain_along() {
    let files = case("nitro/prod-dstack-1");
    let now = at("2025-12-25T13:30:00Z");
    let (judgement, found) = used_of(Kind::Nitro, &files, &Vec::new(), now);
    assert_eq!(judgement.status, Status::Affirming);
    assert!(found.len() >= 3, "{found:#?}");
    assert!(found.iter().all(|one| one.file == "doc.cose"));
    let shortest = found.iter().filter_map(Dated::until).min().unwrap();
    let lifetime = shortest.duration_since(now).unwrap();
    assert!(lifetime < Duration::from_secs(4 * 3600), "{lifetime:?}");
}

#[test]
fn evidence_that_is_refused_at_once_rests_on_nothing_else() {
    let mut files = case("snp/milan-v2-vcek");
    for (name, bytes) in &mut files {
        if name == "report.bin" {
            bytes.truncate(100);
        }
    }
    let (judgement, found) = used_of(Kind::SevSnp, &files, &Vec::new(), UNIX_EPOCH);
    assert_eq!(judgement.reason, "report_malformed");
    assert_eq!(found, []);
}

/// An enclave's document has a chain of five, whose last lives three hours; what is over already counts for nothing.
#[test]
fn the_first_end_is_that_of_the_shortest_lived_piece_that_holds() {
    let document = case("nitro/prod-evervault");
    let document: Named = document
        .into_iter()
        .filter(|(name, _)| name == "doc.cose")
        .collect();
    let files = borrowed(&document);
    let all = dated(&files[0]);
    let ends: Vec<_> = { all.iter() }
        .map(|one| (one.issued(), one.until().unwrap()))
        .collect();
    assert_eq!(ends.len(), 5, "{ends:?}");
    let (begin, end) = *ends.iter().min_by_key(|(_, end)| *end).unwrap();
    assert_eq!(end.duration_since(begin).unwrap().as_secs(), 3 * 3600 + 3);
    assert_eq!(
        first_end(&files, begin + Duration::from_secs(60)),
        Some(end)
    );
    let later = first_end(&files, end + Duration::from_secs(1));
    assert!(later.is_some_and(|later| later > end), "{later:?}");
    assert_eq!(first_end(&[], end), None);
}
