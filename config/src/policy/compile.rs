//! From documents to what the hot path needs: doors, each with its rules side by side.

use std::collections::HashMap;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::standing::Withdrawal;
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::revoked::Revocations;
use super::{Port, Protocol, RuleId, RuleSource, Strict};
use crate::access::{AccessPolicy, Allow, Demands, Selector};
use crate::revocation::{Bearer, Revocation};
use crate::workload::Workload;

/// A compiled policy: immutable, shared, replaced as a whole. The default one has no door and denies everything.
#[derive(Debug, Default)]
pub struct Policy {
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) workloads: Vec<Doors>,
    by_name: HashMap<WorkloadName, usize>,
    by_path: HashMap<Box<str>, usize>,
    pub(super) rules: Vec<Rule>,
    /// Workload and door of each rule.
    places: Vec<(usize, usize)>,
    sources: Vec<RuleSource>,
    revocations: Revocations,
}

/// A workload and its doors.
#[derive(Debug)]
pub(super) struct Doors {
    /// Path of its SPIFFE ID.
    pub(super) path: Box<str>,
    doors: Vec<Door>,
}

#[derive(Debug)]
pub(super) struct Door {
    pub(super) port: Port,
    /// First rule and one past the last.
    pub(super) rules: (u32, u32),
    strict: Strict,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) from: Box<[From]>,
    pub(super) client: Demands,
    pub(super) server: Demands,
    pub(super) allow: Allow,
    pub(super) expires: Option<SystemTime>,
}

/// A selector, resolved to what a SPIFFE ID shows.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum From {
    /// Path of one workload of this trust domain.
    Path(Box<str>),
    /// What paths of a namespace of this trust domain begin with.
    Namespace(Box<str>),
    /// Paths of the workloads of this trust domain that bear the labels; sorted.
    Labelled(Box<[Box<str>]>),
    /// A whole SPIFFE ID.
    Id(Box<str>),
}

impl Policy {
    /// Compiles documents that have been checked.
    ///
    /// Fails closed where they don't fit: a rule for a door that no workload has opens nothing, nor does one whose
    /// `allow` is not of the port's protocol.
    pub fn compile<'d>(
        trust_domain: &TrustDomain,
        workloads: impl Iterator<Item = &'d Workload> + Clone,
        access: impl Iterator<Item = &'d AccessPolicy>,
        revocations: impl Iterator<Item = &'d Revocation>,
    ) -> Self {
        let mut by_door: HashMap<(&WorkloadName, &Name), Vec<&AccessPolicy>> = HashMap::new();
        for policy in access {
            let door = (&policy.to, &policy.port);
            by_door.entry(door).or_default().push(policy);
        }
        let labelled = Labelled::new(workloads.clone());
        let mut policy = Self {
            trust_domain: Some(trust_domain.clone()),
            revocations: Revocations::new(revocations),
            ..Self::default()
        };
        for workload in workloads {
            policy.add(workload, &by_door, &labelled);
        }
        policy
    }

    fn add(
        &mut self,
        workload: &Workload,
        by_door: &HashMap<(&WorkloadName, &Name), Vec<&AccessPolicy>>,
        labelled: &Labelled<'_>,
    ) {
        let mut doors = Vec::with_capacity(workload.ports.len());
        for port in &workload.ports {
            let first = self.rule_count();
            let mut strict = Strict::default();
            let rules = by_door.get(&(&workload.name, &port.name));
            for policy in rules.into_iter().flatten() {
                if fits(port.protocol, &policy.allow) {
                    strict.client |= policy.client.exporter_binding;
                    strict.server |= policy.server.exporter_binding;
                    self.rules.push(Rule::new(policy, labelled));
                    self.places.push((self.workloads.len(), doors.len()));
                    self.sources.push(policy.source.clone());
                }
            }
            doors.push(Door {
                port: port.clone(),
                rules: (first, self.rule_count()),
                strict,
            });
        }
        let path = path_of(&workload.name);
        let at = self.workloads.len();
        self.by_name.insert(workload.name.clone(), at);
        self.by_path.insert(path.clone(), at);
        self.workloads.push(Doors { path, doors });
    }

    /// Documents are bounded far below 2³² by the size of files.
    fn rule_count(&self) -> u32 {
        u32::try_from(self.rules.len()).unwrap_or(u32::MAX)
    }

    /// The declaration of a workload's port.
    pub fn port(&self, workload: &WorkloadName, port: &Name) -> Option<&Port> {
        Some(&self.doors(workload)?.door(port)?.port)
    }

    /// Which ends must prove their keys over each connection, as some rule of the port says; neither where it is unknown.
    pub fn strict(&self, workload: &WorkloadName, port: &Name) -> Strict {
        let door = self.doors(workload).and_then(|doors| doors.door(port));
        door.map_or_else(Strict::default, |door| door.strict)
    }

    /// The ports of a workload, in the order of its document.
    pub fn ports(&self, workload: &WorkloadName) -> impl Iterator<Item = &Port> {
        let doors = self.doors(workload).map_or(&[][..], |doors| &doors.doors);
        doors.iter().map(|door| &door.port)
    }

    /// Whether the policy knows the workload.
    pub fn knows(&self, workload: &WorkloadName) -> bool {
        self.by_name.contains_key(workload)
    }

    /// With the instances of this trust domain that are not to be trusted now.
    pub fn withdraw(mut self, withdrawals: impl IntoIterator<Item = Withdrawal>) -> Self {
        self.revocations.withdraw(withdrawals);
        self
    }

    /// The revocation that means a bearer now; of several the sternest. Allocates nothing.
    pub fn revoked(&self, bearer: &Bearer<'_>, now: SystemTime) -> Option<&Revocation> {
        let trust_domain = self.trust_domain.as_ref()?;
        self.revocations.of(bearer, trust_domain, now)
    }

    /// All revocations, also those that have expired: of documents, the sternest first, then of instances.
    pub fn revocations(&self) -> &[Revocation] {
        self.revocations.all()
    }

    /// Whether one of the same meaning is among the revocations.
    pub(super) fn has_revocation(&self, other: &Revocation) -> bool {
        let is_same = |held: &Revocation| held.is_same(other);
        match other.matches.instances.as_slice() {
            // Of instances there may be thousands, each with its place; documents name none.
            [instance] => {
                let held = self.revocations.of_instance(instance);
                held.is_some_and(is_same)
            }
            _ => self.revocations.acts().iter().any(is_same),
        }
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Where a rule was written.
    pub fn source(&self, rule: RuleId) -> Option<&RuleSource> {
        self.sources.get(rule.0 as usize)
    }

    /// The door that a rule opens, and the path of its workload.
    pub(super) fn door_of(&self, rule: RuleId) -> Option<(&str, &Door)> {
        let (workload, door) = *self.places.get(rule.0 as usize)?;
        let doors = self.workloads.get(workload)?;
        Some((&doors.path, doors.doors.get(door)?))
    }

    pub(super) fn doors(&self, workload: &WorkloadName) -> Option<&Doors> {
        self.workloads.get(*self.by_name.get(workload)?)
    }

    pub(super) fn doors_by_path(&self, path: &str) -> Option<&Doors> {
        self.workloads.get(*self.by_path.get(path)?)
    }
}

