//! What operators do while everything runs: rolling out images, and living with vendors that do not answer.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::Time;
use vouchsafe_control_plane::endorsements::Endorsements;
use vouchsafe_control_plane::telemetry::EndorsementMetrics;
use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::factory::Factory;
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::intel::{TCB_INFO, TrustDomain};
use vouchsafe_tests::vendor::service::Reply;
use vouchsafe_tests::wait;
use vouchsafe_verifier::endorsement::need::{AmdSigner, Need};
use vouchsafe_verifier::evidence::sev_snp::Product;

use super::{CHIP, GOOD, PPID, documents, documents_with, hex48, snp, soon, tdx};

const NEW: u8 = 0xbb;

#[test]
fn a_new_image_is_rolled_out_and_the_old_one_ends_without_a_restart() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let old_image = format!("{{name: llm-11, sha384: {}}}", hex48(GOOD));
    let before = documents_with(&old_image, "1s");
    let sources = vouchsafe_tests::factory::offline();
    let factory = Factory::start(&before, vendors.roots(), sources);
    let chip = vendors.amd.chip(CHIP);
    let (_old_guest, old) = snp(&chip, Guest::of(GOOD));
    let (old_sidecar, identity) = factory.admitted("old", "dev/snp", &old);
    assert_eq!(super::devices(&identity)[0]["claims"]["image"], "llm-11");
    // The new image is nobody's yet.
    let (_new_guest, new) = snp(&chip, Guest::of(NEW));
    let (reason, _) = factory.refused("early", "dev/snp", &new);
    assert_eq!(reason, "image");

    let until = soon(6);
    let both = format!(
        "{{name: llm-12, sha384: {}, max_instances: 1}}, {{name: llm-11, sha384: {}, until: \"{}\"}}",
        hex48(NEW),
        hex48(GOOD),
        Time::new(until).expect("it is of this age"),
    );
    factory.write_policy(&documents_with(&both, "1s"));
    let mut new_sidecar = factory
        .sidecar("new", "dev/snp", &new)
        .start(factory.path());
    new_sidecar.wait_ready();
    let identity = new_sidecar.admin("/certs")["identity"].clone();
    assert_eq!(super::devices(&identity)[0]["claims"]["image"], "llm-12");
    let end = super::unix_ms(until);
    // The old one goes on until its image ends, and no certificate of it lasts longer.
    let records = wait::until("the old image to be refused", || {
        let records = factory.records();
        let is_over = records.iter().any(|one| {
            one["kind"] == "refused" && one["reason"] == "image" && one["time"].as_u64() > Some(end)
        });
        is_over.then_some(records)
    });
    let outlived = records.iter().filter(|one| {
        let is_late = one["time"].as_u64() > Some(end);
        one["kind"] == "issued" && is_late && one["instance"] == old_instance(&records)
    });
    assert_eq!(outlived.count(), 0, "{records:?}");
    wait::until("the old sidecar to have no identity", || {
        (!old_sidecar.is_ready()).then_some(())
    });
    assert!(new_sidecar.is_ready());
}

/// The instance that was issued to first.
fn old_instance(records: &[serde_json::Value]) -> serde_json::Value {
    let mut issued = records.iter().filter(|one| one["kind"] == "issued");
    issued.next().expect("somebody was admitted")["instance"].clone()
}

#[test]
fn a_vendor_that_does_not_answer_is_no_verdict_and_holds_nobody_else_up() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * 86_400));
    service.set(TCB_INFO, Reply::Hang);
    let mut sources = service.sources();
    // Longer than this test waits for anything.
    sources.wait = Duration::from_secs(45);
    let factory = Factory::start(&documents(), vendors.roots(), sources);
    let processor = vendors.intel.processor(PPID, soon(90 * 86_400));
    let (_tdx_guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let held_up = factory
        .sidecar("tdx", "dev/tdx", &attester)
        .start(factory.path());
    wait::until("the service to be asked", || {
        (service.count(TCB_INFO) > 0).then_some(())
    });
    // Meanwhile a machine of another make is admitted.
    let (_snp_guest, attester) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let (_snp, _) = factory.admitted("snp", "dev/snp", &attester);
    assert!(!held_up.is_ready());
    let refused = |factory: &Factory| {
        let mut records = factory.records().into_iter();
        records.find(|one| one["kind"] == "refused" && one["workload"] == "dev/tdx")
    };
    assert_eq!(refused(&factory), None);
    // It breaks off: the reason is that of a missing statement, and names it.
    service.set(TCB_INFO, Reply::Answer(404, Vec::new(), Vec::new()));
    service.release();
    let refusal = wait::until("the trust domain to be refused", || refused(&factory));
    assert_eq!(refusal["reason"], "endorsement_missing", "{refusal}");
    let detail = refusal["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("intel-tcb-info"), "{detail}");
}

/// A list that is over revokes what it revokes, and vouches for nothing: so nothing ends with it.
#[test]
fn a_vendor_that_is_gone_since_its_list_ended_stops_nobody() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let days = |days: u32| SystemTime::now() - Duration::from_secs(86_400) * days;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = vendors.serve(days(1));
    let list = Need::AmdCrl {
        product: Product::Milan,
        signer: AmdSigner::Vcek,
    };
    // Ten days ago a control plane on this folder asked for the list, and was stopped.
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("the folder can be made");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&data, mode).expect("the folder is ours");
    let then = days(10);
    let metrics = EndorsementMetrics::new().expect("metrics have names");
    let clock = std::sync::Arc::new(move || then);
    let endorsements =
        Endorsements::open(service.sources(), &data, metrics, clock, vendors.roots());
    let endorsements = endorsements.expect("the folder is ours");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let gathered = endorsements.gather(&[list], "dev/snp").await;
        assert!(gathered.missing.is_empty(), "{:?}", gathered.missing);
        let (_stop, stopped) = tokio::sync::watch::channel(true);
        endorsements.run(stopped).await;
    });
    let nobody = Reply::Answer(404, Vec::new(), Vec::new());
    service.set("/vcek/v1/Milan/crl", nobody);
    let sources = service.sources();
    let factory = Factory::start_in(folder, &documents(), vendors.roots(), sources);
    let (_guest, attester) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let _snp = factory.admitted("snp", "dev/snp", &attester);
    let kept = super::kept(&factory, "dev/snp");
    let used = kept["endorsements"].as_array().expect("a list");
    assert_eq!(used.len(), 1, "the old list was judged by: {kept}");
}
