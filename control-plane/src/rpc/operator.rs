//! The operator's questions, over a Unix socket of mode 0600 in the data folder.

mod applied;
mod audited;
mod canary;
mod change;
mod folder;
mod judging;
mod limit;
mod losses;
mod shown;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use vouchsafe_api::convert::ConvertError;
use vouchsafe_api::convert::attest::workload;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_api::v1::operator_server::Operator;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::revocation::Revocation;
use vouchsafe_config::set::PolicySet;

use crate::ca::{AuthorityFacts, CaError, CertificateAuthority};
use crate::keeper::authority::PrepareError;
use crate::log::{self, Head, StoredRecord};
use crate::registration::Certificate;
use crate::renewals::AnnounceError;
use crate::state::{ControlPlane, stopped};
use crate::telemetry::Chain;

pub(crate) use folder::REVOCATIONS_FOLDER;

/// The operator service.
#[derive(Debug)]
pub struct OperatorApi {
    control_plane: Arc<ControlPlane>,
    /// Who asks, for the record.
    actor: String,
}

impl OperatorApi {
    /// Serves from a control plane.
    pub fn new(control_plane: Arc<ControlPlane>) -> Self {
        Self {
            control_plane,
            actor: "this process".to_owned(),
        }
    }

    /// For somebody whom the kernel names.
    #[must_use]
    pub fn acting_for(self, uid: u32) -> Self {
        let actor = format!("uid {uid} at the operator socket");
        Self { actor, ..self }
    }
}

type Records = Pin<Box<dyn Stream<Item = Result<v1::Record, Status>> + Send>>;

#[tonic::async_trait]
impl Operator for OperatorApi {
    type TailRecordsStream = Records;
    type ListAuditedStream = audited::Audited;

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let control_plane = &self.control_plane;
        let now = control_plane.now();
        let head = control_plane.log.head();
        let published = control_plane.mesh.borrow().clone();
        let state = Arc::clone(&published.state);
        let policy_error = control_plane.policy_error.borrow().clone();
        Ok(Response::new(v1::StatusResponse {
            trust_domain: control_plane.fixed.trust_domain.to_string(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: unix_ms(control_plane.started),
            now_ms: unix_ms(now),
            revision: Some(state.revision.into()),
            policy_folder: control_plane.policy_folder.clone(),
            policy_error: policy_error.unwrap_or_default(),
            authorities: authorities(&control_plane.ca, now),
            sidecars: self.sidecars(),
            records: head.records,
            record_head: head.hash.to_vec(),
            accepts_simulated: control_plane.fixed.accepts_simulated,
            revocations: revocations(&state.policy.set, now),
            canary: published.canary.as_deref().map(|one| self.canary(one)),
            outrun: { control_plane.registry.outrun(self.control_plane.now()) }.map(|one| {
                v1::Outrun {
                    revision: Some(one.revision.into()),
                    sidecars: one.sidecars as u64,
                    of: one.of as u64,
                }
            }),
            brakes: { control_plane.registry.held().into_iter() }
                .map(|grip| v1::BrakeStatus {
                    scope: grip.scope(),
                    silent: grip.silent as u64,
                    of: grip.of as u64,
                })
                .collect(),
        }))
    }

