//! Canaries: the state beside the one in force, when each gets which number, and how a canary begins and ends.

use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_attestation::revision::Revision;

use super::Keeper;
use super::publishing::{PublishError, inputs};
use crate::ca::{CaError, RoleKey};
use crate::canary::{self, Canary, Facts};
use crate::change::ChangeError;
use crate::mesh::frame::{Published, PublishedCanary};
use crate::mesh::{Inputs, MeshState};
use crate::policy::LoadedPolicy;
use crate::policy_sets::Whose;
use crate::telemetry::Chain;

/// Numbers in one order for both states: even ones for the state in force and odd ones for the canary while there are
/// two, each above all before it.
#[derive(Debug)]
pub(crate) struct Numbers {
    highest: Revision,
    are_two: bool,
}

impl Numbers {
    /// `highest` may be lower than the sequence of `present`: then that is the highest.
    pub(crate) fn new(present: Revision, highest: u64, are_two: bool) -> Self {
        let sequence = present.sequence.max(highest);
        Self {
            highest: Revision {
                sequence,
                ..present
            },
            are_two,
        }
    }

    /// The next one of the state in force.
    pub(crate) fn present(&mut self) -> Revision {
        match self.are_two {
            true => self.rise(0),
            false => {
                self.highest.sequence += 1;
                self.highest
            }
        }
    }

    fn canary(&mut self) -> Revision {
        self.rise(1)
    }

    fn rise(&mut self, parity: u64) -> Revision {
        self.highest.sequence += 1;
        if self.highest.sequence % 2 != parity {
            self.highest.sequence += 1;
        }
        self.highest
    }
}

/// What is to be published.
#[derive(Debug)]
pub(crate) struct Next {
    /// The state in force.
    pub(crate) state: Arc<MeshState>,
    /// That of a canary.
    pub(crate) canary: Option<NextCanary>,
}

/// The state of a canary that is to be published.
#[derive(Debug)]
pub(crate) struct NextCanary {
    /// What it is.
    pub(crate) facts: Arc<Facts>,
    /// Sequence of its first state.
    pub(crate) first: u64,
    /// Its state.
    pub(crate) state: Arc<MeshState>,
}

impl NextCanary {
    /// The first state of a canary in a process.
    pub(crate) fn first(canary: &Canary, inputs: Inputs, numbers: &mut Numbers) -> Self {
        let state = MeshState::first(numbers.canary(), tried(canary, inputs));
        Self {
            facts: Arc::clone(&canary.facts),
            first: state.revision.sequence,
            state: Arc::new(state),
        }
    }
}

impl Next {
    /// The highest sequence that a sidecar may come to hold.
    pub(crate) fn highest(&self) -> u64 {
        let canary = self.canary.as_ref();
        let canary = canary.map_or(0, |one| one.state.revision.sequence);
        canary.max(self.state.revision.sequence)
    }

    /// With signatures as of `now`; what is published already keeps its own.
    ///
    /// # Errors
    /// [`CaError`].
    pub(crate) fn sign(
        &self,
        before: Option<&Published>,
        key: &RoleKey,
        now: SystemTime,
    ) -> Result<Published, CaError> {
        let sign = |state: &Arc<MeshState>, held: Option<&Published>| match held {
            Some(held) if Arc::ptr_eq(&held.state, state) => Ok(held.clone()),
            Some(_) | None => state.sign(key, now).map(|signed| {
                let state = Arc::clone(state);
                // Both are signed again together, so a stream that moves from one to the other sees one count.
                match before {
                    Some(before) => before.next(state, signed),
                    None => Published::new(state, signed),
                }
            }),
        };
        let held = before.and_then(|before| before.canary.as_deref());
        let canary = match &self.canary {
            None => None,
            Some(one) => Some(PublishedCanary {
                facts: Arc::clone(&one.facts),
                first: one.first,
                published: sign(&one.state, held.map(|held| &held.published))?,
            }),
        };
        Ok(sign(&self.state, before)?.beside(canary))
    }

    /// The first states of an epoch: nobody holds anything that they could be told a difference from.
    pub(super) fn in_epoch(epoch: u64, inputs: Inputs, canary: Option<&Canary>) -> Self {
        let none = Revision { epoch, sequence: 0 };
        let mut numbers = Numbers::new(none, 0, canary.is_some());
        let state = MeshState::first(numbers.present(), inputs.clone());
        Self {
            state: Arc::new(state),
            canary: canary.map(|canary| NextCanary::first(canary, inputs, &mut numbers)),
        }
    }

