//! Rules that another rule makes superfluous: not wrong, but likely not what was meant.

use std::collections::HashMap;

use vouchsafe_attestation::name::{Name, WorkloadName};

use super::Index;
use crate::access::{self, AccessPolicy, Allow, Selector};
use crate::document::{Kind, Raw};
use crate::policy::RuleSource;
use crate::problem::Problem;
use crate::reason::{Ask, demands_less};

/// Most rules that one rule is compared with. Rules of one client on one door beyond it are not looked at, so that a
/// folder of ten thousand equal rules is still checked in a moment.
const MAX_COMPARED: usize = 64;

/// Warns of each rule that another of its door covers; of two equal ones, of the later.
pub(super) fn check(raws: &[Raw], index: &Index<'_>, found: &mut Vec<Problem>) {
    let rules: Vec<(&Raw, AccessPolicy)> = raws
        .iter()
        .filter(|raw| raw.kind == Kind::AccessPolicy && !raw.is_broken)
        .filter_map(|raw| {
            let source = RuleSource {
                document: format!("AccessPolicy {}", raw.head.full_name()?),
                file: raw.source.name().to_owned(),
                line: raw.line(),
            };
            Some((raw, access::read(&raw.head, raw.spec()?, source)?))
        })
        .collect();
    let mut by_key: HashMap<(&WorkloadName, &Name, Key<'_>), Vec<usize>> = HashMap::new();
    for (at, (_, rule)) in rules.iter().enumerate() {
        for selector in &rule.from {
            let key = (&rule.to, &rule.port, Key::of(selector));
            by_key.entry(key).or_default().push(at);
        }
    }
    for (at, (raw, rule)) in rules.iter().enumerate() {
        let Some(first) = rule.from.first() else {
            continue;
        };
        let candidates = Key::covering(first)
            .filter_map(|key| by_key.get(&(&rule.to, &rule.port, key)))
            .flatten()
            .take(MAX_COMPARED);
        let mut candidates = candidates.filter(|other| **other != at);
        let covering = candidates.find(|other| {
            rules.get(**other).is_some_and(|(_, wide)| {
                // Of two that cover each other the earlier stays.
                covers(wide, rule, index) && (**other < at || !covers(rule, wide, index))
            })
        });
        if let Some((_, wide)) = covering.and_then(|other| rules.get(*other))
            && let Some(name) = raw.tree.root.find(&["metadata", "name"])
        {
            let problem = Problem::at(&raw.source, name.span, "another rule covers this one")
                .path("metadata.name")
                .hint(format!("{} allows all that it allows", wide.source));
            found.push(problem.warning());
        }
    }
}

/// By what a rule is found that may cover a selector.
#[derive(Eq, Hash, PartialEq)]
enum Key<'r> {
    Workload(&'r WorkloadName),
    Namespace(&'r Name),
    Id(&'r str),
}

impl<'r> Key<'r> {
    fn of(selector: &'r Selector) -> Self {
        match selector {
            Selector::Workload(name) => Self::Workload(name),
            Selector::Namespace { namespace, .. } => Self::Namespace(namespace),
            Selector::SpiffeId(id) => Self::Id(id.as_str()),
        }
    }

    fn covering(selector: &'r Selector) -> impl Iterator<Item = Self> {
        let wider = match selector {
            Selector::Workload(name) => Some(Self::Namespace(&name.namespace)),
            Selector::Namespace { .. } | Selector::SpiffeId(_) => None,
        };
        [Self::of(selector)].into_iter().chain(wider)
    }
}

fn covers(wide: &AccessPolicy, narrow: &AccessPolicy, index: &Index<'_>) -> bool {
    let from = |one: &Selector| wide.from.iter().any(|other| selects(other, one, index));
    let ends_later = match (&wide.break_glass, &narrow.break_glass) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide.expires >= narrow.expires,
        (Some(_), None) => false,
    };
    ends_later
        && narrow.from.iter().all(from)
        && demands_less(&wide.client, &narrow.client)
        && demands_less(&wide.server, &narrow.server)
        && allows_more(&wide.allow, &narrow.allow)
}

fn selects(wide: &Selector, narrow: &Selector, index: &Index<'_>) -> bool {
    match (wide, narrow) {
        (Selector::Workload(wide), Selector::Workload(narrow)) => wide == narrow,
        (Selector::Namespace { .. }, Selector::Workload(narrow)) => index
            .workloads
            .get(narrow)
            .is_some_and(|workload| wide.admits(workload)),
        (
            Selector::Namespace {
                namespace: wide,
                labels: fewer,
            },
            Selector::Namespace {
                namespace: narrow,
                labels: more,
            },
        ) => {
            wide == narrow
                && fewer
                    .iter()
                    .all(|(key, value)| more.get(key) == Some(value))
        }
        (Selector::SpiffeId(wide), Selector::SpiffeId(narrow)) => wide == narrow,
        (Selector::Workload(_) | Selector::Namespace { .. } | Selector::SpiffeId(_), _) => false,
    }
}

fn allows_more(wide: &Allow, narrow: &Allow) -> bool {
    let wide = Ask::all(wide);
    let includes = |one: &Ask<'_>| wide.iter().any(|other| other.includes(one));
    Ask::all(narrow).iter().all(includes)
}
