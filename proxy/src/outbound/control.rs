//! The asking end of the control stream: keeps connections to a workload alive through renewals of both ends.
//!
//! A connection that has lived for a second is looked after: its endpoint gets a control stream, on a shared connection of
//! the present epoch, for as long as there is such a connection. When our certificate is renewed, it is proven over each;
//! when the other end's is, the same the other way. What fails or stays silent changes nothing: the lease ends as it
//! would have.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tracing::info;
use vouchsafe_attestation::connection_proof::{
    ConnectionId, ConnectionProof, ProofPurpose, Successor, is_same_instance,
};
use vouchsafe_attestation::peer::PeerRole;
use vouchsafe_config::policy::{Direction, Strict};

use crate::io::{Io, Transport};
use crate::lane::CONTROL_AUTHORITY;
use crate::lane::control::answer::{EXTENDED, fresh_nonce};
use crate::lane::control::bonds::{Bonded, Proven};
use crate::lane::control::channel::{Channel, ChannelError};
use crate::lane::control::message::Message;
use crate::lane::flow::LaneFlow;
use crate::outbound::binding::prove;
use crate::outbound::pool::{Lanes, Opened, PeerLane, Target};
use crate::reason::{self, Reason};
use crate::telemetry::Chain;
use crate::tls::{Offer, TlsEpoch};
use crate::worker::Worker;

/// Opens a control stream to each endpoint that needs one. Runs until it is dropped.
pub(crate) async fn look_after(worker: Rc<Worker>, lanes: Rc<Lanes>) {
    let mut interval = tokio::time::interval(LOOK);
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            Some(_) = streams.join_next() => continue,
        }
        for target in lanes.all() {
            if !target.looked_after.get() && !in_care(&target).is_empty() {
                target.looked_after.set(true);
                streams.spawn_local(tend(Rc::clone(&worker), target));
            }
        }
    }
}

/// Connections that are worth a control stream: older than a second, carrying something, with an end that attests.
fn in_care(target: &Target) -> Vec<Rc<Bonded>> {
    let mut bonded = target.bonded();
    bonded.retain(|bonded| {
        bonded.since.elapsed() >= LOOK
            && bonded.is_in_use()
            && bonded.live.why_cut().is_none()
            && (bonded.bond.peer().peer.result().is_some() || bonded.strict() != Strict::default())
    });
    bonded
}

