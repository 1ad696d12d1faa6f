//! `PolicyTest`: what a policy is expected to decide, kept beside it and checked by `vouchsafe test` before it acts.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::{
    ClaimType, ClaimValue, Claims, Class, EvidenceKind, definition,
};
use vouchsafe_attestation::condition::{Comparison, Condition, Operator};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::claim;
use crate::document::Kind;
use crate::policy::{
    Binding, Decision, Direction, Explanation, Policy, Question, Request, normalize_path,
};
use crate::problem::{Problem, Problems, Reporter};
use crate::revocation::Bearer;
use crate::scalar;
use crate::set;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::source::Source;
use crate::yaml::Node;

/// Expectations of one file.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// File as it was given to the loader.
    pub file: String,
    /// What is expected, in order.
    pub expectations: Vec<Expectation>,
}

/// A question and the answer that it must have.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// What it is about, in a person's words.
    pub name: String,
    /// Line in its file, from 1.
    pub line: u32,
    client: Client,
    workload: WorkloadName,
    port: Name,
    peer: Shown,
    asked_of: AskedOf,
    request: Option<Asked>,
    /// When it is asked; `None`: at the time of the test.
    at: Option<SystemTime>,
    /// What must come of it.
    pub expected: Expected,
}

/// The answer that a question must have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    /// `allow`, `audit` or `deny`.
    pub decision: &'static str,
    /// For `audit` and `deny`: the reason, where the test says one.
    pub reason: Option<String>,
    /// For `allow`: the AccessPolicy that admits, where the test says one.
    pub rule: Option<WorkloadName>,
}

#[derive(Clone, Debug)]
enum Client {
    Workload(WorkloadName),
    Id(SpiffeId),
}

/// Whose sidecar decides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum AskedOf {
    #[default]
    Server,
    Client,
}

/// What the peer shows of itself.
#[derive(Clone, Debug)]
struct Shown {
    /// `None`: it has no attestation result.
    class: Option<Class>,
    claims: Vec<(EvidenceKind, Claims)>,
    age: Duration,
    /// Whether it proves its key over the connection where a rule asks for it.
    is_bound: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    grpc: bool,
}

/// How an expectation fared.
#[derive(Clone, Debug, PartialEq)]
pub struct Fared {
    /// Whether the policy decides as expected.
    pub is_met: bool,
    /// What it decides, and why.
    pub explanation: Explanation,
}

impl PolicyTest {
    /// Reads a file; warnings come beside it.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(source: Source) -> Result<(Self, Vec<Problem>), Problems> {
        let file = source.name().to_owned();
        let text = source.clone();
        set::parse_single(source, Kind::PolicyTest, |spec| {
            let items = spec.get("expect")?.items().iter();
            let expectations = items.map(|node| read(node, text.line(node.span.start)));
            Some(Self {
                file: file.clone(),
                expectations: expectations.collect::<Option<_>>()?,
            })
        })
    }
}

impl Expectation {
    /// Asks the policy, by the very walk that sidecars make.
    pub fn run(&self, policy: &Policy, trust_domain: &TrustDomain, now: SystemTime) -> Fared {
        let now = self.at.unwrap_or(now);
        let client = match &self.client {
            Client::Workload(name) => SpiffeId::for_workload(trust_domain, name),
            Client::Id(id) => id.clone(),
        };
        let server = SpiffeId::for_workload(trust_domain, &self.workload);
        let result = self.peer.result(now);
        let request = self.request.as_ref().map(|asked| Request {
            method: &asked.method,
            path: &asked.path,
            grpc: asked.grpc,
        });
        let (direction, local, peer) = match (self.asked_of, &self.client) {
            (AskedOf::Client, Client::Workload(name)) => (Direction::Outbound, name, &server),
            (AskedOf::Client, Client::Id(_)) | (AskedOf::Server, _) => {
                (Direction::Inbound, &self.workload, &client)
            }
        };
        let explanation = policy.explain(&Question {
            direction,
            local,
            peer: Bearer {
                id: peer,
                serial: None,
                spki_sha256: None,
                authority_spki_sha256: None,
                intermediate_spki_sha256: &[],
                result: result.as_ref(),
            },
            binding: if self.peer.is_bound {
                Binding::Exporter(now)
            } else {
                Binding::Certificate
            },
            port: &self.port,
            number: None,
            request: request.as_ref(),
            now,
        });
        Fared {
            is_met: self.expected.is_met(policy, explanation.decision),
            explanation,
        }
    }
}

