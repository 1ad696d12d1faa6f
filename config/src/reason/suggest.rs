//! Which rules a port in `audit` lacks, from what it admitted although policy would deny it.
//!
//! What was seen is gathered by door: callers who ask for the same things share a rule, and paths that differ only in what
//! looks like an identifier share a pattern. Nothing wider is ever proposed, and whether the proposal is enough is not
//! believed but tried: the caller decides about everything that was seen once more, with the proposal beside the policy.
//!
//! What a rule denied for lack of evidence (`claims`, `evidence_too_old`) leads to no proposal: there the caller has to
//! change, or a person has to decide that its rule demands too much.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::who_can::Door;
use crate::scalar;

/// Something that was admitted although policy would deny it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Seen {
    /// The door.
    pub door: Door,
    /// SPIFFE ID of who came in, in the order of texts.
    pub client: String,
    /// Class of his attestation result.
    pub class: String,
    /// What he asked for; `None` for a flow of bytes.
    pub ask: Option<SeenRequest>,
}

/// A request that was seen.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeenRequest {
    /// Its method.
    pub method: String,
    /// Its path, normalised, without query.
    pub path: String,
    /// Whether it was gRPC.
    pub grpc: bool,
    /// Whether `*` in the path stands for what looks like an identifier ([`generalized`]).
    pub is_pattern: bool,
}

/// A rule that would have admitted something of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suggestion {
    /// The door that it opens.
    pub door: Door,
    /// The document.
    pub text: String,
    /// How much of what was seen it is for.
    pub seen: usize,
}

/// One sort of request in a rule.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Sort {
    Grpc { service: String, method: String },
    Http { method: String, pattern: String },
    Flow,
}

/// What one client asked of one door, by what classes, and how often.
#[derive(Default)]
struct Wanted<'a> {
    sorts: BTreeSet<Sort>,
    classes: BTreeSet<&'a str>,
    seen: usize,
}

/// What callers have in common that share a rule.
type Rule<'a> = (&'a Door, BTreeSet<Sort>, BTreeSet<&'a str>);

/// Proposes the fewest rules that name everybody and everything that was seen, and nothing else.
///
/// `taken` are names of documents that exist already.
pub fn suggest(
    seen: &[(Seen, usize)],
    trust_domain: &TrustDomain,
    taken: &BTreeSet<WorkloadName>,
) -> Vec<Suggestion> {
    let mut by_client: BTreeMap<(&Door, &str), Wanted<'_>> = BTreeMap::new();
    let mut by_door: BTreeMap<&Door, Vec<&SeenRequest>> = BTreeMap::new();
    for (one, _) in seen {
        by_door.entry(&one.door).or_default().extend(&one.ask);
    }
    for (one, count) in seen {
        let all = by_door.get(&one.door).map_or(&[][..], Vec::as_slice);
        let Some(sort) = sort(one.ask.as_ref(), all) else {
            continue;
        };
        let held = by_client.entry((&one.door, &one.client)).or_default();
        held.sorts.insert(sort);
        held.classes.insert(&one.class);
        held.seen += count;
    }
    // Callers who ask for the same, being of the same classes, share a rule.
    let mut rules: BTreeMap<Rule<'_>, (Vec<&str>, usize)> = BTreeMap::new();
    for ((door, client), wanted) in by_client {
        let rule = (door, wanted.sorts, wanted.classes);
        let held = rules.entry(rule).or_default();
        held.0.push(client);
        held.1 += wanted.seen;
    }
    let mut names = taken.clone();
    let rules = rules.into_iter();
    rules
        .map(|((door, sorts, classes), (clients, seen))| Suggestion {
            door: door.clone(),
            text: document(door, &clients, &sorts, &classes, trust_domain, &mut names),
            seen,
        })
        .collect()
}

/// The sort that a request is of; `None` where its path can't be written as a pattern.
fn sort(ask: Option<&SeenRequest>, all: &[&SeenRequest]) -> Option<Sort> {
    let Some(ask) = ask else {
        return Some(Sort::Flow);
    };
    // Peers choose these words: what no rule can say must not become part of a document.
    if ask.grpc {
        let (service, method) = ask.path.strip_prefix('/')?.split_once('/')?;
        let is_name = |text: &str| (scalar::GRPC_NAME.check)(text).is_ok();
        return (is_name(service) && is_name(method)).then(|| Sort::Grpc {
            service: service.to_owned(),
            method: method.to_owned(),
        });
    }
    let is_graphic = ask.path.bytes().all(|byte| byte.is_ascii_graphic());
    let is_wild = ask.path.contains('*') && !ask.is_pattern;
    if is_wild || !is_graphic || (scalar::METHOD.check)(&ask.method).is_err() {
        return None;
    }
    Some(Sort::Http {
        method: ask.method.clone(),
        pattern: pattern(&ask.path, all),
    })
}