    async fn list_workloads(
        &self,
        _request: Request<v1::ListWorkloadsRequest>,
    ) -> Result<Response<v1::ListWorkloadsResponse>, Status> {
        let state = Arc::clone(&self.control_plane.mesh.borrow().state);
        let live = self
            .control_plane
            .registry
            .instances(self.control_plane.now());
        let workloads = state.policy.set.workloads().map(|workload| {
            let mut instances = live
                .iter()
                .map(|(instance, _)| instance)
                .filter(|instance| instance.workload == workload.name)
                .peekable();
            let class = instances.peek().map(|instance| instance.class.clone());
            let refusal = self.control_plane.registry.last_refusal(&workload.name);
            v1::WorkloadStatus {
                workload: workload.name.to_string(),
                class: class.unwrap_or_default(),
                instances: u32::try_from(instances.count()).unwrap_or(u32::MAX),
                profile: workload.profile.to_string(),
                last_refusal_ms: refusal.map_or(0, |(when, _)| unix_ms(when)),
                last_refusal: refusal.map_or_else(String::new, |(_, reason)| reason.to_owned()),
            }
        });
        let set = &state.policy.set;
        let images: BTreeSet<String> = (set.profiles().flat_map(|profile| &profile.any_of))
            .flat_map(|one| {
                one.kinds()
                    .into_iter()
                    .flat_map(move |kind| one.images(kind))
            })
            .map(|image| image.name.to_owned())
            .collect();
        Ok(Response::new(v1::ListWorkloadsResponse {
            workloads: workloads.collect(),
            nodes: set.nodes().map(|node| node.name.to_string()).collect(),
            images: images.into_iter().collect(),
        }))
    }

    async fn explain_workload(
        &self,
        request: Request<v1::ExplainWorkloadRequest>,
    ) -> Result<Response<v1::ExplainWorkloadResponse>, Status> {
        let name = workload(&request.into_inner().workload)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let id = SpiffeId::for_workload(&self.control_plane.fixed.trust_domain, &name);
        let path = self.control_plane.log.path().to_owned();
        let found = tokio::task::spawn_blocking(move || concerning(path, &name, &id));
        let mut records = found
            .await
            .map_err(|_| Status::internal("reading the record was interrupted"))??;
        records.reverse();
        records.truncate(MAX_EXPLAINED);
        Ok(Response::new(v1::ExplainWorkloadResponse { records }))
    }

    async fn change(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let changed = self.change_policy(request.into_inner()).await?;
        Ok(Response::new(changed))
    }

    async fn force_renewal(
        &self,
        request: Request<v1::ForceRenewalRequest>,
    ) -> Result<Response<v1::ForceRenewalResponse>, Status> {
        let request = request.into_inner();
        let bad = |error: ConvertError| Status::invalid_argument(error.to_string());
        let scope = match request.workload.as_str() {
            "" => None,
            name => Some(workload(name).map_err(bad)?),
        };
        let over = Duration::from_millis(request.over_ms);
        if over > PacedRenewal::MAX_OVER || request.reason.trim().is_empty() {
            let wanted = "a renewal takes at most a day, and a reason";
            return Err(Status::invalid_argument(wanted));
        }
        let actor = self.actor.clone();
        let announced = self.control_plane.renew(scope, over, actor, request.reason);
        let (instances, end) = announced.await.map_err(|error| match error {
            AnnounceError::TooFast { .. } => Status::invalid_argument(error.to_string()),
            AnnounceError::Record(_) | AnnounceError::Store(_) => {
                Status::unavailable(Chain(&error).to_string())
            }
        })?;
        Ok(Response::new(v1::ForceRenewalResponse {
            instances: instances as u64,
            end_ms: unix_ms(end),
        }))
    }

    async fn list_audited(
        &self,
        _request: Request<v1::ListAuditedRequest>,
    ) -> Result<Response<audited::Audited>, Status> {
        Ok(Response::new(self.audited()))
    }

    async fn prepare_authority(
        &self,
        request: Request<v1::PrepareAuthorityRequest>,
    ) -> Result<Response<v1::PrepareAuthorityResponse>, Status> {
        let reason = request.into_inner().reason;
        if reason.trim().is_empty() {
            return Err(Status::invalid_argument(
                "say why: an authority is recorded with its reason",
            ));
        }
        let actor = self.actor.clone();
        let prepared = self.control_plane.prepare_authority(actor, reason).await;
        let prepared = prepared.map_err(|error| {
            let text = Chain(&error).to_string();
            match error {
                PrepareError::Ca(CaError::TooMany(_)) => Status::failed_precondition(text),
                PrepareError::Ending => Status::unavailable(text),
                PrepareError::Ca(_) | PrepareError::Record(_) | PrepareError::Publish(_) => {
                    Status::internal(text)
                }
            }
        })?;
        Ok(Response::new(v1::PrepareAuthorityResponse {
            spki_sha256: prepared.facts.spki_sha256.to_vec(),
            not_after_ms: unix_ms(prepared.facts.not_after),
            revision: Some(prepared.revision.into()),
        }))
    }

