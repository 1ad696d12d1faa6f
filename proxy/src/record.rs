//! The record of one request or flow: written to log and metrics when it is dropped, however it ends.
//!
//! A connection that is cut drops what runs on it; a record that is written by a drop can't be forgotten.

use std::rc::Rc;
use std::time::SystemTime;

use vouchsafe_attestation::name::Name;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::policy::{Decision, DenyReason, Direction, Request};

use crate::clock::Moment;
use crate::http::head::Asked;
use crate::reason::{self, Reason, Why};
use crate::registry::live::{Live, StreamGuard};
use crate::registry::stream::{Cut, Facts, Stream, Ticket};
use crate::relay::{Count, RelayBytes};
use crate::telemetry::access_log::{Entry, RequestEntry, RequestId, Verdict};
use crate::worker::Worker;

/// One request or flow.
#[derive(Debug)]
pub(crate) struct Record {
    /// What it is called in the log, and to whom the sidecar answers itself.
    pub(crate) id: RequestId,
    worker: Rc<Worker>,
    /// The connection that it came by.
    live: Rc<Live>,
    /// The connection with the peer, where that is another one.
    on: Option<Rc<Live>>,
    _stream: StreamGuard,
    /// What it asks for, as long as the registry does not hold it.
    facts: Facts,
    /// Its place in the registry, once policy has admitted it.
    ticket: Option<Ticket>,
    pub(crate) status: u16,
    is_judged: bool,
    /// Of the policy that judged it.
    revision: Revision,
    denied: Option<DenyReason>,
    reason: Option<Reason>,
    /// Why the sidecar ended it while it was live.
    cut: Option<Why>,
    /// Bytes of bodies or of the flow.
    pub(crate) bytes: RelayBytes,
    finished: bool,
    time: SystemTime,
    started: Moment,
}

impl Record {
    /// A record of a flow that begins now, for a port and its number.
    pub(crate) fn flow(worker: &Rc<Worker>, live: &Rc<Live>, port: &Name, number: u16) -> Self {
        let facts = Facts {
            port: Some(port.clone()),
            number,
            ..Facts::default()
        };
        Self::begin(worker, live, facts)
    }

    /// A record of a request that begins now, of which nothing is known yet.
    pub(crate) fn unread(worker: &Rc<Worker>, live: &Rc<Live>) -> Self {
        let facts = Facts {
            asked: Some(Asked::Nothing),
            ..Facts::default()
        };
        Self::begin(worker, live, facts)
    }

    fn begin(worker: &Rc<Worker>, live: &Rc<Live>, facts: Facts) -> Self {
        let (time, started) = worker.parts.clock.read();
        Self {
            id: worker.log.id(),
            worker: Rc::clone(worker),
            live: Rc::clone(live),
            on: None,
            _stream: live.stream(),
            facts,
            ticket: None,
            status: 0,
            is_judged: false,
            revision: Revision::default(),
            denied: None,
            reason: None,
            cut: None,
            bytes: RelayBytes {
                sent: Count::of(&live.received),
                received: Count::of(&live.sent),
            },
            finished: false,
            time,
            started,
        }
    }

    /// Notes the port that a request is for, and its number.
    pub(crate) fn port(&mut self, port: &Name, number: u16) {
        self.take_back();
        self.facts.port = Some(port.clone());
        self.facts.number = number;
    }

    /// Notes what a request asks for. The query stays out of the log: it is where secrets travel.
    pub(crate) fn request(&mut self, asked: Asked) {
        self.facts.asked = Some(asked);
    }

    /// Asks policy about the peer of a connection, and registers what it admits. `Err` with the reason where it denies.
    pub(crate) fn judge(
        &mut self,
        on: &Rc<Live>,
        request: Option<&Request<'_>>,
    ) -> Result<(), Reason> {
        self.take_back();
        if !Rc::ptr_eq(on, &self.live) {
            self.on = Some(Rc::clone(on));
        }
        self.facts.is_grpc = request.is_some_and(|request| request.grpc);
        let decision = match &self.facts.port {
            Some(port) => (self.worker).judge(on, port, self.facts.number, request),
            // Of what is for no port nothing is judged.
            None => Decision::Deny(DenyReason::UnknownDoor),
        };
        self.revision = self.worker.registry.revision();
        // A second try is judged again, for policy may have changed, and counted once.
        let again = std::mem::replace(&mut self.is_judged, true);
        let metrics = &self.worker.parts.metrics;
        let direction = self.live.direction;
        match decision {
            Decision::Allow(_) if !again => metrics.of(direction).allowed(),
            Decision::Audit(reason) if !again => {
                metrics.decided(direction, "audit", reason.into());
            }
            Decision::Allow(_) | Decision::Audit(_) => {}
            Decision::Deny(reason) => {
                metrics.decided(direction, "deny", reason.into());
                self.denied = Some(reason);
                self.reason = Some(reason.into());
                return Err(reason.into());
            }
        }
        let registry = &self.worker.registry;
        self.ticket = registry.admit(on, &mut self.facts, decision);
        Ok(())
    }

