//! What differs between two policies: which doors open, close, narrow or widen for whom, and which names can be borne by
//! others than before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};

use super::fields;
use super::grant::{Grant, Part, Subject, selects};
use super::who_can::Door;
use crate::access::{AccessPolicy, Selector};
use crate::document::Kind;
use crate::policy::{Enforcement, Port};
use crate::set::{Document, PolicySet};
use crate::workload::{Members, Workload};

/// All that differs in meaning; comments and order make no difference.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    /// By door and subject.
    pub doors: Vec<DoorChange>,
    /// Of the ports themselves.
    pub ports: Vec<PortChange>,
    /// Of what decides who may bear a name, and of the mesh.
    pub names: Vec<NameChange>,
    /// Of whom trust has ended for.
    pub revocations: Vec<RevocationChange>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.doors.is_empty()
            && self.ports.is_empty()
            && self.names.is_empty()
            && self.revocations.is_empty()
    }

    /// Whether the new policy may admit something that the old one does not. Changes of names count: whether a profile
    /// became looser is for a person to say.
    pub fn may_widen(&self) -> bool {
        let doors = self.doors.iter().any(|change| !change.gains.is_empty());
        let ports = self.ports.iter().any(|change| change.may_widen);
        let revocations = self.revocations.iter().any(|change| change.may_widen);
        doors || ports || revocations || !self.names.is_empty()
    }
}

impl Difference {
    /// Every change as a line for people.
    pub fn in_words(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.doors {
            let asks: Vec<String> = change.lines().into_iter().map(|(line, _)| line).collect();
            lines.push(format!(
                "{} {} for {}: {}",
                change.door,
                change.change.as_str(),
                change.subject,
                asks.join("; ")
            ));
        }
        let ports = self.ports.iter();
        lines.extend(ports.map(|change| format!("{}: {}", change.door, change.what)));
        let revocations = self.revocations.iter();
        lines.extend(revocations.map(|one| format!("revocation {} {}", one.name, one.what)));
        lines.extend(self.names.iter().map(|change| match &change.workload {
            Some(workload) => format!("{workload}: {}", change.what),
            None => change.what.clone(),
        }));
        lines
    }
}

/// What becomes of a door for a subject.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Change {
    /// Nothing was granted before.
    Opens,
    /// More is granted.
    Widens,
    /// Something is granted that was not, and something not that was.
    Shifts,
    /// Less is granted.
    Narrows,
    /// Nothing is granted any more.
    Closes,
}

impl Change {
    /// The bounded word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Widens => "widens",
            Self::Shifts => "shifts",
            Self::Narrows => "narrows",
            Self::Closes => "closes",
        }
    }
}

/// A door that changed for a subject.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoorChange {
    /// The door.
    pub door: Door,
    /// For whom.
    pub subject: Subject,
    /// How.
    pub change: Change,
    /// What is granted now that no old rule grants.
    pub gains: Vec<Grant>,
    /// What was granted that no new rule grants.
    pub losses: Vec<Grant>,
    /// Of both, what a rule of the same name grants before and after, on other terms.
    pub terms: Vec<Terms>,
}

/// One sort of request, granted by a rule on terms that changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// As it was granted.
    pub before: Grant,
    /// As it is granted.
    pub after: Grant,
}

impl Terms {
    /// `POST /v1/chat: client attested, within 20m -> attested, within 30m`.
    fn in_words(&self) -> String {
        let (before, after) = (&self.before, &self.after);
        let until = |grant: &Grant| grant.until.clone().unwrap_or_else(|| "no end".to_owned());
        let parts = [
            ("client", before.client.clone(), after.client.clone()),
            ("server", before.server.clone(), after.server.clone()),
            ("until", until(before), until(after)),
        ];
        let changed = parts
            .into_iter()
            .filter(|(_, before, after)| before != after);
        let changed = changed.map(|(what, before, after)| format!("{what} {before} -> {after}"));
        format!("{}: {}", after.ask, changed.collect::<Vec<_>>().join(", "))
    }
}

