//! A set of policy documents: read together, checked together, used together or not at all (promise 6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::access::{AccessPolicy, Selector};
use crate::document::{Kind, Raw};
use crate::mesh::Mesh;
use crate::node::Node;
use crate::policy::{Policy, RuleSource};
use crate::problem::{Problem, Problems, Reporter};
use crate::profile::AttestationProfile;
use crate::proxy::ProxyConfig;
use crate::revocation::Revocation;
use crate::source::{ORIGIN_PREFIX, Source, Span};
use crate::workload::Workload;
use crate::{access, check, mesh, node, profile, revocation, workload, yaml};

/// Documents that are right, each by itself and all together.
#[derive(Debug, Default)]
pub struct PolicySet {
    mesh: Option<Mesh>,
    profiles: BTreeMap<WorkloadName, AttestationProfile>,
    nodes: BTreeMap<WorkloadName, Node>,
    workloads: BTreeMap<WorkloadName, Workload>,
    access: BTreeMap<WorkloadName, AccessPolicy>,
    revocations: BTreeMap<WorkloadName, Revocation>,
    documents: Vec<Document>,
    warnings: Vec<Problem>,
}

/// What of a set decides, by name.
pub(crate) type Parts = (
    BTreeMap<WorkloadName, Workload>,
    BTreeMap<WorkloadName, AccessPolicy>,
    BTreeMap<WorkloadName, Revocation>,
    BTreeMap<WorkloadName, Node>,
);

/// A document's text and where it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; a Mesh has none.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
    /// Its lines, without comments before and after.
    pub text: String,
    /// File as it was given to the loader.
    pub file: String,
    /// First line, from 1.
    pub line: u32,
}

impl Document {
    /// `AccessPolicy inference/gateway-to-llm`.
    pub fn title(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind.as_str(), self.name),
            None => format!("{} {}", self.kind.as_str(), self.name),
        }
    }

    fn source(&self) -> RuleSource {
        RuleSource {
            document: self.title(),
            file: self.file.clone(),
            line: self.line,
        }
    }

    /// The name as a resource: `policy/<Kind>/<namespace>/<name>`; `-` for the namespace of a Mesh.
    pub fn resource_name(&self) -> String {
        let namespace = self.namespace.as_ref().map_or("-", Name::as_str);
        format!("policy/{}/{namespace}/{}", self.kind.as_str(), self.name)
    }

    /// The text as it is distributed: below a comment that says where it was written, which [`Source::new`] reads, so
    /// that a sidecar's decisions name the operator's file and line.
    pub fn distributable(&self) -> String {
        let file: String = self.file.chars().filter(|c| !c.is_control()).collect();
        format!("{ORIGIN_PREFIX}{file}:{}\n{}\n", self.line, self.text)
    }
}

/// How a set is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The present, for break-glass rules and validity; without it they are not judged.
    pub now: Option<SystemTime>,
}

impl PolicySet {
    /// Reads texts that together are the whole of a mesh's policy.
    ///
    /// # Errors
    /// All mistakes of all texts at once.
    pub fn parse(sources: Vec<Source>, options: Options) -> Result<Self, Problems> {
        Self::read(sources, options, true)?.resolve()
    }

    fn read(sources: Vec<Source>, options: Options, is_whole: bool) -> Result<Self, Problems> {
        let mut found = Vec::new();
        let (raws, lost) = read_all(sources, options.now, &mut found);
        check::duplicates(&raws, &mut found);
        if is_whole {
            check::all(&raws, &lost, options.now, &mut found);
        }
        let mut set = Self {
            warnings: Problems::split(found)?,
            ..Self::default()
        };
        for raw in &raws {
            if set.take(raw).is_none() {
                // What passed every check has been read; if not, the two disagree, and nothing may be used.
                let span = raw.tree.root.span;
                let problem = Problem::at(&raw.source, span, "the document could not be read")
                    .hint("this is a mistake of vouchsafe, please report it");
                return Err(Problems::one(problem));
            }
        }
        Ok(set)
    }

    /// Says of each revocation of nodes what those machines prove.
    fn resolve(mut self) -> Result<Self, Problems> {
        let Self {
            revocations, nodes, ..
        } = &mut self;
        for revocation in revocations.values_mut() {
            revocation.resolve(|name| nodes.get(name))?;
        }
        Ok(self)
    }

