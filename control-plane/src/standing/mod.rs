//! Whose trust ends between attestations: a pure state machine. Time and events go in, changes come out; [`acts`] does
//! what follows from them.
//!
//! An instance owes proofs, each in its own interval. One that is silent for two of them *lapses*: its peers cut it, and
//! fresh evidence restores it. One whose evidence turned bad is *revoked*, at once and for good: its machine enrols afresh,
//! as another instance.
//!
//! - Silence counts only while the control plane could have heard: from when it became ready, and anew after it stood
//!   still. What it had to turn away for reasons of its own is no silence ([`Vigil::excused`]), but for so often only:
//!   some of these reasons a sidecar can bring about itself.
//! - The brake: where so many are silent that the fault is more likely the network's or the control plane's, nobody
//!   lapses, and the operator is told. It never holds evidence that turned bad.
//! - Time is what has passed since the process started, by a clock that nobody sets: a corrected clock lapses nobody.
//!
//! Source: DESIGN §7.

pub mod acts;
pub mod brake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;

use self::brake::{Brake, Grip};

/// What an instance owes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Duty {
    /// All its evidence, for a new certificate.
    Root,
    /// A part, in between.
    Part(Proof),
}

impl Duty {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::Root,
        Self::Part(Proof::TpmLog),
        Self::Part(Proof::Gpu),
    ];

    /// The word in records, logs and metrics: the key of `reattest` in the Mesh.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Part(proof) => proof.as_str(),
        }
    }
}

/// Each duty with its interval.
pub type Duties = BTreeMap<Duty, Duration>;

/// What becomes of an instance, or of the brake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// An instance has been silent for too long.
    Lapsed {
        /// Which.
        instance: InstanceId,
        /// What it owes.
        duty: Duty,
        /// Since when nothing was heard.
        silent: Duration,
    },
    /// The brake took hold, or let go.
    Brake(Grip),
}

/// Watches over instances.
#[derive(Debug, Default)]
pub struct Vigil {
    /// Since when instances could be heard.
    ready: Option<Duration>,
    looked: Duration,
    members: BTreeMap<InstanceId, Member>,
    brake: Brake,
}

#[derive(Debug)]
struct Member {
    workload: WorkloadName,
    /// Its machine: the brake counts those, because one may run many instances.
    machine: String,
    duties: BTreeMap<Duty, Owes>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct Owes {
    interval: Duration,
    /// When it was last heard, or excused.
    last: Duration,
    /// Excuses since it was last good.
    excuses: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Live,
    Lapsed,
    Revoked,
}

impl Member {
    /// The duty that has been neglected for the greatest part of its interval, of those for which `is_too_much` holds.
    fn neglects(
        &self,
        ready: Duration,
        now: Duration,
        is_too_much: impl Fn(Duration, Duration) -> bool,
    ) -> Option<(Duty, Duration)> {
        let silence = |last: Duration| now.saturating_sub(last.max(ready));
        let neglected = { self.duties.iter() }
            .map(|(duty, owes)| (*duty, owes.interval, silence(owes.last)))
            .filter(|(_, interval, silent)| is_too_much(*interval, *silent));
        neglected
            .max_by_key(|(_, interval, silent)| silent.saturating_sub(*interval * 2))
            .map(|(duty, _, silent)| (duty, silent))
    }
}

impl Vigil {
    /// From now on instances can be heard.
    pub fn ready(&mut self, now: Duration) {
        self.ready = Some(now);
        self.looked = now;
    }

    /// An instance proved everything and has a new certificate, or is known from before a restart. Says whether this
    /// restores it; a revoked one stays so.
    pub fn proven(
        &mut self,
        instance: InstanceId,
        workload: &WorkloadName,
        machine: &str,
        duties: &Duties,
        now: Duration,
    ) -> bool {
        let duties = duties.iter().map(|(duty, interval)| {
            let owes = Owes {
                interval: *interval,
                last: now,
                excuses: 0,
            };
            (*duty, owes)
        });
        let member = self.members.entry(instance).or_insert_with(|| Member {
            workload: workload.clone(),
            machine: machine.to_owned(),
            duties: BTreeMap::new(),
            state: State::Live,
        });
        member.duties = duties.collect();
        let restored = member.state == State::Lapsed;
        if restored {
            member.state = State::Live;
        }
        restored
    }

    /// An instance proved a part. Says whether this restores it: it does unless something else is still owed.
    pub fn confirmed(&mut self, instance: &InstanceId, proof: Proof, now: Duration) -> bool {
        let ready = self.ready.unwrap_or(now);
        let Some(member) = self.members.get_mut(instance) else {
            return false;
        };
        if let Some(owes) = member.duties.get_mut(&Duty::Part(proof)) {
            (owes.last, owes.excuses) = (now, 0);
        }
        let restored =
            member.state == State::Lapsed && member.neglects(ready, now, is_silence).is_none();
        if restored {
            member.state = State::Live;
        }
        restored
    }

