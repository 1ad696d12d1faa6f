//! What each fuzz target with a corpus does with its bytes. An ordinary test replays the corpora through the same
//! functions (`tests/corpus.rs` of the sidecar), so that a crash that was found once stays fixed on stable.

use std::collections::BTreeMap;

use prost::Message as _;
use vouchsafe_api::convert::mesh_state::{Delta, Snapshot, resource_leaf, slice_leaf};
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::{self, leaf_hash};
use vouchsafe_proxy::attester::az_vtpm::HclParts;
use vouchsafe_proxy::attester::az_vtpm::imds::{certificates_of, quote_of};
use vouchsafe_proxy::attester::tsm::processor::processor_of;
use vouchsafe_proxy::attester::tsm::{Provider, report_data_of};
use vouchsafe_proxy::attester::{nitro, nvidia_gpu};
use vouchsafe_proxy::lane::control::message::{Message, Parsed};
use vouchsafe_proxy::mesh_state::held::{Held, Wanted};

/// A report or quote that the kernel gave.
pub fn guest_report(data: &[u8]) {
    for provider in [Provider::SevSnp, Provider::Tdx] {
        if let Some(found) = report_data_of(provider, data) {
            assert!(data.windows(64).any(|window| window == found));
        }
    }
    if let Some(processor) = processor_of(data) {
        let names = [processor.ppid, processor.platform_instance_id];
        assert!(names.into_iter().flatten().all(|name| name != [0; 16]));
    }
}

/// A report that NVIDIA's library gave.
pub fn gpu_report(data: &[u8]) {
    if let Some(nonce) = nvidia_gpu::nonce_of(data) {
        assert_eq!(data[4..36], *nonce);
    }
    if let Some(ueid) = nvidia_gpu::ueid_of(data) {
        assert!(ueid.bytes().all(|byte| byte.is_ascii_digit()));
    }
}

/// An answer of the enclave's module, and the document that it may be.
pub fn enclave_document(data: &[u8]) {
    if let Ok(document) = nitro::document_of(data) {
        assert!(document.len() < data.len());
        let _ = nitro::nonce_of(document);
    }
    if let Some(nonce) = nitro::nonce_of(data) {
        assert!(nonce.len() < data.len());
    }
    let _ = nitro::instance_of(data);
}

/// An answer of Azure's metadata service.
pub fn metadata_answer(data: &[u8]) {
    if let Ok(quote) = quote_of(data) {
        assert!(quote.len() < data.len());
    }
    if let Ok(certificates) = certificates_of(data) {
        assert!(certificates.len() <= data.len());
    }
}

/// A report of Azure's paravisor.
pub fn hcl_report(data: &[u8]) {
    if let Some(parts) = HclParts::of(data) {
        assert!(parts.td_report.is_none_or(|report| report.len() == 1024));
        let _ = parts.user_data();
    }
}

/// What comes on a control stream: what is read is written again as the same bytes.
pub fn control_message(data: &[u8]) {
    if let Ok(Parsed::Complete(message, length)) = Message::parse(data) {
        assert_eq!(
            message.encode().expect("what was read fits a frame"),
            data[..length]
        );
    }
}

/// Changes of a slice that come one after the other, each with a proof that is right: 16 bits of length, then a delta, of
/// which `changed` and `removed` count. What is held after them is what one snapshot of it all makes, or the change is
/// refused and what was held stays.
pub fn held_slice(mut data: &[u8]) {
    let wanted = Wanted {
        trust_domain: "factory.example".parse().expect("a trust domain"),
        workload: "inference/llm".parse().expect("a workload"),
    };
    let (mut held, mut contents) = (Held::default(), BTreeMap::<String, v1::Resource>::new());
    for sequence in 1..=8 {
        let Some((length, rest)) = data.split_first_chunk() else {
            return;
        };
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        data = rest;
        let Ok(change) = v1::Delta::decode(frame) else {
            return;
        };
        let mut after = contents.clone();
        for name in &change.removed {
            after.remove(name);
        }
        for resource in &change.changed {
            after.insert(resource.name.clone(), resource.clone());
        }
        let (revision, proof) = proven(&after, sequence);
        let snapshot = v1::Snapshot {
            revision: Some(revision.clone()),
            resources: after.values().cloned().collect(),
            proof: Some(proof.clone()),
        };
        let whole = Snapshot::try_from(snapshot).ok();
        let whole = whole.and_then(|snapshot| Held::from_snapshot(snapshot, &wanted).ok());
        let next = match sequence {
            // Nothing is held yet.
            1 => whole.clone(),
            _ => {
                let delta = v1::Delta {
                    revision: Some(revision),
                    base: Some(held.revision().into()),
                    proof: Some(proof),
                    ..change
                };
                let delta = Delta::try_from(delta).ok();
                delta.and_then(|delta| held.changed(delta, &wanted).ok())
            }
        };
        let Some(next) = next else {
            assert!(held.is_whole());
            return;
        };
        assert!(next.is_whole());
        let whole = whole.expect("what is made by changes can be sent as a whole");
        assert_eq!(next.holding(), whole.holding());
        let (ours, theirs) = (next.epoch(), whole.epoch());
        assert_eq!(ours.policy.rules(), theirs.policy.rules());
        assert_eq!(ours.trust, theirs.trust);
        assert_eq!(
            format!("{:?}", ours.endpoints),
            format!("{:?}", theirs.endpoints)
        );
        (held, contents) = (next, after);
    }
}

/// A revision with one slice, and the proof of it.
fn proven(
    contents: &BTreeMap<String, v1::Resource>,
    sequence: u64,
) -> (v1::SignedRevision, v1::SliceProof) {
    let leaf =
        |(name, one): (&String, &v1::Resource)| leaf_hash(&resource_leaf(name, &one.content));
    let leaves: Vec<_> = contents.iter().map(leaf).collect();
    let slice = slice_leaf(UNKNOWN, &merkle::root(&leaves), leaves.len() as u64);
    let revision = v1::SignedRevision {
        revision: Some(v1::Revision { epoch: 1, sequence }),
        root: merkle::root(&[leaf_hash(&slice)]).to_vec(),
        slices: 1,
        time_ms: 1_800_000_000_000,
        // Who signed is judged elsewhere.
        signature: vec![1],
        signer_chain: vec![vec![1]],
    };
    let proof = v1::SliceProof {
        slice: UNKNOWN.to_owned(),
        index: 0,
        siblings: Vec::new(),
    };
    (revision, proof)
}

/// Name of the slice of workloads that the policy does not know.
const UNKNOWN: &str = "-";
