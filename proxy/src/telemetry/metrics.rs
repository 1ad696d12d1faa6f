//! Counters of the data path, with handles resolved up front: on the allow path nothing is looked up.
//!
//! Labels come from closed sets only: directions, lanes, status classes and the words of [`crate::reason::Reason`].

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use vouchsafe_config::policy::Direction;

use super::audits::Audits;
use crate::reason::{self, Reason};
use crate::registry::{LaneKind, direction_word};

/// All metrics of the data path. Shared by all workers.
#[derive(Debug)]
pub struct DataMetrics {
    inbound: DirectionMetrics,
    outbound: DirectionMetrics,
    decisions: IntCounterVec,
    handshake_failures: IntCounterVec,
    connection_ends: IntCounterVec,
    stream_ends: IntCounterVec,
    failures: IntCounterVec,
    extensions: IntCounterVec,
    bindings: IntCounterVec,
    pub(crate) access_log_dropped: IntCounter,
    /// Outbound listeners whose last flows moved much.
    pub(crate) bulk_listeners: IntGauge,
    /// For the control plane.
    pub(crate) audits: Audits,
}

/// Metrics of one direction.
#[derive(Debug)]
pub(crate) struct DirectionMetrics {
    opened: [IntCounter; LANES.len()],
    open: [IntGauge; LANES.len()],
    requests: [IntCounter; CLASSES.len()],
    pub(crate) duration: Histogram,
    pub(crate) handshake: Histogram,
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    allowed: IntCounter,
}

