//! Checks between documents: what each says by itself is right, but not together.
//!
//! They read the trees, not only typed documents, so that a mistake inside one document hides no mistake between
//! documents; and they blame nobody for referring to a document that could not be read.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;

use crate::document::{Kind, Raw};
use crate::mesh::{DEFAULT_LIFETIME, DEFAULT_REATTEST_ROOT};
use crate::node::Node as Machine;
use crate::problem::{Problem, Problems, nearest};
use crate::profile::{Alternative, AttestationProfile};
use crate::scalar;
use crate::set::Lost;
use crate::source::Span;
use crate::workload::Workload;
use crate::yaml::{Node, Value};
use crate::{node, profile, workload};

mod access;
mod cover;

/// Two documents of one kind and name, or two of `Mesh`.
pub(crate) fn duplicates(raws: &[Raw], found: &mut Vec<Problem>) {
    let mut seen = HashMap::new();
    for raw in raws {
        let (Some(node), Some(name)) = (raw.tree.root.find(&["metadata", "name"]), &raw.head.name)
        else {
            continue;
        };
        let (key, message) = if raw.kind == Kind::Mesh {
            let message = "a mesh has one Mesh document, this is another".to_owned();
            ((raw.kind, None, None), message)
        } else if let Some(full) = raw.head.full_name() {
            let message = format!("{} `{full}` is written twice", raw.kind.as_str());
            (
                (raw.kind, raw.head.namespace.clone(), Some(name.clone())),
                message,
            )
        } else {
            continue;
        };
        if let Some(first) = seen.insert(key, raw) {
            let hint = format!("the other is at {}:{}", first.source.name(), first.line());
            found.push(
                Problem::at(&raw.source, node.span, message)
                    .path("metadata.name")
                    .hint(hint),
            );
        }
    }
}

/// Everything else.
pub(crate) fn all(raws: &[Raw], lost: &Lost, now: Option<SystemTime>, found: &mut Vec<Problem>) {
    let index = Index::new(raws, lost);
    for raw in raws {
        if found.len() >= Problems::MAX {
            return;
        }
        match raw.kind {
            Kind::AttestationProfile => index.check_profile(raw, now, found),
            Kind::Workload => index.check_workload(raw, now, found),
            Kind::AccessPolicy => index.check_access(raw, found),
            Kind::Revocation => index.check_revocation(raw, found),
            Kind::Mesh | Kind::Node | Kind::Proxy | Kind::ControlPlane | Kind::PolicyTest => {}
        }
    }
    check_tokens(raws, found);
    if index.mesh.is_none()
        && let Some(first) = raws.first()
        && !lost.may_define(Kind::Mesh, "")
    {
        let hint = "add one with `spec: {trust_domain: ...}`";
        let problem = Problem::of_file(first.source.name(), "no Mesh document among the files");
        found.push(problem.hint(hint).warning());
    }
    cover::check(raws, &index, found);
}

/// Documents by name, as far as they could be read.
struct Index<'r> {
    mesh: Option<&'r Raw>,
    raws: HashMap<(Kind, WorkloadName), &'r Raw>,
    profiles: HashMap<WorkloadName, AttestationProfile>,
    nodes: HashMap<WorkloadName, Machine>,
    workloads: HashMap<WorkloadName, Workload>,
    /// Workload documents by namespace, so that a selector costs its namespace and not the mesh.
    namespaces: HashMap<Name, Vec<&'r Raw>>,
    lost: &'r Lost,
}

