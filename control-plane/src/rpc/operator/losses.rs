//! Who depends on what a change revokes: workloads that lose their last instance, the doors behind which nobody is left,
//! and those who call them, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use vouchsafe_api::convert::mesh_state::probe::ProbeReport;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::reason::Subject;
use vouchsafe_config::reason::who_can::{Door, who_can};
use vouchsafe_config::revocation::Meant;
use vouchsafe_config::set::PolicySet;

use crate::mesh::probes::SidecarReport;

/// Workloads that have instances now, all of which are revoked by the change.
///
/// Whether an instance is, its own sidecar says, which knows its certificate; of one that did not say so the name alone
/// counts.
pub(super) fn losses(
    before: &PolicySet,
    after: &PolicySet,
    instances: &[(InstanceId, WorkloadName)],
    reports: &[SidecarReport],
    now: SystemTime,
) -> Vec<v1::WorkloadLoss> {
    let said = reports.iter().filter_map(|one| {
        let report = one.report.as_ref().ok()?;
        report.error.is_none().then_some((one.instance, report))
    });
    let said: BTreeMap<InstanceId, &ProbeReport> = said.collect();
    let mut living: BTreeMap<&WorkloadName, (u32, u32)> = BTreeMap::new();
    for (instance, workload) in instances {
        let is_revoked = match said.get(instance) {
            Some(report) => report.is_revoked,
            None => is_revoked_by_name(after, workload, now),
        };
        let (all, revoked) = living.entry(workload).or_default();
        *all += 1;
        *revoked += u32::from(is_revoked);
    }
    let is_lost = |workload: &WorkloadName| {
        let found = living.get(workload);
        found.is_some_and(|(all, revoked)| all == revoked)
    };
    let lost = living.iter().filter(|(workload, _)| is_lost(workload));
    lost.map(|(workload, (all, _))| {
        let dependants = Dependants::of(before, workload, now);
        v1::WorkloadLoss {
            workload: workload.to_string(),
            instances: *all,
            doors: dependants.doors,
            clients: dependants.clients,
            reached_from: dependants.reached_from,
            last_client_of: last_client_of(before, workload, &living, now),
        }
    })
    .collect()
}

fn is_revoked_by_name(set: &PolicySet, workload: &WorkloadName, now: SystemTime) -> bool {
    set.mesh().is_some_and(|mesh| {
        let id = SpiffeId::for_workload(&mesh.trust_domain, workload);
        let mut revocations = set.revocations();
        revocations.any(|one| one.means_of(&id, &mesh.trust_domain, now) == Meant::Everybody)
    })
}

#[derive(Debug, Default)]
struct Dependants {
    doors: Vec<String>,
    clients: Vec<String>,
    reached_from: Vec<String>,
}

impl Dependants {
    fn of(set: &PolicySet, workload: &WorkloadName, now: SystemTime) -> Self {
        let (mut clients, mut through) = (BTreeSet::new(), BTreeSet::new());
        let mut found = Self::default();
        for door in doors(set, workload) {
            let Ok(who) = who_can(set, &door, true, now) else {
                continue;
            };
            found.doors.push(door.to_string());
            for reach in &who.direct {
                clients.extend(reach.workloads.iter().map(ToString::to_string));
                if let Subject::Id(id) = &reach.subject {
                    clients.insert(id.clone());
                }
            }
            through.extend(who.indirect.iter().map(|one| one.subject.to_string()));
        }
        found.reached_from = through.difference(&clients).cloned().collect();
        found.clients = clients.into_iter().collect();
        found
    }
}

fn doors(set: &PolicySet, workload: &WorkloadName) -> Vec<Door> {
    let ports = set.workload(workload).map_or(&[][..], |held| &held.ports);
    let door = |port: &vouchsafe_config::policy::Port| Door {
        workload: workload.clone(),
        port: port.name.clone(),
    };
    ports.iter().map(door).collect()
}

/// Doors of workloads that go on, to which none of those who may call it is left.
fn last_client_of(
    set: &PolicySet,
    workload: &WorkloadName,
    living: &BTreeMap<&WorkloadName, (u32, u32)>,
    now: SystemTime,
) -> Vec<String> {
    let goes_on = |name: &WorkloadName| {
        let found = living.get(name);
        found.is_some_and(|(all, revoked)| all > revoked)
    };
    let mut found = Vec::new();
    for server in set.workloads().filter(|one| goes_on(&one.name)) {
        for door in doors(set, &server.name) {
            let Ok(who) = who_can(set, &door, false, now) else {
                continue;
            };
            let mut clients = who.direct.iter().flat_map(|reach| &reach.workloads);
            let is_client = clients.clone().any(|client| client == workload);
            if is_client && !clients.any(goes_on) {
                found.push(door.to_string());
            }
        }
    }
    found
}
