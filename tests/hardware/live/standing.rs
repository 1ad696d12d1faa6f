//! Trust between renewals, by evidence of hardware: parts are proven afresh, one that turned bad revokes and cuts, and
//! what a vendor says anew judges everything that lives again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use vouchsafe_control_plane::endorsements::Endorsements;
use vouchsafe_control_plane::telemetry::EndorsementMetrics;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::documents::{access, workload};
use vouchsafe_tests::factory::Factory;
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::intel::{FMSPC, TCB_INFO, TrustDomain};
use vouchsafe_tests::vendor::service::Service;
use vouchsafe_tests::wait;
use vouchsafe_verifier::endorsement::need::{IntelTee, Need};

use super::{Azure, CHIP, GOOD, GPUS, PPID, documents_with, hex48, snp, soon, tdx, with_gpus};

const DAY: u64 = 86_400;

fn documents(reattest: &str) -> String {
    let image = format!("{{name: llm-11, sha384: {}}}", hex48(GOOD));
    documents_with(&image, reattest)
}

/// Proofs of a part that were good so far: the archive keeps each.
fn confirmed(factory: &Factory, proof: &str) -> usize {
    let folder = std::fs::read_dir(factory.data().join("archive/confirmed"));
    let files = folder.expect("the archive has the folder").flatten();
    let bundles = files.filter_map(|file| {
        let bundle = std::fs::read(file.path()).ok()?;
        serde_json::from_slice::<Value>(&bundle).ok()
    });
    bundles
        .filter(|bundle| bundle["outcome"]["confirmed"]["proof"] == proof)
        .count()
}

fn standings(factory: &Factory) -> Vec<Value> {
    let records = factory.records().into_iter();
    records
        .filter(|record| record["kind"] == "standing_changed")
        .collect()
}

