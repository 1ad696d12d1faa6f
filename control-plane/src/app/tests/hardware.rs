//! Live attestation of vendors' hardware over the real connection, below chains that the test made. Numbers are those of
//! the list of attacks that other systems fell to.

use std::time::Duration;

use vouchsafe_api::convert::attest::{Challenge, EvidenceBody, EvidenceItem, Issued, Offer};
use vouchsafe_api::convert::mesh_state::read_trust_bundle;
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_attestation::binding::{Base, EvidenceDigest, Purpose};
use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind, Time};
use vouchsafe_attestation::peer::{Peer, PeerRole, verify_peer};
use vouchsafe_attestation::svid::sha256;

use super::harness::{Factory, SetHello, eventually, now};
use super::machines::{INSTANCE, Snp, SnpLies, Vendors};
use crate::archive::rerun::{Rerun, RerunError, rerun};

const POLICY: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec: {trust_domain: test.example}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: snp, namespace: dev}
spec:
  any_of:
    - sev_snp: {images: [{name: llm-11, sha384: MEASUREMENT}], tcb: {microcode: \">=200\"}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: nitro, namespace: dev}
spec:
  any_of:
    - nitro: {images: [{name: enclave, pcrs: {sha384: {0: MEASUREMENT}}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: gpu-07, namespace: dev}
spec: {hardware: {snp_chip_id: CHIP}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: ec2, namespace: dev}
spec: {hardware: {nitro_instance_id: INSTANCE}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: dev}
spec:
  profile: snp
  members: {nodes: [gpu-07]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: enclave, namespace: dev}
spec:
  profile: nitro
  members: {nodes: [ec2]}
";

fn policy() -> String {
    POLICY
        .replace("MEASUREMENT", &"aa".repeat(48))
        .replace("CHIP", &"09".repeat(64))
        .replace("INSTANCE", INSTANCE)
}

async fn factory(vendors: &Vendors) -> Factory {
    Factory::start_below(&policy(), vendors.roots()).await
}

fn llm<'a>() -> SetHello<'a> {
    SetHello {
        workload: "dev/llm",
        purpose: Purpose::Enroll,
        offers: vec![Offer::SevSnp],
        svid: None,
    }
}

fn peer(issued: &Issued) -> Peer {
    let bundle = read_trust_bundle(&issued.trust_bundle).unwrap();
    let chain = issued.certificate_chain.iter();
    let chain: Vec<_> = chain.map(|der| der.as_slice().into()).collect();
    verify_peer(&chain, &bundle, PeerRole::Server, now()).unwrap()
}

fn honest(machine: &Snp) -> impl FnOnce(&Base, &Challenge) -> Vec<EvidenceItem> {
    move |base, challenge| {
        assert_eq!(challenge.required, [EvidenceKind::SevSnp]);
        vec![machine.collect(base, &EvidenceDigest::empty())]
    }
}

fn last(factory: &Factory) -> RecordEntry {
    factory.records().pop().unwrap()
}

fn again(factory: &Factory, vendors: &Vendors) -> Rerun {
    rerun(&factory.data(), &last(factory), &vendors.roots()).unwrap()
}

#[tokio::test]
async fn a_confidential_vm_gets_a_certificate_that_carries_what_its_hardware_proved() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let machine = vendors.snp(9);
    let (issued, key) = factory.attest_set(&llm(), honest(&machine)).await.unwrap();
    let peer_of = peer(&issued);
    let result = peer_of.result().unwrap();
    assert_eq!(result.class.as_str(), "hardware");
    assert_eq!(result.root, EvidenceKind::SevSnp);
    assert_eq!(result.ear_sha256, sha256(&issued.attestation_result));
    let claims = &result.devices[0].claims;
    let text = |name: &str| claims.get(name).map(ToString::to_string);
    assert_eq!(text("image").as_deref(), Some("llm-11"));
    assert_eq!(claims.get("tcb.microcode"), Some(&ClaimValue::Number(210)));
    assert_eq!(text("chip_id"), Some("09".repeat(64)));
    let ear: serde_json::Value = serde_json::from_slice(&issued.attestation_result).unwrap();
    assert_eq!(ear["vouchsafe.status"], "affirming");
    assert_eq!(ear["vouchsafe.co_location"], "single");
    let submodule = &ear["submods"]["sev_snp-0"];
    assert_eq!(submodule["ear.status"], "affirming");
    assert_eq!(submodule["vouchsafe.claims"]["image"], "llm-11");
    assert!(submodule["vouchsafe.shown"]["report_data"].is_string());
    let Event::Issued(record) = last(&factory).event else {
        panic!("an issuance is recorded");
    };
    assert_eq!(record.kinds, ["sev_snp"]);
    assert_eq!(
        record.hardware,
        [format!("snp_chip_id:{}", "09".repeat(64))]
    );
    assert_eq!(record.result_sha256, result.ear_sha256);
    // And again, as the same instance; another machine is another.
    let svid = (issued.certificate_chain.clone(), key);
    let renewal = || SetHello {
        purpose: Purpose::Renew,
        svid: Some(&svid),
        ..llm()
    };
    let (renewed, _) = factory
        .attest_set(&renewal(), honest(&machine))
        .await
        .unwrap();
    assert_eq!(renewed.instance, issued.instance);
    let other = vendors.snp(8);
    let refused = factory.attest_set(&renewal(), honest(&other)).await;
    assert_eq!(refused.unwrap_err(), "enroll_again");
    factory.stop().await;
}

#[tokio::test]
async fn no_certificate_outlives_its_image() {
    let vendors = Vendors::new();
    let until = Time::new(now() + Duration::from_secs(1200)).unwrap();
    let ending = format!("{{name: llm-11, until: \"{until}\", ");
    let policy = policy().replace("{name: llm-11, ", &ending);
    let factory = Factory::start_below(&policy, vendors.roots()).await;
    let machine = vendors.snp(9);
    factory.attest_set(&llm(), honest(&machine)).await.unwrap();
    let Event::Issued(record) = last(&factory).event else {
        panic!("an issuance is recorded");
    };
    assert_eq!(Time::new(record.not_after).unwrap(), until);
    assert!(again(&factory, &vendors).agrees);
    factory.stop().await;
}

#[tokio::test]
async fn an_enclave_gets_a_certificate() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let enclave = vendors.nitro();
    let hello = SetHello {
        workload: "dev/enclave",
        offers: vec![Offer::Nitro],
        ..llm()
    };
    let (issued, _) = factory
        .attest_set(&hello, |base, _| vec![enclave.collect(base)])
        .await
        .unwrap();
    let peer = peer(&issued);
    let result = peer.result().unwrap();
    assert_eq!(result.root, EvidenceKind::Nitro);
    assert_eq!(result.class.as_str(), "hardware");
    assert!(again(&factory, &vendors).agrees);
    factory.stop().await;
}

/// What a machine sends instead of honest evidence.
type Lie = fn(&Vendors, &Base) -> Vec<EvidenceItem>;

fn lying(vendors: &Vendors, base: &Base, lies: SnpLies) -> Vec<EvidenceItem> {
    vec![
        vendors
            .snp(9)
            .collect_lying(base, &EvidenceDigest::empty(), lies),
    ]
}

/// Each refusal is recorded with what it was made from, and made again from that alone.
#[tokio::test]
async fn each_lie_of_hardware_gets_its_word_and_can_be_judged_again() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let cases: &[(&str, Lie)] = &[
        // 8: a genuine chip, but not the one that is listed.
        ("not_a_member", |vendors, base| {
            vec![vendors.snp(8).collect(base, &EvidenceDigest::empty())]
        }),
        // 11 and 12.
        ("debug_enabled", |vendors, base| {
            let lies = SnpLies {
                debug: true,
                ..SnpLies::default()
            };
            lying(vendors, base, lies)
        }),
        ("vmpl", |vendors, base| {
            let lies = SnpLies {
                vmpl: 1,
                ..SnpLies::default()
            };
            lying(vendors, base, lies)
        }),
        ("image", |vendors, base| {
            let lies = SnpLies {
                measurement: 1,
                ..SnpLies::default()
            };
            lying(vendors, base, lies)
        }),
        // 1: report data that is empty, or the binding padded.
        ("report_data_mismatch", |vendors, _| {
            vec![vendors.snp(9).report([0; 64], SnpLies::default())]
        }),
        ("report_data_mismatch", |vendors, base| {
            let binding = base.device(EvidenceKind::SevSnp, 0, &EvidenceDigest::empty());
            let mut padded = [0; 64];
            padded[..32].copy_from_slice(binding.as_bytes());
            vec![vendors.snp(9).report(padded, SnpLies::default())]
        }),
        // The binding of another kind, of another number, and over evidence that is not there.
        ("report_data_mismatch", |vendors, base| {
            let binding = base.device(EvidenceKind::Tdx, 0, &EvidenceDigest::empty());
            vec![
                vendors
                    .snp(9)
                    .report(binding.report_data(), SnpLies::default()),
            ]
        }),
        ("report_data_mismatch", |vendors, base| {
            let binding = base.device(EvidenceKind::SevSnp, 1, &EvidenceDigest::empty());
            vec![
                vendors
                    .snp(9)
                    .report(binding.report_data(), SnpLies::default()),
            ]
        }),
        ("report_data_mismatch", |vendors, base| {
            let prior = EvidenceDigest::empty().after(EvidenceKind::NvidiaGpu, 0, b"gone");
            vec![vendors.snp(9).collect(base, &prior)]
        }),
        // A chain of nobody's.
        ("ask_signature", |_, base| {
            vec![
                Vendors::new()
                    .snp(9)
                    .collect(base, &EvidenceDigest::empty()),
            ]
        }),
        ("required_evidence", |vendors, base| {
            vec![vendors.nitro().collect(base)]
        }),
        ("required_evidence", |vendors, base| {
            // Two roots.
            let prior = EvidenceDigest::empty();
            vec![
                vendors.nitro().collect(base),
                vendors.snp(9).collect(base, &prior),
            ]
        }),
        ("evidence_set", |vendors, base| {
            let mut item = vendors.snp(9).collect(base, &EvidenceDigest::empty());
            item.index = 1;
            vec![item]
        }),
        // What the vendor must say, and nobody has: no verdict on the machine.
        ("endorsement_missing", |vendors, base| {
            let mut machine = vendors.snp(9);
            machine.certificates.clear();
            vec![machine.collect(base, &EvidenceDigest::empty())]
        }),
    ];
    for (reason, lie) in cases {
        let refused = factory
            .attest_set(&llm(), |base, _| lie(&vendors, base))
            .await;
        assert_eq!(refused.unwrap_err(), *reason);
        let judged = again(&factory, &vendors);
        assert!(judged.agrees, "{reason}: {judged:?}");
        let by_evidence = *reason != "not_a_member";
        assert_eq!(judged.is_complete, by_evidence, "{reason}: {judged:?}");
    }
    factory.stop().await;
}

/// 2, 4: evidence of one stream on another, and of one connection on another.
#[tokio::test]
async fn hardware_evidence_is_good_for_one_stream_of_one_connection_only() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let machine = vendors.snp(9);
    let mut kept = Vec::new();
    let hello = llm();
    let first = factory.attest_set(&hello, |base, _| {
        kept = vec![machine.collect(base, &EvidenceDigest::empty())];
        kept.clone()
    });
    assert!(first.await.is_ok());
    let replayed = factory.attest_set(&llm(), |_, _| kept).await;
    assert_eq!(replayed.unwrap_err(), "report_data_mismatch");
    factory.stop().await;
}

