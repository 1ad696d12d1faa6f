//! What ports in `audit` admitted although policy would deny it, as sidecars say of their own doors.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use tonic::Status;
use vouchsafe_api::convert::mesh_state::report::Report;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;

use super::OperatorApi;

/// One message per thing that one sidecar saw, made when it is sent.
pub(super) type Audited = Pin<Box<dyn Stream<Item = Result<v1::AuditedAt, Status>> + Send>>;

impl OperatorApi {
    pub(super) fn audited(&self) -> Audited {
        let control_plane = &self.control_plane;
        let policy = Arc::clone(&control_plane.mesh.borrow().state.policy);
        let instances = control_plane.registry.instances(control_plane.now());
        let all = instances.into_iter().flat_map(move |(instance, session)| {
            // A sidecar speaks of its own doors alone: its certificate says whose they are, and policy which.
            let workload = policy.set.workload(&instance.workload);
            let ports = workload.map_or(&[][..], |held| &held.ports);
            let ports: HashSet<String> = ports.iter().map(|port| port.name.to_string()).collect();
            told(&instance.workload, instance.id, &session.report, &ports)
        });
        Box::pin(stream::iter(all.map(Ok)))
    }
}

fn told(
    workload: &WorkloadName,
    instance: InstanceId,
    report: &Report,
    ports: &HashSet<String>,
) -> Vec<v1::AuditedAt> {
    let at = || v1::AuditedAt {
        workload: workload.to_string(),
        instance: instance.0.to_vec(),
        ..v1::AuditedAt::default()
    };
    let own = report
        .audited
        .iter()
        .filter(|one| ports.contains(&one.port));
    let mut all: Vec<v1::AuditedAt> = own
        .filter_map(|one| {
            let client = report.clients.get(usize::try_from(one.client).ok()?)?;
            Some(v1::AuditedAt {
                client: Some(client.clone().into()),
                audited: Some(one.clone().into()),
                ..at()
            })
        })
        .collect();
    if report.beyond > 0 {
        all.push(v1::AuditedAt {
            beyond: report.beyond,
            ..at()
        });
    }
    all
}