    fn take(&mut self, raw: &Raw) -> Option<()> {
        let (head, spec) = (&raw.head, raw.spec()?);
        let document = Document {
            kind: raw.kind,
            namespace: head.namespace.clone(),
            name: head.name.clone()?,
            text: raw.text().to_owned(),
            file: raw.source.name().to_owned(),
            line: raw.line(),
        };
        match raw.kind {
            Kind::Mesh => self.mesh = Some(mesh::read(head, spec)?),
            Kind::AttestationProfile => {
                self.profiles
                    .insert(head.full_name()?, profile::read(head, spec, &raw.source)?);
            }
            Kind::Node => {
                self.nodes
                    .insert(head.full_name()?, node::read(head, spec)?);
            }
            Kind::Workload => {
                self.workloads
                    .insert(head.full_name()?, workload::read(head, spec)?);
            }
            Kind::AccessPolicy => {
                let rule = access::read(head, spec, document.source())?;
                self.access.insert(head.full_name()?, rule);
            }
            Kind::Revocation => {
                let revocation = revocation::document::read(head, spec, document.source())?;
                self.revocations.insert(head.full_name()?, revocation);
            }
            Kind::Proxy | Kind::ControlPlane | Kind::PolicyTest => return None,
        }
        self.documents.push(document);
        Some(())
    }

    /// Settings of the mesh, where there is a Mesh document.
    pub fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_ref()
    }

    /// For [`crate::load`], which alone reads files that documents name.
    pub(crate) fn mesh_mut(&mut self) -> Option<&mut Mesh> {
        self.mesh.as_mut()
    }

    /// A profile.
    pub fn profile(&self, name: &WorkloadName) -> Option<&AttestationProfile> {
        self.profiles.get(name)
    }

    /// All profiles, by name.
    pub fn profiles(&self) -> impl Iterator<Item = &AttestationProfile> {
        self.profiles.values()
    }

    /// A machine.
    pub fn node(&self, name: &WorkloadName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All machines, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A workload.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Workload> {
        self.workloads.get(name)
    }

    /// All workloads, by name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> + Clone {
        self.workloads.values()
    }

    /// All rules, by name.
    pub fn access_policies(&self) -> impl Iterator<Item = &AccessPolicy> {
        self.access.values()
    }

    /// All revocations, by name; also those that have expired.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> + Clone {
        self.revocations.values()
    }

    /// All documents, in the order of files and lines.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// What likely was not meant.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Compiles for a trust domain: the Mesh's, or the sidecar's where a folder has no Mesh.
    pub fn policy(&self, trust_domain: &TrustDomain) -> Policy {
        Policy::compile(
            trust_domain,
            self.workloads(),
            self.access_policies(),
            self.revocations(),
        )
    }

    /// Compiles the documents that a sidecar was sent, which lack most others: only what each says by itself is checked.
    ///
    /// `documents` are (resource name, text as of [`Document::distributable`]).
    ///
    /// # Errors
    /// All mistakes at once; the caller keeps the policy that it has.
    pub fn compile_slice<'d>(
        trust_domain: &TrustDomain,
        documents: impl IntoIterator<Item = (&'d str, &'d str)>,
    ) -> Result<Policy, Problems> {
        let sources = documents
            .into_iter()
            .map(|(name, text)| Source::new(name, text))
            .collect();
        Ok(Self::slice(sources)?.resolve()?.policy(trust_domain))
    }

    /// Reads texts that are a part of a policy: what they refer to may be missing, and machines of revoked nodes are not
    /// resolved.
    pub(crate) fn slice(sources: Vec<Source>) -> Result<Self, Problems> {
        Self::read(sources, Options::default(), false)
    }

    /// Its workloads, rules, revocations and machines.
    pub(crate) fn into_parts(self) -> Parts {
        (self.workloads, self.access, self.revocations, self.nodes)
    }

    /// What a sidecar's bootstrap says that the policy does not know: it would run, and deny.
    pub(crate) fn check_proxy(&self, proxy: &ProxyConfig, file: &str) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut report = |message: String, hint: &str| {
            found.push(Problem::of_file(file, message).hint(hint));
        };
        if let Some(mesh) = &self.mesh
            && mesh.trust_domain != proxy.trust_domain
        {
            let message = format!(
                "trust domain `{}` is not that of the Mesh, `{}`",
                proxy.trust_domain, mesh.trust_domain
            );
            report(message, "write the Mesh's into `spec.trust_domain`");
        }
        match self.workloads.get(&proxy.workload) {
            None => report(
                format!("there is no Workload `{}`", proxy.workload),
                "write a Workload document, or correct `spec.workload`",
            ),
            Some(workload) => {
                let ports = proxy.inbound.iter().flat_map(|listener| &listener.ports);
                for port in ports.filter(|port| workload.port(&port.name).is_none()) {
                    let message =
                        format!("workload `{}` has no port `{}`", workload.name, port.name);
                    report(message, "correct the name in `spec.inbound`");
                }
            }
        }
        for listener in &proxy.outbound {
            match self.workloads.get(&listener.to) {
                None => report(
                    format!("there is no Workload `{}`", listener.to),
                    "correct `to` in `spec.outbound`",
                ),
                Some(workload) if workload.port(&listener.port).is_none() => {
                    let message =
                        format!("workload `{}` has no port `{}`", listener.to, listener.port);
                    report(message, "correct `port` in `spec.outbound`");
                }
                Some(_) => {}
            }
        }
        found
    }
}

