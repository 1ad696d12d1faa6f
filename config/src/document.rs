//! A document's outer form: `apiVersion`, `kind`, `metadata`, `spec`, the same for every kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};

use crate::problem::{Reporter, list, nearest};
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, conform, optional, required};
use crate::source::Source;
use crate::yaml::{Node, Tree, Value};
use crate::{access, control_plane, mesh, node, policy_test, profile, proxy, revocation, workload};

/// What a document is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The whole trust domain.
    Mesh,
    /// What must be proven.
    AttestationProfile,
    /// A machine.
    Node,
    /// A name, its bearers and doors.
    Workload,
    /// Who may come through one door.
    AccessPolicy,
    /// Who must stop now.
    Revocation,
    /// `proxy.yaml`.
    Proxy,
    /// `control-plane.yaml`.
    ControlPlane,
    /// Expectations beside a policy.
    PolicyTest,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Mesh,
        Self::AttestationProfile,
        Self::Node,
        Self::Workload,
        Self::AccessPolicy,
        Self::Revocation,
        Self::Proxy,
        Self::ControlPlane,
        Self::PolicyTest,
    ];

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::AttestationProfile => "AttestationProfile",
            Self::Node => "Node",
            Self::Workload => "Workload",
            Self::AccessPolicy => "AccessPolicy",
            Self::Revocation => "Revocation",
            Self::Proxy => "Proxy",
            Self::ControlPlane => "ControlPlane",
            Self::PolicyTest => "PolicyTest",
        }
    }

    /// Whether it stands in files of its own, apart from policy: bootstrap files and tests.
    pub(crate) fn stands_apart(self) -> bool {
        matches!(self, Self::Proxy | Self::ControlPlane | Self::PolicyTest)
    }

    pub(crate) fn shape(self) -> &'static MapShape {
        match self {
            Self::Mesh => &MESH,
            Self::AttestationProfile => &ATTESTATION_PROFILE,
            Self::Node => &NODE,
            Self::Workload => &WORKLOAD,
            Self::AccessPolicy => &ACCESS_POLICY,
            Self::Revocation => &REVOCATION,
            Self::Proxy => &PROXY,
            Self::ControlPlane => &CONTROL_PLANE,
            Self::PolicyTest => &POLICY_TEST,
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Kinds of the design that this version does not have.
const NOT_BUILT: [&str; 3] = ["ExternalService", "UserIssuer", "Federation"];

/// The version that all documents name.
pub const API_VERSION: &str = "vouchsafe.dev/v1alpha1";

macro_rules! document {
    ($name:ident, $kind:literal, $doc:literal, $spec:expr $(, $metadata:expr)?) => {
        static $name: MapShape = MapShape {
            fields: &[
                required("apiVersion", Shape::Word(&[API_VERSION]), "Version of the format."),
                required("kind", Shape::Word(&[$kind]), $doc),
                $(required("metadata", Shape::Map($metadata), "Name of the document."),)?
                required("spec", Shape::Map($spec), "Content of the document."),
            ],
            exactly_one: &[],
        };
    };
}

document!(
    MESH,
    "Mesh",
    "What holds for the whole trust domain.",
    &mesh::SPEC,
    &NAME_ONLY
);
document!(
    ATTESTATION_PROFILE,
    "AttestationProfile",
    "What must be proven before a name is given.",
    &profile::SPEC,
    &NAMESPACED
);
document!(
    NODE,
    "Node",
    "A machine, by a hardware identity that evidence proves.",
    &node::SPEC,
    &NAMESPACED
);
document!(
    WORKLOAD,
    "Workload",
    "A name, who may bear it, and its doors.",
    &workload::SPEC,
    &LABELLED
);
document!(
    ACCESS_POLICY,
    "AccessPolicy",
    "Who may come through one door, and for what.",
    &access::SPEC,
    &NAMESPACED
);
document!(
    REVOCATION,
    "Revocation",
    "Who must stop now.",
    &revocation::document::SPEC,
    &NAMESPACED
);
document!(
    PROXY,
    "Proxy",
    "What a sidecar is told before it knows any policy.",
    &proxy::SPEC
);
document!(
    CONTROL_PLANE,
    "ControlPlane",
    "What the control plane is told before it has any state.",
    &control_plane::SPEC
);
document!(
    POLICY_TEST,
    "PolicyTest",
    "What a policy is expected to decide; `vouchsafe test` checks it.",
    &policy_test::SPEC,
    &NAME_ONLY
);

const NAME: Field = required("name", Shape::Text(&scalar::NAME), "Name of the document.");
const NAMESPACE: Field = required(
    "namespace",
    Shape::Text(&scalar::NAME),
    "Namespace of the document: a team's own.",
);

static NAME_ONLY: MapShape = MapShape {
    fields: &[NAME],
    exactly_one: &[],
};
static NAMESPACED: MapShape = MapShape {
    fields: &[NAME, NAMESPACE],
    exactly_one: &[],
};
static LABELLED: MapShape = MapShape {
    fields: &[
        NAME,
        NAMESPACE,
        optional(
            "labels",
            Shape::MapOf(&scalar::LABEL_KEY, &Shape::Text(&scalar::LABEL_VALUE)),
            "{}",
            "Labels, by which rules may select the workload.",
        ),
    ],
    exactly_one: &[],
};

/// What `metadata` says; parts that could not be read are missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) namespace: Option<Name>,
    pub(crate) name: Option<Name>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Head {
    pub(crate) fn full_name(&self) -> Option<WorkloadName> {
        Some(WorkloadName {
            namespace: self.namespace.clone()?,
            name: self.name.clone()?,
        })
    }

    fn read(root: &Node) -> Self {
        let labels = root.find(&["metadata", "labels"]);
        let labels = labels.map_or(&[][..], Node::entries).iter();
        Self {
            namespace: root.find(&["metadata", "namespace"]).and_then(Node::parse),
            name: root.find(&["metadata", "name"]).and_then(Node::parse),
            labels: labels
                .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
                .collect(),
        }
    }
}

/// A document as it was read, whether or not it is right.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) kind: Kind,
    pub(crate) head: Head,
    pub(crate) source: Arc<Source>,
    pub(crate) tree: Tree,
    /// Something in it was reported.
    pub(crate) is_broken: bool,
}