impl Expected {
    fn is_met(&self, policy: &Policy, decision: Decision) -> bool {
        let is_reason = |found: &str| self.reason.as_ref().is_none_or(|wanted| wanted == found);
        match decision {
            Decision::Allow(rule) => {
                let is_rule = |wanted: &WorkloadName| {
                    let source = policy.source(rule);
                    source.is_some_and(|found| found.document == format!("AccessPolicy {wanted}"))
                };
                self.decision == "allow" && self.rule.as_ref().is_none_or(is_rule)
            }
            Decision::Audit(reason) => self.decision == "audit" && is_reason(reason.as_str()),
            Decision::Deny(reason) => self.decision == "deny" && is_reason(reason.as_str()),
        }
    }
}

impl Shown {
    fn result(&self, now: SystemTime) -> Option<AttestationResult> {
        let class = self.class?;
        let default = match class {
            Class::Simulated => EvidenceKind::Simulated,
            Class::Software | Class::Hardware => EvidenceKind::Tpm,
        };
        let root = self
            .claims
            .iter()
            .map(|(kind, _)| *kind)
            .find(|kind| kind.is_binding_root())
            .unwrap_or(default);
        let devices = self.claims.iter().map(|(kind, claims)| DeviceResult {
            kind: *kind,
            index: 0,
            claims: claims.clone(),
        });
        Some(AttestationResult {
            class,
            root,
            instance: InstanceId([0; 16]),
            evidence_time: now.checked_sub(self.age).unwrap_or(SystemTime::UNIX_EPOCH),
            policy_revision: Revision::default(),
            ear_sha256: [0; 32],
            devices: devices.collect(),
            inclusion_promise: None,
        })
    }
}

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 1] = [required(
    "expect",
    Shape::List(&Shape::Map(&EXPECTATION)),
    "Questions with the answers that they must have.",
)];

static EXPECTATION: MapShape = MapShape {
    fields: &[
        required(
            "name",
            Shape::Text(&scalar::WORDS),
            "What the expectation is about.",
        ),
        required(
            "from",
            Shape::Text(&scalar::CLIENT),
            "The client: `<namespace>/<name>` or a SPIFFE ID.",
        ),
        required(
            "to",
            Shape::Text(&scalar::WORKLOAD),
            "The workload that is called: `<namespace>/<name>`.",
        ),
        required("port", Shape::Text(&scalar::NAME), "Name of its port."),
        optional(
            "asked_of",
            Shape::Word(&["server", "client"]),
            "server",
            "Whose sidecar decides; `class`, `claims` and `evidence_age` are then of the other end.",
        ),
        optional(
            "class",
            Shape::Word(&["hardware", "software", "simulated", "unattested"]),
            "hardware",
            "Class of the attestation result that the peer shows; `unattested`: it has none.",
        ),
        optional(
            "claims",
            Shape::Map(&claim::REQUIRE),
            "{}",
            "Claims that the peer has proven, by kind of device: values, no comparisons.",
        ),
        optional(
            "evidence_age",
            Shape::Text(&scalar::DURATION),
            "0s",
            "Age of the peer's evidence.",
        ),
        optional(
            "binding",
            Shape::Word(&["certificate", "exporter"]),
            "exporter",
            "`certificate`: the peer does not prove its key over the connection, as one without our sidecar.",
        ),
        optional(
            "method",
            Shape::Text(&scalar::METHOD),
            "",
            "HTTP method; without it the connection alone is asked about.",
        ),
        optional(
            "path",
            Shape::Text(&scalar::PROBE_PATH),
            "/",
            "Path of the request, without query.",
        ),
        optional("grpc", Shape::Bool, "false", "Whether the request is gRPC."),
        optional(
            "at",
            Shape::Text(&scalar::TIMESTAMP),
            "",
            "When it is asked; by default at the time of the test.",
        ),
        required(
            "decision",
            Shape::Word(&DECISIONS),
            "What must come of it; `audit` is admitted because the port only counts.",
        ),
        optional(
            "reason",
            Shape::Word(&[
                "unknown_door",
                "no_rule",
                "unattested",
                "class",
                "evidence_too_old",
                "claims",
                "request",
                "binding_not_proven",
                "revoked",
            ]),
            "",
            "Why it must be denied; by default any reason will do.",
        ),
        optional(
            "rule",
            Shape::Text(&scalar::WORKLOAD),
            "",
            "The AccessPolicy that must admit it: `<namespace>/<name>`; by default any.",
        ),
    ],
    exactly_one: &[],
};