/// A path with `*` where a segment looks like an identifier, or where many paths differ in that segment alone.
fn pattern(path: &str, all: &[&SeenRequest]) -> String {
    let segments: Vec<&str> = path.split('/').collect();
    let shown = segments.iter().enumerate().map(|(at, segment)| {
        let differs = |other: &&&SeenRequest| {
            let theirs: Vec<&str> = other.path.split('/').collect();
            theirs.len() == segments.len() && { theirs.iter().zip(&segments).enumerate() }
                .all(|(index, (their, own))| index == at || their == own)
        };
        let variants: BTreeSet<&str> = all
            .iter()
            .filter(differs)
            .filter_map(|other| other.path.split('/').nth(at))
            .collect();
        match looks_like_an_identifier(segment) || variants.len() > MANY {
            true => "*",
            false => segment,
        }
    });
    shown.collect::<Vec<_>>().join("/")
}

/// A path with `*` for each segment that looks like an identifier; `None` where it has a `*` of its own.
pub fn generalized(path: &str) -> Option<String> {
    if path.contains('*') {
        return None;
    }
    let segments = path.split('/');
    let shown = segments.map(|segment| match looks_like_an_identifier(segment) {
        true => "*",
        false => segment,
    });
    Some(shown.collect::<Vec<_>>().join("/"))
}

/// Numbers, and long runs of hexadecimal digits and hyphens that hold a digit (UUIDs, hashes).
fn looks_like_an_identifier(segment: &str) -> bool {
    let is_number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = segment.len() >= 8
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && segment.bytes().any(|byte| byte.is_ascii_digit());
    is_number || is_hex
}

fn document(
    door: &Door,
    clients: &[&str],
    sorts: &BTreeSet<Sort>,
    classes: &BTreeSet<&str>,
    trust_domain: &TrustDomain,
    names: &mut BTreeSet<WorkloadName>,
) -> String {
    let name = free_name(door, clients, names);
    let mut text = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {}, namespace: {}}}\nspec:\n  to: {{workload: {}, port: {}}}\n  from:\n",
        name.name, name.namespace, door.workload.name, door.port
    );
    for client in clients {
        let ours = client.parse::<SpiffeId>().ok();
        let ours = ours.filter(|id| id.trust_domain() == trust_domain);
        let line = match ours.and_then(|id| id.workload()) {
            Some(workload) => format!("    - {{workload: {workload}}}"),
            None => format!("    - {{spiffe_id: \"{client}\"}}"),
        };
        // Writing to a text can't fail.
        let _ = writeln!(text, "{line}");
    }
    let classes: Vec<&str> = classes.iter().copied().collect();
    let _ = match classes.as_slice() {
        ["unattested"] => writeln!(text, "  client: {{danger_unattested: true}}"),
        classes => writeln!(text, "  client: {{classes: [{}]}}", classes.join(", ")),
    };
    text.push_str(&allow(sorts));
    text
}

/// `allow`, with requests of one method side by side.
fn allow(sorts: &BTreeSet<Sort>) -> String {
    let mut http: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut grpc: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sort in sorts {
        match sort {
            Sort::Flow => {}
            Sort::Http { method, pattern } => {
                http.entry(pattern).or_default().insert(method);
            }
            Sort::Grpc { service, method } => {
                grpc.entry(service).or_default().insert(method);
            }
        }
    }
    if http.is_empty() && grpc.is_empty() {
        return String::new();
    }
    // Paths that are asked for by the same methods share an item.
    let mut items: BTreeMap<BTreeSet<&str>, BTreeSet<&str>> = BTreeMap::new();
    for (pattern, methods) in http {
        items.entry(methods).or_default().insert(pattern);
    }
    let mut text = "  allow:\n".to_owned();
    for (methods, patterns) in items {
        let methods: Vec<&str> = methods.into_iter().collect();
        let patterns: Vec<String> = patterns.iter().map(|path| format!("{path:?}")).collect();
        let _ = writeln!(
            text,
            "    - {{methods: [{}], paths: [{}]}}",
            methods.join(", "),
            patterns.join(", ")
        );
    }
    for (service, methods) in grpc {
        let methods: Vec<&str> = methods.into_iter().collect();
        let _ = writeln!(
            text,
            "    - {{grpc: {{service: {service}, methods: [{}]}}}}",
            methods.join(", ")
        );
    }
    text
}

