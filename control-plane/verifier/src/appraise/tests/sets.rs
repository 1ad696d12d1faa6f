//! A confidential VM with its GPUs: each device genuine and its signature good, and every lie that is left to tell with
//! them. Numbers are those of the list of attacks that other systems fell to.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use vouchsafe_attestation::claims::{ClaimType, ClaimValue};
use vouchsafe_attestation::condition::{Comparison, Condition, Operator};

use super::*;
use crate::evidence::nvidia_gpu::report::Mode;
use crate::evidence::nvidia_gpu::tests::maker::Maker;
use crate::evidence::nvidia_gpu::{DriverState, Rules as GpuRules};
use crate::evidence::received::{NvidiaGpu, SevSnp};
use crate::evidence::sev_snp::Product;
use crate::evidence::sev_snp::tests::machine::{Machine, NOW, time};
use crate::ocsp::maker::Authority;
use crate::reference_value::{HardwareImage, HardwareReference};
use crate::vendor_roots::TestRoots;

/// What was collected, and what it is judged by.
struct Set {
    vendor: Authority,
    items: Vec<EvidenceItem>,
    manifests: Vec<String>,
    amd_root: Vec<u8>,
    offered: u32,
}

/// Turns a device before it answers.
type Turn = fn(&mut Maker);

impl Set {
    /// Collects GPUs, then the VM's report over all of them, as an attester does.
    fn collect(base: &Base, gpus: &[(u8, Turn)]) -> Self {
        let mut set = Self::empty();
        for (chip, turn) in gpus {
            set.add_gpu(base, *chip, *turn);
        }
        set.add_snp(base);
        set
    }

    fn empty() -> Self {
        Self {
            vendor: Authority::root("root"),
            items: Vec::new(),
            manifests: Vec::new(),
            amd_root: Vec::new(),
            offered: 0,
        }
    }

    fn honest() -> Self {
        Self::collect(&base(), &[(1, |_| ()), (2, |_| ())])
    }

    fn prior(&self) -> EvidenceDigest {
        let empty = EvidenceDigest::empty();
        self.items.iter().fold(empty, |prior, item| {
            let kind = item.evidence.kind();
            prior.after(kind, item.index, &item.evidence.transcript())
        })
    }

    fn add_gpu(&mut self, base: &Base, chip: u8, turn: Turn) {
        let gpu = Maker::gpu().with(|gpu| {
            gpu.chip[8] = chip;
            turn(gpu);
        });
        self.add(base, gpu, "HOPPER");
    }

    fn add(&mut self, base: &Base, device: Maker, architecture: &str) {
        let index = u32::try_from(self.items.len()).unwrap();
        let binding = base.device(EvidenceKind::NvidiaGpu, index, &self.prior());
        let device = device.with(|device| device.asked = *binding.as_bytes());
        let made = device.make_below(&self.vendor);
        self.manifests.extend(made.rims);
        let chain = made.chain.iter().map(|der| {
            let text = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        });
        self.items.push(EvidenceItem {
            index,
            evidence: Evidence::NvidiaGpu(NvidiaGpu {
                report: made.report,
                certificate_chain: chain.collect::<String>().into_bytes(),
                architecture: architecture.into(),
                is_switch: architecture == "LS10",
                driver: Some(DriverState {
                    confidential_compute: true,
                    devtools: false,
                }),
            }),
        });
        self.offered += 1;
    }

    fn add_snp(&mut self, base: &Base) {
        let prior = self.prior();
        self.add_snp_over(base, 0, &prior, |_| ());
    }

