//! GPUs, through a library like NVIDIA's that serves reports of real ones.

use vouchsafe_config::proxy::NvidiaGpu;
use vouchsafe_proxy::attester::device_thread::DeviceThreadError;
use vouchsafe_proxy::attester::nvidia_gpu::{GpuAttester, GpuError};
use vouchsafe_tests::nvml::{Driver, FakeNvml};
use vouchsafe_tests::wait;
use vouchsafe_verifier::dossier::{Expected, Kind};
use vouchsafe_verifier::judgement::Status;

use crate::support::{judge, vector};

const HOPPER: &str = "nvidia/hopper-550.90.07-full";
/// 2025-10-24T12:00:00Z, when the manifests of the case are good.
const THEN: u64 = 1_761_307_200;

/// The nonce that the reports of the test data answer.
fn nonce() -> [u8; 32] {
    let report = vector(&format!("{HOPPER}/report.bin"));
    report[4..36].try_into().unwrap()
}

fn machine(driver: Driver, gpus: usize) -> FakeNvml {
    let machine = FakeNvml::build(driver).unwrap();
    for _ in 0..gpus {
        let report = vector(&format!("{HOPPER}/report.bin"));
        machine.add(&report, &vector(&format!("{HOPPER}/chain.pem")), 9);
    }
    machine
}

async fn open(machine: &FakeNvml) -> Result<GpuAttester, GpuError> {
    let library = Some(machine.library());
    GpuAttester::open(&NvidiaGpu { library }).await
}