#[tokio::test]
async fn hardware_that_is_not_offered_or_not_asked_for_gets_no_challenge() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    for offers in [vec![Offer::Tdx], vec![Offer::Nitro, Offer::Tdx]] {
        let hello = SetHello { offers, ..llm() };
        let refused = factory
            .attest_set(&hello, |_, _| panic!("a challenge"))
            .await;
        assert_eq!(refused.unwrap_err(), "required_evidence");
    }
    factory.stop().await;
}

/// Production believes vendors only.
#[tokio::test]
async fn a_machine_below_roots_that_a_test_made_is_refused_where_vendors_are_pinned() {
    let vendors = Vendors::new();
    let factory = Factory::start(&policy()).await;
    let refused = factory.attest_set(&llm(), honest(&vendors.snp(9))).await;
    assert_eq!(refused.unwrap_err(), "vek_issuer_unknown");
    factory.stop().await;
}

#[tokio::test]
async fn an_issuance_is_made_again_bit_for_bit_and_a_changed_archive_is_noticed() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let (issued, _) = { factory.attest_set(&llm(), honest(&vendors.snp(9))).await }.unwrap();
    let judged = again(&factory, &vendors);
    assert!(judged.agrees && judged.is_complete, "{judged:?}");
    assert_eq!(
        judged.result,
        hex::encode(sha256(&issued.attestation_result))
    );
    // The same bundle below other roots is another decision.
    let other = rerun(&factory.data(), &last(&factory), &Vendors::new().roots()).unwrap();
    assert!(!other.agrees, "{other:?}");
    let Event::Issued(record) = last(&factory).event else {
        panic!("an issuance is recorded");
    };
    let name = hex::encode(record.evidence_sha256);
    let path = factory.data().join("archive/issued").join(name);
    let mut bundle = std::fs::read(&path).unwrap();
    let at = bundle.len() / 2;
    bundle[at] ^= 1;
    std::fs::write(&path, &bundle).unwrap();
    let changed = rerun(&factory.data(), &last(&factory), &vendors.roots());
    assert!(matches!(changed, Err(RerunError::Read(_))), "{changed:?}");
    std::fs::remove_file(&path).unwrap();
    let gone = rerun(&factory.data(), &last(&factory), &vendors.roots());
    assert!(matches!(gone, Err(RerunError::Read(_))), "{gone:?}");
    factory.stop().await;
}

