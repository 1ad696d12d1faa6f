//! Issuing authorities that an operator has made ahead of their time: before a ceremony, to see that every sidecar learns
//! of a new one, or because the one that signs must soon go.

use std::sync::Arc;

use tokio::sync::oneshot;
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_attestation::revision::Revision;

use super::Keeper;
use super::publishing::{PublishError, inputs};
use super::rotation::authority_created;
use crate::ca::{AuthorityFacts, CaError};
use crate::log::LogError;
use crate::state::ControlPlane;

/// An authority that somebody asked for.
#[derive(Debug)]
pub struct Order {
    /// For the record.
    act: OperatorAct,
    /// Gets what was made.
    answer: oneshot::Sender<Result<Prepared, PrepareError>>,
}

/// An authority that is in every bundle from a revision on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prepared {
    /// What is public of it.
    pub facts: AuthorityFacts,
    /// The revision.
    pub revision: Revision,
}

/// Why an authority was not made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The control plane is ending.
    #[error("the control plane is ending")]
    Ending,
    /// It can't be recorded; nothing was made.
    #[error("failed to record the act")]
    Record(#[source] LogError),
    /// It can't be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// It was made, and comes into bundles with the next change.
    #[error("the authority was made, but not published yet")]
    Publish(#[source] PublishError),
}

impl ControlPlane {
    /// Has an issuing authority made; it is in the bundle in force when this returns.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn prepare_authority(
        &self,
        actor: String,
        reason: String,
    ) -> Result<Prepared, PrepareError> {
        let (answer, answered) = oneshot::channel();
        let act = OperatorAct {
            act: PREPARE.to_owned(),
            actor,
            reason,
            files: Vec::new(),
            would_drop: 0,
            live: 0,
            unanswered: 0,
            max_drop: String::new(),
        };
        let sent = self.authority_orders.send(Order { act, answer }).await;
        sent.map_err(|_| PrepareError::Ending)?;
        answered.await.map_err(|_| PrepareError::Ending)?
    }
}

impl Keeper {
    /// Makes an authority and answers.
    pub(super) async fn prepare(&mut self, order: Order) {
        let made = self.prepare_now(order.act).await;
        // Whoever asked may have gone away; what happened is recorded all the same.
        let _ = order.answer.send(made);
    }

    async fn prepare_now(&mut self, act: OperatorAct) -> Result<Prepared, PrepareError> {
        let control_plane = Arc::clone(&self.control_plane);
        let recorded = control_plane.record(Event::OperatorAct(Box::new(act)));
        recorded.await.map_err(PrepareError::Record)?;
        let facts = control_plane.ca.prepare(control_plane.now())?;
        tracing::info!(
            spki_sha256 = hex::encode(facts.spki_sha256),
            "issuing authority prepared"
        );
        self.record_authority(authority_created(&facts)).await;
        let bundle = control_plane.ca.trust_bundle();
        control_plane.bundle.store(Arc::new(bundle));
        let policy = Arc::clone(&self.publish.borrow().state.policy);
        let published = self.publish(inputs(&control_plane, policy)).await;
        published.map_err(PrepareError::Publish)?;
        let revision = self.publish.borrow().state.revision;
        Ok(Prepared { facts, revision })
    }
}

/// The word in the record.
const PREPARE: &str = "prepare_authority";