impl DoorChange {
    /// Every part of the change as words, and the rule that makes it: `+` for what is granted now, `-` for what was, `~` for
    /// what is granted on other terms.
    pub fn lines(&self) -> Vec<(String, &str)> {
        let mut lines = Vec::new();
        let is_gain = |grant: &&Grant| !self.terms.iter().any(|terms| terms.after == **grant);
        for grant in self.gains.iter().filter(is_gain) {
            lines.push((format!("+ {}", grant.in_words()), grant.rule.as_str()));
        }
        let is_loss = |grant: &&Grant| !self.terms.iter().any(|terms| terms.before == **grant);
        for grant in self.losses.iter().filter(is_loss) {
            lines.push((format!("- {}", grant.in_words()), grant.rule.as_str()));
        }
        for terms in &self.terms {
            lines.push((format!("~ {}", terms.in_words()), terms.after.rule.as_str()));
        }
        lines
    }
}

/// A port that changed whoever calls it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortChange {
    /// The door.
    pub door: Door,
    /// In words.
    pub what: String,
    /// Whether more may come in than before.
    pub may_widen: bool,
}

/// Something on which names rest changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameChange {
    /// The workload; `None`: the whole mesh.
    pub workload: Option<WorkloadName>,
    /// In words.
    pub what: String,
}

/// A revocation that came, went or changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevocationChange {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// In words.
    pub what: String,
    /// Whether somebody may be trusted again.
    pub may_widen: bool,
}

/// Compares two policies by the rules that have not ended at `now`.
///
/// Never misses that something is admitted or denied that was not before; may report something that several rules cover
/// only between them.
pub fn diff(old: &PolicySet, new: &PolicySet, now: SystemTime) -> Difference {
    let (before, after) = (View::new(old, now), View::new(new, now));
    let moved = moved_workloads(old, new);
    let mut difference = Difference {
        names: names(old, new),
        revocations: revocations(old, new),
        ..Difference::default()
    };
    for door in before
        .doors
        .keys()
        .chain(after.doors.keys())
        .collect::<BTreeSet<_>>()
    {
        compare_ports(door, &before, &after, &mut difference.ports);
        let mut changes = Vec::new();
        for subject in affected(door, &before, &after, &moved) {
            changes.extend(compare(door, subject, &before, &after));
        }
        difference.doors.extend(fold(changes, old, new));
    }
    difference
}

/// A policy, by doors.
struct View<'s> {
    set: &'s PolicySet,
    doors: BTreeMap<Door, DoorView<'s>>,
    by_namespace: HashMap<&'s Name, Vec<&'s Workload>>,
}

struct DoorView<'s> {
    port: &'s Port,
    /// Rules that have not ended, by the name of their document, with their parts.
    rules: BTreeMap<&'s WorkloadName, (&'s AccessPolicy, Vec<Part<'s>>)>,
}

impl<'s> View<'s> {
    fn new(set: &'s PolicySet, now: SystemTime) -> Self {
        let mut doors = BTreeMap::new();
        let mut by_namespace: HashMap<_, Vec<_>> = HashMap::new();
        for workload in set.workloads() {
            let namespace = &workload.name.namespace;
            by_namespace.entry(namespace).or_default().push(workload);
            for port in &workload.ports {
                let door = Door {
                    workload: workload.name.clone(),
                    port: port.name.clone(),
                };
                let rules = BTreeMap::new();
                doors.insert(door, DoorView { port, rules });
            }
        }
        for rule in set.access_policies() {
            let door = Door {
                workload: rule.to.clone(),
                port: rule.port.clone(),
            };
            let parts = Part::all(rule, now);
            if let Some(view) = doors.get_mut(&door)
                && !parts.is_empty()
            {
                view.rules.insert(&rule.name, (rule, parts));
            }
        }
        Self {
            set,
            doors,
            by_namespace,
        }
    }