    async fn tail_records(
        &self,
        request: Request<v1::TailRecordsRequest>,
    ) -> Result<Response<Records>, Status> {
        let request = request.into_inner();
        let tail = Tail {
            path: self.control_plane.log.path().to_owned(),
            heads: self.control_plane.log.heads(),
            shutdown: self.control_plane.shutdown.clone(),
            next: request.from.max(1),
            follow: request.follow,
            read: Vec::new(),
        };
        let records = stream::unfold(tail, |mut tail| async {
            let record = tail.next().await?;
            Some((record, tail))
        });
        Ok(Response::new(Box::pin(records)))
    }
}

/// Authorities for `status`: what has the turn to sign, what is announced, and what only verifies until it ends.
fn authorities(ca: &CertificateAuthority, now: SystemTime) -> Vec<v1::AuthorityStatus> {
    let facts = ca.facts();
    let signs = ca.issuer_spki(now).ok();
    let signer = facts.iter().find(|one| Some(one.spki_sha256) == signs);
    let since = signer.map(|one| one.not_before);
    let state = |one: &AuthorityFacts| match since {
        _ if ca.is_revoked(&one.spki_sha256) => "revoked",
        _ if one.role == "root" || Some(one.spki_sha256) == signs => "active",
        Some(since) if one.not_before < since => "draining",
        Some(_) | None => "prepared",
    };
    let status = |one: &AuthorityFacts| v1::AuthorityStatus {
        role: one.role.to_owned(),
        state: state(one).to_owned(),
        spki_sha256: one.spki_sha256.to_vec(),
        not_after_ms: unix_ms(one.not_after),
    };
    facts.iter().map(status).collect()
}

/// Revocations for `status`, those that ended as well: their documents still lie there.
fn revocations(set: &PolicySet, now: SystemTime) -> Vec<v1::RevocationStatus> {
    let status = |one: &Revocation| v1::RevocationStatus {
        name: one.name.to_string(),
        action: one.action.as_str().to_owned(),
        reason: one.reason.clone(),
        expires_ms: one.expires.map_or(0, unix_ms),
        in_force: one.is_in_force(now),
        ends_soon: one.ends_soon(now),
        file: one.source.file.clone(),
        line: one.source.line,
    };
    set.revocations().map(status).collect()
}

impl OperatorApi {
    fn sidecars(&self) -> Vec<v1::SidecarStatus> {
        let published = self.control_plane.mesh.borrow().clone();
        let live = self
            .control_plane
            .registry
            .instances(self.control_plane.now());
        let sidecar =
            |(instance, session): (crate::registration::Instance, crate::registration::Session)| {
                let own = published.of(&instance.workload, &instance.id);
                let newest = own.state.revision;
                let (identities, measurements) = shown::shown(&instance.ear);
                let newest_certificate = instance.certificates.last();
                let digest = |of: fn(&Certificate) -> &[u8]| -> Vec<u8> {
                    newest_certificate.map_or_else(Vec::new, |one| of(one).to_vec())
                };
                v1::SidecarStatus {
                    is_canary: newest != published.state.revision,
                    workload: instance.workload.to_string(),
                    instance: instance.id.0.to_vec(),
                    spki_sha256: digest(|one| &one.spki_sha256),
                    authority_sha256: digest(|one| &one.authority_spki_sha256),
                    serial: digest(|one| &one.serial),
                    identities,
                    measurements,
                    member: instance.member,
                    class: instance.class,
                    kinds: instance.kinds,
                    evidence_time_ms: unix_ms(instance.evidence_time),
                    not_after_ms: unix_ms(instance.not_after),
                    connected: session.streams > 0,
                    applied: Some(session.applied.into()),
                    behind: match newest.epoch == session.in_force().epoch {
                        true => newest.sequence.saturating_sub(session.in_force().sequence),
                        false => newest.sequence,
                    },
                    error: session.error.unwrap_or_default(),
                    software_version: instance.software_version,
                    endpoints: instance.endpoints.into_iter().map(Into::into).collect(),
                    standing: { instance.withdrawn.as_ref() }
                        .map_or("live", |one| one.state.as_str())
                        .to_owned(),
                    standing_reason: { instance.withdrawn }
                        .map(|one| one.reason)
                        .unwrap_or_default(),
                    behind_since_ms: session.behind_since.map_or(0, unix_ms),
                }
            };
        live.into_iter().map(sidecar).collect()
    }
}

