//! Outbound: the local workload calls others.
//!
//! Accept → limits and user → which workload → an endpoint → a lane connection whose server is that workload and proved
//! what policy requires of it → forward.

pub(crate) mod balance;
mod flow;
pub(crate) mod pool;
mod tcp;

use std::cell::Cell;
use std::rc::Rc;

use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::policy::{Context, Direction, Lane, Port, Protocol, Request, authorize};
use vouchsafe_config::proxy::OutboundListener;

use crate::drain::Phase;
use crate::io::{Io, Transport};
use crate::listener::{Accepted, Listening, accept};
use crate::outbound::pool::Lanes;
use crate::reason;
use crate::record::Judged;
use crate::registry::{LaneKind, Live, NewConnection};
use crate::tls::peer_verifier::Verified;
use crate::worker::Worker;

/// One outbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) declared: OutboundListener,
    /// Who must answer.
    pub(crate) expected: SpiffeId,
    pub(crate) lanes: Rc<Lanes>,
    /// Where the next endpoint is looked for.
    pub(crate) turn: Cell<usize>,
}

/// One connection of the local application.
#[derive(Debug)]
pub(crate) struct AppConnection {
    pub(crate) outbound: Rc<Outbound>,
    pub(crate) live: Rc<Live>,
}

impl Outbound {
    pub(crate) fn new(
        worker: Rc<Worker>,
        declared: OutboundListener,
        lanes: &Rc<Lanes>,
    ) -> Rc<Self> {
        let expected = SpiffeId::for_workload(&worker.parts.config.trust_domain, &declared.to);
        Rc::new(Self {
            expected,
            lanes: Rc::clone(lanes),
            turn: Cell::new(0),
            worker,
            declared,
        })
    }

    pub(crate) async fn run(self: Rc<Self>, listener: Listening) {
        let drain = self.worker.parts.drain.clone();
        accept(listener, drain, Phase::Outbound, |accepted| {
            let outbound = Rc::clone(&self);
            async move { outbound.serve(accepted).await }
        })
        .await;
    }

    async fn serve(self: Rc<Self>, accepted: Accepted) {
        let metrics = &self.worker.parts.metrics;
        let Some(_slot) = self.worker.admit() else {
            metrics.failed(Direction::Outbound, reason::CONNECTION_LIMIT);
            return;
        };
        if !self.is_allowed_user(&accepted) {
            metrics.failed(Direction::Outbound, reason::UID);
            return;
        }
        let io = Io::new(match accepted {
            Accepted::Tcp(tcp) => Transport::Tcp(tcp),
            Accepted::Unix(unix) => Transport::Unix(unix),
        });
        let registered = self.worker.register(NewConnection {
            direction: Direction::Outbound,
            lane: LaneKind::Local,
            peer: None,
            port: Some(self.declared.port.clone()),
            lease_end: None,
            now: self.worker.now(),
        });
        let live = &registered.registration.live;
        let connection = Rc::new(AppConnection {
            outbound: Rc::clone(&self),
            live: Rc::clone(live),
        });
        tokio::select! {
            reason = live.cut() => metrics.cut(Direction::Outbound, reason),
            () = connection.serve(io) => {}
        }
    }

    fn is_allowed_user(&self, accepted: &Accepted) -> bool {
        let allowed = &self.declared.allow_uids;
        match accepted {
            Accepted::Tcp(_) => true,
            Accepted::Unix(_) if allowed.is_empty() => true,
            // SO_PEERCRED: who the connecting process was when it connected.
            Accepted::Unix(unix) => unix
                .peer_cred()
                .is_ok_and(|credentials| allowed.contains(&credentials.uid())),
        }
    }

    /// The port that is called, as policy declares it.
    pub(crate) fn port(&self) -> Option<Port> {
        let epoch = self.worker.parts.state.policy.load();
        epoch
            .policy
            .port(&self.declared.to, &self.declared.port)
            .cloned()
    }

    /// The number of the port that is called: in a range the listener's own, where that lies in it.
    pub(crate) fn number(&self, port: &Port) -> u16 {
        let (first, last) = port.numbers;
        match &self.declared.listen {
            vouchsafe_config::proxy::ListenAddr::Tcp(address)
                if (first..=last).contains(&address.port()) =>
            {
                address.port()
            }
            _ => first,
        }
    }

    /// The lane that configuration and policy want; `Auto` is the shared one.
    pub(crate) fn lane(&self, port: &Port) -> Lane {
        let forced = self.worker.parts.config.lane;
        if forced == Lane::Auto {
            port.lane
        } else {
            forced
        }
    }

    /// Asks policy whether we may call this peer.
    pub(crate) fn judge(&self, peer: &Verified, request: Option<&Request<'_>>) -> Judged {
        let epoch = self.worker.parts.state.policy.load();
        let decision = authorize(
            &epoch.policy,
            &Context {
                direction: Direction::Outbound,
                local: &self.worker.parts.config.workload,
                peer: &peer.peer,
                port: &self.declared.port,
                request,
                user: None,
                on_behalf_of: None,
                now: self.worker.now(),
            },
        );
        Judged {
            decision,
            policy: epoch,
        }
    }
}

impl AppConnection {
    async fn serve(self: &Rc<Self>, io: Io) {
        let port = self.outbound.port();
        match port {
            Some(port) if port.protocol == Protocol::Tcp => self.relay(io, &port).await,
            _ => {
                let metrics = &self.outbound.worker.parts.metrics;
                metrics.failed(Direction::Outbound, reason::UNKNOWN_PORT);
            }
        }
    }
}
