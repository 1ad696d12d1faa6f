//! What is done about standings: written down, said, counted. The decisions are [`super::Vigil`]'s and the verifier's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::standing::{BrakeChange, StandingChange};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawn;

use super::Duty;
use super::brake::Grip;
use crate::registration::Instance;
use crate::registration::trust::{LEFT, SUPERSEDED};
use crate::state::{ControlPlane, stopped};
use crate::telemetry::Chain;

/// Looks for silence until the control plane stops.
pub async fn watch_over(control_plane: Arc<ControlPlane>, mut shutdown: watch::Receiver<bool>) {
    control_plane.registry.ready();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            _ = ticks.tick() => control_plane.look_for_silence().await,
        }
    }
}

/// Why a standing changed.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// The check that failed, or the proof that is missing.
    pub(crate) reason: &'static str,
    /// What was expected and found.
    pub(crate) detail: String,
    /// SHA-256 of the evidence, as it is archived; zeros without any.
    pub(crate) evidence_sha256: [u8; 32],
    /// How it differs from the last that was good.
    pub(crate) difference: Vec<String>,
}

impl ControlPlane {
    async fn look_for_silence(&self) {
        let now = self.now();
        let (lapsed, grips) = self.registry.look(now);
        for grip in grips {
            self.brake(grip).await;
        }
        for (instance, duty, silent) in lapsed {
            self.lapsed(&instance, duty, silent).await;
        }
        let held = self.registry.held().len();
        let metrics = &self.metrics.standing;
        metrics.brake.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.count_withdrawn(now);
    }

    fn count_withdrawn(&self, now: SystemTime) {
        let withdrawals = self.registry.withdrawals(now);
        for state in Withdrawn::ALL {
            let those = withdrawals.iter().filter(|one| one.state == state).count();
            let gauge = &self.metrics.standing.withdrawn;
            let gauge = gauge.with_label_values(&[state.as_str()]);
            gauge.set(i64::try_from(those).unwrap_or(i64::MAX));
        }
    }

    async fn brake(&self, grip: Grip) {
        let scope = grip.scope();
        let state = match grip.holds {
            true => {
                tracing::error!(
                    scope,
                    silent = grip.silent,
                    of = grip.of,
                    "so many instances are silent that none of them lapses: look at the network and at this control plane"
                );
                "held"
            }
            false => {
                tracing::info!(scope, "silence makes instances lapse again");
                "released"
            }
        };
        self.note(Event::BrakeChanged(Box::new(BrakeChange {
            scope,
            state: state.to_owned(),
            silent: grip.silent as u64,
            of: grip.of as u64,
        })))
        .await;
    }

    async fn lapsed(&self, instance: &Instance, duty: Duty, silent: Duration) {
        let owed = instance.owed.get(&duty);
        let interval = owed.map_or(0, |owed| owed.interval.as_secs());
        tracing::warn!(
            workload = %instance.workload,
            instance = %instance.id,
            reason = duty.as_str(),
            silent_seconds = silent.as_secs(),
            "an instance lapsed: its peers cut it until it proves itself"
        );
        self.changed(
            instance,
            "lapsed",
            Cause {
                reason: duty.as_str(),
                detail: format!("silent for {} s, due every {interval} s", silent.as_secs()),
                evidence_sha256: [0; 32],
                difference: Vec::new(),
            },
        )
        .await;
    }

    /// Another instance took the place of one that does not listen any more.
    pub(crate) async fn superseded(&self, instance: &Instance) {
        tracing::info!(
            workload = %instance.workload,
            instance = %instance.id,
            "a sidecar was started again: its earlier instance is not trusted any more"
        );
        let change = Cause {
            reason: SUPERSEDED,
            detail: "the same machine enrolled again behind the same doors".to_owned(),
            evidence_sha256: [0; 32],
            difference: Vec::new(),
        };
        self.changed(instance, "lapsed", change).await;
    }

    /// An instance says over its own stream that it ends.
    pub(crate) async fn left(&self, id: &InstanceId) {
        let Some(instance) = self.registry.left(id, self.now()) else {
            return;
        };
        tracing::info!(
            workload = %instance.workload,
            instance = %instance.id,
            "a sidecar has left: its instance is not trusted any more"
        );
        let change = Cause {
            reason: LEFT,
            detail: "it drained and said so".to_owned(),
            evidence_sha256: [0; 32],
            difference: Vec::new(),
        };
        self.changed(&instance, "lapsed", change).await;
    }

    /// Fresh evidence of an instance that had lapsed.
    pub(crate) async fn restored(&self, id: &InstanceId, evidence_sha256: [u8; 32]) {
        let Some(instance) = self.registry.instance(id) else {
            return;
        };
        tracing::info!(
            workload = %instance.workload,
            instance = %instance.id,
            "an instance that had lapsed proved itself and is trusted again"
        );
        let change = Cause {
            reason: FRESH,
            detail: String::new(),
            evidence_sha256,
            difference: Vec::new(),
        };
        self.changed(&instance, "live", change).await;
    }

    /// Writes down what became of an instance whose evidence turned bad; its peers were told before.
    pub(crate) async fn revoked(&self, instance: &Instance, bad: Cause) {
        tracing::error!(
            workload = %instance.workload,
            instance = %instance.id,
            reason = bad.reason,
            detail = bad.detail,
            difference = bad.difference.join("; "),
            "the evidence of an instance turned bad: its peers cut it"
        );
        self.changed(instance, "revoked", bad).await;
    }

    async fn changed(&self, instance: &Instance, standing: &str, why: Cause) {
        let changes = &self.metrics.standing.changes;
        changes.with_label_values(&[standing]).inc();
        self.count_withdrawn(self.now());
        self.note(Event::StandingChanged(Box::new(StandingChange {
            workload: instance.workload.to_string(),
            instance: instance.id.0,
            standing: standing.to_owned(),
            reason: why.reason.to_owned(),
            detail: why.detail,
            evidence_sha256: why.evidence_sha256,
            difference: why.difference,
        })))
        .await;
    }

    /// Trust that ended has ended, whether it could be written down or not.
    async fn note(&self, event: Event) {
        if let Err(error) = self.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a change of standing");
        }
    }
}

/// The word for what restores.
const FRESH: &str = "fresh_evidence";
/// How precisely silence is measured.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
