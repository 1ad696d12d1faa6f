//! The record of one request or flow: written to log and metrics when it is dropped, however it ends.
//!
//! A connection that is cut drops what runs on it; a record that is written by a drop can't be forgotten.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::Guard;
use bytes::Bytes;
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::Decision;

use crate::reason::{self, Reason};
use crate::registry::{Live, StreamGuard};
use crate::relay::RelayBytes;
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
    pub(crate) peer: Option<Rc<Verified>>,
    port: Name,
    /// Method and path, for a request.
    request: Option<(Bytes, Bytes)>,
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
    /// A record that begins now.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        live: &Rc<Live>,
        port: &Name,
        request: Option<(Bytes, Bytes)>,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            live: Rc::clone(live),
            _stream: live.stream(),
            peer: live.peer.clone(),
            port: port.clone(),
            request,
            status: 0,
            judged: None,
            reason: None,
            bytes: RelayBytes::default(),
            finished: false,
            time: worker.now(),
            started: Instant::now(),
        }
    }

    /// Takes in what policy said. `Err` with the reason where it denied.
    pub(crate) fn judged(&mut self, judged: Judged) -> Result<(), Reason> {
        let metrics = &self.worker.parts.metrics;
        let direction = self.live.direction;
        let outcome = match judged.decision {
            Decision::Allow(_) => {
                metrics.of(direction).allowed();
                Ok(())
            }
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
            port: self.port.as_str(),
            request: self.request.as_ref().map(|(method, path)| RequestEntry {
                method: text(method),
                path: text(path),
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

/// Methods and paths are ASCII, as parsers let nothing else through.
fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