impl Raw {
    /// Reads the outer form and checks the content against the kind's shape.
    pub(crate) fn read(
        tree: Tree,
        source: &Arc<Source>,
        expected: &[Kind],
        now: Option<SystemTime>,
        reporter: &mut Reporter<'_>,
    ) -> Option<Self> {
        let before = reporter.count();
        let place = Place::top(&tree.root);
        let kind = read_kind(&tree.root, expected, &place, reporter)?;
        conform(&tree.root, &Shape::Map(kind.shape()), &place, reporter);
        let head = Head::read(&tree.root);
        let owner = tree.root.entry("spec").map_or(place.owner, |e| e.key_span);
        let place = place.key("spec", owner);
        if let Some(spec) = tree.root.get("spec") {
            match kind {
                Kind::Mesh => mesh::check(spec, &place, reporter),
                Kind::AttestationProfile => profile::check(spec, &place, reporter),
                Kind::Node => node::check(spec, &place, reporter),
                Kind::Workload => workload::check(spec, &place, reporter),
                Kind::AccessPolicy => access::check(&head, spec, &place, now, reporter),
                Kind::Revocation => revocation::document::check(spec, &place, now, reporter),
                Kind::Proxy => proxy::check(spec, &place, reporter),
                Kind::ControlPlane => {}
                Kind::PolicyTest => policy_test::check(spec, &place, reporter),
            }
        }
        Some(Self {
            kind,
            head,
            source: Arc::clone(source),
            tree,
            is_broken: reporter.count() > before,
        })
    }

    pub(crate) fn spec(&self) -> Option<&Node> {
        self.tree.root.get("spec")
    }

    pub(crate) fn text(&self) -> &str {
        let text = self.source.text().get(self.tree.text.range());
        text.unwrap_or_default()
    }

    pub(crate) fn line(&self) -> u32 {
        self.source.line(self.tree.text.start)
    }
}

fn read_kind(
    root: &Node,
    expected: &[Kind],
    place: &Place,
    reporter: &mut Reporter<'_>,
) -> Option<Kind> {
    if !matches!(root.value, Value::Map(_)) {
        if !matches!(root.value, Value::Null | Value::Broken) {
            let problem = reporter.at(
                root.span,
                format!("a document is a map, found {}", root.describe()),
            );
            reporter.report(problem.allowed("`apiVersion`, `kind`, `metadata`, `spec`"));
        }
        return None;
    }
    let words = || expected.iter().map(|kind| kind.as_str());
    let Some(entry) = root.entry("kind") else {
        let problem = reporter.at(place.owner, "missing key `kind`");
        reporter.report(problem.hint(format!("one of {}", list(words()))));
        return None;
    };
    let found = entry.value.text().unwrap_or_default();
    let kind = Kind::parse(found);
    if let Some(kind) = kind
        && expected.contains(&kind)
    {
        return Some(kind);
    }
    let mut problem = reporter.at(entry.value.span, format!("unknown kind `{found}`"));
    if NOT_BUILT.contains(&found) {
        problem = reporter
            .at(entry.value.span, format!("kind `{found}` is not built yet"))
            .hint("leave the document out: this version would not enforce it");
    } else if kind.is_some_and(Kind::stands_apart) {
        problem.message = format!("`{found}` has no place among policy documents");
        problem = problem.hint("keep it in a file of its own, outside the policy folder");
    } else if kind.is_some() {
        problem.message = format!("`{found}` has no place in this file");
    } else if let Some(meant) = nearest(found, words()) {
        problem = problem.hint(format!("did you mean `{meant}`?"));
    }
    reporter.report(problem.path("kind").allowed(list(words())));
    None
}