impl Doors {
    pub(super) fn door(&self, port: &Name) -> Option<&Door> {
        self.doors.iter().find(|door| door.port.name == *port)
    }
}

/// Whether a rule says of a port of this protocol what may be asked.
fn fits(protocol: Protocol, allow: &Allow) -> bool {
    match (protocol, allow) {
        (Protocol::Tcp, Allow::Connections) | (Protocol::Http, Allow::Any | Allow::Only(_)) => true,
        (Protocol::Tcp, Allow::Any | Allow::Only(_)) | (Protocol::Http, Allow::Connections) => {
            false
        }
    }
}

impl Rule {
    fn new(policy: &AccessPolicy, labelled: &Labelled<'_>) -> Self {
        let from = policy.from.iter().map(|selector| match selector {
            Selector::Workload(name) => From::Path(path_of(name)),
            Selector::Namespace { namespace, labels } if labels.is_empty() => {
                From::Namespace(format!("/ns/{namespace}/workload/").into())
            }
            Selector::Namespace { namespace, labels } => {
                let mut paths: Vec<_> = labelled
                    .of(namespace)
                    .filter(|workload| bears(workload, labels))
                    .map(|workload| path_of(&workload.name))
                    .collect();
                paths.sort_unstable();
                From::Labelled(paths.into())
            }
            Selector::SpiffeId(id) => From::Id(id.as_str().into()),
        });
        Self {
            from: from.collect(),
            client: policy.client.clone(),
            server: policy.server.clone(),
            allow: policy.allow.clone(),
            expires: policy.break_glass.as_ref().map(|glass| glass.expires),
        }
    }
}

/// Workloads by namespace, so that a selector costs its namespace and not the mesh.
struct Labelled<'d>(HashMap<&'d Name, Vec<&'d Workload>>);

impl<'d> Labelled<'d> {
    fn new(workloads: impl Iterator<Item = &'d Workload>) -> Self {
        let mut by_namespace: HashMap<_, Vec<_>> = HashMap::new();
        for workload in workloads {
            let namespace = &workload.name.namespace;
            by_namespace.entry(namespace).or_default().push(workload);
        }
        Self(by_namespace)
    }

    fn of(&self, namespace: &Name) -> impl Iterator<Item = &'d Workload> {
        self.0.get(namespace).into_iter().flatten().copied()
    }
}

/// Whether a workload bears all the labels.
pub(crate) fn bears(
    workload: &Workload,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    labels
        .iter()
        .all(|(key, value)| workload.labels.get(key) == Some(value))
}

pub(super) fn path_of(workload: &WorkloadName) -> Box<str> {
    format!("/ns/{}/workload/{}", workload.namespace, workload.name).into()
}
