//! Who can come through a door: directly, and through whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, ParseWorkloadNameError, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;

use super::grant::{Grant, Part, Subject};
use crate::access::Selector;
use crate::policy::{Enforcement, RuleSource};
use crate::problem::{list, nearest};
use crate::revocation::Meant;
use crate::set::PolicySet;

/// A port of a workload: `inference/llm:openai`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Door {
    /// The workload.
    pub workload: WorkloadName,
    /// Name of its port.
    pub port: Name,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.workload, self.port)
    }
}

impl FromStr for Door {
    type Err = ParseDoorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (workload, port) = text.split_once(':').ok_or(ParseDoorError::Form)?;
        Ok(Self {
            workload: workload.parse()?,
            port: port.parse().map_err(|_| ParseDoorError::Form)?,
        })
    }
}

/// The text is no door.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseDoorError {
    /// Not a workload and a port.
    #[error("expected `<namespace>/<name>:<port>`, like `inference/llm:openai`")]
    Form,
    /// The workload is no name.
    #[error(transparent)]
    Workload(#[from] ParseWorkloadNameError),
}

/// Who can come through a door.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WhoCan {
    /// The door.
    pub door: Door,
    /// Whether the port only counts what policy denies: then every attested peer of the mesh comes in.
    pub is_audited: bool,
    /// Those whom a rule of the door names.
    pub direct: Vec<Reach>,
    /// Those who can call one of them, and so on: each once, by a shortest way.
    pub indirect: Vec<Indirect>,
    /// Revocations that shut the door whatever rules say.
    pub shut: Vec<Shut>,
}

/// A revocation that shuts a door for somebody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shut {
    /// For whom; the door's own workload means: for all who call it. `None`: for whoever shows what the revocation says of
    /// certificates and evidence, whatever his name.
    pub who: Option<Subject>,
    /// Whether it means every instance of that name; else those that show what the revocation says beside the name.
    pub is_whole: bool,
    /// The revocation.
    pub by: RuleSource,
    /// Why, in its author's words.
    pub reason: String,
}

/// A subject with what it is granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    /// Who.
    pub subject: Subject,
    /// Workloads of the policy that the subject stands for; for a namespace those that are there today.
    pub workloads: Vec<WorkloadName>,
    /// What it may ask, rule by rule.
    pub grants: Vec<Grant>,
}

/// A subject that reaches the door through others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Indirect {
    /// Who.
    pub subject: Subject,
    /// The doors that lie between, the one that the subject itself calls first.
    pub via: Vec<Door>,
}

/// The policy has no such door.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the policy has no door `{door}`; {hint}")]
pub struct UnknownDoorError {
    /// What was asked about.
    pub door: Door,
    hint: String,
}

/// Who can come through a door by the rules that have not ended at `now`, and for whom a revocation shuts it.
///
/// With `transitively` also who can reach it through others: a workload that may be called may pass on what it was
/// told, so this is the largest set from which an attacker could work towards the door.
///
/// # Errors
/// [`UnknownDoorError`], with the nearest names.
pub fn who_can(
    set: &PolicySet,
    door: &Door,
    transitively: bool,
    now: SystemTime,
) -> Result<WhoCan, UnknownDoorError> {
    let port = set
        .workload(&door.workload)
        .and_then(|workload| workload.port(&door.port))
        .ok_or_else(|| unknown(set, door))?;
    let direct = reach(set, door, now);
    let indirect = if transitively {
        indirect(set, &direct, now)
    } else {
        Vec::new()
    };
    Ok(WhoCan {
        door: door.clone(),
        is_audited: port.enforcement == Enforcement::Audit,
        shut: shut(set, door, &direct, &indirect, now),
        direct,
        indirect,
    })
}

/// Revocations in force that mean the door's own workload or somebody who reaches it.
fn shut(
    set: &PolicySet,
    door: &Door,
    direct: &[Reach],
    indirect: &[Indirect],
    now: SystemTime,
) -> Vec<Shut> {
    let Some(trust_domain) = set.mesh().map(|mesh| &mesh.trust_domain) else {
        return Vec::new();
    };
    let mut concerned = BTreeSet::from([Subject::Workload(door.workload.clone())]);
    concerned.extend(named(direct).map(Subject::Workload));
    let subjects = direct.iter().map(|reach| &reach.subject);
    let subjects = subjects.chain(indirect.iter().map(|one| &one.subject));
    concerned.extend(
        subjects
            .filter(|one| !matches!(one, Subject::Namespace(..)))
            .cloned(),
    );
    let mut found = Vec::new();
    for revocation in set.revocations().filter(|one| one.is_in_force(now)) {
        let mut report = |who, is_whole| {
            found.push(Shut {
                who,
                is_whole,
                by: revocation.source.clone(),
                reason: revocation.reason.clone(),
            });
        };
        if !revocation.names_somebody() {
            report(None, false);
            continue;
        }
        for subject in &concerned {
            let id = match subject {
                Subject::Workload(name) => Some(SpiffeId::for_workload(trust_domain, name)),
                Subject::Id(id) => id.parse().ok(),
                Subject::Namespace(..) => None,
            };
            let meant = id.map(|id| revocation.means_of(&id, trust_domain, now));
            match meant {
                Some(Meant::Everybody) => report(Some(subject.clone()), true),
                Some(Meant::Some) => report(Some(subject.clone()), false),
                Some(Meant::Nobody) | None => {}
            }
        }
    }
    found
}

