//! Each predicate of a revocation cuts the live connection of whom it means, and nobody else's: serial number, key, hardware
//! identity, measurement, security version, driver, VBIOS, advisory, class, machine, workload, name, policy revision. What
//! an issuing authority signed is `tests/mesh/interop.rs`, where there are two of them.

use serde_json::Value;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::documents::{access, simulated_node, simulated_profile, workload};
use vouchsafe_tests::factory::{DOMAIN, Factory};
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::intel::{ADVISORY, TCB_INFO, TrustDomain};
use vouchsafe_tests::wait;

use super::{CHIP, GOOD, GPUS, PPID, documents_with, hex48, snp, soon, tdx, with_gpus};

const DAY: u64 = 86_400;
/// What the machine of Intel's runs: something else than all others.
const OTHER: u8 = 0xbb;

/// Callers of one door: a machine with GPUs, one of Intel's whose level an advisory explains, and two made-up ones, the
/// second of which comes when policy has changed.
const GPU: usize = 0;
const TDX: usize = 1;
const EARLY: usize = 2;
const LATE: usize = 3;

fn documents() -> Vec<String> {
    let image = format!("{{name: llm-11, sha384: {}}}", hex48(GOOD));
    let domain = format!("trust_domain: {DOMAIN},");
    let simulated = format!("{domain} danger_accept_simulated: true,");
    let base = documents_with(&image, "10m").replace(&domain, &simulated);
    let advised = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {{name: advised, namespace: dev}}\n\
         spec:\n  any_of:\n    - tdx: {{images: [{{name: llm-12, mrtd: {}}}], tcb_status: [SWHardeningNeeded], \
         accepted_advisories: [{ADVISORY}]}}\n",
        hex48(OTHER)
    );
    let port = "{name: raw, port: 7000, protocol: tcp}";
    let mut all = vec![base, advised];
    for (namespace, name) in [("dev", "door"), ("lab", "early"), ("dev", "late")] {
        let full = format!("{namespace}/{name}");
        let profile = format!("{namespace}/made-up-{name}");
        all.push(simulated_profile(&profile, "any"));
        all.push(simulated_node(&full));
        let ports = if name == "door" { &[port][..] } else { &[] };
        all.push(workload(&full, &format!("made-up-{name}"), name, ports));
    }
    all.push(workload("dev/advised", "advised", "tdx-01", &[]));
    for caller in ["dev/whole", "dev/advised", "lab/early", "dev/late"] {
        all.push(access("dev/door", "raw", caller, ""));
    }
    all
}

fn made_up(name: &str) -> String {
    format!("{{simulated: {{machine: {name}, image: any}}}}")
}

#[track_caller]
fn command(factory: &Factory, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["-o", "json"]);
    let said = factory.cli(&all).expect_success();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn identity(sidecar: &Sidecar) -> Value {
    sidecar.admin("/certs")["identity"].clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[test]
fn each_predicate_cuts_whom_it_means_and_nobody_else() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * DAY));
    service.set(TCB_INFO, vendors.intel.levels_with_advisory(soon(20 * DAY)));
    let mut policy = documents();
    let factory = Factory::start(&policy.join("---\n"), vendors.roots(), service.sources());
    let start = |name: &str, workload: &str, attester: &str| {
        let spec = factory.sidecar(name, workload, attester);
        let mut sidecar = spec.outbound("dev/door", "raw").start(factory.path());
        sidecar.wait_ready();
        sidecar
    };
    let chip = vendors.amd.chip(CHIP);
    let (guest, _) = snp(&chip, Guest::of(GOOD));
    let (_nvml, attester) = with_gpus(&guest, GPUS.map(|number| vendors.nvidia.gpu(number)));
    let gpu = start("gpu", "dev/whole", &attester);
    let processor = vendors.intel.processor(PPID, soon(90 * DAY));
    let (_tdx_guest, attester) = tdx(&processor, TrustDomain::of(OTHER));
    let advised = start("tdx", "dev/advised", &attester);
    let early = start("early", "lab/early", &made_up("early"));

    // From here on results are of a newer policy; that of the door as well, or nobody could call it.
    let revision = || text(&command(&factory, &["status"])["revision"]);
    let before = revision();
    policy.push(access("dev/door", "raw", "dev/snp", ""));
    factory.write_policy(&policy.join("---\n"));
    wait::until("the change to be in force", || {
        (revision() != before).then_some(())
    });
    let late = start("late", "dev/late", &made_up("late"));
    let newer = text(&identity(&late)["attestation_result"]["policy_revision"]);
    let application = Backend::echo(b"", b"");
    let mut door = factory
        .sidecar("door", "dev/door", &made_up("door"))
        .inbound("raw", application.address())
        .start(factory.path());
    door.wait_ready();

    let callers = [&gpu, &advised, &early, &late];
    let serial = text(&identity(&gpu)["serial"]);
    let spki = text(&identity(&advised)["spki_sha256"]);
    let (chip, measured) = (chip.id(), format!("{GOOD:02x}").repeat(48));
    let below_ns = format!("spiffe://{DOMAIN}/ns/lab/**");
    let rows: &[(&str, &str, &[usize])] = &[
        ("--serial", &serial, &[GPU]),
        ("--spki", &spki, &[TDX]),
        ("--hardware-id", &chip, &[GPU]),
        ("--measurement", &measured, &[GPU]),
        ("--measurement", "llm-12", &[TDX]),
        ("--claim", "sev_snp.tcb.microcode<211", &[GPU]),
        ("--claim", "nvidia_gpu.driver<570.87", &[GPU]),
        ("--claim", "nvidia_gpu.vbios<96.00.9F.00.02", &[GPU]),
        ("--advisory", ADVISORY, &[TDX]),
        ("--class", "hardware", &[GPU, TDX]),
        ("--node", "dev/tdx-01", &[TDX]),
        ("--node", "dev/late", &[LATE]),
        ("--workload", "lab/early", &[EARLY]),
        ("--spiffe-id", &below_ns, &[EARLY]),
        ("--policy-revision-below", &newer, &[GPU, TDX, EARLY]),
    ];
    for (number, (predicate, value, meant)) in rows.iter().enumerate() {
        let what = format!("{predicate} {value}");
        let open = |sidecar: &&Sidecar| {
            wait::until(&format!("a flow before {what}"), || Flow::open(sidecar))
        };
        let mut flows: Vec<Flow> = callers.iter().map(open).collect();
        let name = format!("dev/row-{number}");
        let revoke = ["revoke", &name, predicate, value, "--reason", "a row"];
        let made = command(&factory, &[&revoke[..], &["--max-drop", "100%"]].concat());
        assert_eq!(made["made"], true, "{what}: {made}");
        for (caller, flow) in flows.iter_mut().enumerate() {
            let is_meant = meant.contains(&caller);
            assert_eq!(!flow.echoes(), is_meant, "{what}: flow of caller {caller}");
            let is_let_in = Flow::open(callers[caller]).is_some();
            assert_eq!(
                !is_let_in, is_meant,
                "{what}: a new flow of caller {caller}"
            );
        }
        let end = ["revoke", "end", &name, "--reason", "the next row"];
        assert_eq!(command(&factory, &end)["made"], true, "{what}");
    }
    for sidecar in callers {
        wait::until("all to be let in again", || Flow::open(sidecar));
    }
    let records = factory.records();
    let ended = { records.iter() }.filter(|record| record["kind"] == "revocation_ended");
    assert_eq!(ended.count(), rows.len());
}
