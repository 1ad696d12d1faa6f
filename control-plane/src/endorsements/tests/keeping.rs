//! Keeping: nothing good is displaced, nothing survives unverified, nothing is used past its end.

use std::path::PathBuf;

use super::vendor::{QE, ok, status};
use super::*;

/// Two genuine editions of one identity, both valid then.
const BOTH: &str = "2025-07-10T00:00:00Z";

fn older() -> Intel {
    Intel::of("tdx/v4-uptodate-dstack")
}

fn newer() -> Intel {
    Intel::of("tdx/v4-gcp-padded-8000")
}

/// The date of the edition that is held.
fn edition(endorsements: &Endorsements) -> String {
    let held = endorsements.valid();
    let [held] = held.as_slice() else {
        panic!("{held:?}")
    };
    let issued: jiff::Timestamp = held.issued().try_into().unwrap();
    issued.to_string()
}

const OLD: &str = "2025-06-19T10:32:27Z";
const NEW: &str = "2025-07-07T09:20:26Z";

/// Asks for what is due and waits for what comes of it.
async fn renew(endorsements: &Endorsements) {
    endorsements.renew();
    let flights: Vec<Flight> = lock(&endorsements.0.flights).values().cloned().collect();
    for mut flight in flights {
        drop(flight.wait_for(Option::is_some).await);
    }
}

#[tokio::test]
async fn what_ends_is_renewed_before_its_end() {
    let vendor = Vendor::start().await;
    vendor.set(QE, older().qe_identity());
    let hand = Hand::at("2025-07-09T00:00:00Z");
    let endorsements = intel(&vendor, &hand);
    endorsements.gather(&[QE_IDENTITY], "dev/api").await;
    renew(&endorsements).await;
    assert_eq!(vendor.asked().len(), 1);
    hand.set(BOTH);
    vendor.set(QE, newer().qe_identity());
    renew(&endorsements).await;
    assert_eq!(
        (vendor.asked().len(), edition(&endorsements)),
        (2, NEW.into())
    );
}

#[tokio::test]
async fn a_poisoned_answer_never_displaces_a_good_one() {
    let vendor = Vendor::start().await;
    vendor.set(QE, older().qe_identity());
    let hand = Hand::at("2025-07-09T00:00:00Z");
    let endorsements = intel(&vendor, &hand);
    endorsements.gather(&[QE_IDENTITY], "dev/api").await;
    for (day, poison) in (10..).zip([
        ok("{}"),
        ok("<html>"),
        status(404),
        Intel::of("sgx/sgx-v3-confswhardening").qe_identity(),
        older().tcb_info(),
    ]) {
        hand.set(&format!("2025-07-{day}T06:00:00Z"));
        vendor.set(QE, poison);
        let asked = vendor.asked().len();
        renew(&endorsements).await;
        assert_eq!(vendor.asked().len(), asked + 1);
        assert_eq!(edition(&endorsements), OLD);
        let gathered = endorsements.gather(&[QE_IDENTITY], "dev/api").await;
        assert!(gathered.missing.is_empty(), "{gathered:?}");
    }
}

#[tokio::test]
async fn an_older_edition_never_displaces_a_newer_one() {
    let vendor = Vendor::start().await;
    vendor.set(QE, newer().qe_identity());
    let hand = Hand::at(BOTH);
    let endorsements = intel(&vendor, &hand);
    endorsements.gather(&[QE_IDENTITY], "dev/api").await;
    vendor.set(QE, older().qe_identity());
    hand.set("2025-07-11T12:00:00Z");
    renew(&endorsements).await;
    assert_eq!(
        (vendor.asked().len(), edition(&endorsements)),
        (2, NEW.into())
    );
}

#[tokio::test]
async fn what_is_held_is_used_to_its_end_while_its_vendor_is_down_and_not_longer() {
    let vendor = Vendor::start().await;
    vendor.set(QE, older().qe_identity());
    let hand = Hand::at(NOON);
    let endorsements = intel(&vendor, &hand);
    endorsements.gather(&[QE_IDENTITY], "dev/api").await;
    vendor.set(QE, status(404));
    hand.set("2025-07-19T10:32:27Z");
    renew(&endorsements).await;
    assert!(
        endorsements
            .gather(&[QE_IDENTITY], "")
            .await
            .missing
            .is_empty()
    );
    hand.set("2025-07-19T10:32:28Z");
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(reason(&gathered), ("endorsement_expired", "not_found"));
    assert_eq!(gathered.refusal().unwrap().0, "endorsement_expired");
}

#[tokio::test]
async fn what_was_revoked_stays_revoked_while_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    crate::files::private_folder(&data).unwrap();
    let vendor = Vendor::start().await;
    let list = vendor::data("testdata/snp/crl-milan-empty/crl.der");
    vendor.set("/vcek/v1/Milan/crl", ok(list.clone()));
    let sources = EndorsementSources {
        amd_kds: vendor.base.clone(),
        ..sources()
    };
    let hand = Hand::at("2026-01-01T00:00:00Z");
    let endorsements = open(sources.clone(), &data, &hand);
    let need = [Need::AmdCrl {
        product: vouchsafe_verifier::evidence::sev_snp::Product::Milan,
        signer: vouchsafe_verifier::endorsement::need::AmdSigner::Vcek,
    }];
    assert!(endorsements.gather(&need, "").await.missing.is_empty());
    endorsements.write();
    vendor.set("/", status(404));
    vendor.set("/vcek/v1/Milan/crl", status(404));
    hand.set("2026-06-01T00:00:00Z");
    // Also after a restart.
    for endorsements in [endorsements, open(sources, &data, &hand)] {
        let gathered = endorsements.gather(&need, "").await;
        assert_eq!(reason(&gathered), ("endorsement_expired", "not_found"));
        assert_eq!(gathered.files[0].endorsement.bytes(), list);
        assert!(endorsements.valid().is_empty());
    }
}

