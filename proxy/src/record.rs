//! The record of one request or flow: written to log and metrics when it is dropped, however it ends.
//!
//! A connection that is cut drops what runs on it; a record that is written by a drop can't be forgotten.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::Guard;
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::Decision;

use crate::http::head::Asked;
use crate::reason::{self, Reason};
use crate::registry::{Live, StreamGuard};
use crate::relay::{Count, RelayBytes};
use crate::state::PolicyEpoch;
use crate::telemetry::access_log::{Entry, RequestEntry, Verdict};
use crate::tls::peer_verifier::Verified;
use crate::worker::Worker;

/// What policy said, and the policy that said it.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) decision: Decision,
    pub(crate) policy: Guard<Arc<PolicyEpoch>>,
}

/// One request or flow.
#[derive(Debug)]
pub(crate) struct Record {
    worker: Rc<Worker>,
    live: Rc<Live>,
    _stream: StreamGuard,
    pub(crate) peer: Option<Arc<Verified>>,
    port: Option<Name>,
    /// For a request, what it asks for.
    request: Option<Asked>,
    pub(crate) status: u16,
    judged: Option<Judged>,
    reason: Option<Reason>,
    /// Bytes of bodies or of the flow.
    pub(crate) bytes: RelayBytes,
    finished: bool,
    time: SystemTime,
    started: Instant,
}

impl Record {
    /// A record of a flow that begins now.
    pub(crate) fn flow(worker: &Rc<Worker>, live: &Rc<Live>, port: &Name) -> Self {
        Self::begin(worker, live, Some(port.clone()), None)
    }

    /// A record of a request that begins now, of which nothing is known yet.
    pub(crate) fn unread(worker: &Rc<Worker>, live: &Rc<Live>) -> Self {
        Self::begin(worker, live, None, Some(Asked::Nothing))
    }

    fn begin(
        worker: &Rc<Worker>,
        live: &Rc<Live>,
        port: Option<Name>,
        request: Option<Asked>,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            live: Rc::clone(live),
            _stream: live.stream(),
            peer: live.peer.clone(),
            port,
            request,
            status: 0,
            judged: None,
            reason: None,
            bytes: RelayBytes {
                sent: Count::of(&live.received),
                received: Count::of(&live.sent),
            },
            finished: false,
            time: worker.now(),
            started: Instant::now(),
        }
    }

    /// Notes the port that a request is for.
    pub(crate) fn port(&mut self, port: &Name) {
        self.port = Some(port.clone());
    }

    /// Notes what a request asks for. The query stays out of the log: it is where secrets travel.
    pub(crate) fn request(&mut self, asked: Asked) {
        self.request = Some(asked);
    }

    /// Takes in what policy said. `Err` with the reason where it denied.
    pub(crate) fn judged(&mut self, judged: Judged) -> Result<(), Reason> {
        let metrics = &self.worker.parts.metrics;
        let direction = self.live.direction;
        // A second try is judged again, for policy may have changed, and counted once.
        let again = self.judged.is_some();
        let outcome = match judged.decision {
            Decision::Allow(_) => {
                if !again {
                    metrics.of(direction).allowed();
                }
                Ok(())
            }
            Decision::Audit(_) if again => Ok(()),
            Decision::Audit(reason) => {
                metrics.decided(direction, "audit", reason.into());
                Ok(())
            }
            Decision::Deny(reason) => {
                metrics.decided(direction, "deny", reason.into());
                Err(reason.into())
            }
        };
        if let Err(reason) = outcome {
            self.reason = Some(reason);
        }
        self.judged = Some(judged);
        outcome
    }

    /// Whether policy denied it.
    pub(crate) fn is_denied(&self) -> bool {
        let decision = self.judged.as_ref().map(|judged| judged.decision);
        matches!(decision, Some(Decision::Deny(_)))
    }

    /// Notes why it failed, for another reason than policy.
    pub(crate) fn failed(&mut self, reason: Reason) {
        if self.reason.is_none() {
            self.worker
                .parts
                .metrics
                .failed(self.live.direction, reason);
            self.reason = Some(reason);
        }
    }

    /// Notes that it ended by itself.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished && self.reason.is_none() {
            let reason = self.live.cut_reason().unwrap_or(reason::DOWNSTREAM_CLOSED);
            self.failed(reason);
        }
        let elapsed = self.started.elapsed();
        let (received, sent) = (self.bytes.sent.get(), self.bytes.received.get());
        let metrics = self.worker.parts.metrics.of(self.live.direction);
        metrics.received.inc_by(received);
        metrics.sent.inc_by(sent);
        if self.request.is_some() {
            metrics.request(self.status);
            metrics.duration.observe(elapsed.as_secs_f64());
        }
        let verdict = match &self.judged {
            None => Verdict::Unjudged,
            Some(judged) => match judged.decision {
                Decision::Allow(rule) => Verdict::Allow(judged.policy.policy.source(rule)),
                Decision::Audit(reason) => Verdict::Audit(reason.into()),
                Decision::Deny(reason) => Verdict::Deny(reason.into()),
            },
        };
        self.worker.log.write(&Entry {
            time: self.time,
            direction: self.live.direction,
            lane: self.live.lane,
            connection: self.live.id,
            peer: self.peer.as_deref(),
            local: &self.worker.local,
            port: self.port.as_ref().map_or("", Name::as_str),
            request: self.request.as_ref().map(|asked| RequestEntry {
                method: asked.method(),
                path: asked.path(),
                status: self.status,
            }),
            verdict,
            reason: self.reason,
            received_bytes: received,
            sent_bytes: sent,
            elapsed,
        });
    }
}