#[tokio::test]
async fn what_is_kept_of_an_attestation_holds_no_secret() {
    use super::harness::{Sidecar, TOKEN};
    use vouchsafe_api::convert::attest::JoinToken;
    let factory = Factory::start(super::harness::POLICY).await;
    let sidecar = Sidecar {
        token: Some(JoinToken::new(TOKEN).unwrap()),
        ..Sidecar::new("dev/batch", "somewhere")
    };
    factory.attest(&sidecar).await.unwrap();
    let mut files = 0;
    for part in ["issued", "refused", "objects"] {
        for entry in std::fs::read_dir(factory.data().join("archive").join(part)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!text.contains(TOKEN));
            let whole: Vec<_> = serde_json::from_slice::<serde_json::Value>(&bytes)
                .ok()
                .and_then(|bundle| {
                    use base64::Engine;
                    let hello = bundle["hello"].as_str()?;
                    base64::engine::general_purpose::STANDARD.decode(hello).ok()
                })
                .unwrap_or_default();
            assert!(
                !whole
                    .windows(TOKEN.len())
                    .any(|window| window == TOKEN.as_bytes())
            );
            files += 1;
        }
    }
    assert!(files >= 2, "an issuance and its policy are kept");
    let judged = rerun(&factory.data(), &last(&factory), &Default::default()).unwrap();
    assert!(judged.agrees && judged.is_complete, "{judged:?}");
    factory.stop().await;
}