impl Selector {
    /// Whether a workload of this mesh is selected.
    pub fn admits(&self, workload: &Workload) -> bool {
        match self {
            Self::Workload(name) => *name == workload.name,
            Self::Namespace { namespace, labels } => {
                *namespace == workload.name.namespace
                    && labels
                        .iter()
                        .all(|(key, value)| workload.labels.get(key) == Some(value))
            }
            Self::SpiffeId(_) => false,
        }
    }
}

/// Texts of documents whose kind or name can't be read, in lower case: what they define is unknown, so nobody who refers
/// to it is blamed.
pub(crate) struct Lost(Vec<String>);

impl Lost {
    /// Whether a lost document may be this one.
    pub(crate) fn may_define(&self, kind: Kind, name: &str) -> bool {
        let is_other = |text: &str| {
            let says =
                |kind: Kind| text.contains(&format!("kind: {}", kind.as_str().to_lowercase()));
            !says(kind) && Kind::ALL.into_iter().any(says)
        };
        self.0
            .iter()
            .any(|text| text.contains(name) && !is_other(text))
    }
}

fn read_all(
    sources: Vec<Source>,
    now: Option<SystemTime>,
    found: &mut Vec<Problem>,
) -> (Vec<Raw>, Lost) {
    let mut raws = Vec::new();
    let mut lost = Vec::new();
    for source in sources {
        let source = Arc::new(source);
        let mut reporter = Reporter::new(&source, found);
        let trees = yaml::parse(&mut reporter);
        let text_of = |span: Span| source.text().get(span.range()).unwrap_or_default();
        lost.extend(trees.lost.iter().map(|span| text_of(*span).to_lowercase()));
        for tree in trees.read {
            let text = tree.text;
            match Raw::read(tree, &source, &POLICY_KINDS, now, &mut reporter) {
                Some(raw) => {
                    let is_named = raw.head.name.is_some()
                        && (raw.head.namespace.is_some() || raw.kind == Kind::Mesh);
                    if !is_named {
                        lost.push(raw.text().to_lowercase());
                    }
                    raws.push(raw);
                }
                None => lost.push(text_of(text).to_lowercase()),
            }
        }
    }
    (raws, Lost(lost))
}

/// Kinds that make a policy.
const POLICY_KINDS: [Kind; 6] = [
    Kind::Mesh,
    Kind::AttestationProfile,
    Kind::Node,
    Kind::Workload,
    Kind::AccessPolicy,
    Kind::Revocation,
];

/// Reads a file that is one document of one kind.
pub(crate) fn parse_single<T>(
    source: Source,
    kind: Kind,
    read: impl Fn(&yaml::Node) -> Option<T>,
) -> Result<(T, Vec<Problem>), Problems> {
    let source = Arc::new(source);
    let mut found = Vec::new();
    let mut reporter = Reporter::new(&source, &mut found);
    let mut raws = Vec::new();
    for tree in yaml::parse(&mut reporter).read {
        let span = tree.root.span;
        if !raws.is_empty() {
            reporter.report(reporter.at(span, "the file has more than one document"));
        }
        raws.extend(Raw::read(tree, &source, &[kind], None, &mut reporter));
    }
    if raws.is_empty() && reporter.count() == 0 {
        let problem = Problem::of_file(source.name(), "the file has no document")
            .hint(format!("begin with `kind: {}`", kind.as_str()));
        reporter.report(problem);
    }
    let warnings = Problems::split(found)?;
    let value = raws.first().and_then(Raw::spec).and_then(read);
    value.map(|value| (value, warnings)).ok_or_else(|| {
        let problem = Problem::of_file(source.name(), "the file could not be read");
        Problems::one(problem.hint("this is a mistake of vouchsafe, please report it"))
    })
}
