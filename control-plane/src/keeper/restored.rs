//! A control plane whose data folder is an older copy: it stops, says so, and begins another epoch by an operator's act.

use std::sync::Arc;

use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_attestation::revision::Revision;

use super::Keeper;
use super::publishing::inputs;
use crate::change::ChangeError;

impl Keeper {
    /// Looks whether sidecars hold what was never made here, and says so once.
    pub(super) fn look_ahead(&self) {
        let found = self.control_plane.registry.outrun(self.control_plane.now());
        let was = *self.outrun.borrow();
        if found == was {
            return;
        }
        self.outrun.send_replace(found);
        let metrics = &self.control_plane.metrics;
        metrics.outrun.set(i64::from(found.is_some()));
        match (was, found) {
            (None, Some(outrun)) => tracing::error!(
                revision = %outrun.revision,
                sidecars = outrun.sidecars,
                of = outrun.of,
                "most sidecars hold what this control plane never made, so its data folder is an older copy: nothing is put in force and no certificate is issued until `vouchsafe restored`"
            ),
            (Some(_), None) => {
                tracing::info!("sidecars hold nothing any more that was not made here")
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// Begins an epoch above all that sidecars hold. What is in the data folder counts from then on, and nothing else.
    pub(super) async fn begin_epoch(&mut self, act: OperatorAct) -> Result<Revision, ChangeError> {
        let control_plane = &self.control_plane;
        let recorded = control_plane
            .record(Event::OperatorAct(Box::new(act)))
            .await;
        recorded.map_err(ChangeError::Record)?;
        let policy = match &self.pending {
            Some(policy) => Arc::clone(policy),
            None => Arc::clone(&self.publish.borrow().state.policy),
        };
        let inputs = inputs(control_plane, policy);
        self.epoch = Some(control_plane.registry.next_epoch(control_plane.now()));
        let published = self.publish(inputs).await;
        self.epoch = None;
        published.map_err(ChangeError::Canary)?;
        self.look_ahead();
        let revision = self.publish.borrow().state.revision;
        tracing::warn!(%revision, "an epoch begins by an operator's act");
        Ok(revision)
    }
}