impl<'r> Index<'r> {
    fn new(raws: &'r [Raw], lost: &'r Lost) -> Self {
        let mut index = Self {
            mesh: raws.iter().find(|raw| raw.kind == Kind::Mesh),
            raws: HashMap::new(),
            profiles: HashMap::new(),
            nodes: HashMap::new(),
            workloads: HashMap::new(),
            namespaces: HashMap::new(),
            lost,
        };
        for raw in raws {
            let (Some(name), Some(spec)) = (raw.head.full_name(), raw.spec()) else {
                continue;
            };
            index.raws.insert((raw.kind, name.clone()), raw);
            match raw.kind {
                Kind::AttestationProfile => {
                    let read = profile::read(&raw.head, spec, &raw.source);
                    index.profiles.extend(read.map(|profile| (name, profile)));
                }
                Kind::Node => {
                    let read = node::read(&raw.head, spec);
                    index.nodes.extend(read.map(|machine| (name, machine)));
                }
                Kind::Workload => {
                    let namespace = name.namespace.clone();
                    index.namespaces.entry(namespace).or_default().push(raw);
                    let read = workload::read(&raw.head, spec);
                    index
                        .workloads
                        .extend(read.map(|workload| (name, workload)));
                }
                Kind::Mesh
                | Kind::AccessPolicy
                | Kind::Revocation
                | Kind::Proxy
                | Kind::ControlPlane
                | Kind::PolicyTest => {}
            }
        }
        index
    }

    /// A duration of the Mesh; `None` where it could not be read.
    fn mesh_duration(&self, keys: &[&str], default: Duration) -> Option<Duration> {
        let Some(mesh) = self.mesh else {
            // Without a Mesh there is nothing to contradict.
            return (!self.lost.may_define(Kind::Mesh, "")).then_some(default);
        };
        match mesh.spec()?.find(keys) {
            Some(node) => node.as_duration(),
            None => Some(default),
        }
    }

    fn reattest(&self) -> Option<Duration> {
        self.mesh_duration(&["reattest", "root"], DEFAULT_REATTEST_ROOT)
    }

    /// The document that a reference names; reports where there is none.
    fn resolve(
        &self,
        raw: &Raw,
        node: &Node,
        path: &str,
        kind: Kind,
        found: &mut Vec<Problem>,
    ) -> Option<WorkloadName> {
        let name = scalar::reference(node, raw.head.namespace.as_ref()?)?;
        if self.raws.contains_key(&(kind, name.clone())) {
            return Some(name);
        }
        if self.lost.may_define(kind, name.name.as_str()) {
            return None;
        }
        let message = format!("there is no {} `{name}`", kind.as_str());
        let mut problem = Problem::at(&raw.source, node.span, message).path(path);
        if let Some(meant) = self.near(kind, &name, found.len()) {
            problem = problem.hint(format!("did you mean `{meant}`?"));
        }
        found.push(problem);
        None
    }

