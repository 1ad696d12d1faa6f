//! What operators order: a change of the policy folder, made and in force when they get their answer.

use std::sync::Arc;

use tokio::sync::oneshot;
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_attestation::revision::Revision;

use super::publishing::{PublishError, inputs};
use super::revocations::Actor;
use super::{Keeper, revocations};
use crate::canary::Facts;
use crate::change::{ChangeError, FolderChange, Staged};
use crate::policy::LoadedPolicy;
use crate::state::ControlPlane;
use crate::telemetry::Chain;
use vouchsafe_config::set::PolicySet;

/// What somebody asks for.
#[derive(Debug)]
pub enum Deed {
    /// A change of the policy folder, and what it was found good for.
    Change(FolderChange, Judged),
    /// A change that a share of the sidecars tries.
    Canary(Box<Facts>),
    /// What they try becomes everybody's policy.
    Promote,
    /// They go back to everybody's policy.
    EndCanary,
    /// What this control plane has counts from now on, though sidecars hold later revisions.
    BeginEpoch,
}

/// A deed, and who waits for it.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub(crate) deed: Deed,
    /// For the record.
    pub(crate) act: OperatorAct,
    /// Gets the revision that is in force with it.
    pub(crate) answer: oneshot::Sender<Result<Revision, ChangeError>>,
}

/// The policies ([`LoadedPolicy::identity`]) between which a change was judged: it is made between no others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judged {
    before: [u8; 32],
    after: [u8; 32],
}

impl Judged {
    /// From what is in force, and to what would be.
    pub fn between(before: &LoadedPolicy, after: &LoadedPolicy) -> Self {
        Self {
            before: before.identity(),
            after: after.identity(),
        }
    }
}

impl ControlPlane {
    /// Has something done; it is in force when this returns, with the revision that is returned.
    ///
    /// # Errors
    /// [`ChangeError`]: but for `Torn`, `Publish` and `Canary` nothing has changed.
    pub async fn order(&self, deed: Deed, act: OperatorAct) -> Result<Revision, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let order = Order { deed, act, answer };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| ChangeError::Ending)?;
        answered.await.map_err(|_| ChangeError::Ending)?
    }
}

impl Keeper {
    /// Makes a change and answers.
    pub(super) async fn obey(&mut self, order: Order) {
        let Order { deed, act, answer } = order;
        let made = match (
            deed,
            self.control_plane.registry.outrun(self.control_plane.now()),
        ) {
            (Deed::BeginEpoch, _) => self.begin_epoch(act).await,
            // Before a folder is changed whose policy could not be put in force.
            (_, Some(outrun)) => Err(ChangeError::Outrun(PublishError::Outrun(outrun))),
            (Deed::Change(change, judged), None) => {
                self.make(&change, Some(judged), act, false).await
            }
            (Deed::Canary(facts), None) => self.begin_canary(*facts, act).await,
            (Deed::Promote, None) => self.promote(act).await,
            (Deed::EndCanary, None) => self.end_canary(act).await,
        };
        if let Err(error) = &made {
            tracing::warn!(error = %Chain(error), "a change of policy was not made");
        }
        // Whoever asked may have gone away; what happened is recorded all the same.
        let _ = answer.send(made);
    }

    pub(super) async fn make(
        &mut self,
        change: &FolderChange,
        judged: Option<Judged>,
        act: OperatorAct,
        is_promotion: bool,
    ) -> Result<Revision, ChangeError> {
        self.mend()?;
        let policy = Arc::new(self.control_plane.load_with(change).await?);
        let present = Arc::clone(&self.publish.borrow().state.policy);
        if judged.is_some_and(|judged| judged != Judged::between(&present, &policy)) {
            return Err(ChangeError::Changed);
        }
        let folder = self.folder.folder().to_owned();
        let staged = Staged::write(change, &folder, &self.data)?;
        let actor = Actor {
            name: act.actor.clone(),
            why: act.reason.clone(),
        };
        let control_plane = &self.control_plane;
        let recorded = control_plane
            .record(Event::OperatorAct(Box::new(act)))
            .await;
        recorded.map_err(ChangeError::Record)?;
        let committed = staged.commit();
        self.is_torn = matches!(committed, Err(ChangeError::Torn(_)));
        committed?;
        if is_promotion {
            self.promoted()?;
        }
        // The watch has not seen it: its next look reads the folder once more, and whatever else happened there.
        let inputs = inputs(&self.control_plane, Arc::clone(&policy));
        self.pending = Some(policy);
        self.actor = Some(actor);
        let published = self.publish(inputs).await;
        self.actor = None;
        published.map_err(ChangeError::Publish)?;
        self.pending = None;
        Ok(self.publish.borrow().state.revision)
    }

    /// Records what becomes of revocations, before it acts.
    ///
    /// While the folder's policy could not be published yet, the record says of revocations what that one has, and no
    /// state that is published in between takes it back.
    pub(crate) async fn settle_revocations(&mut self, set: &PolicySet) -> Result<(), PublishError> {
        let pending = self.pending.as_ref();
        if pending.is_some_and(|pending| !std::ptr::eq(&pending.set, set)) {
            return Ok(());
        }
        let control_plane = Arc::clone(&self.control_plane);
        let now = control_plane.now();
        let in_force = revocations::in_force(set, now);
        let ending = set.revocations().filter(|one| one.ends_soon(now)).count();
        let metrics = &control_plane.metrics;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.revocations.set(count(in_force.len()));
        metrics.revocations_ending.set(count(ending));
        let actor = self.actor.clone().unwrap_or_else(Actor::folder);
        for (name, events) in self.revocations.changes(&in_force, &actor, now) {
            for event in events {
                let recorded = control_plane.record(event).await;
                recorded.map_err(PublishError::Record)?;
            }
            // One by one, so that nothing is told twice where a later one can't be.
            self.revocations.told(name, &in_force);
        }
        let store = control_plane.registry.store();
        let written = self.revocations.write(store).await;
        written.map_err(PublishError::Store)
    }
}

impl ControlPlane {
    /// The policy as it would be.
    ///
    /// # Errors
    /// [`ChangeError::Policy`].
    pub(crate) async fn load_with(
        &self,
        change: &FolderChange,
    ) -> Result<LoadedPolicy, ChangeError> {
        let folder = std::path::PathBuf::from(&self.policy_folder);
        let (overlay, now) = (change.overlay(&folder), self.now());
        let loaded =
            tokio::task::spawn_blocking(move || LoadedPolicy::load_with(&folder, &overlay, now));
        let loaded = loaded
            .await
            .map_err(|_| ChangeError::Policy("the policy could not be read".to_owned()))?;
        loaded
            .and_then(|policy| policy.fits(&self.fixed).map(|()| policy))
            .map_err(|error| ChangeError::Policy(Chain(&error).to_string()))
    }
}