#[track_caller]
fn refused<T>(outcome: Result<T, GpuError>, words: &str) {
    let error = outcome.err().expect("it must be refused");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn what_a_real_gpu_said_is_collected_and_believed() {
    let machine = machine(Driver::Current, 1);
    let attester = open(&machine).await.unwrap();
    assert_eq!(attester.machine().count, 1);
    assert_eq!(attester.machine().driver, "550.90.07");
    let said = attester.report(0, &nonce()).await.unwrap();
    assert_eq!(said.architecture, "hopper");
    let (driver, vbios) = (
        vector(&format!("{HOPPER}/driver-rim.xml")),
        vector(&format!("{HOPPER}/vbios-rim.xml")),
    );
    let files = [
        ("report.bin", said.report.as_slice()),
        ("chain.pem", &said.certificate_chain),
        ("driver-rim.xml", &driver),
        ("vbios-rim.xml", &vbios),
    ];
    let good = Expected::Nonce(nonce().to_vec());
    let judgement = judge(Kind::NvidiaGpu, &files, good, THEN);
    assert_eq!(judgement.status, Status::Affirming, "{judgement:#?}");
    let another = Expected::Nonce(vec![7; 32]);
    let judgement = judge(Kind::NvidiaGpu, &files, another, THEN);
    assert_eq!(judgement.reason, "nonce_mismatch");
}

#[tokio::test]
async fn several_gpus_attest_one_after_the_other_again_and_again() {
    let machine = machine(Driver::Current, 2);
    let blackwell = "nvidia/blackwell-575.32";
    let report = vector(&format!("{blackwell}/report.bin"));
    machine.add(&report, &vector(&format!("{blackwell}/chain.pem")), 10);
    let attester = open(&machine).await.unwrap();
    assert_eq!(attester.machine().count, 3);
    for _ in 0..2 {
        let mut uuids = Vec::new();
        for index in 0..3 {
            let said = attester.report(index, &nonce()).await.unwrap();
            assert_eq!(
                said.architecture,
                ["hopper", "hopper", "blackwell"][index as usize]
            );
            uuids.push(said.uuid);
        }
        uuids.dedup();
        assert_eq!(uuids.len(), 3, "{uuids:?}");
    }
}

#[tokio::test]
async fn a_report_that_answers_an_older_nonce_does_not_leave() {
    let machine = machine(Driver::Current, 1);
    let attester = open(&machine).await.unwrap();
    refused(
        attester.report(0, &[7; 32]).await,
        "unknown error (code 999)",
    );
    machine.set("old-nonce", "");
    refused(attester.report(0, &[7; 32]).await, "answers another nonce");
    machine.set("any-nonce", "");
    attester.report(0, &[7; 32]).await.unwrap();
}

#[tokio::test]
async fn a_machine_whose_gpus_are_not_protected_does_not_start() {
    let machine = machine(Driver::Current, 1);
    machine.set("mode", "0 0 0");
    refused(open(&machine).await, "not in confidential-computing mode");
    machine.set("mode", "1 1 0");
    assert!(open(&machine).await.unwrap().machine().devtools);
    // In this mode GPUs attest although the other is off.
    machine.set("mode", "0 0 1");
    assert!(open(&machine).await.unwrap().machine().protected_pcie);
}

#[tokio::test]
async fn a_machine_without_gpus_or_with_more_than_an_attestation_takes_does_not_start() {
    let machine = machine(Driver::Current, 0);
    refused(open(&machine).await, "has 0 GPUs");
    machine.set("count", "17");
    refused(open(&machine).await, "has 17 GPUs");
}

#[tokio::test]
async fn a_gpu_that_went_away_is_noticed() {
    let machine = machine(Driver::Current, 2);
    let attester = open(&machine).await.unwrap();
    attester.report(0, &nonce()).await.unwrap();
    machine.set("count", "1");
    refused(
        attester.report(1, &nonce()).await,
        "had 2 GPUs and has 1 now",
    );
    machine.set("count", "2");
    attester.report(1, &nonce()).await.unwrap();
}

#[tokio::test]
async fn drivers_of_all_ages_are_understood_or_told_to_be_replaced() {
    let known = open(&machine(Driver::Of535, 1)).await.unwrap();
    assert!(!known.machine().protected_pcie);
    let mode_off = machine(Driver::Of535, 1);
    mode_off.set("mode", "0 0 0");
    refused(open(&mode_off).await, "not in confidential-computing mode");
    let too_old = open(&machine(Driver::Of525, 1)).await;
    refused(too_old, "from driver 535 on");
}

#[tokio::test]
async fn what_the_library_refuses_is_said_with_what_to_do() {
    for (failure, words) in [
        ("nvmlInit_v2 9", "load the `nvidia` module"),
        ("nvmlInit_v2 18", "reboot after an update"),
        ("nvmlDeviceGetCount_v2 4", "/dev/nvidia"),
        ("nvmlSystemGetDriverVersion 999", "unknown error"),
        ("nvmlSystemGetConfComputeSettings 12345", "code 12345"),
    ] {
        let machine = machine(Driver::Current, 1);
        machine.set("fail", failure);
        refused(open(&machine).await, words);
    }
    for (failure, words) in [
        ("nvmlDeviceGetHandleByIndex_v2 28", "there is no GPU"),
        (
            "nvmlDeviceGetConfComputeGpuAttestationReport 3",
            "can't attest",
        ),
        (
            "nvmlDeviceGetConfComputeGpuCertificate 15",
            "fallen off the bus",
        ),
        ("nvmlDeviceGetUUID 17", "operating system"),
        ("nvmlDeviceGetArchitecture 2", "arguments"),
    ] {
        let machine = machine(Driver::Current, 1);
        let attester = open(&machine).await.unwrap();
        machine.set("fail", failure);
        refused(attester.report(0, &nonce()).await, words);
        machine.unset("fail");
        attester.report(0, &nonce()).await.unwrap();
    }
    // An argument of another version is asked again in its older form.
    let machine = machine(Driver::Current, 1);
    machine.set("fail", "nvmlSystemGetConfComputeSettings 25");
    open(&machine).await.unwrap();
}

#[tokio::test]
async fn a_size_that_no_memory_was_given_for_is_refused() {
    let machine = machine(Driver::Current, 1);
    let attester = open(&machine).await.unwrap();
    for lie in ["8193", "4294967295", "0"] {
        machine.set("lie", lie);
        refused(attester.report(0, &nonce()).await, "can't be read");
    }
    machine.set("lie", "35");
    refused(attester.report(0, &nonce()).await, "answers another nonce");
}

#[tokio::test]
async fn a_gpu_that_hangs_costs_one_attestation_and_one_thread() {
    let machine = machine(Driver::Current, 1);
    let attester = open(&machine).await.unwrap();
    machine.set("hang", "");
    // Time goes on by itself as soon as there is nothing but the library to wait for.
    tokio::time::pause();
    let hung = attester.report(0, &nonce()).await;
    assert!(
        matches!(hung, Err(GpuError::Thread(DeviceThreadError::Hung { .. }))),
        "{hung:?}"
    );
    refused(attester.report(0, &nonce()).await, "still owes the answer");
    tokio::time::resume();
    machine.unset("hang");
    let patient = async {
        while attester.report(0, &nonce()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(wait::DEADLINE, patient).await.unwrap();
}