/// Records that name a workload, oldest first.
fn concerning(
    path: PathBuf,
    name: &WorkloadName,
    id: &SpiffeId,
) -> Result<Vec<v1::Record>, Status> {
    let mut found = Vec::new();
    log::scan(&path, 1, |record| {
        let names_it = RecordEntry::decode(&record.leaf).is_ok_and(|entry| match entry.event {
            Event::Issued(issued) => issued.spiffe_id == id.as_str(),
            Event::Refused(refused) => refused.workload == name.to_string(),
            Event::StandingChanged(change) => change.workload == name.to_string(),
            Event::RenewalForced(forced) => forced.scope == name.to_string(),
            Event::BrakeChanged(change) => change.scope == name.to_string(),
            Event::PolicyChanged { .. }
            | Event::AuthorityCreated { .. }
            | Event::Revoked(_)
            | Event::RevocationEnded(_)
            | Event::RefusalsSummed(_)
            | Event::OperatorAct(_) => false,
        });
        if names_it {
            found.push(wire(record));
        }
        true
    })
    .map_err(|error| Status::data_loss(Chain(&error).to_string()))?;
    Ok(found)
}

/// A record on its way to an operator.
struct Tail {
    path: PathBuf,
    heads: watch::Receiver<Head>,
    shutdown: watch::Receiver<bool>,
    next: u64,
    follow: bool,
    /// Read and not yet sent, newest first.
    read: Vec<StoredRecord>,
}

impl Tail {
    async fn next(&mut self) -> Option<Result<v1::Record, Status>> {
        loop {
            if let Some(record) = self.read.pop() {
                self.next = record.number + 1;
                return Some(Ok(wire(record)));
            }
            if self.heads.borrow_and_update().records >= self.next {
                if let Err(status) = self.read().await {
                    return Some(Err(status));
                }
                continue;
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                changed = self.heads.changed() => changed.ok()?,
                () = stopped(&mut self.shutdown) => return None,
            }
        }
    }

    async fn read(&mut self) -> Result<(), Status> {
        let (path, from) = (self.path.clone(), self.next);
        let read = tokio::task::spawn_blocking(move || log::read(&path, from, BATCH));
        let mut read = read
            .await
            .map_err(|_| Status::internal("reading the record was interrupted"))?
            .map_err(|error| Status::data_loss(Chain(&error).to_string()))?;
        read.reverse();
        self.read = read;
        Ok(())
    }
}

fn wire(record: StoredRecord) -> v1::Record {
    let json = match RecordEntry::decode(&record.leaf) {
        Ok(entry) => entry.to_json(),
        Err(error) => {
            serde_json::json!({"kind": "unreadable", "error": error.to_string()}).to_string()
        }
    };
    v1::Record {
        number: record.number,
        hash: record.hash.to_vec(),
        leaf: record.leaf,
        json,
    }
}

/// More than anyone reads.
const MAX_EXPLAINED: usize = 100;
/// Records read at once for a tail.
const BATCH: usize = 1024;