    /// Before another try: what it asks for is told again.
    fn take_back(&mut self) {
        if let Some(closed) = self.ticket.take().and_then(Ticket::close) {
            self.facts = closed.facts;
        }
    }

    /// Whether policy denied it.
    pub(crate) fn is_denied(&self) -> bool {
        self.denied.is_some()
    }

    /// Waits until the sidecar must end it.
    pub(crate) fn cut(&self) -> Cut {
        self.ticket.as_ref().map_or_else(Cut::never, Ticket::cut)
    }

    /// Whether the sidecar ended it, or must.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some() || (self.ticket.as_ref()).is_some_and(|held| held.why_cut().is_some())
    }

    /// Notes why it failed, for another reason than policy. Where the sidecar had to end it, that is why.
    pub(crate) fn failed(&mut self, reason: Reason) {
        if self.reason.is_some() {
            return;
        }
        match self.ticket.as_ref().and_then(Ticket::why_cut) {
            Some(why) => self.ended(why),
            None => {
                let metrics = &self.worker.parts.metrics;
                metrics.failed(self.live.direction, reason);
                self.reason = Some(reason);
            }
        }
    }

    fn ended(&mut self, why: Why) {
        let metrics = &self.worker.parts.metrics;
        metrics.stream_cut(self.live.direction, why.reason);
        self.reason = Some(why.reason);
        self.cut = Some(why);
    }

    /// Notes that it ended by itself.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let closed = self.ticket.take().and_then(Ticket::close);
        if !self.finished && self.reason.is_none() {
            let cut = closed.as_ref().and_then(|closed| closed.cut.clone());
            match cut.or_else(|| self.live.why_cut()) {
                Some(why) => self.ended(why),
                None => self.failed(reason::DOWNSTREAM_CLOSED),
            }
        }
        let elapsed = self.started.elapsed();
        let (received, sent) = (self.bytes.sent.get(), self.bytes.received.get());
        let metrics = self.worker.parts.metrics.of(self.live.direction);
        metrics.received.inc_by(received);
        metrics.sent.inc_by(sent);
        let facts = closed.as_ref().map_or(&self.facts, |closed| &closed.facts);
        if facts.asked.is_some() {
            metrics.request(self.status);
            metrics.duration.observe(elapsed.as_secs_f64());
        }
        let written = closed.as_ref().map(|closed| closed.admission.written());
        let verdict = match (&closed, self.denied) {
            (_, Some(reason)) => Verdict::Deny(reason.into()),
            (
                Some(Stream {
                    audited: Some(reason),
                    ..
                }),
                None,
            ) => Verdict::Audit((*reason).into()),
            (Some(_), None) => {
                let written = written.as_deref().and_then(Option::as_ref);
                Verdict::Allow(written.map(|written| &*written.logged))
            }
            (None, None) => Verdict::Unjudged,
        };
        let peer = self.on.as_ref().unwrap_or(&self.live).peer();
        // The other end of an outbound one tells of it.
        if let (Verdict::Audit(reason), Direction::Inbound, Some(peer)) =
            (verdict, self.live.direction, peer.as_deref())
        {
            let port = facts.port.as_ref().map_or("", Name::as_str);
            let ask = facts.asked.as_ref();
            let ask = ask.map(|asked| (asked.method(), asked.path(), facts.is_grpc));
            let audits = &self.worker.parts.metrics.audits;
            audits.admitted(peer, port, reason, ask, self.time);
        }
        self.worker.log.write(&Entry {
            id: self.id,
            revision: self.revision,
            time: self.time,
            direction: self.live.direction,
            lane: self.live.lane,
            connection: self.live.id,
            peer: peer.as_deref(),
            local: &self.worker.local,
            port: facts.port.as_ref().map_or("", Name::as_str),
            port_number: facts.number,
            request: facts.asked.as_ref().map(|asked| RequestEntry {
                grpc: facts.is_grpc,
                method: asked.method(),
                path: asked.path(),
                status: self.status,
            }),
            verdict,
            reason: self.reason,
            cut: self.cut.as_ref(),
            received_bytes: received,
            sent_bytes: sent,
            elapsed,
        });
    }
}