impl DataMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A metric of one of these names is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let histograms = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let vector = HistogramVec::new(opts, &["direction"])?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let opened = counters(
            "vouchsafe_connections_total",
            "Connections that were opened.",
            &["direction", "lane"],
        )?;
        let open = IntGaugeVec::new(
            Opts::new("vouchsafe_connections_open", "Connections that are open."),
            &["direction", "lane"],
        )?;
        registry.register(Box::new(open.clone()))?;
        let requests = counters(
            "vouchsafe_requests_total",
            "HTTP requests by class of their status; `none` where the downstream went away first.",
            &["direction", "status"],
        )?;
        let duration = histograms(
            "vouchsafe_request_duration_seconds",
            "From the request's head to the end of the response.",
        )?;
        let handshake = histograms(
            "vouchsafe_handshake_duration_seconds",
            "Time of successful TLS handshakes.",
        )?;
        let bytes = counters(
            "vouchsafe_transfer_bytes_total",
            "Bytes of bodies and flows, as the opener of the connection sees them.",
            &["direction", "way"],
        )?;
        let decisions = counters(
            "vouchsafe_decisions_total",
            "What policy decided about requests and flows, and why.",
            &["direction", "decision", "reason"],
        )?;
        let direction = |direction: Direction| {
            let word = direction_word(direction);
            DirectionMetrics {
                opened: LANES.map(|lane| opened.with_label_values(&[word, lane.as_str()])),
                open: LANES.map(|lane| open.with_label_values(&[word, lane.as_str()])),
                requests: CLASSES.map(|class| requests.with_label_values(&[word, class])),
                duration: duration.with_label_values(&[word]),
                handshake: handshake.with_label_values(&[word]),
                received: bytes.with_label_values(&[word, "received"]),
                sent: bytes.with_label_values(&[word, "sent"]),
                allowed: decisions.with_label_values(&[word, "allow", "none"]),
            }
        };
        let access_log_dropped = IntCounter::new(
            "vouchsafe_access_log_dropped_lines_total",
            "Lines of the access log that were dropped because the log was not read fast enough; never denials.",
        )?;
        registry.register(Box::new(access_log_dropped.clone()))?;
        let bulk_listeners = IntGauge::new(
            "vouchsafe_bulk_listeners",
            "Outbound listeners whose last flows moved much; with `lane: auto` the next one gets a connection of its own.",
        )?;
        registry.register(Box::new(bulk_listeners.clone()))?;
        Ok(Self {
            inbound: direction(Direction::Inbound),
            outbound: direction(Direction::Outbound),
            handshake_failures: counters(
                "vouchsafe_handshake_failures_total",
                "TLS handshakes that failed, and why.",
                &["direction", "reason"],
            )?,
            connection_ends: counters(
                "vouchsafe_connection_cuts_total",
                "Live connections that the sidecar ended, and why.",
                &["direction", "reason"],
            )?,
            stream_ends: counters(
                "vouchsafe_stream_cuts_total",
                "Live requests and flows that the sidecar ended, and why.",
                &["direction", "reason"],
            )?,
            failures: counters(
                "vouchsafe_failures_total",
                "Requests and flows that were refused or failed for another reason than policy.",
                &["direction", "reason"],
            )?,
            extensions: counters(
                "vouchsafe_lease_extensions_total",
                "Successor certificates that peers proved over live connections, and what became of it.",
                &["direction", "outcome"],
            )?,
            bindings: counters(
                "vouchsafe_binding_proofs_total",
                "Proofs of keys over connections for strict routes, and what became of them.",
                &["direction", "outcome"],
            )?,
            decisions,
            access_log_dropped,
            bulk_listeners,
            audits: Audits::default(),
        })
    }

    pub(crate) fn of(&self, direction: Direction) -> &DirectionMetrics {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    pub(crate) fn handshake_failed(&self, direction: Direction, reason: Reason) {
        self.handshake_failures
            .with_label_values(&[direction_word(direction), reason.as_str()])
            .inc();
    }

    pub(crate) fn cut(&self, direction: Direction, reason: Reason) {
        self.note_end(reason);
        self.connection_ends
            .with_label_values(&[direction_word(direction), reason.as_str()])
            .inc();
    }

    pub(crate) fn stream_cut(&self, direction: Direction, reason: Reason) {
        self.note_end(reason);
        self.stream_ends
            .with_label_values(&[direction_word(direction), reason.as_str()])
            .inc();
    }

    fn note_end(&self, reason: Reason) {
        // What ends by the clock or because the sidecar leaves says nothing of policy.
        if ![reason::LEASE_ENDED, reason::DRAIN, reason::IDLE].contains(&reason) {
            self.audits.ended();
        }
    }

    pub(crate) fn failed(&self, direction: Direction, reason: Reason) {
        self.failures
            .with_label_values(&[direction_word(direction), reason.as_str()])
            .inc();
    }

    /// Counts what became of a peer's successor on one connection.
    pub(crate) fn extension(&self, direction: Direction, outcome: Reason) {
        self.extensions
            .with_label_values(&[direction_word(direction), outcome.as_str()])
            .inc();
    }

    /// Counts a proof for a strict route.
    pub(crate) fn bound(&self, direction: Direction, outcome: Reason) {
        self.bindings
            .with_label_values(&[direction_word(direction), outcome.as_str()])
            .inc();
    }

    /// Counts a decision that is not a plain `allow`.
    pub(crate) fn decided(&self, direction: Direction, decision: &'static str, reason: Reason) {
        if decision == "deny" {
            self.audits.denied();
        }
        self.decisions
            .with_label_values(&[direction_word(direction), decision, reason.as_str()])
            .inc();
    }
}

impl DirectionMetrics {
    pub(crate) fn allowed(&self) {
        self.allowed.inc();
    }

    pub(crate) fn request(&self, status: u16) {
        let class = match status {
            100..=199 => 0,
            200..=299 => 1,
            300..=399 => 2,
            400..=499 => 3,
            500..=599 => 4,
            _ => 5,
        };
        if let Some(counter) = self.requests.get(class) {
            counter.inc();
        }
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn connection(&self, lane: LaneKind) -> Option<OpenGauge> {
        let index = LANES.iter().position(|known| *known == lane)?;
        self.opened.get(index)?.inc();
        let open = self.open.get(index)?.clone();
        open.inc();
        Some(OpenGauge(open))
    }
}

/// Counts an open connection.
#[derive(Debug)]
pub(crate) struct OpenGauge(IntGauge);

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const LANES: [LaneKind; 4] = [
    LaneKind::Shared,
    LaneKind::Dedicated,
    LaneKind::Interop,
    LaneKind::Local,
];
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
/// From a loopback round trip to a long generation.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];
