//! Promise 4: a lease is extended only when the same instance proves its successor certificate for that very connection,
//! and is authorized afresh.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_attestation::connection_proof::{ConnectionId, ConnectionTranscript, ProofPurpose};
use vouchsafe_attestation::peer::PeerRole;
use vouchsafe_config::policy::Lane;
use vouchsafe_proxy::lane::control::message::Message;
use vouchsafe_proxy::state::Svid;

use crate::raw_peer::{Control, RawPeer, sign, transcript};
use crate::support::{
    Attested, LANES, Mesh, Pair, Sidecar, Wish, application, read_all, run, until,
};

const HOUR: Duration = Duration::from_secs(3600);
const EXTENSIONS: &str = "vouchsafe_lease_extensions_total";

async fn echo() -> std::net::SocketAddr {
    application(|mut stream| async move {
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).await.is_ok() {
            if stream.write_all(&byte).await.is_err() {
                break;
            }
        }
    })
    .await
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
}

/// Gives a sidecar its next certificate.
fn renew(mesh: &Mesh, sidecar: &Sidecar, workload: &str, lifetime: Duration, attested: Attested) {
    let number = sidecar.state.identity.load().as_ref().unwrap().number + 1;
    let svid = mesh.svid_of(workload, lifetime, attested);
    let identity = mesh.identity(number, svid);
    sidecar.state.identity.store(Some(identity));
}