    /// Workloads that a selector means in this policy.
    fn selected(&self, selector: &Selector) -> Vec<&'s WorkloadName> {
        let one = |name: Option<WorkloadName>| {
            let workload = name.and_then(|name| self.set.workload(&name));
            workload
                .map(|workload| &workload.name)
                .into_iter()
                .collect()
        };
        match selector {
            Selector::Workload(name) => one(Some(name.clone())),
            Selector::SpiffeId(id) => {
                let ours = self.set.mesh().map(|mesh| &mesh.trust_domain);
                one(id.workload().filter(|_| Some(id.trust_domain()) == ours))
            }
            Selector::Namespace { namespace, .. } => {
                let workloads = self.by_namespace.get(namespace).into_iter().flatten();
                let workloads = workloads.filter(|workload| selector.admits(workload));
                workloads.map(|workload| &workload.name).collect()
            }
        }
    }

    /// What a subject is granted at a door.
    fn granted(&self, door: &Door, subject: &Subject) -> Vec<Part<'s>> {
        let trust_domain = self.set.mesh().map(|mesh| &mesh.trust_domain);
        let is_there = match subject {
            Subject::Workload(name) => self.set.workload(name).is_some(),
            Subject::Namespace(..) | Subject::Id(_) => true,
        };
        let Some(view) = self.doors.get(door).filter(|_| is_there) else {
            return Vec::new();
        };
        let is_for = |rule: &AccessPolicy| {
            let mut from = rule.from.iter();
            from.any(|selector| selects(selector, subject, self.set, trust_domain))
        };
        let rules = view.rules.values().filter(|(rule, _)| is_for(rule));
        rules.flat_map(|(_, parts)| parts).copied().collect()
    }
}

/// Workloads that came, went or bear other labels: selectors may mean others than before.
fn moved_workloads(old: &PolicySet, new: &PolicySet) -> BTreeSet<WorkloadName> {
    let labels = |set: &PolicySet, name: &WorkloadName| {
        set.workload(name).map(|workload| workload.labels.clone())
    };
    let all = old.workloads().chain(new.workloads());
    all.map(|workload| &workload.name)
        .filter(|name| labels(old, name) != labels(new, name))
        .cloned()
        .collect()
}

/// Subjects for whom the door may have changed: those of rules that differ, and workloads that moved.
fn affected(
    door: &Door,
    before: &View<'_>,
    after: &View<'_>,
    moved: &BTreeSet<WorkloadName>,
) -> BTreeSet<Subject> {
    let (old, new) = (before.doors.get(door), after.doors.get(door));
    let is_same_door = match (old, new) {
        (Some(old), Some(new)) => old.port.protocol == new.port.protocol,
        (None | Some(_), _) => false,
    };
    let mut subjects = BTreeSet::new();
    for (view, other) in [(old, new), (new, old)] {
        for (name, (rule, _)) in view.into_iter().flat_map(|view| &view.rules) {
            let held = other.and_then(|other| other.rules.get(*name));
            let is_same = is_same_door && held.is_some_and(|(held, _)| is_same_rule(rule, held));
            for selector in &rule.from {
                let workloads = [before, after]
                    .into_iter()
                    .flat_map(|one| one.selected(selector));
                let workloads = workloads.filter(|name| !is_same || moved.contains(*name));
                subjects.extend(workloads.cloned().map(Subject::Workload));
                if !is_same {
                    subjects.insert(Subject::from(selector));
                }
            }
        }
    }
    subjects
}

fn is_same_rule(one: &AccessPolicy, other: &AccessPolicy) -> bool {
    let ends = |rule: &AccessPolicy| rule.break_glass.as_ref().map(|glass| glass.expires);
    one.from == other.from
        && one.client == other.client
        && one.server == other.server
        && one.allow == other.allow
        && ends(one) == ends(other)
}

fn compare(
    door: &Door,
    subject: Subject,
    before: &View<'_>,
    after: &View<'_>,
) -> Option<DoorChange> {
    let (old, new) = (
        before.granted(door, &subject),
        after.granted(door, &subject),
    );
    let beyond = |parts: &[Part<'_>], others: &[Part<'_>]| -> Vec<Grant> {
        let beyond = parts
            .iter()
            .filter(|part| !others.iter().any(|other| other.includes(part)));
        beyond.map(Part::describe).collect()
    };
    let (gains, losses) = (beyond(&new, &old), beyond(&old, &new));
    let pairs = new.iter().flat_map(|after| {
        let same = |before: &&Part<'_>| {
            before.rule.name == after.rule.name && before.ask.to_string() == after.ask.to_string()
        };
        old.iter().filter(same).map(|before| Terms {
            before: before.describe(),
            after: after.describe(),
        })
    });
    let is_told = |terms: &Terms| gains.contains(&terms.after) || losses.contains(&terms.before);
    let terms = pairs.filter(is_told).collect();
    let change = match (gains.is_empty(), losses.is_empty()) {
        (true, true) => return None,
        (false, true) if old.is_empty() => Change::Opens,
        (false, true) => Change::Widens,
        (true, false) if new.is_empty() => Change::Closes,
        (true, false) => Change::Narrows,
        (false, false) => Change::Shifts,
    };
    Some(DoorChange {
        door: door.clone(),
        subject,
        change,
        gains,
        losses,
        terms,
    })
}