    pub(crate) fn is_nothing_new(&self, before: &Published) -> bool {
        let same_canary = match (&self.canary, before.canary.as_deref()) {
            (None, None) => true,
            (Some(one), Some(held)) => Arc::ptr_eq(&one.state, &held.published.state),
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_canary && Arc::ptr_eq(&self.state, &before.state)
    }

    /// The state in force, and that of a canary.
    pub(crate) fn states(&self) -> [Option<&Arc<MeshState>>; 2] {
        let canary = self.canary.as_ref().map(|one| &one.state);
        [Some(&self.state), canary]
    }
}

impl Published {
    /// The state in force, and that of a canary.
    pub(crate) fn states(&self) -> [Option<&Arc<MeshState>>; 2] {
        let canary = self.canary.as_deref().map(|one| &one.published.state);
        [Some(&self.state), canary]
    }
}

fn tried(canary: &Canary, inputs: Inputs) -> Inputs {
    Inputs {
        policy: Arc::clone(&canary.policy),
        ..inputs
    }
}

/// The states that follow what is published. What did not change is what is published.
pub(crate) fn next_states(before: &Published, inputs: Inputs, canary: Option<&Canary>) -> Next {
    let held = before.canary.as_deref();
    let highest = held.map_or(0, |held| held.published.state.revision.sequence);
    let mut numbers = Numbers::new(before.state.revision, highest, canary.is_some());
    let ended = held.filter(|_| canary.is_none());
    let state = match (before.state.is_of(&inputs), ended) {
        (true, None) => Arc::clone(&before.state),
        (_, ended) => {
            let mut state = before.state.next(numbers.present(), inputs.clone());
            if let Some(held) = ended {
                state.follows_canary(held.first..=highest);
            }
            // Whoever tried a canary moves on to a state above it, though nothing else changed.
            match state.root == before.state.root && ended.is_none() {
                true => Arc::clone(&before.state),
                false => Arc::new(state),
            }
        }
    };
    let canary = canary.map(|canary| {
        let inputs = tried(canary, inputs);
        let first = |state: &MeshState| held.map_or(state.revision.sequence, |held| held.first);
        let before = held.map_or(&before.state, |held| &held.published.state);
        let is_same = held.is_some() && before.is_of(&inputs);
        let state = match is_same {
            true => Arc::clone(before),
            false => {
                // So that what is kept of the policy in force never lies between a canary and a state of it.
                let is_new = !Arc::ptr_eq(&before.policy, &inputs.policy);
                let state = before.next(numbers.canary(), inputs);
                match held.is_some() && !is_new && state.root == before.root {
                    true => Arc::clone(before),
                    false => Arc::new(state),
                }
            }
        };
        NextCanary {
            facts: Arc::clone(&canary.facts),
            first: first(&state),
            state,
        }
    });
    Next { state, canary }
}

impl Keeper {
    /// Makes the canary of the policy that comes in force, or ends one that does not fit it: then everybody is on the
    /// policy in force.
    pub(crate) async fn settle_canary(
        &mut self,
        present: &Arc<LoadedPolicy>,
    ) -> Result<(), PublishError> {
        let held = self.canary.as_ref();
        let Some(facts) = held.filter(|held| held.made_of != present.digest) else {
            return Ok(());
        };
        let facts = Arc::clone(&facts.facts);
        match self.canary_of(Arc::clone(&facts), present).await {
            Ok(canary) => {
                self.canary = Some(canary);
                Ok(())
            }
            Err(why) => self.forget_canary(ended_by_itself(Some(&facts), why)).await,
        }
    }

    async fn canary_of(
        &self,
        facts: Arc<Facts>,
        present: &Arc<LoadedPolicy>,
    ) -> Result<Canary, String> {
        let (folder, now) = (self.folder.folder().to_owned(), self.control_plane.now());
        let present = Arc::clone(present);
        let made = tokio::task::spawn_blocking(move || Canary::new(facts, &present, &folder, now));
        let made = made
            .await
            .map_err(|_| "its policy could not be read".to_owned())?;
        made.map_err(|error| Chain(&error).to_string())
    }

    /// Records the end of a canary, and forgets it; the next state that is published is everybody's.
    async fn forget_canary(&mut self, act: OperatorAct) -> Result<(), PublishError> {
        let (name, why) = (act.act.clone(), act.reason.clone());
        let event = Event::OperatorAct(Box::new(act));
        let recorded = self.control_plane.record(event).await;
        recorded.map_err(PublishError::Record)?;
        tracing::warn!(act = name, reason = why, "a canary has ended");
        canary::forget(&self.data).map_err(PublishError::Canary)?;
        self.canary = None;
        Ok(())
    }

