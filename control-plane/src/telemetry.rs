//! Metrics of the control plane, and the shape of its log.
//!
//! Labels come from closed sets only; a name or an address is never one.

use std::fmt;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// All metrics, with their registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Certificates issued, by class of the evidence.
    pub issued: IntCounterVec,
    /// Attestations refused, by reason.
    pub refused: IntCounterVec,
    /// Connections of sidecars that are open.
    pub connections: IntGauge,
    /// Handshakes that failed, by reason.
    pub handshake_failures: IntCounterVec,
    /// Mesh-state streams that are open.
    pub streams: IntGauge,
    /// Whether the policy folder's present content is refused (1) or in force (0).
    pub policy_broken: IntGauge,
    /// Whether sidecars hold what was never made here (1).
    pub outrun: IntGauge,
    /// Policy folder read, by outcome.
    pub policy_loads: IntCounterVec,
    /// Sequence of the revision in force.
    pub revision: IntGauge,
    /// Entries of the record.
    pub records: IntGauge,
    /// Seconds until the issuing authority that signs now is over.
    pub issuer_expiry: IntGauge,
    /// Instances with a certificate that is not over.
    pub instances: IntGauge,
    /// Writes of registrations that failed and are tried again.
    pub store_failures: IntCounter,
    /// Revocations in force.
    pub revocations: IntGauge,
    /// Those of them that end within a day.
    pub revocations_ending: IntGauge,
    /// Mesh state on its way to sidecars.
    pub mesh_state: MeshStateMetrics,
    /// Vendors' statements about hardware.
    pub endorsements: EndorsementMetrics,
    /// What becomes of instances between renewals.
    pub standing: StandingMetrics,
}

/// Metrics of instances between renewals.
#[derive(Clone, Debug)]
pub struct StandingMetrics {
    /// Parts that were proven, by proof.
    pub confirmed: IntCounterVec,
    /// Changes of standing, by what it became.
    pub changes: IntCounterVec,
    /// Instances that nobody may talk to, by standing.
    pub withdrawn: IntGaugeVec,
    /// Scopes in which the brake holds.
    pub brake: IntGauge,
}

impl StandingMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            confirmed: counters(
                "vouchsafe_confirmed_total",
                "Parts of evidence that were proven between renewals.",
                &["proof"],
            )?,
            changes: counters(
                "vouchsafe_standing_changes_total",
                "Instances that lapsed, were restored or revoked by their evidence.",
                &["standing"],
            )?,
            withdrawn: IntGaugeVec::new(
                Opts::new(
                    "vouchsafe_instances_withdrawn",
                    "Instances that nobody may talk to, whose certificates have not ended.",
                ),
                &["standing"],
            )?,
            brake: gauge(
                "vouchsafe_lapse_brake_held",
                "Workloads, and 1 for the mesh, in which so many are silent that nobody lapses.",
            )?,
        })
    }

    fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.confirmed.clone()),
            Box::new(self.changes.clone()),
            Box::new(self.withdrawn.clone()),
            Box::new(self.brake.clone()),
        ]
    }
}

/// Metrics of the mesh-state streams.
#[derive(Clone, Debug)]
pub struct MeshStateMetrics {
    /// Messages sent, by kind.
    pub sent: IntCounterVec,
    /// Bytes of these messages.
    pub sent_bytes: IntCounter,
    /// Seconds from a revision's coming in force to a sidecar's word that it is applied.
    pub apply: Histogram,
    /// Revisions that a sidecar could not apply.
    pub refusals: IntCounter,
    /// Sidecars that held another slice than their revision has, and were sent all of it.
    pub repairs: IntCounter,
    /// Endpoints for which the mesh state has no room.
    pub left_out: IntGauge,
    /// Connected sidecars that have not applied the newest revision.
    pub lagging: IntGauge,
    /// Seconds for which the one that lags longest has not.
    pub lag: IntGauge,
}

impl MeshStateMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let apply = HistogramOpts::new(
            "vouchsafe_mesh_state_apply_seconds",
            "Seconds from a revision's coming in force to a sidecar's acknowledgement.",
        );
        let metrics = Self {
            sent: counters(
                "vouchsafe_mesh_state_sent_total",
                "Messages sent to sidecars.",
                &["kind"],
            )?,
            sent_bytes: IntCounter::new(
                "vouchsafe_mesh_state_sent_bytes_total",
                "Bytes of messages sent to sidecars, before encryption.",
            )?,
            apply: Histogram::with_opts(apply.buckets(APPLY_BUCKETS.to_vec()))?,
            refusals: IntCounter::new(
                "vouchsafe_mesh_state_refusals_total",
                "Revisions that a sidecar could not apply.",
            )?,
            repairs: IntCounter::new(
                "vouchsafe_mesh_state_repairs_total",
                "Sidecars that held another slice than their revision has and were sent all of it.",
            )?,
            left_out: gauge(
                "vouchsafe_mesh_state_endpoints_left_out",
                "Endpoints of instances that are not published, because a workload has more than sidecars take.",
            )?,
            lagging: gauge(
                "vouchsafe_mesh_state_lagging_sidecars",
                "Connected sidecars that have not applied the newest revision.",
            )?,
            lag: gauge(
                "vouchsafe_mesh_state_lag_seconds",
                "Seconds for which the connected sidecar that lags longest has not applied the newest revision.",
            )?,
        };
        for kind in ["snapshot", "delta", "heartbeat", "probe"] {
            metrics.sent.with_label_values(&[kind]);
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 8] {
        [
            Box::new(self.sent.clone()),
            Box::new(self.sent_bytes.clone()),
            Box::new(self.apply.clone()),
            Box::new(self.refusals.clone()),
            Box::new(self.repairs.clone()),
            Box::new(self.left_out.clone()),
            Box::new(self.lagging.clone()),
            Box::new(self.lag.clone()),
        ]
    }
}