#[test]
fn a_flow_lives_as_long_as_both_ends_are_renewed_and_no_longer() {
    run(async {
        for lane in LANES {
            let lifetime = Duration::from_secs(8);
            let pair = Pair::start_in(Mesh::attested(), lane, "raw", echo().await, lifetime);
            let mut stream = pair.connect().await;
            let begun = Instant::now();
            // In turn, so that each end is once the one that ends first.
            for round in 0..6 {
                let next = begun + Duration::from_secs(2) * (round + 1);
                while Instant::now() < next {
                    assert!(echoes(&mut stream).await, "{lane:?} in round {round}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                for (sidecar, workload) in
                    [(&pair.client, "app/client"), (&pair.server, "app/server")]
                {
                    renew(&pair.mesh, sidecar, workload, lifetime, Attested::default());
                }
            }
            let extended = ["outcome=\"extended\""];
            for sidecar in [&pair.client, &pair.server] {
                until("the last extension", || {
                    sidecar.metric(EXTENSIONS, &extended) >= 6.0
                })
                .await;
            }
            // Nobody is renewed any more.
            assert_eq!(read_all(&mut stream).await, "", "{lane:?}");
            let logs = [pair.client.end().await, pair.server.end().await];
            let cut = logs.iter().any(|log| log.contains("lease_ended"));
            assert!(cut, "{lane:?}: {logs:?}");
        }
    });
}

#[test]
fn an_instance_that_enrolled_anew_extends_nothing() {
    run(async {
        for lane in LANES {
            let lifetime = Duration::from_secs(8);
            let pair = Pair::start_in(Mesh::attested(), lane, "raw", echo().await, lifetime);
            let mut stream = pair.connect().await;
            assert!(echoes(&mut stream).await);
            let anew = Attested {
                instance: 2,
                ..Attested::default()
            };
            renew(&pair.mesh, &pair.client, "app/client", HOUR, anew);
            renew(
                &pair.mesh,
                &pair.server,
                "app/server",
                HOUR,
                Attested::default(),
            );
            assert_eq!(read_all(&mut stream).await, "", "{lane:?}");
            let logs = [pair.client.end().await, pair.server.end().await];
            let cut = logs.iter().any(|log| log.contains("lease_ended"));
            assert!(cut, "{lane:?}: {logs:?}");
        }
    });
}

#[test]
fn a_successor_that_lost_a_claim_is_cut() {
    run(async {
        for lane in LANES {
            let pair = Pair::start_in(Mesh::attested(), lane, "sealed", echo().await, HOUR);
            let mut stream = pair.connect().await;
            assert!(echoes(&mut stream).await);
            let other = Attested {
                image: "other",
                ..Attested::default()
            };
            renew(&pair.mesh, &pair.client, "app/client", HOUR, other);
            assert_eq!(read_all(&mut stream).await, "", "{lane:?}");
            let log = pair.server.end().await;
            assert!(log.contains("\"reason\":\"claims\""), "{lane:?}: {log}");
        }
    });
}

/// A server's sidecar with one connection of a raw peer, and the peer's next certificate.
struct Attack {
    mesh: Mesh,
    server: Sidecar,
    peer: RawPeer,
    control: Control,
    next: Svid,
}

impl Attack {
    async fn begin() -> Self {
        let mesh = Mesh::attested();
        let wish = Wish::new("app/server", Lane::Shared).behind("raw", echo().await);
        let server = Sidecar::start(&mesh, wish);
        let present = mesh.svid("app/client", Duration::from_secs(600));
        let peer = RawPeer::connect(server.door(), &present).await;
        Self {
            control: peer.control().await,
            next: mesh.svid("app/client", HOUR),
            peer,
            server,
            mesh,
        }
    }

    async fn lease_end(&self) -> u64 {
        let listed = self.server.workers.as_ref().unwrap().connections();
        listed.list().await[0].lease_end.unwrap()
    }

    /// Proves what a test has made of the good proof.
    async fn prove(
        &mut self,
        signer: Option<&Svid>,
        change: impl FnOnce(&mut ConnectionTranscript<'_>),
    ) -> Message {
        let nonce = self.control.succeed(&self.next).await.unwrap();
        let mut transcript = transcript(&self.peer.binding, &self.next, nonce);
        change(&mut transcript);
        let proof = sign(signer.unwrap_or(&self.next), &transcript);
        let id = self.peer.binding.id();
        self.control.say(&Message::Proof(id, None, proof));
        self.control.hear().await.unwrap()
    }

    fn refused(&self, reason: &str) -> f64 {
        let outcome = format!("outcome=\"{reason}\"");
        let parts = ["direction=\"inbound\"", &outcome];
        self.server.metric(EXTENSIONS, &parts)
    }
}

#[test]
fn a_good_proof_extends_the_lease() {
    run(async {
        let mut attack = Attack::begin().await;
        let before = attack.lease_end().await;
        let id = attack.peer.binding.id();
        assert_eq!(attack.prove(None, |_| ()).await, Message::Accepted(id));
        assert!(attack.lease_end().await > before + 2000);
        assert!(attack.refused("extended") > 0.0);
    });
}

#[test]
fn an_extension_that_is_forged_reflected_relayed_or_for_another_purpose_is_refused_and_counted() {
    run(async {
        let mut attack = Attack::begin().await;
        let before = attack.lease_end().await;
        let id = attack.peer.binding.id();
        let refused = Message::Refused(id);
        // Somebody else's key, with a certificate of the same name.
        let other = attack.mesh.svid("app/client", HOUR);
        assert_eq!(attack.prove(Some(&other), |_| ()).await, refused);
        let reflected = |made: &mut ConnectionTranscript<'_>| made.prover = PeerRole::Server;
        assert_eq!(attack.prove(None, reflected).await, refused);
        let for_another = |made: &mut ConnectionTranscript<'_>| {
            made.purpose = ProofPurpose::StrictInitial;
        };
        assert_eq!(attack.prove(None, for_another).await, refused);
        assert_eq!(attack.refused("proof_signature"), 3.0);
        // The same key proves over another session of its own: not over this one.
        let present = attack.mesh.svid("app/client", HOUR);
        let elsewhere = RawPeer::connect(attack.server.door(), &present).await;
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        let proof = sign(
            &attack.next,
            &transcript(&elsewhere.binding, &attack.next, nonce),
        );
        attack.control.say(&Message::Proof(id, None, proof));
        assert_eq!(attack.control.hear().await, Some(refused));
        assert_eq!(attack.refused("proof_signature"), 4.0);
        // A connection that nobody has.
        let nowhere = ConnectionId([7; 16]);
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        let proof = sign(
            &attack.next,
            &transcript(&attack.peer.binding, &attack.next, nonce),
        );
        attack.control.say(&Message::Proof(nowhere, None, proof));
        assert_eq!(attack.control.hear().await, Some(Message::Refused(nowhere)));
        assert_eq!(attack.refused("unknown_connection"), 1.0);
        drop(elsewhere);
        until("one connection", || {
            attack
                .server
                .metric("vouchsafe_connections_open", &["inbound"])
                <= 1.0
        })
        .await;
        assert_eq!(attack.lease_end().await, before);
    });
}

#[test]
fn a_replayed_extension_is_refused() {
    run(async {
        let mut attack = Attack::begin().await;
        let id = attack.peer.binding.id();
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        let first = ConnectionTranscript {
            counter: 5,
            ..transcript(&attack.peer.binding, &attack.next, nonce)
        };
        let proof = sign(&attack.next, &first);
        let message = Message::Proof(id, None, proof);
        attack.control.say(&message);
        assert_eq!(attack.control.hear().await, Some(Message::Accepted(id)));
        attack.control.say(&message);
        assert_eq!(attack.control.hear().await, Some(Message::Refused(id)));
        assert_eq!(attack.refused("proof_counter"), 1.0);
        // Over the nonce of before, with a counter that has grown.
        attack.control.succeed(&attack.next).await.unwrap();
        let stale = ConnectionTranscript {
            counter: 6,
            ..first
        };
        let proof = sign(&attack.next, &stale);
        attack.control.say(&Message::Proof(id, None, proof));
        assert_eq!(attack.control.hear().await, Some(Message::Refused(id)));
        assert_eq!(attack.refused("proof_signature"), 1.0);
    });
}

#[test]
fn a_successor_of_another_instance_workload_or_authority_is_not_challenged() {
    run(async {
        let mut attack = Attack::begin().await;
        let anew = Attested {
            instance: 2,
            ..Attested::default()
        };
        for other in [
            attack.mesh.svid_of("app/client", HOUR, anew),
            attack.mesh.svid("app/stranger", HOUR),
        ] {
            assert_eq!(attack.control.succeed(&other).await, None);
        }
        assert_eq!(attack.refused("other_instance"), 2.0);
        let foreign = Mesh::attested().svid("app/client", HOUR);
        assert_eq!(attack.control.succeed(&foreign).await, None);
        assert_eq!(attack.refused("untrusted_authority"), 1.0);
    });
}

#[test]
fn who_speaks_for_another_s_connection_is_refused() {
    run(async {
        let mut attack = Attack::begin().await;
        let mesh = &attack.mesh;
        let stranger = mesh.svid("app/stranger", HOUR);
        let thief = RawPeer::connect(attack.server.door(), &stranger).await;
        let mut control = thief.control().await;
        let next = mesh.svid("app/stranger", HOUR);
        let nonce = control.succeed(&next).await.unwrap();
        let proof = sign(&next, &transcript(&attack.peer.binding, &next, nonce));
        let id = attack.peer.binding.id();
        control.say(&Message::Proof(id, None, proof));
        assert_eq!(control.hear().await, Some(Message::Refused(id)));
        assert_eq!(attack.refused("unknown_connection"), 1.0);
        assert_eq!(attack.prove(None, |_| ()).await, Message::Accepted(id));
    });
}

#[test]
fn a_control_stream_that_breaks_its_order_is_ended() {
    run(async {
        for message in [
            Message::Done,
            Message::Unchanged,
            Message::Renewed,
            Message::Ask(ProofPurpose::Extend, ConnectionId([0; 16])),
        ] {
            let mut attack = Attack::begin().await;
            attack.control.say(&message);
            assert_eq!(attack.control.hear().await, None, "{message:?}");
            let label = &["reason=\"control_stream\""];
            attack
                .server
                .counts("vouchsafe_failures_total", label)
                .await;
        }
    });
}

#[test]
fn a_successor_whose_authority_left_the_bundle_before_its_proof_is_refused() {
    run(async {
        let mut attack = Attack::begin().await;
        let before = attack.lease_end().await;
        let other = Mesh::attested();
        let (own, both) = (attack.mesh.bundle(), attack.mesh.bundle_with(&other));
        attack.server.believe(both);
        // Verified while its authority was believed, and kept.
        attack.next = other.svid("app/client", HOUR);
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        attack.server.believe(own);
        let made = transcript(&attack.peer.binding, &attack.next, nonce);
        let proof = sign(&attack.next, &made);
        let id = attack.peer.binding.id();
        attack.control.say(&Message::Proof(id, None, proof));
        assert_eq!(attack.control.hear().await, Some(Message::Refused(id)));
        assert_eq!(attack.refused("authority_removed"), 1.0);
        assert_eq!(attack.lease_end().await, before);
    });
}

#[test]
fn a_proof_that_comes_long_after_its_challenge_is_refused() {
    run(async {
        let mesh = Mesh::attested();
        let mut wish = Wish::new("app/server", Lane::Shared).behind("raw", echo().await);
        wish.limits.handshake = Duration::from_millis(500);
        let server = Sidecar::start(&mesh, wish);
        let peer = RawPeer::connect(server.door(), &mesh.svid("app/client", HOUR)).await;
        let mut control = peer.control().await;
        let next = mesh.svid("app/client", HOUR);
        let nonce = control.succeed(&next).await.unwrap();
        let late = tokio::time::Instant::now() + Duration::from_millis(600);
        tokio::time::sleep_until(late).await;
        let proof = sign(&next, &transcript(&peer.binding, &next, nonce));
        let id = peer.binding.id();
        control.say(&Message::Proof(id, None, proof));
        assert_eq!(control.hear().await, Some(Message::Refused(id)));
        let reason = &["outcome=\"control_stream\""];
        server.counts(EXTENSIONS, reason).await;
    });
}

#[test]
fn who_asks_for_proofs_without_end_is_sent_away() {
    run(async {
        let mut attack = Attack::begin().await;
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        let nowhere = vec![ConnectionId([7; 16]); 64];
        let asked = Message::Challenge(ProofPurpose::Extend, nonce, nowhere);
        let mut heard = 0;
        'asking: loop {
            attack.control.say(&asked);
            for _ in 0..64 {
                if attack.control.hear().await.is_none() {
                    break 'asking;
                }
                heard += 1;
            }
            // What it has earned meanwhile is a hundredth of what it asks for.
            assert!(heard < 100_000);
        }
        let label = &["reason=\"control_stream\""];
        attack
            .server
            .counts("vouchsafe_failures_total", label)
            .await;
    });
}

#[test]
fn who_guesses_is_sent_away() {
    run(async {
        let mut attack = Attack::begin().await;
        let nowhere = ConnectionId([7; 16]);
        let nonce = attack.control.succeed(&attack.next).await.unwrap();
        let proof = sign(
            &attack.next,
            &transcript(&attack.peer.binding, &attack.next, nonce),
        );
        let mut refused = 0;
        loop {
            attack
                .control
                .say(&Message::Proof(nowhere, None, proof.clone()));
            match attack.control.hear().await {
                Some(message) => assert_eq!(message, Message::Refused(nowhere)),
                None => break,
            }
            refused += 1;
            assert!(refused <= 64);
        }
        assert_eq!(refused, 64);
    });
}
