//! The end of an attestation that failed: whom it concerns besides the one who asked, the record, and the word for the peer.

use std::sync::Arc;

use vouchsafe_api::convert::attest::{AttestResponse, Evidence};
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::attestation::Refused as RefusedRecord;
use vouchsafe_attestation::name::WorkloadName;

use super::{Conversation, Shown};
use crate::archive::bundle::Outcome;
use crate::difference::difference;
use crate::refusal::{Blame, Refused};
use crate::refusals::Noted;
use crate::registration::Instance;
use crate::standing::acts::Cause;
use crate::telemetry::Chain;

impl Conversation {
    /// Records a refusal with all that is known, or counts it, and answers with the word and the remedy only.
    pub(super) async fn refuse(&mut self, refused: Refused) -> AttestResponse {
        // First of all, its peers cut an instance whose evidence turned bad.
        let revoked = self.blame(&refused).await;
        let control_plane = Arc::clone(&self.control_plane);
        let refusals = &control_plane.metrics.refused;
        refusals.with_label_values(&[refused.reason]).inc();
        let state = Arc::clone(&control_plane.mesh.borrow().state);
        if let Ok(workload) = self.asked.parse::<WorkloadName>()
            && state.policy.set.workload(&workload).is_some()
        {
            let now = control_plane.now();
            control_plane
                .registry
                .refused(workload, now, refused.reason);
        }
        if self.is_counted(&refused) {
            return AttestResponse::Refusal(refused.to_wire());
        }
        let shown = { self.shown.as_ref() }.map(|shown| Arc::clone(&shown.case));
        let evidence_sha256 = self.keep_refused(&refused).await;
        let peer = self.connection.address.to_string();
        tracing::info!(
            workload = self.asked,
            reason = refused.reason,
            detail = refused.detail,
            peer,
            "attestation refused"
        );
        let event = Event::Refused(Box::new(RefusedRecord {
            workload: self.asked.clone(),
            reason: refused.reason.to_owned(),
            detail: refused.detail.clone(),
            peer,
            evidence_sha256,
            policy_revision: state.revision,
        }));
        if let Err(error) = control_plane.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a refusal");
        }
        if let (Some(instance), Some(shown)) = (revoked, shown) {
            let archive = &control_plane.archive;
            let before = archive.evidence(instance.good_evidence).await;
            let differs = |before: Evidence| difference(&before, &shown.evidence);
            let cause = Cause {
                reason: refused.reason,
                detail: refused.detail.clone(),
                evidence_sha256,
                difference: before.map(differs).unwrap_or_default(),
            };
            control_plane.revoked(&instance, cause).await;
        }
        AttestResponse::Refusal(refused.to_wire())
    }

    /// Whether a refusal is one of so many of its sort that it is only counted. One of a registered instance never is.
    fn is_counted(&self, refused: &Refused) -> bool {
        if self.known.is_some() {
            return false;
        }
        let control_plane = &self.control_plane;
        let (address, now) = (self.connection.address.ip(), control_plane.now());
        match control_plane.refusals.note(refused.reason, address, now) {
            Noted::Single => false,
            Noted::Counted { is_first } => {
                if is_first {
                    tracing::warn!(
                        reason = refused.reason,
                        peer = %self.connection.address,
                        "so many attestations are refused that more of this sort are counted in the record, not told one by one, for a minute"
                    );
                }
                true
            }
        }
    }

    /// A refusal stands whether its evidence could be kept or not.
    async fn keep_refused(&mut self, refused: &Refused) -> [u8; 32] {
        let Some(Shown { case, policy }) = self.shown.take() else {
            return [0; 32];
        };
        let outcome = Outcome::refused(refused);
        match self
            .control_plane
            .archive
            .keep(&case, policy, outcome)
            .await
        {
            Ok(digest) => digest,
            Err(error) => {
                tracing::error!(%error, "failed to keep refused evidence");
                [0; 32]
            }
        }
    }

    /// What the refusal means for an instance that was good before. Returns it where it is revoked by this.
    async fn blame(&self, refused: &Refused) -> Option<Instance> {
        let (instance, duty) = self.known.as_ref()?;
        let registry = &self.control_plane.registry;
        match refused.blame {
            Blame::Request => None,
            Blame::Ours => {
                registry.excuse(instance, *duty);
                None
            }
            Blame::Evidence => {
                let now = self.control_plane.now();
                // Whatever it proved before: this is newer.
                let revoked = registry.revoke(instance, refused.reason, now, |_| true);
                revoked.await
            }
        }
    }
}