    /// The document that was likely meant, where not too much is wrong already to look for each.
    fn near(&self, kind: Kind, name: &WorkloadName, wrong: usize) -> Option<String> {
        let keys = self.raws.keys().filter(|_| wrong < MAX_SUGGESTED);
        let names: BTreeSet<String> = keys
            .filter(|(of, _)| *of == kind)
            .map(|(_, name)| name.to_string())
            .collect();
        nearest(&name.to_string(), names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// A revocation of a machine that nothing describes means nobody, and nobody could tell. One of a workload that is not
    /// there means those who come to bear the name, which is what some revocations are for.
    fn check_revocation(&self, raw: &Raw, found: &mut Vec<Problem>) {
        let items = |key: &str| {
            let found = raw.spec().and_then(|spec| spec.find(&["match", key]));
            found.map_or(&[][..], Node::items).iter().enumerate()
        };
        for (index, node) in items("node") {
            let path = format!("spec.match.node[{index}]");
            self.resolve(raw, node, &path, Kind::Node, found);
        }
        let namespace = raw.head.namespace.as_ref();
        for (index, node) in items("workload") {
            let name = namespace.and_then(|namespace| scalar::reference(node, namespace));
            let path = format!("spec.match.workload[{index}]");
            self.check_revoked(raw, (node, path), name, found);
        }
        let mesh = self.mesh.and_then(Raw::spec);
        let trust_domain = mesh.and_then(|spec| spec.get("trust_domain")?.text());
        for (index, node) in items("spiffe_id") {
            let id: Option<SpiffeId> = node.text().and_then(|text| text.parse().ok());
            let id = id.filter(|id| Some(id.trust_domain().as_str()) == trust_domain);
            let path = format!("spec.match.spiffe_id[{index}]");
            self.check_revoked(raw, (node, path), id.and_then(|id| id.workload()), found);
        }
    }

    /// Warns of a workload that a revocation names and that is not there.
    fn check_revoked(
        &self,
        raw: &Raw,
        (node, path): (&Node, String),
        name: Option<WorkloadName>,
        found: &mut Vec<Problem>,
    ) {
        let kind = Kind::Workload;
        let Some(name) = name.filter(|name| {
            !self.raws.contains_key(&(kind, name.clone()))
                && !self.lost.may_define(kind, name.name.as_str())
        }) else {
            return;
        };
        let message = format!("there is no Workload `{name}`, so this means nobody until there is");
        let hint = match self.near(kind, &name, found.len()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "leave it if the workload is yet to come".to_owned(),
        };
        let problem = Problem::at(&raw.source, node.span, message).path(path);
        found.push(problem.hint(hint).warning());
    }

    fn check_profile(&self, raw: &Raw, now: Option<SystemTime>, found: &mut Vec<Problem>) {
        let Some(spec) = raw.spec() else { return };
        let alternatives = spec.get("any_of").map_or(&[][..], Node::items);
        for (index, node) in alternatives.iter().enumerate() {
            self.check_simulated(raw, index, node, found);
            self.check_hardware(raw, index, node, found);
        }
        self.check_lifetime(raw, spec, found);
        let name = raw.head.full_name();
        let profile = name.and_then(|name| self.profiles.get(&name));
        if let (Some(profile), Some(now), Some(entry)) = (profile, now, spec.entry("any_of"))
            && !profile.any_of.iter().any(|one| has_live_image(one, now))
        {
            let message = "nothing can satisfy the profile any more: all its images have ended";
            let problem = Problem::at(&raw.source, entry.key_span, message);
            found.push(problem.path("spec.any_of").warning());
        }
    }

    fn check_simulated(&self, raw: &Raw, index: usize, node: &Node, found: &mut Vec<Problem>) {
        let (Some(mesh), Some(entry)) = (self.mesh.and_then(Raw::spec), node.entry("simulated"))
        else {
            return;
        };
        let accepts = mesh.get("danger_accept_simulated");
        if accepts.is_some_and(|node| node.as_bool() != Some(false)) {
            return;
        }
        let problem = Problem::at(
            &raw.source,
            entry.key_span,
            "nothing can satisfy this: the Mesh does not accept `simulated` evidence",
        );
        found.push(problem.path(format!("spec.any_of[{index}].simulated")).hint(
            "a trust domain for laptops and tests is created with `danger_accept_simulated: true`",
        ));
    }

    /// Class `hardware` needs a manufacturer to vouch for the endorsement key.
    fn check_hardware(&self, raw: &Raw, index: usize, node: &Node, found: &mut Vec<Problem>) {
        let (Some(mesh), Some(tpm)) = (self.mesh.and_then(Raw::spec), node.entry("tpm")) else {
            return;
        };
        if mesh.entry("ek_roots").is_some() {
            return;
        }
        let (span, path) = match tpm.value.entry("classes") {
            None => (tpm.key_span, format!("spec.any_of[{index}].tpm")),
            Some(classes) => {
                let words = classes.value.items().iter();
                let mut words = words.filter_map(Node::parse::<Class>).peekable();
                if words.peek().is_none() || !words.all(|class| class == Class::Hardware) {
                    return;
                }
                let path = format!("spec.any_of[{index}].tpm.classes");
                (classes.key_span, path)
            }
        };
        let message = "nothing can satisfy this: class `hardware` needs `ek_roots` in the Mesh";
        let hint = "name the TPM manufacturers' roots there, or accept `classes: [hardware, software]` here";
        found.push(
            Problem::at(&raw.source, span, message)
                .path(path)
                .hint(hint),
        );
    }

    fn check_lifetime(&self, raw: &Raw, spec: &Node, found: &mut Vec<Problem>) {
        let Some(node) = spec.get("lifetime") else {
            return;
        };
        let mesh = self.mesh_duration(&["certificates", "lifetime"], DEFAULT_LIFETIME);
        let (Some(lifetime), Some(root), Some(mesh)) = (node.as_duration(), self.reattest(), mesh)
        else {
            return;
        };
        let at =
            |message: String| Problem::at(&raw.source, node.span, message).path("spec.lifetime");
        if lifetime < root.saturating_mul(2) {
            let message = format!(
                "a lifetime of {} is below twice `reattest.root` of {}",
                scalar::show_duration(lifetime),
                scalar::show_duration(root)
            );
            let allowed = format!(
                "at least `{}`",
                scalar::show_duration(root.saturating_mul(2))
            );
            found.push(at(message).allowed(allowed));
        } else if lifetime > mesh {
            let message = format!(
                "the Mesh's lifetime of {} is shorter and counts",
                scalar::show_duration(mesh)
            );
            found.push(at(message).warning());
        }
    }

    fn check_workload(&self, raw: &Raw, now: Option<SystemTime>, found: &mut Vec<Problem>) {
        let Some(spec) = raw.spec() else { return };
        let profile = spec.get("profile").and_then(|node| {
            self.resolve(raw, node, "spec.profile", Kind::AttestationProfile, found)
        });
        let profile = profile.and_then(|name| self.profiles.get(&name));
        let nodes = spec.find(&["members", "nodes"]);
        for (index, node) in nodes.map_or(&[][..], Node::items).iter().enumerate() {
            let path = format!("spec.members.nodes[{index}]");
            let Some(name) = self.resolve(raw, node, &path, Kind::Node, found) else {
                continue;
            };
            if let (Some(machine), Some(profile)) = (self.nodes.get(&name), profile)
                && !profile
                    .any_of
                    .iter()
                    .any(|one| machine.hardware.is_provable_by(&one.kinds()))
            {
                let message = format!(
                    "profile `{}` accepts no evidence that Node `{name}` has",
                    profile.name
                );
                found.push(Problem::at(&raw.source, node.span, message).path(path));
            }
        }
        let tokens = spec.find(&["members", "join_tokens"]);
        for (index, token) in tokens.map_or(&[][..], Node::items).iter().enumerate() {
            let Some(node) = token.get("expires") else {
                continue;
            };
            if let (Some(expires), Some(now)) = (node.as_time(), now)
                && expires <= now
            {
                let message = "the token has expired: no further instance can join by it";
                let path = format!("spec.members.join_tokens[{index}].expires");
                found.push(
                    Problem::at(&raw.source, node.span, message)
                        .path(path)
                        .warning(),
                );
            }
        }
    }
}

/// One token for two workloads would let one machine choose its name.
fn check_tokens(raws: &[Raw], found: &mut Vec<Problem>) {
    let mut seen: HashMap<String, (&Raw, Span)> = HashMap::new();
    for raw in raws.iter().filter(|raw| raw.kind == Kind::Workload) {
        let tokens = raw
            .spec()
            .and_then(|spec| spec.find(&["members", "join_tokens"]));
        for (index, token) in tokens.map_or(&[][..], Node::items).iter().enumerate() {
            let Some((node, text)) = token
                .get("sha256")
                .and_then(|node| Some((node, node.text()?)))
            else {
                continue;
            };
            let first = seen.insert(text.to_ascii_lowercase(), (raw, node.span));
            if let Some((first, span)) = first
                && matches!(node.value, Value::Scalar(_))
            {
                let line = first.source.line(span.start);
                let problem = Problem::at(&raw.source, node.span, "the token is used twice")
                    .path(format!("spec.members.join_tokens[{index}].sha256"))
                    .hint(format!("the other is at {}:{line}", first.source.name()));
                found.push(problem);
            }
        }
    }
}

/// Whether for each kind that needs an image one is still valid.
fn has_live_image(alternative: &Alternative, now: SystemTime) -> bool {
    let is_live = |until: Option<SystemTime>| until.is_none_or(|until| now < until);
    alternative.kinds().into_iter().all(|kind| {
        kind == EvidenceKind::NvidiaGpu || {
            let images = alternative.images(kind);
            images.iter().any(|image| is_live(image.until))
        }
    })
}

/// Mistakes beyond this many are shown without the name that was likely meant: each search goes through all names.
const MAX_SUGGESTED: usize = 50;