/// Leaves out workloads for which just that changed which changed for their whole namespace.
fn fold(changes: Vec<DoorChange>, old: &PolicySet, new: &PolicySet) -> Vec<DoorChange> {
    let is_said = |change: &DoorChange| {
        let Subject::Workload(name) = &change.subject else {
            return false;
        };
        changes.iter().any(|other| {
            let Subject::Namespace(namespace, labels) = &other.subject else {
                return false;
            };
            let selector = Selector::Namespace {
                namespace: namespace.clone(),
                labels: labels.clone(),
            };
            let is_of = |set: &PolicySet| {
                let workload = set.workload(name);
                workload.is_some_and(|workload| selector.admits(workload))
            };
            (&other.gains, &other.losses) == (&change.gains, &change.losses)
                && is_of(old)
                && is_of(new)
        })
    };
    let said: Vec<bool> = changes.iter().map(is_said).collect();
    let kept = changes.into_iter().zip(said).filter(|(_, said)| !said);
    let mut kept: Vec<DoorChange> = kept.map(|(change, _)| change).collect();
    kept.sort_by(|one, other| (one.change, &one.subject).cmp(&(other.change, &other.subject)));
    kept
}

fn compare_ports(door: &Door, before: &View<'_>, after: &View<'_>, found: &mut Vec<PortChange>) {
    let mut report = |what: String, may_widen| {
        let door = door.clone();
        found.push(PortChange {
            door,
            what,
            may_widen,
        });
    };
    let (old, new) = match (before.doors.get(door), after.doors.get(door)) {
        (Some(old), Some(new)) => (old.port, new.port),
        (Some(_), None) => return report("the port is gone".to_owned(), false),
        (None, Some(new)) => {
            if new.port.enforcement == Enforcement::Audit {
                report(AUDITED.to_owned(), true);
            }
            if !new.port.probes.is_empty() {
                let what = format!("probes are answered: {}", new.port.probes.join(", "));
                report(what, true);
            }
            return;
        }
        (None, None) => return,
    };
    match (old.enforcement, new.enforcement) {
        (Enforcement::Enforce, Enforcement::Audit) => report(AUDITED.to_owned(), true),
        (Enforcement::Audit, Enforcement::Enforce) => {
            report(
                "what no rule allows is denied from now on".to_owned(),
                false,
            );
        }
        (Enforcement::Enforce, Enforcement::Enforce) | (Enforcement::Audit, Enforcement::Audit) => {
        }
    }
    if old.protocol != new.protocol {
        let what = format!("protocol {:?} becomes {:?}", old.protocol, new.protocol);
        report(what.to_lowercase(), true);
    }
    if old.numbers != new.numbers {
        let what = format!("ports {} become {}", show(old.numbers), show(new.numbers));
        report(what, true);
    }
    let beyond = |some: &Port, others: &Port| -> Vec<String> {
        let beyond = some
            .probes
            .iter()
            .filter(|probe| !others.probes.contains(probe));
        beyond.cloned().collect()
    };
    let (more, fewer) = (beyond(new, old), beyond(old, new));
    if !more.is_empty() {
        report(format!("probes are answered: {}", more.join(", ")), true);
    }
    if !fewer.is_empty() {
        report(
            format!("probes are no longer answered: {}", fewer.join(", ")),
            false,
        );
    }
}

const AUDITED: &str = "what no rule allows is admitted and counted (audit), of every attested peer";

