//! Revocations wait for nobody who does not answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;
use vouchsafe_api::convert::mesh_state::probe::ProbeReport;
use vouchsafe_attestation::result::InstanceId;

use super::harness::Watch;
use super::revoking::{end, fallen, revoke};
use super::*;

/// How a connected sidecar answers probes; it applies each revision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    AtOnce,
    /// Only when it has applied another revision.
    AfterTheChange,
    /// The first, and no other; after that it reads nothing any more.
    Once,
    /// It reads nothing once it is connected.
    Never,
}

/// A connected sidecar with so many live connections, of which so many would fall.
struct Peer {
    instance: InstanceId,
    running: JoinHandle<()>,
    /// Revisions that it applied.
    applied: Arc<AtomicUsize>,
}

impl Peer {
    async fn enter(
        factory: &Factory,
        (workload, machine): (&'static str, &'static str),
        manner: Manner,
        (live, falls): (u64, usize),
    ) -> Self {
        let sidecar = Sidecar::new(workload, machine);
        let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
        let svid = (issued.certificate_chain.clone(), key);
        let client = factory.connect(Some(&svid)).await;
        let mut watch = client.watch().await;
        watch.settled().await;
        let applied = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&applied);
        let running = tokio::spawn(async move {
            let _client = client;
            live_on(watch, manner, (live, falls), &count).await;
        });
        Self {
            instance: issued.instance,
            running,
            applied,
        }
    }

    fn of<'r>(&self, response: &'r v1::ChangeResponse) -> &'r v1::SidecarChange {
        let mut sidecars = response.sidecars.iter();
        let own = sidecars.find(|one| one.instance == self.instance.0);
        own.unwrap()
    }
}

async fn live_on(
    mut watch: Watch,
    manner: Manner,
    (live, falls): (u64, usize),
    applied: &AtomicUsize,
) {
    let mut waits = Vec::new();
    loop {
        if manner == Manner::Never {
            return std::future::pending().await;
        }
        match watch.next().await {
            WatchResponse::Probe(probe) => waits.push(probe.id),
            other => {
                if watch.take_in(other).await.is_some() {
                    applied.fetch_add(1, Ordering::SeqCst);
                } else {
                    continue;
                }
            }
        }
        if manner == Manner::AfterTheChange && applied.load(Ordering::SeqCst) == 0 {
            continue;
        }
        for id in waits.drain(..) {
            let fallen = (0..falls).map(|_| fallen("spiffe://test.example/ns/dev/workload/x"));
            let report = ProbeReport::new(id, fallen).of(live, false);
            watch.send(WatchRequest::ProbeReport(report)).await;
            if manner == Manner::Once {
                return std::future::pending().await;
            }
        }
    }
}

const API: (&str, &str) = ("dev/api", "laptop");
const WEB: (&str, &str) = ("dev/web", "other");

#[tokio::test]
async fn a_revocation_without_a_limit_is_in_force_before_anybody_has_answered() {
    let factory = Factory::start(POLICY).await;
    let peers = [
        Peer::enter(&factory, API, Manner::AfterTheChange, (60, 40)).await,
        Peer::enter(&factory, WEB, Manner::AfterTheChange, (40, 10)).await,
    ];
    let asked = v1::ChangeRequest {
        max_drop: 100,
        ..revoke("{workload: [api]}")
    };
    let made = factory.change(asked).await.unwrap();
    assert!(made.made, "{made:?}");
    // What they said is told all the same.
    assert_eq!((made.would_drop, made.live), (50, 100));
    for peer in &peers {
        let said = peer.of(&made);
        assert_eq!((said.unanswered.as_str(), said.error.as_str()), ("", ""));
        assert!(said.applied_us > 0);
        peer.running.abort();
    }
    // The record does not claim to have known it.
    let act = factory.acts().remove(0);
    assert_eq!((act.would_drop, act.live, act.unanswered), (0, 0, 2));
    factory.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_never_answers_keeps_nobody_from_being_cut() {
    let factory = Arc::new(Factory::start(POLICY).await);
    let answer = [
        Peer::enter(&factory, API, Manner::AtOnce, (60, 10)).await,
        Peer::enter(&factory, WEB, Manner::AtOnce, (40, 10)).await,
    ];
    let silent = Peer::enter(&factory, WEB, Manner::Never, (0, 0)).await;
    for (number, max_drop) in [(1, 25), (2, 100)] {
        let asked = v1::ChangeRequest {
            max_drop,
            ..revoke("{workload: [api]}")
        };
        let asking = Arc::clone(&factory);
        let made = tokio::spawn(async move { asking.change(asked).await });
        eventually("those who answer to have applied it", || async {
            { answer.iter() }.all(|peer| peer.applied.load(Ordering::SeqCst) >= 2 * number - 1)
        })
        .await;
        if number == 2 {
            // Nothing is waited for that can't come any more.
            silent.running.abort();
        }
        let made = made.await.unwrap().unwrap();
        assert!(made.made, "{made:?}");
        assert_eq!((made.would_drop, made.live), (20, 100));
        assert!(answer.iter().all(|peer| peer.of(&made).applied_us > 0));
        let told = silent.of(&made);
        assert_ne!(told.unanswered, "");
        assert_eq!(told.applied_us, 0);
        if number == 1 {
            let ended = v1::ChangeRequest {
                max_drop: 100,
                max_drop_is_percent: true,
                ..end()
            };
            assert!(factory.change(ended).await.unwrap().made);
        }
    }
    let unanswered = factory.acts().iter().map(|act| act.unanswered).max();
    assert_eq!(unanswered, Some(3), "without a limit nobody had answered");
    for peer in answer {
        peer.running.abort();
    }
}

#[tokio::test]
async fn a_silent_sidecar_counts_with_what_it_had_open_when_it_was_asked_last() {
    let factory = Factory::start(POLICY).await;
    let answers = Peer::enter(&factory, API, Manner::AtOnce, (100, 10)).await;
    let once = Peer::enter(&factory, WEB, Manner::Once, (80, 0)).await;
    let asked = v1::ChangeRequest {
        dry_run: true,
        ..revoke("{workload: [api]}")
    };
    let said = factory.change(asked).await.unwrap();
    assert_eq!((said.would_drop, said.live), (10, 180));
    let refused = factory.change(revoke("{workload: [api]}")).await.unwrap();
    assert!(!refused.made, "{refused:?}");
    assert!(
        refused.refused.contains("(80 of them those that silent"),
        "{}",
        refused.refused
    );
    assert!(factory.acts().is_empty());
    for peer in [answers, once] {
        peer.running.abort();
    }
    factory.stop().await;
}
