//! The answering end of a control stream: the TLS server of the connections that are spoken of.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use aws_lc_rs::rand;
use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::connection_proof::{
    ConnectionId, ConnectionProof, ProofPurpose, Successor,
};
use vouchsafe_attestation::peer::PeerRole;
use vouchsafe_config::policy::Direction;

use crate::io::Io;
use crate::lane::control::bond::{OwnCertificate, is_same_peer};
use crate::lane::control::bonds::{Bonded, Listed, Proven};
use crate::lane::control::channel::{Channel, ChannelError};
use crate::lane::control::message::Message;
use crate::reason::{self, Reason};
use crate::telemetry::Chain;
use crate::worker::Worker;

/// One control stream, as the answering end sees it.
#[derive(Debug)]
struct Answering<'a> {
    worker: &'a Rc<Worker>,
    /// The connection that carries the stream.
    carrier: &'a Bonded,
    channel: Channel<'a>,
    /// The peer's successor, and the challenge by which it is to be proven.
    successor: Option<(Successor, Asked)>,
    /// The certificate of ours that was shown.
    shown: Option<Arc<OwnCertificate>>,
    /// Connections over which it was proven, until the peer has said what it makes of that.
    proven: HashSet<ConnectionId>,
    /// What the peer was asked to prove for a strict route.
    challenged: Option<(ProofPurpose, ConnectionId, Asked)>,
    refusals: u32,
}

/// A challenge that was made. A proof is worth what its challenge is: one that comes late proves nothing of today.
#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: Nonce,
    since: Instant,
    /// The same in mesh time.
    at: SystemTime,
}

/// Answers until the other end has closed the stream, or the connection that carries it takes on nothing new.
///
/// # Errors
/// [`ChannelError`]: the other end broke the order, or the stream.
pub(crate) async fn answer(
    worker: &Rc<Worker>,
    carrier: &Bonded,
    io: &mut Io,
) -> Result<(), ChannelError> {
    let mut answering = Answering::new(worker, carrier, io);
    let mut epochs = worker.epochs.subscribe();
    // What this connection was opened with may have been replaced since.
    let mut told = carrier.bond.own_leaf();
    loop {
        if let Some(epoch) = worker.tls()
            && epoch.own.leaf_sha256 != told
        {
            told = epoch.own.leaf_sha256;
            answering.channel.send(&Message::Renewed).await?;
        }
        tokio::select! {
            message = answering.channel.receive() => match message {
                Ok(message) => answering.message(message).await?,
                Err(ChannelError::Ended) => return Ok(()),
                Err(error) => return Err(error),
            },
            // The worker lives longer than its connections.
            _ = epochs.changed() => {}
            () = carrier.live.drained() => return Ok(()),
        }
    }
}

/// Answers what stands before a preamble. Returns what was received after it.
///
/// # Errors
/// [`ChannelError`]: the other end broke the order, or the stream.
pub(crate) async fn answer_before_preamble(
    worker: &Rc<Worker>,
    carrier: &Bonded,
    io: &mut Io,
) -> Result<Bytes, ChannelError> {
    let mut answering = Answering::new(worker, carrier, io);
    for _ in 0..MAX_BEFORE_PREAMBLE {
        match answering.channel.receive().await? {
            Message::Done => return Ok(answering.channel.into_rest()),
            message => answering.message(message).await?,
        }
    }
    Err(ChannelError::Order)
}

impl<'a> Answering<'a> {
    fn new(worker: &'a Rc<Worker>, carrier: &'a Bonded, io: &'a mut Io) -> Self {
        Self {
            worker,
            carrier,
            channel: Channel::new(io, worker.parts.config.limits.handshake),
            successor: None,
            shown: None,
            proven: HashSet::new(),
            challenged: None,
            refusals: 0,
        }
    }
}