fn show((first, last): (u16, u16)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// Changes of documents by which names are given.
fn names(old: &PolicySet, new: &PolicySet) -> Vec<NameChange> {
    let (before, after) = (texts(old), texts(new));
    let empty = String::new();
    let text = |texts: &'_ BTreeMap<Key, String>, kind: Kind, name: &WorkloadName| {
        texts.get(&key(kind, name)).unwrap_or(&empty).clone()
    };
    let fields_of = |kind: Kind, name: &WorkloadName| {
        fields::changed_fields(&text(&before, kind, name), &text(&after, kind, name))
    };
    let changed = |kind: Kind, name: &WorkloadName| {
        let key = key(kind, name);
        (before.get(&key) != after.get(&key)).then(|| fields::in_words(&fields_of(kind, name)))
    };
    let mut found = Vec::new();
    let meshes = |texts: &BTreeMap<Key, String>| -> Vec<String> {
        let meshes = texts.iter().filter(|((kind, ..), _)| *kind == Kind::Mesh);
        meshes.map(|(_, text)| text.clone()).collect()
    };
    if meshes(&before) != meshes(&after) {
        let fields = fields::changed_fields(&meshes(&before).concat(), &meshes(&after).concat());
        let what = format!("the Mesh document changed{}", fields::in_words(&fields));
        found.push(NameChange {
            workload: None,
            what,
        });
    }
    for workload in new.workloads() {
        let mut report = |what: String| {
            let workload = Some(workload.name.clone());
            found.push(NameChange { workload, what });
        };
        let Some(held) = old.workload(&workload.name) else {
            report(format!("is new: profile {}", workload.profile));
            continue;
        };
        if held.profile != workload.profile {
            report(format!(
                "profile {} becomes {}",
                held.profile, workload.profile
            ));
        } else if let Some(fields) = changed(Kind::AttestationProfile, &workload.profile) {
            report(format!("profile {} changed{fields}", workload.profile));
        }
        if held.members != workload.members {
            let mut fields = fields_of(Kind::Workload, &workload.name);
            fields.retain(|field| field.starts_with("members"));
            report(format!("members changed{}", fields::in_words(&fields)));
        }
        for node in nodes(workload) {
            if let Some(fields) = changed(Kind::Node, node) {
                report(format!("node {node} changed{fields}"));
            }
        }
    }
    found
}

/// Changes of revocations: a new one only takes away, whatever else happens to one may give back.
fn revocations(old: &PolicySet, new: &PolicySet) -> Vec<RevocationChange> {
    let (before, after) = (texts(old), texts(new));
    let all: BTreeSet<&WorkloadName> = (old.revocations().chain(new.revocations()))
        .map(|one| &one.name)
        .collect();
    let change = |name: &WorkloadName| {
        let key = key(Kind::Revocation, name);
        let (what, may_widen) = match (before.get(&key), after.get(&key)) {
            (None, _) => ("is new".to_owned(), false),
            (Some(_), None) => ("is gone".to_owned(), true),
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => {
                let fields = fields::changed_fields(old, new);
                (format!("changed{}", fields::in_words(&fields)), true)
            }
        };
        Some(RevocationChange {
            name: name.clone(),
            what,
            may_widen,
        })
    };
    all.into_iter().filter_map(change).collect()
}

fn nodes(workload: &Workload) -> impl Iterator<Item = &WorkloadName> {
    let nodes = match &workload.members {
        Members::Nodes(nodes) => nodes.as_slice(),
        Members::JoinTokens(_) => &[],
    };
    nodes.iter()
}

type Key = (Kind, Option<String>, String);

fn key(kind: Kind, name: &WorkloadName) -> Key {
    let namespace = name.namespace.to_string();
    (kind, Some(namespace), name.name.to_string())
}

/// Texts of documents without comments of their own lines, blank lines and spaces at line ends.
fn texts(set: &PolicySet) -> BTreeMap<Key, String> {
    let text = |document: &Document| {
        let lines = document.text.lines().map(str::trim_end);
        let lines = lines.filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let key = |document: &Document| {
        let namespace = document.namespace.as_ref().map(ToString::to_string);
        (document.kind, namespace, document.name.to_string())
    };
    let documents = set.documents().iter();
    documents.map(|one| (key(one), text(one))).collect()
}
