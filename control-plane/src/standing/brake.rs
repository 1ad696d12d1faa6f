//! The brake: silence of many is not believed.
//!
//! It holds a workload of which more than a fifth, and the mesh of which more than a twentieth, would lapse within ten
//! minutes; who lapsed lately and who is late now count together. In a small mesh or workload one machine may always
//! lapse: a fifth of three is none, and then a machine that died would keep its trust until its certificate ends.
//!
//! Machines are counted, not instances: whoever holds one machine enrols as many instances there as he likes, and all of
//! them fall silent together whenever he wants the brake to hold.
//!
//! While it holds, certificates still end: silence never extends trust, it is only not taken for guilt.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use vouchsafe_attestation::name::WorkloadName;

/// A brake that holds, or does so no longer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grip {
    /// A workload; `None` for the whole mesh.
    pub scope: Option<WorkloadName>,
    /// Whether it holds.
    pub holds: bool,
    /// Machines with instances that lapsed lately or are late.
    pub silent: usize,
    /// Of so many.
    pub of: usize,
}

impl Grip {
    /// The word for its scope.
    pub fn scope(&self) -> String {
        { self.scope.as_ref() }.map_or_else(|| "mesh".to_owned(), ToString::to_string)
    }
}

/// Who is silent now.
#[derive(Debug, Default)]
pub(super) struct Count<'m> {
    mesh: Tally<'m>,
    workloads: BTreeMap<&'m WorkloadName, Tally<'m>>,
}

/// Machines of a scope.
#[derive(Debug, Default)]
struct Tally<'m> {
    live: HashSet<&'m str>,
    late: HashSet<&'m str>,
    is_silent: bool,
}

impl<'m> Count<'m> {
    pub(super) fn add(
        &mut self,
        workload: &'m WorkloadName,
        machine: &'m str,
        late: bool,
        silent: bool,
    ) {
        let own = self.workloads.entry(workload).or_default();
        for tally in [own, &mut self.mesh] {
            tally.live.insert(machine);
            if late {
                tally.late.insert(machine);
            }
            tally.is_silent |= silent;
        }
    }
}

/// Which scopes are held, and who lapsed lately.
#[derive(Debug, Default)]
pub(super) struct Brake {
    lapses: VecDeque<(Duration, WorkloadName, String)>,
    held: BTreeMap<Option<WorkloadName>, Grip>,
}

impl Brake {
    /// Forgets lapses that are long ago.
    pub(super) fn forget(&mut self, now: Duration) {
        while let Some((when, _, _)) = self.lapses.front() {
            if now.saturating_sub(*when) < WINDOW {
                return;
            }
            self.lapses.pop_front();
        }
    }

    /// Notes a lapse.
    pub(super) fn lapsed(&mut self, workload: &WorkloadName, machine: &str, now: Duration) {
        self.lapses
            .push_back((now, workload.clone(), machine.to_owned()));
    }

    /// Judges each scope; returns those that changed.
    pub(super) fn judge(&mut self, counted: &Count<'_>) -> Vec<Grip> {
        let mut lately: BTreeMap<&WorkloadName, HashSet<&str>> = BTreeMap::new();
        let mut everywhere = HashSet::new();
        for (_, workload, machine) in &self.lapses {
            lately.entry(workload).or_default().insert(machine);
            everywhere.insert(machine.as_str());
        }
        let mut grips = BTreeMap::new();
        let mut judge = |scope: Option<&WorkloadName>,
                         tally: &Tally<'_>,
                         lapsed: &HashSet<&str>,
                         share: usize| {
            let silent = tally.late.union(lapsed).count();
            let of = tally.live.union(lapsed).count();
            // Nothing is to be held where nobody would lapse now.
            if tally.is_silent && silent > (of / share).max(ALWAYS) {
                let scope = scope.cloned();
                let grip = Grip {
                    scope: scope.clone(),
                    holds: true,
                    silent,
                    of,
                };
                grips.insert(scope, grip);
            }
        };
        judge(None, &counted.mesh, &everywhere, MESH_SHARE);
        let nobody = HashSet::new();
        for (workload, tally) in &counted.workloads {
            let lapsed = lately.get(workload).unwrap_or(&nobody);
            judge(Some(workload), tally, lapsed, WORKLOAD_SHARE);
        }
        let released = { self.held.iter() }
            .filter(|(scope, _)| !grips.contains_key(*scope))
            .map(|(_, grip)| Grip {
                holds: false,
                ..grip.clone()
            });
        let taken = { grips.iter() }
            .filter(|(scope, _)| !self.held.contains_key(*scope))
            .map(|(_, grip)| grip.clone());
        let changed = released.chain(taken).collect();
        self.held = grips;
        changed
    }

    /// Whether nobody of this workload may lapse now.
    pub(super) fn holds(&self, workload: &WorkloadName) -> bool {
        self.held.keys().any(|scope| match scope {
            None => true,
            Some(held) => held == workload,
        })
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Grip> {
        self.held.values()
    }
}

/// Lapses within this count together.
pub(super) const WINDOW: Duration = Duration::from_secs(600);
/// One of so many of a workload may lapse: 20 %.
pub(super) const WORKLOAD_SHARE: usize = 5;
/// One of so many of the mesh may lapse: 5 %.
pub(super) const MESH_SHARE: usize = 20;
/// However small the scope, so many may.
pub(super) const ALWAYS: usize = 1;
