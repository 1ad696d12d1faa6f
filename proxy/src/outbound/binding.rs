//! Strict routes: both ends prove their keys over a connection before the first byte of the application goes over it.
//!
//! Where a rule of the port says `binding: exporter`, whoever opens a flow or request has it proven first: on a shared
//! connection by a control stream of that very connection, on one of a flow's own before the preamble. What was proven is
//! repeated by the endpoint's control stream; until then connections that no strict rule asks for pay nothing.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tracing::info;
use vouchsafe_attestation::connection_proof::ProofPurpose;
use vouchsafe_config::policy::{Binding, Direction, Port, Strict};

use crate::lane::control::answer::fresh_nonce;
use crate::lane::control::bonds::{Bonded, Proven};
use crate::lane::control::channel::{Channel, ChannelError};
use crate::lane::control::message::Message;
use crate::lane::preamble::PROOFS;
use crate::outbound::Outbound;
use crate::outbound::control;
use crate::outbound::pool::{Direct, Opened, PeerLane};
use crate::reason::{self, Reason};
use crate::registry::LaneKind;
use crate::telemetry::Chain;
use crate::worker::Worker;

impl Outbound {
    /// Has proven what rules of the port demand of a connection. Whether it was is policy's to say, at either end.
    pub(crate) async fn bind(&self, opened: &mut Opened, port: &Port) {
        let strict = self.strict(port);
        if strict == Strict::default() {
            return;
        }
        // Boxed: rare, and large by what it proves.
        let bound = Box::pin(self.bind_strictly(opened, strict)).await;
        if let Err(error) = bound {
            let metrics = &self.worker.parts.metrics;
            metrics.failed(Direction::Outbound, reason::CONTROL_STREAM);
            info!(
                direction = "outbound",
                peer_id = %self.expected,
                reason = reason::CONTROL_STREAM.as_str(),
                error = %Chain(&error),
                "keys could not be proven over a connection"
            );
        }
    }

    async fn bind_strictly(
        &self,
        opened: &mut Opened,
        strict: Strict,
    ) -> Result<(), control::ControlError> {
        let Some(bonded) = self.worker.bonds.of(opened.live()) else {
            // A server without our sidecar proves nothing.
            return Ok(());
        };
        let purpose = ProofPurpose::StrictInitial;
        let deadline = self.worker.parts.config.limits.handshake;
        let prove = async {
            // In order: of two proofs over one connection the later counts.
            let _turn = bonded.proving.lock().await;
            let due = bonded.due(strict, self.worker.now());
            if due == Strict::default() {
                return Ok(());
            }
            match opened {
                Opened::Lane(lane) if lane.kind == LaneKind::Shared => {
                    self.bind_lane(lane, &bonded, purpose, due).await
                }
                // Proven when it was opened, and repeated since.
                Opened::Lane(_) => Ok(()),
                Opened::Direct(direct) => self.bind_direct(direct, &bonded, purpose, due).await,
            }
        };
        tokio::time::timeout(deadline, prove)
            .await
            .unwrap_or(Err(ChannelError::Late.into()))
    }

    async fn bind_lane(
        &self,
        lane: &PeerLane,
        bonded: &Bonded,
        purpose: ProofPurpose,
        due: Strict,
    ) -> Result<(), control::ControlError> {
        let mut io = control::open(lane).await?;
        let mut channel = Channel::new(&mut io, self.worker.parts.config.limits.handshake);
        prove(&self.worker, bonded, &mut channel, purpose, due).await?;
        // Where it can't be closed it has ended.
        let _ = io.shutdown().await;
        Ok(())
    }

    async fn bind_direct(
        &self,
        direct: &mut Direct,
        bonded: &Bonded,
        purpose: ProofPurpose,
        due: Strict,
    ) -> Result<(), control::ControlError> {
        if !direct.takes_preamble {
            return Ok(());
        }
        let begun = direct.io.write_all(&[PROOFS]).await;
        begun.map_err(ChannelError::from)?;
        let mut channel = Channel::new(&mut direct.io, self.worker.parts.config.limits.handshake);
        prove(&self.worker, bonded, &mut channel, purpose, due).await?;
        channel.send(&Message::Done).await?;
        let rest = channel.into_rest();
        direct.io.unread(rest);
        Ok(())
    }
}

/// Proves and has proven over one connection what is due. Whether the other end has said meanwhile that its certificate
/// was renewed.
///
/// # Errors
/// The stream broke, or the other end its order; a proof that fails is none.
pub(crate) async fn prove(
    worker: &Worker,
    bonded: &Bonded,
    channel: &mut Channel<'_>,
    purpose: ProofPurpose,
    due: Strict,
) -> Result<bool, ChannelError> {
    let mut proving = Proving {
        worker,
        bonded,
        channel,
        purpose,
        renewed: false,
    };
    if due.client {
        proving.own().await?;
    }
    if due.server {
        proving.peer().await?;
    }
    Ok(proving.renewed)
}

