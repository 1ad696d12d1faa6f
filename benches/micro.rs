//! One case of the micro benches, so many times: `./count --micro` counts its instructions, which stay the same from run to
//! run where times don't.

#[path = "support/evidence.rs"]
mod evidence;
#[path = "support/policy.rs"]
mod policy;
mod support;

use std::hint::black_box;

use anyhow::{Context as _, bail, ensure};
use bytes::BytesMut;
use policy::{Demands, Size};
use vouchsafe_attestation::binding::{EvidenceDigest, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::policy::{
    Binding, Context, Decision, Direction, Request, authorize, normalize_path,
};
use vouchsafe_proxy::http1::head::RequestHead;
use vouchsafe_proxy::lane::preamble::{FlowProtocol, Preamble};

/// Every case, in the order of the table.
const CASES: [&str; 20] = [
    "authorize_10_first",
    "authorize_10_last",
    "authorize_10_denied",
    "authorize_10_of_10000",
    "authorize_10_unattested",
    "authorize_10_revoked_1000",
    "verify_peer",
    "verify_peer_claims",
    "transcript",
    "preamble",
    "request_head",
    "normalize_path",
    "evidence_sev_snp",
    "evidence_tdx",
    "evidence_tdx_event_log",
    "evidence_az_snp_vtpm",
    "evidence_nitro",
    "evidence_nvidia_gpu",
    "evidence_nvidia_gpu_ocsp",
    "evidence_tpm",
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(case) = arguments.next() else {
        bail!(
            "usage: vouchsafe-micro CASE TIMES, where CASE is one of {}",
            CASES.join(", ")
        );
    };
    let times: u64 = arguments.next().context("how many times?")?.parse()?;
    match case.as_str() {
        "authorize_10_first" => decide(Size::default(), "/v0/items/7", true, times),
        "authorize_10_last" => decide(Size::default(), "/last", true, times),
        "authorize_10_denied" => decide(Size::default(), "/nowhere", false, times),
        "authorize_10_of_10000" => {
            let others = 10_000;
            let size = Size {
                others,
                ..Size::default()
            };
            decide(size, "/last", true, times)
        }
        "authorize_10_unattested" => {
            let demands = Demands::Name;
            let size = Size {
                demands,
                ..Size::default()
            };
            decide(size, "/last", true, times)
        }
        "authorize_10_revoked_1000" => {
            let revoked = 1000;
            let size = Size {
                revoked,
                ..Size::default()
            };
            decide(size, "/last", true, times)
        }
        "verify_peer" => verify(false, times),
        "verify_peer_claims" => verify(true, times),
        "transcript" => transcript(times),
        "preamble" => preamble(times),
        "request_head" => request_head(times),
        "normalize_path" => {
            for _ in 0..times {
                black_box(normalize_path(black_box("/v1/chat/completions"))?);
            }
            Ok(())
        }
        evidence if evidence.starts_with("evidence_") => evidence::judge(evidence, times),
        other => bail!("unknown case `{other}`; there are {}", CASES.join(", ")),
    }
}

fn decide(size: Size, path: &str, allowed: bool, times: u64) -> anyhow::Result<()> {
    let made = support::certified(size.demands == Demands::Claims)?;
    let peer = verify_peer(&made.chain, &made.bundle, PeerRole::Client, support::now())?;
    let (local, port) = ("bench/server".parse()?, "api".parse()?);
    let policy = policy::compile(size)?;
    let request = Request {
        method: "GET",
        path,
        grpc: false,
    };
    let context = Context {
        direction: Direction::Inbound,
        local: &local,
        peer: &peer,
        binding: Binding::Certificate,
        port: &port,
        number: None,
        request: Some(&request),
        user: None,
        on_behalf_of: None,
        now: support::now(),
    };
    for _ in 0..times {
        let decision = authorize(black_box(&policy), black_box(&context));
        ensure!(
            matches!(decision, Decision::Allow(_)) == allowed,
            "`{path}` was decided {decision:?}"
        );
    }
    Ok(())
}

fn verify(with_result: bool, times: u64) -> anyhow::Result<()> {
    let made = support::certified(with_result)?;
    for _ in 0..times {
        let (chain, bundle) = (black_box(&made.chain), &made.bundle);
        black_box(verify_peer(
            chain,
            bundle,
            PeerRole::Client,
            support::now(),
        )?);
    }
    Ok(())
}

fn transcript(times: u64) -> anyhow::Result<()> {
    let (trust_domain, workload) = ("bench.test".parse()?, "bench/client".parse()?);
    let transcript = Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &trust_domain,
        workload: &workload,
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: &[6; 34],
        ak_name: &[7; 34],
        policy_revision: Revision {
            epoch: 1,
            sequence: 42,
        },
    };
    let prior = EvidenceDigest::empty();
    for _ in 0..times {
        let base = black_box(&transcript).base();
        black_box(base.device(EvidenceKind::Tpm, 0, &prior));
    }
    Ok(())
}

fn preamble(times: u64) -> anyhow::Result<()> {
    let preamble = Preamble {
        protocol: FlowProtocol::Tcp,
        port: "kv-cache".parse()?,
        number: 5007,
    };
    for _ in 0..times {
        let bytes = black_box(&preamble).encode();
        black_box(Preamble::parse(&bytes)?);
    }
    Ok(())
}

fn request_head(times: u64) -> anyhow::Result<()> {
    const HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nhost: llm.example\r\nuser-agent: python\r\n\
        accept: */*\r\nauthorization: Bearer 0123456789\r\ncontent-type: application/json\r\ncontent-length: 512\r\n\r\n";
    for _ in 0..times {
        let mut bytes = BytesMut::from(black_box(HEAD));
        let head = RequestHead::parse(&mut bytes, &mut 0, 64 * 1024)?;
        ensure!(head.is_some(), "the head was not whole");
        black_box(head);
    }
    Ok(())
}