    fn add_snp_over(
        &mut self,
        base: &Base,
        index: u32,
        prior: &EvidenceDigest,
        turn: fn(&mut Machine),
    ) {
        let binding = base.device(EvidenceKind::SevSnp, index, prior);
        let machine = Machine::milan().changed(|machine| {
            machine.report[0x50..0x90].copy_from_slice(&binding.report_data());
            turn(machine);
        });
        let (evidence, root) = machine.attest(|report, endorsements| {
            let evidence = SevSnp {
                report: report.to_vec(),
                certificates: table(&endorsements.certificates),
            };
            (evidence, endorsements.test_root.unwrap().1.to_vec())
        });
        self.amd_root = root;
        self.items.push(EvidenceItem {
            index,
            evidence: Evidence::SevSnp(evidence),
        });
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn judge(&self, reference: &ReferenceValues) -> Verdict {
        let base = base();
        let roots = VendorRoots::danger_of_a_test(TestRoots {
            amd: Some((Product::Milan, self.amd_root.clone())),
            nvidia_device: Some(self.vendor.der.clone()),
            nvidia_rim: Some(self.vendor.der.clone()),
            ..TestRoots::default()
        });
        let endorsements: Vec<File<'_>> = { self.manifests.iter() }
            .map(|text| File {
                name: "manifest.xml",
                bytes: text.as_bytes(),
            })
            .collect();
        let expected = Expected {
            base: &base,
            required: &[EvidenceKind::SevSnp, EvidenceKind::NvidiaGpu],
            tpm: None,
            previous_tpm: None,
            vtpm_key: None,
            nvidia_devices: self.offered,
            simulated_machine: None,
            danger_accept_simulated: false,
            endorsements: &endorsements,
            roots: &roots,
        };
        appraise(&self.items, reference, &expected, time(NOW))
    }

    #[track_caller]
    fn refused(&self, reason: &str) {
        match self.judge(&profile()).into_outcome() {
            Ok(appraised) => panic!("accepted, expected `{reason}`: {appraised:?}"),
            Err(refusal) => assert_eq!(refusal.reason(), reason, "{refusal}"),
        }
    }
}

/// The table of SNP's host: GUID, offset and length of each, then zeros.
fn table(certificates: &[&[u8]]) -> Vec<u8> {
    let mut at = 24 * (certificates.len() + 1);
    let mut table = Vec::new();
    for der in certificates {
        table.extend([7; 16]);
        table.extend(u32::try_from(at).unwrap().to_le_bytes());
        table.extend(u32::try_from(der.len()).unwrap().to_le_bytes());
        at += der.len();
    }
    table.extend([0; 24]);
    table.extend(certificates.concat());
    table
}

/// Two GPUs, each for itself, and one image.
fn profile() -> ReferenceValues {
    let snp = HardwareReference {
        images: vec![HardwareImage {
            name: "llm-11".into(),
            values: vec![("measurement".into(), "aa".repeat(48))],
            until: None,
        }],
        ..HardwareReference::default()
    };
    let mut gpus = HardwareReference {
        gpus: Some(2),
        ..HardwareReference::default()
    };
    gpus.rules.nvidia_gpu = GpuRules {
        confidential_compute: Some(true),
        devtools: Some(false),
        ..GpuRules::default()
    };
    ReferenceValues {
        any_of: vec![Alternative {
            hardware: BTreeMap::from([
                (EvidenceKind::SevSnp, snp),
                (EvidenceKind::NvidiaGpu, gpus),
            ]),
            ..Alternative::default()
        }],
    }
}

/// Another attestation, of this machine or another: its challenge is another.
fn other_base() -> Base {
    Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &"demo.example".parse().unwrap(),
        workload: &"inference/llm".parse().unwrap(),
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([0x22; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: b"",
        ak_name: b"",
        policy_revision: Revision::default(),
    }
    .base()
}

fn gpu_of(item: &mut EvidenceItem) -> &mut NvidiaGpu {
    match &mut item.evidence {
        Evidence::NvidiaGpu(gpu) => gpu,
        _ => panic!("a GPU"),
    }
}

#[test]
fn a_confidential_vm_with_its_gpus_is_affirmed_as_one() {
    let verdict = Set::honest().judge(&profile());
    let appraised = verdict.into_outcome().unwrap();
    assert_eq!(appraised.class(), Class::Hardware);
    assert_eq!(appraised.root(), EvidenceKind::SevSnp);
    let claim = |at: usize, name| {
        let claims = &appraised.devices()[at].claims;
        claims.get(name).map(ToString::to_string)
    };
    assert_eq!(appraised.devices().len(), 3);
    assert_eq!(claim(0, "chip_id").as_deref(), Some("410102030405060701"));
    assert_eq!(claim(1, "chip_id").as_deref(), Some("410102030405060702"));
    assert_eq!(claim(1, "count").as_deref(), Some("2"));
    assert_eq!(claim(2, "image").as_deref(), Some("llm-11"));
    let result = appraised.into_result(InstanceId([9; 16]), Revision::default(), [8; 32]);
    let read = AttestationResult::decode(&result.encode().unwrap()).unwrap();
    assert_eq!(read, result);
}

#[test]
fn a_set_without_its_root_at_the_end_proves_nothing() {
    let set = Set::honest;
    // The root first: it could not have signed over what came later.
    set()
        .with(|set| set.items.rotate_right(1))
        .refused("evidence_set");
    set()
        .with(|set| drop(set.items.pop()))
        .refused("evidence_set");
    let two_roots = set().with(|set| {
        let prior = set.prior();
        set.add_snp_over(&base(), 1, &prior, |_| ());
    });
    two_roots.refused("evidence_set");
}

/// A switch has no driver and no mode; a GPU that lacks either is refused all the same.
#[test]
fn conditions_on_what_only_gpus_have_bind_each_gpu_and_no_switch() {
    let pdi = [1, 2, 3, 4, 5, 6, 7, 8];
    let linked: Turn = |gpu| gpu.set(22, &[8, 7, 6, 5, 4, 3, 2, 1]);
    let with_switch = |second: Turn| {
        let mut set = Set::empty();
        set.add_gpu(&base(), 1, linked);
        set.add_gpu(&base(), 2, second);
        let switch = Maker::switch().with(|switch| switch.set(22, &pdi));
        set.add(&base(), switch, "LS10");
        set.add_snp(&base());
        set
    };
    let demanding = |claim: &'static str, operator: Operator, value: ClaimValue| {
        let mut profile = profile();
        let gpus = profile.any_of[0].hardware.get_mut(&EvidenceKind::NvidiaGpu);
        gpus.unwrap().conditions = vec![Condition {
            claim,
            any_of: vec![Comparison { operator, value }],
        }];
        profile
    };
    let version = |text: &str| ClaimValue::parse(ClaimType::Version, text).unwrap();
    let text = |text: &str| ClaimValue::Text(text.to_owned());
    let driver = demanding("driver", Operator::AtLeast, version("570"));
    let mode = demanding("mode", Operator::Equal, text("single_gpu"));
    let reason = |set: &Set, profile: &ReferenceValues| {
        let outcome = set.judge(profile).into_outcome();
        outcome.map_err(|refusal| refusal.reason().to_owned())
    };
    for profile in [&driver, &mode] {
        assert!(reason(&with_switch(linked), profile).is_ok());
    }
    // What both have binds both.
    let device = demanding("device", Operator::Equal, text("gpu"));
    let refused = reason(&with_switch(linked), &device).unwrap_err();
    assert_eq!(refused, "claim_not_accepted");
    // A GPU of an older driver, and one that does not say of which board it is.
    let newer = demanding("driver", Operator::AtLeast, version("571"));
    let refused = reason(&with_switch(linked), &newer).unwrap_err();
    assert_eq!(refused, "claim_not_accepted");
    let board = demanding("board", Operator::Equal, text("1010_0205_895"));
    let named: Turn = |gpu| {
        gpu.set(22, &[8, 7, 6, 5, 4, 3, 2, 1]);
        gpu.set(15, b"895\0");
        gpu.set(17, b"1010\0");
        gpu.set(18, b"0205\0");
    };
    let refused = reason(&with_switch(named), &board).unwrap_err();
    assert_eq!(refused, "claim_not_accepted");
    let mut all = Set::empty();
    all.add_gpu(&base(), 1, named);
    all.add_gpu(&base(), 2, named);
    let switch = Maker::switch().with(|switch| switch.set(22, &pdi));
    all.add(&base(), switch, "LS10");
    all.add_snp(&base());
    assert!(reason(&all, &board).is_ok());
}

/// 7 and 21: evidence of GPUs that another attestation asked for, below an honest root.
#[test]
fn a_gpu_that_answered_another_attestation_is_refused() {
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    set.add_gpu(&other_base(), 2, |_| ());
    set.add_snp(&base());
    set.refused("nonce_mismatch");
    // All of it, root included.
    let relayed = Set::collect(&other_base(), &[(1, |_| ()), (2, |_| ())]);
    relayed.refused("nonce_mismatch");
    // The root alone.
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    set.add_gpu(&base(), 2, |_| ());
    set.add_snp(&other_base());
    set.refused("report_data_mismatch");
}

#[test]
fn a_gpu_counts_once() {
    // One GPU that answers for two: each answer is fresh and in its place.
    Set::collect(&base(), &[(1, |_| ()), (1, |_| ())]).refused("duplicate_device");
    // One answer in two places.
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    let again = set.items[0].evidence.clone();
    set.items.push(EvidenceItem {
        index: 1,
        evidence: again,
    });
    set.offered = 2;
    set.add_snp(&base());
    set.refused("nonce_mismatch");
}

#[test]
fn gpus_stay_in_the_places_that_they_answered_for() {
    let swapped = |renumber: bool| {
        Set::honest().with(|set| {
            set.items.swap(0, 1);
            if renumber {
                set.items[0].index = 0;
                set.items[1].index = 1;
            }
        })
    };
    swapped(true).refused("nonce_mismatch");
    swapped(false).refused("evidence_set");
}

#[test]
fn the_root_commits_to_all_the_rest() {
    // Signed over nothing.
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    set.add_gpu(&base(), 2, |_| ());
    set.add_snp_over(&base(), 0, &EvidenceDigest::empty(), |_| ());
    set.refused("report_data_mismatch");
    // Signed over the first GPU only.
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    let after_one = set.prior();
    set.add_gpu(&base(), 2, |_| ());
    set.add_snp_over(&base(), 0, &after_one, |_| ());
    set.refused("report_data_mismatch");
    // A third GPU in place of the second after the root has signed: it answers the same nonce.
    let mut other = Set::honest();
    let root = other.items.pop().unwrap();
    other.items.pop();
    other.offered = 1;
    other.add_gpu(&base(), 3, |_| ());
    other.items.push(root);
    other.refused("report_data_mismatch");
    // And what is said beside a report.
    let said =
        Set::honest().with(|set| gpu_of(&mut set.items[1]).architecture = "BLACKWELL".into());
    said.refused("report_data_mismatch");
}

#[test]
fn gpus_are_as_many_as_were_offered_and_the_profile_demands() {
    let gpus = |count: u8| -> Vec<(u8, Turn)> {
        (1..=count).map(|chip| (chip, (|_| ()) as Turn)).collect()
    };
    for count in [1, 3] {
        Set::collect(&base(), &gpus(count)).refused("device_count");
    }
    for offered in [1, 3] {
        let set = Set::honest().with(|set| set.offered = offered);
        set.refused("device_count");
    }
    // None at all: the set is of other kinds than were asked for.
    Set::collect(&base(), &[]).refused("unsolicited_evidence");
}

#[test]
fn gpus_are_in_one_mode_that_the_profile_accepts() {
    let pcie: Turn = |gpu| gpu.set(21, &[0xaa]);
    let multi: Turn = |gpu| gpu.set(36, &[1, 0]);
    let mixed = Set::collect(&base(), &[(1, |_| ()), (2, multi)]);
    mixed.refused("modes_differ");
    Set::collect(&base(), &[(1, |_| ()), (2, pcie)]).refused("confidential_compute");
    let mut strict = profile();
    let gpus = strict.any_of[0].hardware.get_mut(&EvidenceKind::NvidiaGpu);
    gpus.unwrap().rules.nvidia_gpu.modes = vec![Mode::SingleGpu];
    let both = Set::collect(&base(), &[(1, multi), (2, multi)]);
    let refusal = both.judge(&strict).into_outcome().unwrap_err();
    assert_eq!(refusal.reason(), "mode");
    assert!(both.judge(&profile()).into_outcome().is_ok());
}

/// 11, 12 and 22: one weak device spoils the set.
#[test]
fn the_worst_device_decides() {
    let root = |turn: fn(&mut Machine)| {
        let mut set = Set::empty();
        set.add_gpu(&base(), 1, |_| ());
        set.add_gpu(&base(), 2, |_| ());
        let prior = set.prior();
        set.add_snp_over(&base(), 0, &prior, turn);
        set
    };
    root(|machine| machine.report[0x0a] |= 1 << 3).refused("debug_enabled");
    root(|machine| machine.report[0x30] = 1).refused("vmpl");
    root(|machine| machine.report[0x90] ^= 1).refused("image");
    let mut set = Set::empty();
    set.add_gpu(&base(), 1, |_| ());
    set.add_gpu(&base(), 2, |_| ());
    gpu_of(&mut set.items[1]).driver = Some(DriverState {
        confidential_compute: true,
        devtools: true,
    });
    set.add_snp(&base());
    set.refused("devtools");
    // What NVIDIA has to say is missing: no word against the evidence.
    let unknown = Set::honest().with(|set| set.manifests.clear());
    unknown.refused("endorsement_missing");
}