    /// Begins a canary.
    pub(super) async fn begin_canary(
        &mut self,
        facts: Facts,
        act: OperatorAct,
    ) -> Result<Revision, ChangeError> {
        if self.canary.is_some() {
            return Err(ChangeError::Policy("a canary is running".to_owned()));
        }
        let present = Arc::clone(&self.publish.borrow().state.policy);
        let canary = self.canary_of(Arc::new(facts), &present).await;
        let canary = canary.map_err(ChangeError::Policy)?;
        let event = Event::OperatorAct(Box::new(act));
        let recorded = self.control_plane.record(event).await;
        recorded.map_err(ChangeError::Record)?;
        canary::keep(&self.data, &canary.facts).map_err(ChangeError::NotWritable)?;
        self.canary = Some(canary);
        let published = self.publish(inputs(&self.control_plane, present)).await;
        if let Err(error) = published {
            self.canary = None;
            // One that stays would go on at the next start, which the record says began.
            let _ = canary::forget(&self.data);
            return Err(ChangeError::Canary(error));
        }
        Ok(self.tried_revision())
    }

    /// Ends the canary: everybody is on the policy in force.
    pub(super) async fn end_canary(&mut self, act: OperatorAct) -> Result<Revision, ChangeError> {
        if self.canary.is_none() {
            return Err(ChangeError::Policy("no canary is running".to_owned()));
        }
        let forgotten = self.forget_canary(act).await;
        forgotten.map_err(ChangeError::Canary)?;
        let present = Arc::clone(&self.publish.borrow().state.policy);
        let published = self.publish(inputs(&self.control_plane, present)).await;
        published.map_err(ChangeError::Canary)?;
        Ok(self.publish.borrow().state.revision)
    }

    /// Makes what the canary's sidecars try everybody's.
    pub(super) async fn promote(&mut self, act: OperatorAct) -> Result<Revision, ChangeError> {
        let Some(canary) = &self.canary else {
            return Err(ChangeError::Policy("no canary is running".to_owned()));
        };
        let present = Arc::clone(&self.publish.borrow().state.policy);
        let change = canary.facts.change.left_on(&present.files);
        // Judged as what its sidecars have been trying.
        self.make(&change, None, act, true).await
    }

    /// The canary has become the policy in force.
    pub(super) fn promoted(&mut self) -> Result<(), ChangeError> {
        canary::forget(&self.data).map_err(ChangeError::Torn)?;
        self.canary = None;
        Ok(())
    }

    fn tried_revision(&self) -> Revision {
        let published = self.publish.borrow();
        let canary = published.canary.as_deref();
        canary.map_or(published.state.revision, |one| one.published.state.revision)
    }

    /// Keeps the policies that came in force, and those of a canary and of its end, by which denials are explained.
    pub(super) async fn keep_policies(&self, before: &Published, next: &Next) {
        let has_ended = before.canary.is_some() && next.canary.is_none();
        if before.state.policy.digest != next.state.policy.digest || has_ended {
            self.keep_policy(&next.state, Whose::Everybody).await;
        }
        let Some(canary) = &next.canary else {
            return;
        };
        let held = before.canary.as_deref();
        let held = held.map(|held| &held.published.state.policy);
        if held.is_none_or(|held| !Arc::ptr_eq(held, &canary.state.policy)) {
            self.keep_policy(&canary.state, Whose::Canary).await;
        }
    }
}

/// What the record says of a canary that nobody ended.
pub(crate) fn ended_by_itself(facts: Option<&Facts>, why: String) -> OperatorAct {
    OperatorAct {
        act: "canary_ended".to_owned(),
        actor: "the control plane".to_owned(),
        reason: why,
        files: facts.map_or_else(Vec::new, |facts| {
            crate::change::bounded(facts.change.names())
        }),
        would_drop: 0,
        live: 0,
        unanswered: 0,
        max_drop: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(sequence: u64) -> Revision {
        Revision { epoch: 1, sequence }
    }

    #[test]
    fn numbers_of_two_states_rise_together_and_tell_them_apart() {
        let mut alone = Numbers::new(revision(6), 0, false);
        assert_eq!(
            (alone.present(), alone.present()),
            (revision(7), revision(8))
        );
        for (present, highest) in [(6, 0), (7, 0), (4, 7), (4, 6)] {
            let mut both = Numbers::new(revision(present), highest, true);
            let mut last = revision(present.max(highest));
            for _ in 0..3 {
                let (one, other) = (both.present(), both.canary());
                assert!(last < one && one < other, "{one} {other}");
                assert_eq!((one.sequence % 2, other.sequence % 2), (0, 1));
                last = other;
            }
        }
    }
}