/// Metrics of endorsements, by source.
#[derive(Clone, Debug)]
pub struct EndorsementMetrics {
    /// Objects asked for, by outcome.
    pub fetches: IntCounterVec,
    /// Valid objects that are held.
    pub held: IntGaugeVec,
    /// Objects that were wanted lately and are not held.
    pub missing: IntGaugeVec,
    /// Seconds until the first of those used lately is over.
    pub expiry: IntGaugeVec,
    /// Whether the source is left alone because it is down.
    pub open: IntGaugeVec,
}

impl EndorsementMetrics {
    /// Makes them; they are not registered yet.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a name is none.
    pub fn new() -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["source"]);
        Ok(Self {
            fetches: counters(
                "vouchsafe_endorsement_fetches_total",
                "Endorsements asked for.",
                &["source", "outcome"],
            )?,
            held: gauges("vouchsafe_endorsements_held", "Valid endorsements.")?,
            missing: gauges(
                "vouchsafe_endorsements_missing",
                "Endorsements that were wanted lately and are not held.",
            )?,
            expiry: gauges(
                "vouchsafe_endorsement_expiry_seconds",
                "Seconds until the first endorsement used lately is over; 0 for none.",
            )?,
            open: gauges(
                "vouchsafe_endorsement_circuit_open",
                "1 while a source is left alone because it is down.",
            )?,
        })
    }

    fn collectors(&self) -> [Box<dyn Collector>; 5] {
        [
            Box::new(self.fetches.clone()),
            Box::new(self.held.clone()),
            Box::new(self.missing.clone()),
            Box::new(self.expiry.clone()),
            Box::new(self.open.clone()),
        ]
    }
}

impl Metrics {
    /// Makes and registers all of them.
    ///
    /// # Errors
    /// [`prometheus::Error`] when two have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            issued: counters("vouchsafe_issued_total", "Certificates issued.", &["class"])?,
            refused: counters(
                "vouchsafe_refused_total",
                "Attestations refused.",
                &["reason"],
            )?,
            connections: gauge(
                "vouchsafe_control_plane_connections",
                "Connections of sidecars that are open.",
            )?,
            handshake_failures: counters(
                "vouchsafe_control_plane_handshake_failures_total",
                "TLS handshakes that failed.",
                &["reason"],
            )?,
            streams: gauge(
                "vouchsafe_mesh_state_streams",
                "Mesh-state streams that are open.",
            )?,
            policy_broken: gauge(
                "vouchsafe_policy_broken",
                "1 while the policy folder's present content is refused and the last good one is in force.",
            )?,
            outrun: gauge(
                "vouchsafe_control_plane_outrun",
                "1 while most sidecars hold what this control plane never made: its data folder is an older copy.",
            )?,
            policy_loads: counters(
                "vouchsafe_policy_loads_total",
                "Times the policy folder was read.",
                &["outcome"],
            )?,
            revision: gauge(
                "vouchsafe_policy_revision",
                "Sequence of the mesh-state revision in force.",
            )?,
            records: gauge("vouchsafe_records", "Entries of the record.")?,
            issuer_expiry: gauge(
                "vouchsafe_issuer_expiry_seconds",
                "Seconds until the issuing authority that signs now is over.",
            )?,
            instances: gauge(
                "vouchsafe_instances",
                "Instances with a certificate that is not over.",
            )?,
            store_failures: IntCounter::with_opts(Opts::new(
                "vouchsafe_store_failures_total",
                "Writes of registrations that failed and are tried again.",
            ))?,
            revocations: gauge("vouchsafe_revocations", "Revocations in force.")?,
            revocations_ending: gauge(
                "vouchsafe_revocations_ending",
                "Revocations in force that end within a day.",
            )?,
            mesh_state: MeshStateMetrics::new()?,
            endorsements: EndorsementMetrics::new()?,
            standing: StandingMetrics::new()?,
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 15] = [
            Box::new(self.issued.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.handshake_failures.clone()),
            Box::new(self.streams.clone()),
            Box::new(self.policy_broken.clone()),
            Box::new(self.outrun.clone()),
            Box::new(self.policy_loads.clone()),
            Box::new(self.revision.clone()),
            Box::new(self.records.clone()),
            Box::new(self.issuer_expiry.clone()),
            Box::new(self.instances.clone()),
            Box::new(self.store_failures.clone()),
            Box::new(self.revocations.clone()),
            Box::new(self.revocations_ending.clone()),
        ];
        all.into_iter()
            .chain(self.mesh_state.collectors())
            .chain(self.endorsements.collectors())
            .chain(self.standing.collectors())
            .try_for_each(|metric| self.registry.register(metric))
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a metric can't be written.
    pub fn expose(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    IntGauge::new(name, help)
}

/// An error with all its causes, for the edge that logs it.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// Milliseconds on a good day, seconds where a sidecar lags.
const APPLY_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
];
