//! Rules against the doors, workloads and profiles that they name.

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind};
use vouchsafe_attestation::name::{Name, WorkloadName};

use super::Index;
use crate::access::{Demands, Selector, read_demands, read_selector};
use crate::claim::Requirement;
use crate::document::{Kind, Raw};
use crate::problem::{Problem, list, nearest};
use crate::profile::{Alternative, AttestationProfile, EventLog};
use crate::scalar;
use crate::source::Span;
use crate::yaml::{Node, Value};

impl Index<'_> {
    pub(super) fn check_access(&self, raw: &Raw, found: &mut Vec<Problem>) {
        let (Some(spec), Some(namespace)) = (raw.spec(), &raw.head.namespace) else {
            return;
        };
        let server = self.check_door(raw, spec, namespace, found);
        let clients = self.check_from(raw, spec, namespace, found);
        self.check_age(raw, spec, found);
        if let Some(clients) = clients {
            self.check_possible(raw, spec, "client", &clients, found);
        }
        if let Some(server) = server {
            self.check_possible(raw, spec, "server", &[server], found);
        }
    }

    /// The workload whose door it is, where it exists.
    fn check_door(
        &self,
        raw: &Raw,
        spec: &Node,
        namespace: &Name,
        found: &mut Vec<Problem>,
    ) -> Option<WorkloadName> {
        let to = spec.find(&["to", "workload"])?;
        let foreign = scalar::reference(to, namespace).is_none_or(|to| to.namespace != *namespace);
        if foreign {
            // Reported already, by the document's own check.
            return None;
        }
        let name = self.resolve(raw, to, "spec.to.workload", Kind::Workload, found)?;
        let workload = self.raws.get(&(Kind::Workload, name.clone()))?;
        if let Some(node) = spec.find(&["to", "port"])
            && let Some(wanted) = node.parse::<Name>()
        {
            let ports = workload.spec().and_then(|spec| spec.get("ports"));
            let ports = ports.map_or(&[][..], Node::items);
            check_port(raw, spec, node, &wanted, ports, &name, found);
        }
        Some(name)
    }

    /// The workloads that the rule selects; `None` where some can't be known.
    fn check_from(
        &self,
        raw: &Raw,
        spec: &Node,
        namespace: &Name,
        found: &mut Vec<Problem>,
    ) -> Option<Vec<WorkloadName>> {
        let mut clients = Some(Vec::new());
        for (index, node) in spec.get("from")?.items().iter().enumerate() {
            let path = format!("spec.from[{index}]");
            let selected = match read_selector(node, namespace) {
                Some(Selector::Workload(_)) => node.get("workload").and_then(|node| {
                    let path = format!("{path}.workload");
                    let name = self.resolve(raw, node, &path, Kind::Workload, found)?;
                    Some(vec![name])
                }),
                Some(selector @ Selector::Namespace { .. }) => {
                    self.check_selected(raw, node, &path, &selector, found)
                }
                Some(Selector::SpiffeId(_)) | None => None,
            };
            clients = match (clients, selected) {
                (Some(mut all), Some(more)) => {
                    all.extend(more);
                    Some(all)
                }
                _ => None,
            };
        }
        clients.filter(|clients| !clients.is_empty())
    }

    fn check_selected(
        &self,
        raw: &Raw,
        node: &Node,
        path: &str,
        selector: &Selector,
        found: &mut Vec<Problem>,
    ) -> Option<Vec<WorkloadName>> {
        let Selector::Namespace { namespace, labels } = selector else {
            return None;
        };
        let raws = self
            .namespaces
            .get(namespace)
            .map_or(&[][..], Vec::as_slice);
        let bears = |raw: &&&Raw| {
            let held = &raw.head.labels;
            labels
                .iter()
                .all(|(key, value)| held.get(key) == Some(value))
        };
        let selected: Vec<WorkloadName> = raws
            .iter()
            .filter(bears)
            .filter_map(|raw| raw.head.full_name())
            .collect();
        if !selected.is_empty() {
            return Some(selected);
        }
        if self.lost.may_define(Kind::Workload, namespace.as_str()) {
            return None;
        }
        let (key, message) = if raws.is_empty() {
            let message = format!("namespace `{namespace}` has no workload: this can never match");
            ("namespace", message)
        } else {
            let message = format!(
                "no workload of namespace `{namespace}` bears these labels: this can never match"
            );
            ("labels", message)
        };
        let entry = node.entry(key)?;
        let span = match entry.value.value {
            Value::Scalar(_) => entry.value.span,
            Value::Null | Value::List(_) | Value::Map(_) | Value::Broken => entry.key_span,
        };
        found.push(Problem::at(&raw.source, span, message).path(format!("{path}.{key}")));
        None
    }

    /// A rule that is stricter than re-attestation is frequent would cut peers that do nothing wrong.
    fn check_age(&self, raw: &Raw, spec: &Node, found: &mut Vec<Problem>) {
        let Some(node) = spec.find(&["client", "attested_within"]) else {
            return;
        };
        let (Some(within), Some(root)) = (node.as_duration(), self.reattest()) else {
            return;
        };
        let least = root.saturating_mul(2);
        if within < least {
            let message = format!(
                "evidence is renewed every {} (`reattest.root`), so {} would deny peers that are well",
                scalar::show_duration(root),
                scalar::show_duration(within)
            );
            found.push(
                Problem::at(&raw.source, node.span, message)
                    .path("spec.client.attested_within")
                    .allowed(format!("at least `{}`", scalar::show_duration(least))),
            );
        }
    }

    /// Reports demands that no profile of the workloads can ever meet.
    fn check_possible(
        &self,
        raw: &Raw,
        spec: &Node,
        end: &str,
        workloads: &[WorkloadName],
        found: &mut Vec<Problem>,
    ) {
        let Some(node) = spec.get(end) else { return };
        let Some(demands) = read_demands(Some(node)).filter(|d| !d.danger_unattested) else {
            return;
        };
        let mut profiles = Vec::new();
        for name in workloads {
            let workload = self.workloads.get(name);
            let Some(profile) = workload.and_then(|workload| self.profiles.get(&workload.profile))
            else {
                return;
            };
            profiles.push(profile);
        }
        if let Some((span, path, what)) = impossible(&profiles, &demands, node) {
            let whose = if end == "client" {
                "of these clients"
            } else {
                "of this workload"
            };
            let message = format!("no profile {whose} can meet {what}: the rule can never match");
            found.push(Problem::at(&raw.source, span, message).path(format!("spec.{end}.{path}")));
        }
    }
}