/// The wire's canonical form and the verifier's are one: both ends digest the same bytes.
#[test]
fn both_ends_digest_the_same_bytes_of_every_kind() {
    let vendors = Vendors::new();
    let base = some_base();
    let mut items = vec![
        vendors.snp(9).collect(&base, &EvidenceDigest::empty()),
        vendors.nitro().collect(&base),
    ];
    items.extend(other_bodies().map(|body| EvidenceItem { index: 0, body }));
    let read = crate::rpc::attest::received::items(&items).unwrap();
    assert_eq!(read.len(), EvidenceKind::ALL.len());
    for (wire, read) in items.iter().zip(read) {
        assert_eq!(
            wire.canonical(),
            read.evidence.transcript(),
            "{}",
            wire.kind()
        );
    }
}

fn some_base() -> Base {
    use vouchsafe_attestation::binding::{Nonce, Role, Transcript};
    Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &"test.example".parse().unwrap(),
        workload: &"dev/llm".parse().unwrap(),
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: b"",
        ak_name: b"",
        policy_revision: Default::default(),
    }
    .base()
}

fn other_bodies() -> impl Iterator<Item = EvidenceBody> {
    use vouchsafe_api::convert::attest::{
        AzVtpmEvidence, NvidiaDriverState, NvidiaGpuEvidence, PcrBank, PcrHash, SimulatedEvidence,
        TdxEvidence, TpmEvidence,
    };
    let banks = || {
        vec![
            PcrBank {
                hash: PcrHash::Sha256,
                values: vec![(0, vec![1; 32]), (7, vec![2; 32])],
            },
            PcrBank {
                hash: PcrHash::Sha384,
                values: vec![(0, vec![3; 48])],
            },
        ]
    };
    let vtpm = move || AzVtpmEvidence {
        hcl_report: vec![1],
        quote: vec![2],
        signature: vec![3],
        pcrs: banks(),
        event_log: vec![4],
        hardware: vec![5],
    };
    [
        EvidenceBody::Tpm(TpmEvidence {
            quote: vec![1],
            signature: vec![2],
            pcrs: banks(),
            event_log: vec![3],
            activated_credential: vec![4],
            ima_log: vec![5],
            ima_offset: 6,
        }),
        EvidenceBody::Simulated(SimulatedEvidence {
            machine: "a".into(),
            image: "b".into(),
            binding: [7; 32],
        }),
        EvidenceBody::Tdx(TdxEvidence {
            quote: vec![1],
            event_log: vec![2],
        }),
        EvidenceBody::AzSnpVtpm(vtpm()),
        EvidenceBody::AzTdxVtpm(vtpm()),
        EvidenceBody::NvidiaGpu(NvidiaGpuEvidence {
            report: vec![1],
            certificate_chain: vec![2],
            architecture: "hopper".into(),
            is_switch: true,
            driver: Some(NvidiaDriverState {
                confidential_compute: true,
                devtools: false,
            }),
        }),
    ]
    .into_iter()
}

#[tokio::test]
async fn a_tcb_floor_that_rises_revokes_a_live_result_by_its_archived_evidence() {
    let vendors = Vendors::new();
    let factory = factory(&vendors).await;
    let machine = vendors.snp(9);
    let (issued, _) = factory.attest_set(&llm(), honest(&machine)).await.unwrap();
    let floor = |least: &str| policy().replace(">=200", least);
    factory.write_policy(&floor(">=210"));
    factory.write_policy(&floor(">=211"));
    eventually("the instance to be revoked", || async {
        factory.records().iter().any(|record| {
            let Event::StandingChanged(change) = &record.event else {
                return false;
            };
            assert_eq!(change.reason, "reported_tcb_too_old");
            assert_eq!(change.instance, issued.instance.0);
            change.standing == "revoked"
        })
    })
    .await;
    factory.stop().await;
}