impl Answering<'_> {
    async fn message(&mut self, message: Message) -> Result<(), ChannelError> {
        if matches!(message, Message::Successor(_) | Message::Proof(..)) {
            self.spend()?;
        }
        match message {
            Message::Show(known) => self.show(known).await,
            Message::Successor(chain) => self.successor(&chain).await,
            Message::Challenge(ProofPurpose::Extend, nonce, connections) => {
                self.prove(nonce, &connections).await
            }
            Message::Proof(connection, None, proof) => self.proof(connection, &proof).await,
            Message::Accepted(connection) => {
                self.settled(connection, true).await;
                Ok(())
            }
            Message::Refused(connection) => {
                self.settled(connection, false).await;
                Ok(())
            }
            Message::Ask(purpose, connection) if purpose != ProofPurpose::Extend => {
                self.challenge(purpose, connection).await
            }
            Message::Challenge(purpose, nonce, connections) => {
                self.prove_present(purpose, nonce, &connections).await
            }
            Message::Proof(connection, Some(leaf), proof) => {
                self.strict_proof(connection, &leaf, &proof).await
            }
            Message::Unchanged | Message::Renewed | Message::Ask(..) | Message::Done => {
                Err(ChannelError::Order)
            }
        }
    }

    async fn show(&mut self, known: [u8; 32]) -> Result<(), ChannelError> {
        self.proven.clear();
        let own = self.worker.tls().map(|epoch| Arc::clone(&epoch.own));
        self.shown = own;
        let answer = match &self.shown {
            Some(own) if own.leaf_sha256 != known => Message::Successor(own.chain.clone()),
            _ => Message::Unchanged,
        };
        self.channel.send(&answer).await
    }

    async fn successor(&mut self, chain: &[CertificateDer<'_>]) -> Result<(), ChannelError> {
        self.successor = None;
        let epoch = self.worker.tls();
        let verified = epoch.ok_or(reason::NO_IDENTITY).and_then(|epoch| {
            Successor::verify(
                chain,
                &epoch.identity.bundle,
                PeerRole::Client,
                self.worker.now(),
                &self.carrier.bond.peer().peer,
            )
            .map_err(|error| {
                tracing::info!(
                    direction = "inbound",
                    peer_id = %self.carrier.bond.peer().peer.id(),
                    reason = error.reason(),
                    error = %Chain(&error),
                    "a successor certificate was refused"
                );
                Reason::from(&error)
            })
        });
        match (verified, self.ask()) {
            (Ok(successor), Some(asked)) => {
                self.successor = Some((successor, asked));
                let challenge = Message::Challenge(ProofPurpose::Extend, asked.nonce, Vec::new());
                self.channel.send(&challenge).await
            }
            (Err(reason), _) => self.not_extended(self.carrier.bond.id, reason).await,
            (_, None) => {
                let reason = reason::CONTROL_STREAM;
                self.not_extended(self.carrier.bond.id, reason).await
            }
        }
    }

    /// Proves our shown certificate over the connections that were asked about.
    async fn prove(
        &mut self,
        nonce: Nonce,
        connections: &[ConnectionId],
    ) -> Result<(), ChannelError> {
        for connection in connections {
            self.spend()?;
            let proof = self.shown.as_ref().and_then(|own| {
                let listed = self.find(*connection)?;
                listed.bond.prove_successor(own, nonce)
            });
            let answer = match proof {
                Some(proof) => {
                    self.proven.insert(*connection);
                    Message::Proof(*connection, None, proof)
                }
                None => Message::Refused(*connection),
            };
            self.channel.send(&answer).await?;
            // Signing is work, and others wait.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn proof(
        &mut self,
        connection: ConnectionId,
        proof: &ConnectionProof,
    ) -> Result<(), ChannelError> {
        let verdict = self.verify(connection, proof).await;
        match verdict {
            Ok(()) => {
                let metrics = &self.worker.parts.metrics;
                metrics.extension(Direction::Inbound, EXTENDED);
                self.channel.send(&Message::Accepted(connection)).await
            }
            Err(reason) => self.not_extended(connection, reason).await,
        }
    }

    async fn verify(
        &self,
        connection: ConnectionId,
        proof: &ConnectionProof,
    ) -> Result<(), Reason> {
        let held = self.successor.as_ref();
        let (successor, asked) = held
            .filter(|(_, asked)| self.is_fresh(asked))
            .ok_or(reason::CONTROL_STREAM)?;
        let listed = self.find(connection).ok_or(reason::UNKNOWN_CONNECTION)?;
        let verified = listed.bond.verify_successor(successor, asked.nonce, proof);
        let verified = verified.map_err(|error| Reason::from(&error))?;
        listed.take_in(Proven::Peer(verified)).await
    }

    /// Challenges the peer for a strict route.
    async fn challenge(
        &mut self,
        purpose: ProofPurpose,
        connection: ConnectionId,
    ) -> Result<(), ChannelError> {
        self.challenged = None;
        let known = self.find(connection).ok_or(reason::UNKNOWN_CONNECTION);
        match known.and(self.ask().ok_or(reason::CONTROL_STREAM)) {
            Ok(asked) => {
                self.challenged = Some((purpose, connection, asked));
                let challenge = Message::Challenge(purpose, asked.nonce, vec![connection]);
                self.channel.send(&challenge).await
            }
            Err(reason) => self.not_bound(connection, reason).await,
        }
    }

    /// Proves what the peer knows of us, for a strict route.
    async fn prove_present(
        &mut self,
        purpose: ProofPurpose,
        nonce: Nonce,
        connections: &[ConnectionId],
    ) -> Result<(), ChannelError> {
        let [connection] = connections else {
            return Err(ChannelError::Order);
        };
        self.spend()?;
        let proof = self
            .find(*connection)
            .and_then(|listed| listed.bond.prove_present(purpose, nonce));
        let answer = match proof {
            Some((leaf, proof)) => Message::Proof(*connection, Some(leaf), proof),
            None => Message::Refused(*connection),
        };
        self.channel.send(&answer).await
    }

    async fn strict_proof(
        &mut self,
        connection: ConnectionId,
        leaf: &CertificateDer<'_>,
        proof: &ConnectionProof,
    ) -> Result<(), ChannelError> {
        match self.verify_strict(connection, leaf, proof).await {
            Ok(()) => {
                let metrics = &self.worker.parts.metrics;
                metrics.bound(Direction::Inbound, reason::PROVEN);
                self.channel.send(&Message::Accepted(connection)).await
            }
            Err(reason) => self.not_bound(connection, reason).await,
        }
    }

    async fn verify_strict(
        &mut self,
        connection: ConnectionId,
        leaf: &CertificateDer<'_>,
        proof: &ConnectionProof,
    ) -> Result<(), Reason> {
        // Consumed by the first proof, whatever becomes of it.
        let challenged = self.challenged.take();
        let (purpose, _, asked) = challenged
            .filter(|(_, challenged, asked)| *challenged == connection && self.is_fresh(asked))
            .ok_or(reason::CONTROL_STREAM)?;
        let listed = self.find(connection).ok_or(reason::UNKNOWN_CONNECTION)?;
        let verified = listed
            .bond
            .verify_present(purpose, asked.nonce, leaf, proof);
        verified.map_err(|error| Reason::from(&error))?;
        listed.take_in(Proven::Binding(asked.at)).await
    }

    async fn not_bound(
        &mut self,
        connection: ConnectionId,
        reason: Reason,
    ) -> Result<(), ChannelError> {
        let metrics = &self.worker.parts.metrics;
        metrics.bound(Direction::Inbound, reason);
        self.refuse(connection).await
    }

    /// What the peer made of our proof.
    async fn settled(&mut self, connection: ConnectionId, accepted: bool) {
        if !self.proven.remove(&connection) || !accepted {
            return;
        }
        if let (Some(own), Some(listed)) = (&self.shown, self.find(connection)) {
            // It is gone, or its worker is busy: then its lease ends as it would have.
            let _ = listed.take_in(Proven::Own(Arc::clone(own))).await;
        }
    }

    fn ask(&self) -> Option<Asked> {
        Some(Asked {
            nonce: fresh_nonce()?,
            since: Instant::now(),
            at: self.worker.now(),
        })
    }

    fn is_fresh(&self, asked: &Asked) -> bool {
        asked.since.elapsed() <= self.worker.parts.config.limits.handshake
    }

    /// Pays for a signature or the verification of one.
    fn spend(&self) -> Result<(), ChannelError> {
        let may = self.carrier.budget.spend(Instant::now());
        may.then_some(()).ok_or(ChannelError::Budget)
    }

    /// A connection with the very peer that speaks here.
    fn find(&self, connection: ConnectionId) -> Option<Listed> {
        let listed = self.worker.bonds.directory.find(connection)?;
        let (here, there) = (self.carrier.bond.peer(), listed.bond.peer());
        is_same_peer(&here.peer, &there.peer).then_some(listed)
    }

    async fn not_extended(
        &mut self,
        connection: ConnectionId,
        reason: Reason,
    ) -> Result<(), ChannelError> {
        let metrics = &self.worker.parts.metrics;
        metrics.extension(Direction::Inbound, reason);
        self.refuse(connection).await
    }

    async fn refuse(&mut self, connection: ConnectionId) -> Result<(), ChannelError> {
        self.refusals += 1;
        if self.refusals > MAX_REFUSALS {
            return Err(ChannelError::Refusals);
        }
        self.channel.send(&Message::Refused(connection)).await
    }
}

/// 32 random bytes; `None` where the system has none.
pub(crate) fn fresh_nonce() -> Option<Nonce> {
    let mut nonce = [0; 32];
    rand::fill(&mut nonce).ok()?;
    Some(Nonce(nonce))
}

/// The word of an extension that was granted.
pub(crate) const EXTENDED: Reason = reason::EXTENDED;
/// An honest end fails where connections end meanwhile; one that guesses is sent away.
const MAX_REFUSALS: u32 = 64;
/// What an honest end says before a preamble: four messages, and a few to spare.
const MAX_BEFORE_PREAMBLE: usize = 8;