fn open(sources: EndorsementSources, data: &Path, hand: &Hand) -> Endorsements {
    let metrics = EndorsementMetrics::new().unwrap();
    Endorsements::open(sources, data, metrics, hand.clock(), VendorRoots::PINNED).unwrap()
}

fn object(data: &Path) -> PathBuf {
    data.join("endorsements/objects/intel-qe-identity-tdx.json")
}

/// A folder that holds one identity, and the server that is asked for more.
async fn filled(data: &Path, hand: &Hand) -> (Vendor, EndorsementSources) {
    let vendor = Vendor::start().await;
    vendor.set(QE, older().qe_identity());
    let sources = EndorsementSources {
        intel_pcs: vendor.base.clone(),
        ..sources()
    };
    let endorsements = open(sources.clone(), data, hand);
    endorsements.gather(&[QE_IDENTITY], "dev/api").await;
    endorsements.write();
    (vendor, sources)
}

#[tokio::test]
async fn what_was_fetched_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    crate::files::private_folder(&data).unwrap();
    let hand = Hand::at(NOON);
    let (vendor, sources) = filled(&data, &hand).await;
    let again = open(sources, &data, &hand);
    let gathered = again.gather(&[QE_IDENTITY], "dev/api").await;
    assert_eq!((gathered.files.len(), vendor.asked().len()), (1, 1));
    let listed = again.list();
    assert_eq!(listed[0].users, ["dev/api"]);
    assert_eq!(listed[0].origin, "intel_pcs");
}

#[tokio::test]
async fn a_kept_file_that_somebody_changed_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    crate::files::private_folder(&data).unwrap();
    let hand = Hand::at(NOON);
    let (vendor, sources) = filled(&data, &hand).await;
    let whole = std::fs::read(object(&data)).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    for changed in [
        text.replace("isvprodid\\\":2", "isvprodid\\\":3")
            .into_bytes(),
        whole[..whole.len() / 2].to_vec(),
        vec![],
        vec![b'{'; 5 * 1024 * 1024],
    ] {
        assert_ne!(changed, whole);
        std::fs::write(object(&data), changed).unwrap();
        let again = open(sources.clone(), &data, &hand);
        assert!(again.valid().is_empty());
        // It is fetched anew.
        let asked = vendor.asked().len();
        assert_eq!(again.gather(&[QE_IDENTITY], "").await.files.len(), 1);
        assert_eq!(vendor.asked().len(), asked + 1);
    }
    let index = data.join("endorsements/index/intel-qe-identity-tdx.json.json");
    for changed in [
        "",
        "{}",
        "[]",
        "{\"need\":{\"name\":\"intel-root-crl.json\"},\"fetched_ms\":1}",
    ] {
        std::fs::write(&index, changed).unwrap();
        assert!(open(sources.clone(), &data, &hand).list().is_empty());
    }
}

#[tokio::test]
async fn what_another_process_imports_is_noticed_and_an_older_edition_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    crate::files::private_folder(&data).unwrap();
    let hand = Hand::at(BOTH);
    let offline = EndorsementSources {
        offline: true,
        ..sources()
    };
    let running = open(offline.clone(), &data, &hand);
    assert_eq!(
        reason(&running.gather(&[QE_IDENTITY], "").await).1,
        "offline"
    );
    let file = |intel: Intel| {
        let vendor::Reply::Answer(_, headers, body) = intel.qe_identity() else {
            unreachable!()
        };
        QE_IDENTITY.read_answer(&body, Some(&headers[0].1)).unwrap()
    };
    let import = |bytes: &[u8]| {
        let command = open(offline.clone(), &data, &hand);
        let kept = command.import(&QE_IDENTITY, bytes, "import").unwrap();
        command.write();
        kept
    };
    assert_eq!(import(&file(newer())), Kept::New);
    running.0.read_folder();
    assert_eq!(running.gather(&[QE_IDENTITY], "").await.files.len(), 1);
    assert_eq!(edition(&running), NEW);
    assert_eq!(import(&file(newer())), Kept::Same);
    assert_eq!(import(&file(older())), Kept::Older);
    running.0.read_folder();
    assert_eq!(edition(&running), NEW);
    // Even a file that was put there by hand displaces nothing, and is put right.
    std::fs::write(object(&data), file(older())).unwrap();
    lock(&running.0.seen).clear();
    running.0.read_folder();
    assert_eq!(edition(&running), NEW);
    running.write();
    assert_eq!(std::fs::read(object(&data)).unwrap(), file(newer()));
}

#[test]
fn a_cache_that_is_full_forgets_what_was_used_longest_ago() {
    let mut cache = Cache::new();
    let need = |number: u32| Need::NvidiaRim {
        id: vouchsafe_verifier::endorsement::need::RimId::new(format!("NV_{number}")).unwrap(),
    };
    let at = |number: u32| UNIX_EPOCH + Duration::from_secs(1_000_000 + u64::from(number));
    for number in 0..9000 {
        assert!(cache.take(&need(number), "user", at(number)).is_none());
    }
    let listed = cache.list();
    assert_eq!(listed.len(), 8192);
    assert!(cache.take_evicted().contains(&need(0).name()));
    assert!(listed.iter().any(|index| index.need == need(8999)));
    assert!(listed.iter().all(|index| index.need != need(0)));
}