/// Whether a revocation in force means every instance of a workload: then nothing passes through it.
fn is_revoked(set: &PolicySet, workload: &WorkloadName, now: SystemTime) -> bool {
    set.mesh().is_some_and(|mesh| {
        let id = SpiffeId::for_workload(&mesh.trust_domain, workload);
        let mut revocations = set.revocations();
        revocations.any(|one| one.means_of(&id, &mesh.trust_domain, now) == Meant::Everybody)
    })
}

fn unknown(set: &PolicySet, door: &Door) -> UnknownDoorError {
    let ports = |workload: &crate::workload::Workload| -> Vec<String> {
        let ports = workload.ports.iter();
        ports.map(|port| port.name.to_string()).collect()
    };
    let hint = match set.workload(&door.workload) {
        Some(workload) => {
            let ports = ports(workload);
            format!("its ports are {}", list(ports.iter().map(String::as_str)))
        }
        None => {
            let names: Vec<String> = set.workloads().map(|held| held.name.to_string()).collect();
            let names = names.iter().map(String::as_str);
            match nearest(&door.workload.to_string(), names) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`vouchsafe workload list` shows the workloads".to_owned(),
            }
        }
    };
    let door = door.clone();
    UnknownDoorError { door, hint }
}

fn reach(set: &PolicySet, door: &Door, now: SystemTime) -> Vec<Reach> {
    let mut by_subject: BTreeMap<Subject, Reach> = BTreeMap::new();
    let rules = set
        .access_policies()
        .filter(|rule| rule.to == door.workload && rule.port == door.port);
    for rule in rules {
        let parts = Part::all(rule, now);
        if parts.is_empty() {
            continue;
        }
        for selector in &rule.from {
            let subject = Subject::from(selector);
            let entry = by_subject.entry(subject.clone());
            let reach = entry.or_insert_with(|| Reach {
                workloads: workloads(set, selector),
                subject,
                grants: Vec::new(),
            });
            reach.grants.extend(parts.iter().map(Part::describe));
        }
    }
    by_subject.into_values().collect()
}

fn workloads(set: &PolicySet, selector: &Selector) -> Vec<WorkloadName> {
    let trust_domain = set.mesh().map(|mesh| &mesh.trust_domain);
    let is_selected = |workload: &&crate::workload::Workload| {
        let subject = Subject::Workload(workload.name.clone());
        super::grant::selects(selector, &subject, set, trust_domain)
    };
    let selected = set.workloads().filter(is_selected);
    selected.map(|workload| workload.name.clone()).collect()
}

/// Breadth first from the door outwards: the first way found is a shortest one.
fn indirect(set: &PolicySet, direct: &[Reach], now: SystemTime) -> Vec<Indirect> {
    let mut seen: BTreeSet<WorkloadName> = BTreeSet::new();
    let mut shown: BTreeSet<Subject> = direct.iter().map(|reach| reach.subject.clone()).collect();
    shown.extend(named(direct).map(Subject::Workload));
    let mut open: VecDeque<(WorkloadName, Vec<Door>)> = VecDeque::new();
    for workload in named(direct) {
        if seen.insert(workload.clone()) {
            open.push_back((workload, Vec::new()));
        }
    }
    let mut found = Vec::new();
    while let Some((workload, way)) = open.pop_front() {
        // Nobody talks to whom a revocation means, so nobody reaches anything through him.
        if is_revoked(set, &workload, now) {
            continue;
        }
        let ports = set.workload(&workload).map_or(&[][..], |held| &held.ports);
        for port in ports {
            let between = Door {
                workload: workload.clone(),
                port: port.name.clone(),
            };
            let callers = reach(set, &between, now);
            let mut via = vec![between];
            via.extend(way.iter().cloned());
            for reach in &callers {
                if shown.insert(reach.subject.clone()) {
                    found.push(Indirect {
                        subject: reach.subject.clone(),
                        via: via.clone(),
                    });
                }
            }
            for caller in named(&callers) {
                shown.insert(Subject::Workload(caller.clone()));
                if seen.insert(caller.clone()) {
                    open.push_back((caller, via.clone()));
                }
            }
        }
    }
    found
}

fn named(reach: &[Reach]) -> impl Iterator<Item = WorkloadName> {
    reach.iter().flat_map(|one| one.workloads.iter().cloned())
}