async fn tend(worker: Rc<Worker>, target: Rc<Target>) {
    let mut pause = LOOK;
    while !in_care(&target).is_empty() {
        let mut heard = false;
        // Boxed: a worker has one for each endpoint, most of the time at rest.
        let spoken = Box::pin(speak(&worker, &target, &mut heard)).await;
        if heard {
            pause = LOOK;
        }
        match spoken {
            Ok(()) => {}
            Err(error) => {
                info!(
                    direction = "outbound",
                    reason = reason::CONTROL_STREAM.as_str(),
                    endpoint = target.endpoint(),
                    error = %Chain(&error),
                    "the control stream ended"
                );
                let metrics = &worker.parts.metrics;
                metrics.failed(Direction::Outbound, reason::CONTROL_STREAM);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    target.looked_after.set(false);
}

/// One control stream from its opening to its end: when nothing needs it, when our certificate was replaced, or when the
/// other end closes it. `heard` is set once all that was due has been answered.
async fn speak(worker: &Rc<Worker>, target: &Target, heard: &mut bool) -> Result<(), ControlError> {
    let mut epochs = worker.epochs.subscribe();
    let epoch = worker
        .tls()
        .ok_or(ControlError::Lane(reason::NO_IDENTITY))?;
    let deadline = worker.parts.config.limits.handshake;
    let lane = match target.acquire(worker, &epoch, Offer::SharedTcp).await {
        Ok(Opened::Lane(lane)) => lane,
        Ok(Opened::Direct(_)) => return Err(ControlError::Lane(reason::PORT_PROTOCOL)),
        Err(reason) => return Err(ControlError::Lane(reason)),
    };
    let carrier = worker.bonds.of(&lane.live);
    let carrier = carrier.ok_or(ControlError::Lane(reason::UNKNOWN_CONNECTION))?;
    let mut io = tokio::time::timeout(deadline, open(&lane))
        .await
        .unwrap_or(Err(ControlError::Channel(ChannelError::Late)))?;
    let mut asking = Asking {
        worker,
        carrier: &carrier,
        epoch: &epoch,
        deadline,
        channel: Channel::new(&mut io, deadline),
        current: Some(carrier.bond.peer().leaf_sha256),
        tried: HashSet::new(),
    };
    loop {
        let bonded = in_care(target);
        if bonded.is_empty() {
            break;
        }
        asking.prove_own(&bonded).await?;
        asking.verify_peer(&bonded).await?;
        asking.repeat(&bonded).await?;
        *heard = true;
        tokio::select! {
            message = asking.channel.receive() => match message {
                Ok(Message::Renewed) => asking.current = None,
                Ok(_) => return Err(ChannelError::Order.into()),
                // Its connection takes on nothing new. Whoever closes every stream is asked once in a while.
                Err(ChannelError::Ended) => {
                    tokio::time::sleep(LOOK).await;
                    break;
                }
                Err(error) => return Err(error.into()),
            },
            // The next one goes by a connection of the new epoch.
            _ = epochs.changed() => break,
            () = lane.live.drained() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    // Where it can't be closed it has ended.
    let _ = io.shutdown().await;
    Ok(())
}

/// Opens a control stream on a shared connection.
pub(super) async fn open(lane: &PeerLane) -> Result<Io, ControlError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_static(CONTROL_AUTHORITY);
    let mut send = lane.send.clone().ready().await?;
    let (response, stream) = send.send_request(request, false)?;
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(ControlError::Lane(reason::REFUSED_BY_PEER));
    }
    let flow = LaneFlow::new(stream, response.into_body());
    Ok(Io::new(Transport::Flow(Box::new(flow))))
}

struct Asking<'a> {
    worker: &'a Rc<Worker>,
    /// The connection that carries the stream.
    carrier: &'a Bonded,
    epoch: &'a Rc<TlsEpoch>,
    deadline: Duration,
    channel: Channel<'a>,
    /// The other end's present leaf; `None` when it has a new one that we have not seen.
    current: Option<[u8; 32]>,
    /// Connections and successors that were tried: once is enough for each.
    tried: HashSet<(ConnectionId, [u8; 32])>,
}

impl Asking<'_> {
    /// Proves our present certificate over the connections that rest on an earlier one.
    async fn prove_own(&mut self, bonded: &[Rc<Bonded>]) -> Result<(), ControlError> {
        let own = &self.epoch.own;
        let mut due = bonded.to_vec();
        due.retain(|one| {
            let bond = &one.bond;
            bond.own_leaf() != own.leaf_sha256
                && is_same_instance(&bond.peer().peer, &self.carrier.bond.peer().peer)
                && self.tried.insert((bond.id, own.leaf_sha256))
        });
        if due.is_empty() {
            return Ok(());
        }
        self.channel
            .send(&Message::Successor(own.chain.clone()))
            .await?;
        let nonce = match self.next().await? {
            Message::Challenge(ProofPurpose::Extend, nonce, _) => nonce,
            Message::Refused(_) => return Ok(()),
            _ => return Err(ChannelError::Order.into()),
        };
        for one in due {
            let bond = &one.bond;
            let Some(proof) = bond.prove_successor(own, nonce) else {
                return Err(ControlError::Lane(reason::NO_IDENTITY));
            };
            self.channel
                .send(&Message::Proof(bond.id, None, proof))
                .await?;
            match self.next().await? {
                Message::Accepted(id) if id == bond.id => {
                    // A connection that has ended meanwhile needs no lease.
                    let _ = self.worker.take_in(&one, Proven::Own(Arc::clone(own)));
                }
                Message::Refused(id) if id == bond.id => {}
                _ => return Err(ChannelError::Order.into()),
            }
        }
        Ok(())
    }

    /// Has the other end prove its present certificate over the connections that rest on an earlier one.
    async fn verify_peer(&mut self, bonded: &[Rc<Bonded>]) -> Result<(), ControlError> {
        let is_stale = |one: &&Rc<Bonded>| {
            self.current != Some(one.settled.get())
                && !(self.current).is_some_and(|now| self.tried.contains(&(one.bond.id, now)))
        };
        if bonded.iter().find(is_stale).is_none() {
            return Ok(());
        }
        // Whatever we know, some of these connections rest on something else.
        let chain = self.show([0; 32]).await?;
        let Some(successor) = self.successor(&chain) else {
            // Not asked again before it says that it has another.
            self.current = self.current.or(Some([0; 32]));
            let now = self.current.unwrap_or_default();
            self.tried
                .extend(bonded.iter().map(|one| (one.bond.id, now)));
            return Ok(());
        };
        let leaf = successor.leaf_sha256();
        self.current = Some(leaf);
        let mut due = bonded.to_vec();
        due.retain(|one| one.settled.get() != leaf && self.tried.insert((one.bond.id, leaf)));
        let mut accepted = Vec::new();
        for due in due.chunks(Message::MAX_CONNECTIONS) {
            self.challenge(due, &successor, &mut accepted).await?;
        }
        // Messages are taken in order: with this answer the other end has read what was accepted. Were a stream to end
        // before, the other end would go by its old lease, and nobody would ask again.
        if !self.show(leaf).await?.is_empty() {
            self.current = None;
        }
        accepted.iter().for_each(|one| one.settled.set(leaf));
        Ok(())
    }

    /// The other end's present chain; empty where it is the one that is known.
    async fn show(
        &mut self,
        known: [u8; 32],
    ) -> Result<Vec<CertificateDer<'static>>, ControlError> {
        self.channel.send(&Message::Show(known)).await?;
        match self.next().await? {
            Message::Successor(chain) => Ok(chain),
            Message::Unchanged => Ok(Vec::new()),
            _ => Err(ChannelError::Order.into()),
        }
    }

    /// Proves again what strict routes had proven.
    async fn repeat(&mut self, bonded: &[Rc<Bonded>]) -> Result<(), ControlError> {
        for one in bonded {
            let repeat = async {
                let _turn = one.proving.lock().await;
                let due = one.due(one.strict(), self.worker.now());
                if due == Strict::default() {
                    return Ok(false);
                }
                let purpose = ProofPurpose::StrictRepeat;
                prove(self.worker, one, &mut self.channel, purpose, due).await
            };
            // Those who wait to prove for a flow of theirs wait for this.
            let repeated = tokio::time::timeout(self.deadline, repeat).await;
            if repeated.unwrap_or(Err(ChannelError::Late))? {
                self.current = None;
            }
        }
        Ok(())
    }

    fn successor(&self, chain: &[CertificateDer<'_>]) -> Option<Successor> {
        let bundle = &self.epoch.identity.bundle;
        let present = self.carrier.bond.peer();
        let now = self.worker.now();
        Successor::verify(chain, bundle, PeerRole::Server, now, &present.peer)
            .map_err(|error| self.refused(Reason::from(&error)))
            .ok()
    }

    async fn challenge(
        &mut self,
        due: &[Rc<Bonded>],
        successor: &Successor,
        accepted: &mut Vec<Rc<Bonded>>,
    ) -> Result<(), ControlError> {
        let nonce = fresh_nonce().ok_or(ControlError::Lane(reason::CONTROL_STREAM))?;
        let ids = due.iter().map(|one| one.bond.id).collect();
        let challenge = Message::Challenge(ProofPurpose::Extend, nonce, ids);
        self.channel.send(&challenge).await?;
        for one in due {
            let proof = match self.next().await? {
                Message::Proof(id, None, proof) if id == one.bond.id => proof,
                Message::Refused(id) if id == one.bond.id => {
                    self.refused(reason::REFUSED_BY_PEER);
                    continue;
                }
                _ => return Err(ChannelError::Order.into()),
            };
            let answer = match self.verify(one, successor, nonce, &proof) {
                Ok(()) => {
                    let metrics = &self.worker.parts.metrics;
                    metrics.extension(Direction::Outbound, EXTENDED);
                    accepted.push(Rc::clone(one));
                    Message::Accepted(one.bond.id)
                }
                Err(reason) => {
                    self.refused(reason);
                    Message::Refused(one.bond.id)
                }
            };
            self.channel.send(&answer).await?;
        }
        Ok(())
    }

    fn verify(
        &self,
        one: &Bonded,
        successor: &Successor,
        nonce: vouchsafe_attestation::binding::Nonce,
        proof: &ConnectionProof,
    ) -> Result<(), Reason> {
        let verified = one.bond.verify_successor(successor, nonce, proof);
        let verified = verified.map_err(|error| Reason::from(&error))?;
        self.worker.take_in(one, Proven::Peer(verified))
    }

    fn refused(&self, reason: Reason) {
        let metrics = &self.worker.parts.metrics;
        metrics.extension(Direction::Outbound, reason);
        info!(
            direction = "outbound",
            peer_id = %self.carrier.bond.peer().peer.id(),
            reason = reason.as_str(),
            "a lease was not extended"
        );
    }

    /// The answer that is due. That the other end has a new certificate may come in between.
    async fn next(&mut self) -> Result<Message, ChannelError> {
        let due = self.channel.due();
        loop {
            match self.channel.receive_by(due).await? {
                Message::Renewed => self.current = None,
                message => return Ok(message),
            }
        }
    }
}

/// Why a control stream is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// There is no connection that could carry it.
    #[error("no connection for a control stream: {}", .0.as_str())]
    Lane(Reason),
    /// It can't be opened.
    #[error("failed to open a control stream")]
    Http2(#[from] vouchsafe_http2::Error),
    /// It ended.
    #[error("failed to speak on the control stream")]
    Channel(#[from] ChannelError),
}

/// How often connections are looked over, and how long one must have lived to be worth it.
const LOOK: Duration = Duration::from_secs(1);
/// Of an end that does not answer: long enough to cost nothing, short against any lease.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