#[test]
fn gpus_are_confirmed_between_renewals_and_bad_ones_cut_live_connections() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    // All that a machine can have: what its TPM proved is not shown again with the GPUs.
    let full = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {{name: full, namespace: dev}}\n\
         spec:\n  any_of:\n    - sev_snp: {{images: [{{name: llm-11, sha384: {}}}]}}\n      nvidia_gpu: {{count: 2, \
         devtools: false}}\n      tpm: {{classes: [hardware, software], images: [{{name: boot, pcrs: {{sha256: \
         {{\"4\": \"{}\"}}}}}}]}}\n",
        hex48(GOOD),
        "00".repeat(32)
    );
    let port = "{name: raw, port: 7000, protocol: tcp}";
    let policy = [
        documents("10m, gpu: 1s"),
        full,
        workload("dev/full", "full", "gpu-07-whole", &[]),
        workload("dev/door", "snp", "gpu-07", &[port]),
        access("dev/door", "raw", "dev/full", ""),
    ];
    let factory = Factory::start(&policy.join("---\n"), vendors.roots(), service.sources());
    let chip = vendors.amd.chip(CHIP);
    let application = Backend::echo(b"", b"");
    let (_door_guest, attester) = snp(&chip, Guest::of(GOOD));
    let mut door = factory
        .sidecar("door", "dev/door", &attester)
        .inbound("raw", application.address())
        .start(factory.path());
    door.wait_ready();
    let tpm = Swtpm::start().expect("swtpm starts; `./tests/run` installs it");
    let (guest, _) = snp(&chip, Guest::of(GOOD));
    let (nvml, _) = with_gpus(&guest, GPUS.map(|number| vendors.nvidia.gpu(number)));
    let attester = format!(
        "{{sev_snp: {{path: {}}}, nvidia_gpu: {{library: {}}}, tpm: {{swtpm: 'unix:{}'}}}}",
        guest.path().display(),
        nvml.library().display(),
        tpm.socket().display()
    );
    let mut client = factory
        .sidecar("full", "dev/full", &attester)
        .outbound("dev/door", "raw")
        .start(factory.path());
    client.wait_ready();
    let mut flow = wait::until("a flow to pass", || Flow::open(&client));
    wait::until("the GPUs to be confirmed", || {
        (confirmed(&factory, "gpu") >= 2).then_some(())
    });
    assert_eq!(standings(&factory), Vec::<Value>::new());
    assert!(flow.echoes(), "good GPUs cost a flow");

    // Somebody turns on the mode for developers.
    nvml.set("mode", "1 1 0");
    assert!(
        flow.ends(),
        "a machine whose GPUs turned bad keeps its flow"
    );
    let changes = wait::until("the record to say so", || {
        Some(standings(&factory)).filter(|changes| !changes.is_empty())
    });
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["standing"], "revoked");
    assert_eq!(changes[0]["reason"], "devtools", "{changes:?}");
    assert_eq!(changes[0]["workload"], "dev/full");
    assert!(Flow::open(&client).is_none(), "it is let in again");
}

#[test]
fn a_vtpm_of_azure_is_confirmed_between_renewals_and_revoked_for_what_it_measured() {
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    let factory = Factory::start(
        &documents("10m, tpm_log: 1s"),
        vendors.roots(),
        service.sources(),
    );
    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    for (number, azure) in [
        Azure::snp(&vendors.amd.chip(CHIP), Guest::of(GOOD)),
        Azure::tdx(&processor, TrustDomain::of(GOOD)),
    ]
    .into_iter()
    .enumerate()
    {
        let before = confirmed(&factory, "tpm_log");
        let mut sidecar = factory
            .sidecar("azure", "dev/azure", &azure.attester)
            .start(factory.path());
        sidecar.wait_ready();
        wait::until("the vTPM to be confirmed", || {
            (confirmed(&factory, "tpm_log") >= before + 2).then_some(())
        });
        assert_eq!(standings(&factory).len(), number);
        azure.measure(4);
        let changes = wait::until("the machine to be revoked", || {
            Some(standings(&factory)).filter(|changes| changes.len() > number)
        });
        let change = &changes[number];
        assert_eq!(change["standing"], "revoked", "{change}");
        assert_eq!(change["reason"], "image", "{change}");
        let difference = change["difference"][0].as_str().unwrap_or_default();
        let was = format!("PCR 4 of bank sha256 was {}, is ", "00".repeat(32));
        assert!(difference.starts_with(&was), "{change}");
    }
}

/// Asks Intel's service for its levels and keeps them in the control plane's folder, as the operator's command in another
/// process does: when what is held there is over.
fn fetch_levels(factory: &Factory, vendors: &Vendors, service: &Service) {
    let fmspc = hex::decode(FMSPC).expect("it is hexadecimal");
    let need = Need::IntelTcbInfo {
        tee: IntelTee::Tdx,
        fmspc: fmspc.try_into().expect("it has six bytes"),
    };
    let later = SystemTime::now() + Duration::from_secs(25 * DAY);
    let metrics = EndorsementMetrics::new().expect("metrics have names");
    let endorsements = Endorsements::open(
        service.sources(),
        &factory.data(),
        metrics,
        Arc::new(move || later),
        vendors.roots(),
    );
    let endorsements = endorsements.expect("the folder is ours");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let gathered = endorsements.gather(&[need], "dev/tdx").await;
        assert!(gathered.missing.is_empty(), "{:?}", gathered.missing);
        let (_stop, stopped) = tokio::sync::watch::channel(true);
        endorsements.run(stopped).await;
    });
}

#[test]
fn what_a_vendor_says_anew_judges_all_that_lives_again() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    // Nobody proves anything afresh meanwhile.
    let policy = documents("10m, tpm_log: 10m, gpu: 10m");
    let factory = Factory::start(&policy, vendors.roots(), service.sources());
    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    let (_tdx_guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let (_tdx, _) = factory.admitted("tdx", "dev/tdx", &attester);
    let azure = Azure::tdx(&processor, TrustDomain::of(GOOD));
    let (_azure, _) = factory.admitted("azure", "dev/azure", &azure.attester);
    let (_snp_guest, attester) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let (snp, _) = factory.admitted("snp", "dev/snp", &attester);
    // Modules of version 5 were up to date until now.
    service.set(TCB_INFO, vendors.intel.levels(soon(60 * DAY), 6));
    assert_eq!(standings(&factory), Vec::<Value>::new());
    fetch_levels(&factory, &vendors, &service);
    let changes = wait::until("both machines of Intel to be revoked", || {
        Some(standings(&factory)).filter(|changes| changes.len() >= 2)
    });
    for change in &changes {
        assert_eq!(change["standing"], "revoked", "{change}");
        assert_eq!(change["reason"], "tcb_out_of_date", "{change}");
        let detail = change["detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with("judged again by revision"), "{change}");
    }
    let workloads: BTreeSet<_> = { changes.iter() }
        .filter_map(|change| change["workload"].as_str())
        .collect();
    assert_eq!(workloads, BTreeSet::from(["dev/azure", "dev/tdx"]));
    assert!(snp.is_ready(), "a machine of AMD's is judged by Intel");
}
