//! Devices of several kinds together: each signs over what was collected before it, the binding root over all.

use std::time::SystemTime;

use rustix::io::Errno;
use vouchsafe_api::convert::attest::{Challenge, EvidenceBody, EvidenceItem};
use vouchsafe_attestation::binding::{Base, EvidenceDigest, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::proxy::{Attester, NvidiaGpu, Tsm};
use vouchsafe_proxy::attester::{Attesters, CollectError};
use vouchsafe_tests::configfs::{Asked, Configfs, Made};
use vouchsafe_tests::nvml::{Driver, FakeNvml};

use crate::support::vector;

const GPUS: u32 = 3;

fn base() -> Base {
    Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &"factory.example".parse().unwrap(),
        workload: &"inference/llm".parse().unwrap(),
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: &[],
        ak_name: &[],
        policy_revision: revision(),
    }
    .base()
}

fn revision() -> Revision {
    Revision {
        epoch: 1,
        sequence: 7,
    }
}

fn challenge(required: &[EvidenceKind]) -> Challenge {
    Challenge {
        nonce: Nonce([2; 32]),
        server_time: SystemTime::UNIX_EPOCH,
        required: required.to_vec(),
        policy_revision: revision(),
        answers: Vec::new(),
    }
}

fn snp(asked: &Asked) -> Result<Made, Errno> {
    let mut outblob = vector("snp/milan-v2-vcek/report.bin");
    outblob[0x50..0x90].copy_from_slice(&asked.inblob);
    Ok(Made {
        outblob,
        auxblob: b"certificates".to_vec(),
    })
}

/// GPUs that answer any nonce, in a guest of SEV-SNP.
async fn machine() -> (FakeNvml, Configfs, Attesters) {
    let nvml = FakeNvml::build(Driver::Current).unwrap();
    for _ in 0..GPUS {
        let hopper = "nvidia/hopper-550.90.07-full";
        let report = vector(&format!("{hopper}/report.bin"));
        nvml.add(&report, &vector(&format!("{hopper}/chain.pem")), 9);
    }
    nvml.set("any-nonce", "");
    let configfs = Configfs::mount("sev_guest", snp).unwrap();
    let attesters = Attesters::open(&[
        Attester::SevSnp(Tsm {
            path: configfs.path(),
            privilege_level: None,
            event_log: None,
        }),
        Attester::NvidiaGpu(NvidiaGpu {
            library: Some(nvml.library()),
        }),
    ])
    .await
    .unwrap();
    (nvml, configfs, attesters)
}

/// What a device says that it was given to sign.
fn signed(item: &EvidenceItem) -> &[u8] {
    match &item.body {
        EvidenceBody::NvidiaGpu(gpu) => &gpu.report[4..36],
        EvidenceBody::SevSnp(guest) => &guest.report[0x50..0x90],
        other => panic!("this machine has no such device: {other:?}"),
    }
}

#[tokio::test]
async fn each_gpu_signs_over_those_before_it_and_the_guest_over_all() {
    if !Configfs::is_possible() {
        return;
    }
    let (_nvml, _configfs, attesters) = machine().await;
    let challenge = challenge(&[EvidenceKind::SevSnp, EvidenceKind::NvidiaGpu]);
    let items = attesters.collect(&base(), &challenge).await.unwrap();
    let mut prior = EvidenceDigest::empty();
    let (root, gpus) = items.split_last().unwrap();
    assert_eq!(gpus.len(), GPUS as usize);
    for (index, gpu) in (0..).zip(gpus) {
        assert_eq!((gpu.kind(), gpu.index), (EvidenceKind::NvidiaGpu, index));
        let binding = base().device(EvidenceKind::NvidiaGpu, index, &prior);
        assert_eq!(signed(gpu), binding.as_bytes());
        prior = prior.after(EvidenceKind::NvidiaGpu, index, &gpu.canonical());
    }
    assert_eq!((root.kind(), root.index), (EvidenceKind::SevSnp, 0));
    let binding = base().device(EvidenceKind::SevSnp, 0, &prior);
    assert_eq!(signed(root), binding.report_data());
}

#[tokio::test]
async fn only_what_is_asked_for_is_collected() {
    if !Configfs::is_possible() {
        return;
    }
    let (nvml, configfs, attesters) = machine().await;
    // A device that is not asked for may be broken.
    nvml.set("count", "0");
    let alone = challenge(&[EvidenceKind::SevSnp]);
    let items = attesters.collect(&base(), &alone).await.unwrap();
    let [guest] = items.as_slice() else {
        panic!("one device was asked for: {items:?}")
    };
    let binding = base().device(EvidenceKind::SevSnp, 0, &EvidenceDigest::empty());
    assert_eq!(signed(guest), binding.report_data());
    // One that is asked for may not, and the guest is not asked to sign over less.
    let both = challenge(&[EvidenceKind::SevSnp, EvidenceKind::NvidiaGpu]);
    let error = attesters.collect(&base(), &both).await.unwrap_err();
    assert!(matches!(error, CollectError::NvidiaGpu(_)), "{error:?}");
    assert!(configfs.entries().is_empty());
    // GPUs can't be the root of anything, and what the machine has not is not made up.
    let gpus = challenge(&[EvidenceKind::NvidiaGpu]);
    let error = attesters.collect(&base(), &gpus).await.unwrap_err();
    assert!(matches!(error, CollectError::NoRoot), "{error:?}");
    let other = challenge(&[EvidenceKind::Tdx]);
    let error = attesters.collect(&base(), &other).await.unwrap_err();
    assert!(
        matches!(error, CollectError::NotOffered(EvidenceKind::Tdx)),
        "{error:?}"
    );
}