/// A name that no document bears: `<client>-to-<workload>-<port>`, with a number where it has to be.
fn free_name(door: &Door, clients: &[&str], names: &mut BTreeSet<WorkloadName>) -> WorkloadName {
    let client = match clients {
        [one] => one.rsplit('/').next().unwrap_or_default().to_lowercase(),
        _ => "several".to_owned(),
    };
    let base = format!("{client}-to-{}-{}", door.workload.name, door.port);
    let base: String = base
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '-' => c,
            _ => '-',
        })
        .take(MAX_BASE)
        .collect();
    let base = base.trim_matches('-');
    let mut number = 1_u32;
    loop {
        let name = match number {
            1 => base.to_owned(),
            number => format!("{base}-{number}"),
        };
        let full = WorkloadName {
            namespace: door.workload.namespace.clone(),
            // What is left of it after cutting is a name; if not, one that surely is.
            name: name.parse().unwrap_or_else(|_| door.workload.name.clone()),
        };
        if names.insert(full.clone()) || number == u32::MAX {
            return full;
        }
        number += 1;
    }
}

/// More values than this in one place of otherwise equal paths are taken for identifiers.
const MANY: usize = 8;
/// A name has 63 letters; some are for a number.
const MAX_BASE: usize = 52;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vouchsafe_attestation::claims::{Class, EvidenceKind};

    use super::*;
    use crate::policy::{Binding, Decision, Direction, Question, Request};
    use crate::revocation::Bearer;
    use crate::set::{Options, PolicySet};
    use crate::source::Source;
    use crate::testing;

    const POLICY: &str = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example, danger_accept_simulated: true}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: p, namespace: a}\nspec: {any_of: [{simulated: {images: [{name: i}]}}]}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: n, namespace: a}\nspec: {hardware: {simulated_machine: n}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: api, namespace: a}\nspec:\n  profile: p\n  members: {nodes: [n]}\n  ports: [{name: web, port: 80, protocol: http}, {name: raw, port: 81, protocol: tcp}]\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: one, namespace: a}\nspec: {profile: p, members: {nodes: [n]}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: two, namespace: a}\nspec: {profile: p, members: {nodes: [n]}}\n";

    fn seen(client: &str, port: &str, ask: Option<(&str, &str, bool)>) -> (Seen, usize) {
        let seen = Seen {
            door: format!("a/api:{port}").parse().unwrap(),
            client: format!("spiffe://factory.example/ns/a/workload/{client}"),
            class: "simulated".to_owned(),
            ask: ask.map(|(method, path, grpc)| SeenRequest {
                method: method.to_owned(),
                path: path.to_owned(),
                grpc,
                is_pattern: false,
            }),
        };
        (seen, 1)
    }

    #[test]
    fn words_that_no_rule_can_say_become_no_part_of_a_document() {
        for (method, path, grpc) in [
            ("GET], paths: [\"/**\"]}", "/files", false),
            ("get", "/files", false),
            ("*", "/files", false),
            ("GET", "/f\u{2028}iles", false),
            ("GET", "/files/*", false),
            ("POST", "/a}, methods: any/b", true),
            ("POST", "/a.B/c/d", true),
        ] {
            let seen = seen("one", "web", Some((method, path, grpc)));
            let none = suggest(&[seen], &testing::trust_domain(), &BTreeSet::new());
            assert_eq!(none, [], "{method} {path}");
        }
    }

    fn whole(suggestions: &[Suggestion]) -> PolicySet {
        let texts: Vec<&str> = suggestions.iter().map(|one| one.text.as_str()).collect();
        let text = format!("{POLICY}---\n{}", texts.join("---\n"));
        PolicySet::parse(vec![Source::new("p.yaml", &*text)], Options::default())
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    fn allows(set: &PolicySet, one: &Seen) -> bool {
        let domain = testing::trust_domain();
        let id = one.client.parse().unwrap();
        let result = testing::result(
            Class::Simulated,
            EvidenceKind::Simulated,
            &[],
            Duration::ZERO,
        );
        let request = one.ask.as_ref().map(|ask| Request {
            method: &ask.method,
            path: &ask.path,
            grpc: ask.grpc,
        });
        let explanation = set.policy(&domain).explain(&Question {
            direction: Direction::Inbound,
            local: &one.door.workload,
            peer: Bearer {
                id: &id,
                serial: None,
                spki_sha256: None,
                authority_spki_sha256: None,
                intermediate_spki_sha256: &[],
                result: Some(&result),
            },
            binding: Binding::Certificate,
            port: &one.door.port,
            number: None,
            request: request.as_ref(),
            now: testing::now(),
        });
        matches!(explanation.decision, Decision::Allow(_))
    }

    #[test]
    fn what_was_seen_is_allowed_by_few_rules_and_what_was_not_is_denied() {
        let mut all = vec![
            seen("one", "web", Some(("GET", "/v1/models", false))),
            seen("two", "web", Some(("GET", "/v1/models", false))),
            seen("one", "web", Some(("POST", "/v1/chat", false))),
            seen("two", "web", Some(("POST", "/v1/chat", false))),
            seen("one", "web", Some(("POST", "/pkg.Service/Call", true))),
            seen("two", "web", Some(("POST", "/pkg.Service/Call", true))),
            seen("two", "raw", None),
        ];
        for number in 0..3 {
            let path = format!("/v1/files/{number}");
            all.push(seen("two", "raw", None));
            all.push(seen("one", "web", Some(("GET", &path, false))));
            all.push(seen("two", "web", Some(("GET", &path, false))));
        }
        let suggestions = suggest(&all, &testing::trust_domain(), &BTreeSet::new());
        // Both callers ask for the same at one door, and one of them comes through the other.
        assert_eq!(suggestions.len(), 2, "{suggestions:?}");
        let set = whole(&suggestions);
        for (one, _) in &all {
            assert!(allows(&set, one), "{one:?}\n{suggestions:#?}");
        }
        for other in [
            seen("one", "raw", None),
            seen("one", "web", Some(("DELETE", "/v1/models", false))),
            seen("one", "web", Some(("GET", "/v1", false))),
            seen("one", "web", Some(("GET", "/v1/files/1/content", false))),
            seen("one", "web", Some(("POST", "/pkg.Service/Other", true))),
            seen("three", "web", Some(("GET", "/v1/models", false))),
        ] {
            assert!(!allows(&set, &other.0), "{other:?}\n{suggestions:#?}");
        }
        assert!(
            suggestions[1].text.contains("\"/v1/files/*\""),
            "{}",
            suggestions[1].text
        );
    }

    #[test]
    fn identifiers_become_patterns_and_words_stay() {
        for (segment, expected) in [
            ("12", true),
            ("0b9f3c5e", true),
            ("7c9e6679-7425-40de-944b-e07fc1f90ae7", true),
            ("v1", false),
            ("deadbeef", false),
            ("models", false),
            ("", false),
        ] {
            assert_eq!(looks_like_an_identifier(segment), expected, "{segment}");
        }
        let many: Vec<_> = (0..10)
            .map(|number| {
                seen(
                    "one",
                    "web",
                    Some(("GET", &format!("/u/n{number}x/y"), false)),
                )
            })
            .collect();
        let suggestions = suggest(&many, &testing::trust_domain(), &BTreeSet::new());
        assert!(
            suggestions[0].text.contains("[\"/u/*/y\"]"),
            "{}",
            suggestions[0].text
        );
    }

    #[test]
    fn what_was_generalized_where_it_was_seen_is_proposed_as_it_is() {
        assert_eq!(
            generalized("/v1/files/17/x").as_deref(),
            Some("/v1/files/*/x")
        );
        assert_eq!(generalized("/v1/*"), None);
        let (mut one, count) = seen("one", "web", Some(("GET", "/v1/files/*", false)));
        let as_written = suggest(
            &[(one.clone(), count)],
            &testing::trust_domain(),
            &BTreeSet::new(),
        );
        assert!(as_written.is_empty(), "{as_written:?}");
        if let Some(ask) = &mut one.ask {
            ask.is_pattern = true;
        }
        let suggestions = suggest(
            &[(one.clone(), count)],
            &testing::trust_domain(),
            &BTreeSet::new(),
        );
        assert!(
            suggestions[0].text.contains("[\"/v1/files/*\"]"),
            "{suggestions:?}"
        );
        assert!(allows(&whole(&suggestions), &one));
    }

    #[test]
    fn names_that_are_taken_are_not_given_again() {
        let taken = BTreeSet::from(["a/one-to-api-raw".parse().unwrap()]);
        let all = [seen("one", "raw", None)];
        let suggestions = suggest(&all, &testing::trust_domain(), &taken);
        assert!(
            suggestions[0].text.contains("name: one-to-api-raw-2,"),
            "{}",
            suggestions[0].text
        );
    }
}