    /// An instance wanted to prove something, and we could not listen: its silence begins anew, `MOST_EXCUSES` times
    /// without a good proof in between.
    pub fn excused(&mut self, instance: &InstanceId, duty: Duty, now: Duration) {
        let duties = { self.members.get_mut(instance) }.map(|member| &mut member.duties);
        if let Some(owes) = duties.and_then(|duties| duties.get_mut(&duty))
            && owes.excuses < MOST_EXCUSES
        {
            (owes.last, owes.excuses) = (now, owes.excuses + 1);
        }
    }

    /// Evidence turned bad, or no longer fits policy. Says whether that is news.
    pub fn revoke(&mut self, instance: &InstanceId) -> bool {
        let Some(member) = self.members.get_mut(instance) else {
            return false;
        };
        let news = member.state != State::Revoked;
        member.state = State::Revoked;
        news
    }

    /// An instance had lapsed before a restart, or another one took its place: it is no silence that the brake counts.
    /// Says whether that is news.
    pub fn set_aside(&mut self, instance: &InstanceId) -> bool {
        let Some(member) = self.members.get_mut(instance) else {
            return false;
        };
        let news = member.state == State::Live;
        if news {
            member.state = State::Lapsed;
        }
        news
    }

    /// An instance's certificate has ended: nothing is owed any more.
    pub fn forget(&mut self, instance: &InstanceId) {
        self.members.remove(instance);
    }

    /// Scopes in which the brake holds.
    pub fn held(&self) -> impl Iterator<Item = &Grip> {
        self.brake.held()
    }

    /// Looks who has been silent for too long. To be called every few seconds.
    pub fn look(&mut self, now: Duration) -> Vec<Change> {
        let Some(mut ready) = self.ready else {
            return Vec::new();
        };
        if now.saturating_sub(self.looked) > STOOD_STILL {
            // While nobody looked, nobody listened either.
            ready = now;
            self.ready = Some(now);
        }
        self.looked = now;
        self.brake.forget(now);
        let mut silent = Vec::new();
        let mut counted = brake::Count::default();
        for (instance, member) in &self.members {
            match member.state {
                State::Live => {}
                State::Lapsed | State::Revoked => continue,
            }
            let late = member.neglects(ready, now, is_late).is_some();
            let neglected = member.neglects(ready, now, is_silence);
            counted.add(&member.workload, &member.machine, late, neglected.is_some());
            silent.extend(neglected.map(|(duty, silence)| (*instance, duty, silence)));
        }
        let grips = self.brake.judge(&counted);
        for grip in grips.iter().filter(|grip| !grip.holds) {
            self.begin_anew(grip.scope.as_ref(), now);
        }
        let released = |workload: &WorkloadName| {
            let freed = |grip: &Grip| {
                !grip.holds && { grip.scope.as_ref() }.is_none_or(|scope| scope == workload)
            };
            grips.iter().any(freed)
        };
        let mut changes: Vec<Change> = grips.iter().cloned().map(Change::Brake).collect();
        for (instance, duty, silent) in silent {
            let Some(member) = self.members.get_mut(&instance) else {
                continue;
            };
            if self.brake.holds(&member.workload) || released(&member.workload) {
                continue;
            }
            member.state = State::Lapsed;
            self.brake.lapsed(&member.workload, &member.machine, now);
            changes.push(Change::Lapsed {
                instance,
                duty,
                silent,
            });
        }
        changes
    }

    /// After a brake let go, silence begins anew: many come back at once, and the last of them are not to lapse for it.
    fn begin_anew(&mut self, scope: Option<&WorkloadName>, now: Duration) {
        let members = self.members.values_mut();
        for member in members.filter(|one| scope.is_none_or(|scope| one.workload == *scope)) {
            for owes in member.duties.values_mut() {
                owes.last = now;
            }
        }
    }
}

/// Whether a proof is overdue: a tenth and [`PROVING`] after its interval.
fn is_late(interval: Duration, silent: Duration) -> bool {
    silent > interval + allowance(interval)
}

/// Whether silence is too long: two intervals, with the same allowance for each. So whoever was cut off from us together
/// with the first one to lapse is late by then, and the brake counts them all.
fn is_silence(interval: Duration, silent: Duration) -> bool {
    silent > (interval + allowance(interval)) * 2
}

fn allowance(interval: Duration) -> Duration {
    interval / 10 + PROVING
}

/// A vendor that is down for longer than three intervals is an operator's concern; a sidecar that withholds what its
/// evidence needs is found out by then.
const MOST_EXCUSES: u8 = 2;
/// What a proof may take: a TPM needs a second, a busy machine a few.
const PROVING: Duration = Duration::from_secs(2);
/// Longer than this between two looks: the process stood still.
const STOOD_STILL: Duration = Duration::from_secs(10);