const DECISIONS: [&str; 3] = ["allow", "deny", "audit"];

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let list = place.key("expect", place.owner);
    let items = spec.get("expect").map_or(&[][..], Node::items);
    for (index, node) in items.iter().enumerate() {
        let place = list.index(index, node);
        let mut refuse = |key: &str, message: &str, hint: &str| {
            if let Some(entry) = node.entry(key) {
                let problem = reporter.at(entry.key_span, message);
                let path = place.key(key, entry.key_span).path;
                reporter.report(problem.path(path).hint(hint));
            }
        };
        let word = |key| node.get(key).and_then(Node::text);
        if node.get("method").is_none() {
            for key in ["path", "grpc"] {
                let message = format!("`{key}` needs `method`");
                refuse(key, &message, "a connection has no request yet");
            }
        }
        if word("decision") == Some("allow") {
            refuse(
                "reason",
                "what is allowed has no `reason`",
                "say `rule` instead",
            );
        } else {
            refuse(
                "rule",
                "what is denied has no `rule`",
                "say `reason` instead",
            );
        }
        if word("class") == Some("unattested") {
            let hint = "a peer without a result proves nothing";
            refuse(
                "claims",
                "`claims` can't stand beside `class: unattested`",
                hint,
            );
        }
        let is_id = word("from").is_some_and(|text| text.contains("://"));
        if is_id && word("asked_of") == Some("client") {
            let hint = "a peer that another authority names has no sidecar of ours";
            refuse(
                "asked_of",
                "`asked_of: client` needs a workload in `from`",
                hint,
            );
        }
        check_claims(node, &place, reporter);
    }
}

/// A test shows values; a comparison would show none.
fn check_claims(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let Some(entry) = node.entry("claims") else {
        return;
    };
    for device in claim::read(Some(&entry.value)) {
        for condition in &device.conditions {
            if value_of(device.kind, condition).is_none() {
                let name = format!("{}.{}", device.kind, condition.claim);
                let message = format!("a test says one value of `{name}`, not a comparison");
                let problem = reporter.at(entry.key_span, message);
                reporter.report(problem.path(place.key("claims", entry.key_span).path));
            }
        }
    }
}

/// The value that a condition names, where it names one.
fn value_of(kind: EvidenceKind, condition: &Condition) -> Option<ClaimValue> {
    let is_equal = |one: &Comparison| one.operator == Operator::Equal;
    if !condition.any_of.iter().all(is_equal) {
        return None;
    }
    let values: Vec<&ClaimValue> = condition.any_of.iter().map(|one| &one.value).collect();
    match (definition(kind, condition.claim)?.value, values.as_slice()) {
        (ClaimType::Set, texts) => {
            let texts = texts.iter().map(|value| value.to_string());
            Some(ClaimValue::Set(texts.collect()))
        }
        (_, [value]) => Some((*value).clone()),
        (_, _) => None,
    }
}

fn read(node: &Node, line: u32) -> Option<Expectation> {
    let text = |key| node.get(key).map(Node::text);
    let from = node.get("from")?.text()?;
    let method = match text("method") {
        None => None,
        Some(method) => Some(method?.to_owned()),
    };
    let decision = node.get("decision")?.text()?;
    Some(Expectation {
        name: node.get("name")?.text()?.to_owned(),
        line,
        client: match from.contains("://") {
            true => Client::Id(from.parse().ok()?),
            false => Client::Workload(from.parse().ok()?),
        },
        workload: node.get("to")?.parse()?,
        port: node.get("port")?.parse()?,
        peer: read_shown(node)?,
        asked_of: match text("asked_of") {
            None | Some(Some("server")) => AskedOf::Server,
            Some(Some("client")) => AskedOf::Client,
            Some(_) => return None,
        },
        request: match method {
            None => None,
            Some(method) => Some(Asked {
                method,
                path: normalize_path(text("path").unwrap_or(Some("/"))?)
                    .ok()?
                    .into_owned(),
                grpc: node.get("grpc").map_or(Some(false), Node::as_bool)?,
            }),
        },
        at: match node.get("at") {
            None => None,
            Some(at) => Some(at.as_time()?),
        },
        expected: Expected {
            decision: DECISIONS.into_iter().find(|word| *word == decision)?,
            reason: match text("reason") {
                None => None,
                Some(reason) => Some(reason?.to_owned()),
            },
            rule: match node.get("rule") {
                None => None,
                Some(rule) => Some(rule.parse()?),
            },
        },
    })
}

fn read_shown(node: &Node) -> Option<Shown> {
    let class = match node.get("class").map(Node::text) {
        None => Some(Class::Hardware),
        Some(Some("unattested")) => None,
        Some(word) => Some(word?.parse().ok()?),
    };
    let mut claims = Vec::new();
    for device in claim::read(node.get("claims")) {
        let mut held = Claims::default();
        for condition in &device.conditions {
            let value = value_of(device.kind, condition)?;
            held.set(device.kind, condition.claim, value).ok()?;
        }
        claims.push((device.kind, held));
    }
    Some(Shown {
        class,
        claims,
        age: match node.get("evidence_age") {
            None => Duration::ZERO,
            Some(age) => age.as_duration()?,
        },
        is_bound: node.get("binding").and_then(Node::text) != Some("certificate"),
    })
}

#[cfg(test)]
mod tests;