struct Proving<'a, 'b> {
    worker: &'a Worker,
    bonded: &'a Bonded,
    channel: &'a mut Channel<'b>,
    purpose: ProofPurpose,
    renewed: bool,
}

impl Proving<'_, '_> {
    /// Proves our key to the server.
    async fn own(&mut self) -> Result<(), ChannelError> {
        for _ in 0..TRIES {
            let before = self.bonded.bond.own_leaf();
            if self.prove_own().await? {
                return Ok(());
            }
            // That it took in our successor it says on another stream.
            tokio::time::sleep(SETTLES).await;
            if self.bonded.bond.own_leaf() == before {
                break;
            }
        }
        self.refused();
        Ok(())
    }

    /// Whether the server accepted our proof.
    async fn prove_own(&mut self) -> Result<bool, ChannelError> {
        let bond = &self.bonded.bond;
        let ask = Message::Ask(self.purpose, bond.id);
        self.channel.send(&ask).await?;
        let nonce = match self.next().await? {
            Message::Challenge(purpose, nonce, connections)
                if purpose == self.purpose && connections == [bond.id] =>
            {
                nonce
            }
            Message::Refused(id) if id == bond.id => return Ok(false),
            _ => return Err(ChannelError::Order),
        };
        let now = self.worker.now();
        let Some((leaf, proof)) = bond.prove_present(self.purpose, nonce) else {
            return Err(ChannelError::Order);
        };
        let proof = Message::Proof(bond.id, Some(leaf), proof);
        self.channel.send(&proof).await?;
        match self.next().await? {
            Message::Accepted(id) if id == bond.id => {
                self.bonded.own_proven.set(Binding::Exporter(now));
                Ok(true)
            }
            Message::Refused(id) if id == bond.id => Ok(false),
            _ => Err(ChannelError::Order),
        }
    }

    /// Has the server prove its key.
    async fn peer(&mut self) -> Result<(), ChannelError> {
        for _ in 0..TRIES {
            if !self.challenge_peer().await? {
                break;
            }
            tokio::time::sleep(SETTLES).await;
        }
        Ok(())
    }

    /// Whether the server is to be asked again: it proved a certificate whose successor we know, and learns that we do on
    /// another stream.
    async fn challenge_peer(&mut self) -> Result<bool, ChannelError> {
        let bond = &self.bonded.bond;
        let Some(nonce) = fresh_nonce() else {
            self.refused();
            return Ok(false);
        };
        // A proof is worth what its challenge is, however late it comes.
        let asked = self.worker.now();
        let challenge = Message::Challenge(self.purpose, nonce, vec![bond.id]);
        self.channel.send(&challenge).await?;
        let (verified, is_replaced) = match self.next().await? {
            Message::Proof(id, Some(leaf), proof) if id == bond.id => {
                let verified = bond.verify_present(self.purpose, nonce, &leaf, &proof);
                let verified = verified.map_err(|error| Reason::from(&error));
                (verified, bond.is_replaced(&leaf))
            }
            Message::Refused(id) if id == bond.id => {
                self.refused();
                return Ok(false);
            }
            _ => return Err(ChannelError::Order),
        };
        let taken =
            verified.and_then(|()| self.worker.take_in(self.bonded, Proven::Binding(asked)));
        let metrics = &self.worker.parts.metrics;
        let (answer, again) = match taken {
            Ok(()) => {
                metrics.bound(Direction::Outbound, reason::PROVEN);
                (Message::Accepted(bond.id), false)
            }
            Err(reason) => {
                metrics.bound(Direction::Outbound, reason);
                (Message::Refused(bond.id), is_replaced)
            }
        };
        self.channel.send(&answer).await?;
        Ok(again)
    }

    fn refused(&self) {
        let metrics = &self.worker.parts.metrics;
        metrics.bound(Direction::Outbound, reason::REFUSED_BY_PEER);
    }

    /// The answer that is due. That the other end has a new certificate may come in between.
    async fn next(&mut self) -> Result<Message, ChannelError> {
        let due = self.channel.due();
        loop {
            match self.channel.receive_by(due).await? {
                Message::Renewed => self.renewed = true,
                message => return Ok(message),
            }
        }
    }
}

/// An end that renews knows of it before the other does, for about a round trip.
const TRIES: usize = 4;
const SETTLES: Duration = Duration::from_millis(50);
