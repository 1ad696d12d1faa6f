//! Metrics of the control side: certificates, mesh state, files. The data path's are beside.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of the control side. Every label is one of a closed set of words.
#[derive(Debug)]
pub struct ControlMetrics {
    /// `vouchsafe_attestations_total{outcome}`: attempts to get a certificate; `issued` or why not.
    pub attestations: IntCounterVec,
    /// `vouchsafe_svid_expiry_seconds`: end of the certificate in Unix time; 0 without one.
    pub svid_expiry: IntGauge,
    /// `vouchsafe_identity_epoch`: number of the identity in force.
    pub identity_epoch: IntGauge,
    /// `vouchsafe_mesh_state_connected`: whether the mesh-state stream is open.
    pub mesh_state_connected: IntGauge,
    /// `vouchsafe_mesh_state_heard_seconds`: when mesh state was last heard and verified, in Unix time; 0 before.
    pub mesh_state_heard: IntGauge,
    /// `vouchsafe_mesh_state_sequence{which}`: sequence of the revision that is `applied`, and of the newest `seen`.
    pub mesh_state_sequence: IntGaugeVec,
    /// `vouchsafe_mesh_state_messages_total{outcome}`: snapshots and heartbeats; `applied`, `heartbeat` or why not.
    pub mesh_state_messages: IntCounterVec,
    /// `vouchsafe_file_reloads_total{what,outcome}`: changes of `identity` and `policy` files, `applied` or `refused`.
    pub file_reloads: IntCounterVec,
    /// `vouchsafe_files_broken{what}`: 1 while the present content of the files is refused and the last good is used.
    pub files_broken: IntGaugeVec,
}

impl ControlMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// A name that is registered already: a mistake of ours.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let version = gauges(
            "vouchsafe_proxy_build_info",
            "Version of this sidecar; always 1.",
            &["version"],
        )?;
        version
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            attestations: counters(
                "vouchsafe_attestations_total",
                "Attempts to get a certificate, by outcome.",
                &["outcome"],
            )?,
            svid_expiry: gauge(
                "vouchsafe_svid_expiry_seconds",
                "End of the certificate in Unix time; 0 without one.",
            )?,
            identity_epoch: gauge(
                "vouchsafe_identity_epoch",
                "Number of the identity in force; grows with each change.",
            )?,
            mesh_state_connected: gauge(
                "vouchsafe_mesh_state_connected",
                "Whether the mesh-state stream is open.",
            )?,
            mesh_state_heard: gauge(
                "vouchsafe_mesh_state_heard_seconds",
                "When mesh state was last heard and verified, in Unix time; 0 before.",
            )?,
            mesh_state_sequence: gauges(
                "vouchsafe_mesh_state_sequence",
                "Sequence of the mesh-state revision that is applied, and of the newest seen.",
                &["which"],
            )?,
            mesh_state_messages: counters(
                "vouchsafe_mesh_state_messages_total",
                "Messages of the mesh-state stream, by outcome.",
                &["outcome"],
            )?,
            file_reloads: counters(
                "vouchsafe_file_reloads_total",
                "Changes of identity and policy files, by outcome.",
                &["what", "outcome"],
            )?,
            files_broken: gauges(
                "vouchsafe_files_broken",
                "1 while the present content of the files is refused and the last good content is used.",
                &["what"],
            )?,
        })
    }
}

/// A time as a gauge shows it: whole Unix seconds.
pub fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