fn check_port(
    raw: &Raw,
    spec: &Node,
    node: &Node,
    wanted: &Name,
    ports: &[Node],
    workload: &WorkloadName,
    found: &mut Vec<Problem>,
) {
    let names: Vec<Option<Name>> = ports
        .iter()
        .map(|port| port.get("name").and_then(Node::parse))
        .collect();
    let at = names.iter().position(|name| name.as_ref() == Some(wanted));
    let Some(port) = at.and_then(|at| ports.get(at)) else {
        if names.iter().any(Option::is_none) {
            // A port whose name can't be read may be the one.
            return;
        }
        let known = || names.iter().flatten().map(Name::as_str);
        let message = format!("workload `{workload}` has no port `{wanted}`");
        let mut problem = Problem::at(&raw.source, node.span, message).path("spec.to.port");
        if let Some(meant) = nearest(wanted.as_str(), known()) {
            problem = problem.hint(format!("did you mean `{meant}`?"));
        }
        if known().next().is_some() {
            problem = problem.allowed(list(known()));
        }
        return found.push(problem);
    };
    let protocol = port.get("protocol").and_then(Node::text);
    match (protocol, spec.entry("allow")) {
        (Some("http"), None) => {
            let owner = raw
                .tree
                .root
                .entry("spec")
                .map_or(node.span, |spec| spec.key_span);
            let message = format!("missing key `allow`: port `{wanted}` speaks http");
            let problem = Problem::at(&raw.source, owner, message).path("spec");
            found.push(problem.hint("list methods and paths, or write `allow: any`"));
        }
        (Some("tcp"), Some(allow)) => {
            let message = format!("port `{wanted}` speaks tcp, which has no requests to allow");
            let problem = Problem::at(&raw.source, allow.key_span, message).path("spec.allow");
            found.push(problem.hint("leave `allow` out: who may connect may say everything"));
        }
        _ => {}
    }
}

/// The first demand that no alternative of any profile can meet.
fn impossible(
    profiles: &[&AttestationProfile],
    demands: &Demands,
    node: &Node,
) -> Option<(Span, String, &'static str)> {
    let alternatives = || profiles.iter().flat_map(|profile| &profile.any_of);
    if !alternatives().any(|one| class_is_possible(one, demands)) {
        return Some((
            node.entry("classes")?.key_span,
            "classes".to_owned(),
            "`classes`",
        ));
    }
    let require = node.get("require")?;
    for requirement in &demands.require {
        let kind = requirement.kind.as_str();
        let entry = require.entry(kind)?;
        if !alternatives().any(|one| one.kinds().contains(&requirement.kind)) {
            return Some((
                entry.key_span,
                format!("require.{kind}"),
                "that kind of evidence",
            ));
        }
        for condition in &requirement.conditions {
            let alone = Requirement {
                kind: requirement.kind,
                conditions: vec![condition.clone()],
            };
            if !alternatives().any(|one| is_possible(one, &alone)) {
                let span = entry.value.entry(condition.claim)?.key_span;
                let path = format!("require.{kind}.{}", condition.claim);
                return Some((span, path, "that claim"));
            }
        }
    }
    let together = |one: &Alternative| {
        class_is_possible(one, demands) && demands.require.iter().all(|each| is_possible(one, each))
    };
    if alternatives().any(together) {
        return None;
    }
    let entry = node.entries().first()?;
    Some((entry.key_span, entry.key.clone(), "all of this together"))
}

fn class_is_possible(alternative: &Alternative, demands: &Demands) -> bool {
    demands.classes.is_empty() || !alternative.classes().is_disjoint(&demands.classes)
}

/// Whether evidence that satisfies the alternative can satisfy the requirement, as far as the profile decides it.
fn is_possible(alternative: &Alternative, requirement: &Requirement) -> bool {
    let kind = requirement.kind;
    if !alternative.kinds().contains(&kind) {
        return false;
    }
    requirement.conditions.iter().all(|condition| {
        let holds = |value: ClaimValue| condition.holds(Some(&value));
        if condition.claim == "image" {
            let images = alternative.images(kind);
            return { images.iter() }.any(|image| holds(ClaimValue::Text(image.name.to_owned())));
        }
        match (&alternative.tpm, kind, condition.claim) {
            (Some(tpm), EvidenceKind::Tpm, "secure_boot") => {
                tpm.secure_boot.is_none_or(|on| holds(ClaimValue::Bool(on)))
            }
            (Some(tpm), EvidenceKind::Tpm, "event_log") => match tpm.event_log {
                EventLog::Required => holds(ClaimValue::Bool(true)),
                EventLog::IfPresent => true,
            },
            _ => true,
        }
    })
}
