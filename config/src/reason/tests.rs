//! Differences against decisions: none is ever missed. And what a person reads of them.

use proptest::prelude::*;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::peer::Peer;

use super::Subject;
use super::diff::{Change, Difference, diff};
use super::who_can::{Door, who_can};
use crate::policy::reference::{documents, peers, rule};
use crate::policy::{Binding, Context, Decision, Direction, Policy, Request, authorize};
use crate::set::{Options, PolicySet};
use crate::source::Source;
use crate::testing;

const REQUESTS: [Option<(&str, &str, bool)>; 7] = [
    None,
    Some(("GET", "/a", false)),
    Some(("POST", "/a/b/c", false)),
    Some(("GET", "/b/c", false)),
    Some(("PUT", "/b/", false)),
    Some(("POST", "/s.S/M", true)),
    Some(("POST", "/s.S/N", true)),
];

fn is_for(subject: &Subject, client: Option<&WorkloadName>, id: &str) -> bool {
    match (subject, client) {
        (Subject::Workload(name), Some(client)) => name == client,
        (Subject::Namespace(namespace, _), Some(client)) => *namespace == client.namespace,
        (Subject::Id(wanted), _) => wanted == id,
        (Subject::Workload(_) | Subject::Namespace(..), None) => false,
    }
}

/// Every decision that differs is told by some change of that door for that client, on the right side.
fn is_told(
    difference: &Difference,
    door: &Door,
    client: Option<&WorkloadName>,
    id: &str,
    decisions: (Decision, Decision),
) -> bool {
    let mut changes = difference
        .doors
        .iter()
        .filter(|change| change.door == *door && is_for(&change.subject, client, id));
    match decisions {
        (Decision::Allow(_), Decision::Allow(_)) => true,
        (_, Decision::Allow(_)) => changes.any(|change| !change.gains.is_empty()),
        (Decision::Allow(_), _) => changes.any(|change| !change.losses.is_empty()),
        (Decision::Deny(_) | Decision::Audit(_), Decision::Deny(_) | Decision::Audit(_)) => true,
    }
}

fn decide(
    policy: &Policy,
    direction: Direction,
    local: &WorkloadName,
    peer: &Peer,
    port: &Name,
    request: Option<&Request<'_>>,
) -> Decision {
    let context = Context {
        direction,
        local,
        peer,
        binding: Binding::Certificate,
        port,
        number: None,
        request,
        user: None,
        on_behalf_of: None,
        now: testing::now(),
    };
    authorize(policy, &context)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_change_of_a_decision_is_missed(
        kept in prop::collection::vec(rule(), 0..4),
        gone in prop::collection::vec(rule(), 0..3),
        come in prop::collection::vec(rule(), 0..3),
    ) {
        let rules = |more: &[String]| [kept.clone(), more.to_vec()].concat();
        let (old, new) = (documents(&rules(&gone)), documents(&rules(&come)));
        let difference = diff(&old, &new, testing::now());
        let domain = testing::trust_domain();
        let (before, after) = (old.policy(&domain), new.policy(&domain));
        let locals: [WorkloadName; 2] = ["a/x", "b/x"].map(|name| name.parse().unwrap());
        let ports: [Name; 3] = ["http", "tcp", "audit"].map(|name| name.parse().unwrap());
        for peer in peers() {
            let ours = peer.id().trust_domain() == &domain;
            let named = peer.id().workload().filter(|_| ours);
            for local in &locals {
                for port in &ports {
                    for request in REQUESTS {
                        let request = request.map(|(method, path, grpc)| Request { method, path, grpc });
                        for direction in [Direction::Inbound, Direction::Outbound] {
                            let ask = |policy| decide(policy, direction, local, peer, port, request.as_ref());
                            let decisions = (ask(&before), ask(&after));
                            let (server, client) = match direction {
                                Direction::Inbound => (Some(local.clone()), named.clone()),
                                Direction::Outbound => (named.clone(), Some(local.clone())),
                            };
                            let Some(workload) = server else { continue };
                            let door = Door { workload, port: port.clone() };
                            let told = is_told(&difference, &door, client.as_ref(), peer.id().as_str(), decisions);
                            prop_assert!(told, "{door} {client:?} {:?}: {decisions:?} in {difference:?}", request);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_policy_does_not_differ_from_itself(rules in prop::collection::vec(rule(), 0..6)) {
        prop_assert!(diff(&documents(&rules), &documents(&rules), testing::now()).is_empty());
    }
}

fn set(text: &str) -> PolicySet {
    let options = Options {
        now: Some(testing::now()),
    };
    PolicySet::parse(vec![Source::new("p.yaml", text)], options).unwrap_or_else(|e| panic!("{e}"))
}

/// A small factory: browser → gateway → llm → store.
fn factory(rules: &str) -> PolicySet {
    let mut text = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example, danger_accept_simulated: true}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: p, namespace: edge}\nspec: {any_of: [{simulated: {images: [{name: i}]}}]}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: n, namespace: edge}\nspec: {hardware: {simulated_machine: m}}\n".to_owned();
    for (namespace, name) in [
        ("edge", "browser"),
        ("edge", "gateway"),
        ("inference", "llm"),
        ("data", "store"),
    ] {
        text.push_str(&format!(
            "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  profile: edge/p\n  members: {{nodes: [edge/n]}}\n  ports: [{{name: web, port: 1, protocol: http}}, {{name: raw, port: 2, protocol: tcp}}]\n"
        ));
    }
    text.push_str(rules);
    set(&text)
}

fn rule_of(name: &str, to: &str, from: &str, more: &str) -> String {
    let (namespace, workload) = to.split_once('/').unwrap();
    format!(
        "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  to: {{workload: {workload}, port: web}}\n  from: [{from}]\n  {more}\n"
    )
}

fn chain() -> String {
    [
        rule_of(
            "a",
            "edge/gateway",
            "{workload: edge/browser}",
            "allow: any",
        ),
        rule_of(
            "b",
            "inference/llm",
            "{workload: edge/gateway}",
            "allow: [{methods: [POST], paths: [/v1/chat]}]",
        ),
        rule_of("c", "data/store", "{namespace: inference}", "allow: any"),
    ]
    .concat()
}

fn changes(old: &str, new: &str) -> Vec<(String, Change, Vec<String>, Vec<String>)> {
    let difference = diff(&factory(old), &factory(new), testing::now());
    let asks = |grants: &[super::Grant]| grants.iter().map(|grant| grant.ask.clone()).collect();
    let doors = difference.doors.iter();
    doors
        .map(|one| {
            let who = format!("{} {}", one.door, one.subject);
            (who, one.change, asks(&one.gains), asks(&one.losses))
        })
        .collect()
}

#[test]
fn who_can_follows_calls_back_to_where_they_begin() {
    let set = factory(&chain());
    let door: Door = "data/store:web".parse().unwrap();
    let direct = who_can(&set, &door, false, testing::now()).unwrap();
    assert_eq!(direct.indirect, []);
    assert_eq!(direct.direct.len(), 1);
    assert_eq!(direct.direct[0].subject.to_string(), "inference/*");
    assert_eq!(
        direct.direct[0].workloads,
        ["inference/llm".parse().unwrap()]
    );
    let all = who_can(&set, &door, true, testing::now()).unwrap();
    let ways: Vec<String> = all
        .indirect
        .iter()
        .map(|one| {
            let via: Vec<String> = one.via.iter().map(ToString::to_string).collect();
            format!("{} via {}", one.subject, via.join(" "))
        })
        .collect();
    assert_eq!(
        ways,
        [
            "edge/gateway via inference/llm:web",
            "edge/browser via edge/gateway:web inference/llm:web"
        ]
    );
}

#[test]
fn an_unknown_door_names_what_was_likely_meant() {
    let set = factory(&chain());
    let ask =
        |door: &str| who_can(&set, &door.parse().unwrap(), false, testing::now()).unwrap_err();
    assert!(
        ask("data/stor:web")
            .to_string()
            .contains("did you mean `data/store`?")
    );
    assert!(ask("data/store:wep").to_string().contains("`web`, `raw`"));
}

#[test]
fn a_rule_more_opens_and_a_rule_less_closes() {
    let more = rule_of(
        "d",
        "inference/llm",
        "{workload: edge/browser}",
        "allow: any",
    );
    let opened = changes(&chain(), &(chain() + &more));
    let who = "inference/llm:web edge/browser".to_owned();
    assert_eq!(
        opened,
        [(
            who.clone(),
            Change::Opens,
            vec!["all requests".to_owned()],
            vec![]
        )]
    );
    let closed = changes(&(chain() + &more), &chain());
    assert_eq!(
        closed,
        [(who, Change::Closes, vec![], vec!["all requests".to_owned()])]
    );
}

#[test]
fn what_another_rule_grants_already_is_no_change() {
    let one = rule_of(
        "d",
        "inference/llm",
        "{namespace: edge}",
        "allow: [{methods: [POST], paths: [\"/v1/*\"]}]",
    );
    let narrower = rule_of(
        "e",
        "inference/llm",
        "{workload: edge/browser}",
        "client: {attested_within: 30m}\n  allow: [{methods: [POST], paths: [/v1/chat]}]",
    );
    assert_eq!(changes(&one, &(one.clone() + &narrower)), []);
}

#[test]
fn demands_narrow_and_paths_widen() {
    let rule = |more: &str| rule_of("d", "inference/llm", "{workload: edge/gateway}", more);
    let narrow =
        rule("client: {attested_within: 30m}\n  allow: [{methods: [POST], paths: [/v1/chat]}]");
    let wide = rule("allow: [{methods: [POST], paths: [/v1/chat]}]");
    let wider = rule("allow: [{methods: [POST], paths: [/v1/chat, /v1/files]}]");
    let strict = |end| {
        rule(&format!(
            "{end}: {{binding: exporter}}\n  allow: [{{methods: [POST], paths: [/v1/chat]}}]"
        ))
    };
    let only = |changes: Vec<(String, Change, Vec<String>, Vec<String>)>| {
        assert_eq!(changes.len(), 1, "{changes:?}");
        (changes[0].1, changes[0].2.clone(), changes[0].3.clone())
    };
    let (chat, files) = ("POST /v1/chat".to_owned(), "POST /v1/files".to_owned());
    assert_eq!(
        only(changes(&wide, &narrow)),
        (Change::Narrows, vec![], vec![chat.clone()])
    );
    assert_eq!(
        only(changes(&narrow, &wide)),
        (Change::Widens, vec![chat.clone()], vec![])
    );
    for end in ["client", "server"] {
        assert_eq!(
            only(changes(&wide, &strict(end))),
            (Change::Narrows, vec![], vec![chat.clone()])
        );
        assert_eq!(
            only(changes(&strict(end), &wide)),
            (Change::Widens, vec![chat.clone()], vec![])
        );
    }
    assert_eq!(
        only(changes(&wide, &wider)),
        (Change::Widens, vec![files.clone()], vec![])
    );
    assert_eq!(
        only(changes(&wider, &wide)),
        (Change::Narrows, vec![], vec![files])
    );
}

#[test]
fn what_changed_of_a_rule_is_said_with_what_it_was() {
    let rule = |more: &str| {
        let rest = format!("{more}\n  allow: [{{methods: [POST], paths: [/v1/chat]}}]");
        rule_of("d", "inference/llm", "{workload: edge/gateway}", &rest)
    };
    let within = |age: &str| rule(&format!("client: {{attested_within: {age}}}"));
    let strict = rule("server: {binding: exporter}");
    let said = |old: &str, new: &str| {
        let difference = diff(&factory(old), &factory(new), testing::now());
        difference.in_words().join("\n")
    };
    let head = "inference/llm:web";
    assert_eq!(
        said(&within("20m"), &within("30m")),
        format!(
            "{head} widens for edge/gateway: ~ POST /v1/chat: client attested, within 20m -> attested, within 30m"
        )
    );
    assert_eq!(
        said(&within("30m"), &strict),
        format!(
            "{head} shifts for edge/gateway: ~ POST /v1/chat: client attested, within 30m -> attested, server attested -> attested, bound by exporter"
        )
    );
    let other = strict.replace("name: d,", "name: e,");
    assert_eq!(
        said(&within("20m"), &other),
        format!(
            "{head} shifts for edge/gateway: + POST /v1/chat, if client is attested, server is attested, bound by exporter; - POST /v1/chat, if client is attested, within 20m, server is attested"
        )
    );
}

#[test]
fn a_changed_mesh_and_a_changed_revocation_name_their_fields() {
    let mesh = |spec: &str| {
        format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec: {{trust_domain: factory.example{spec}}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r, namespace: edge}}\nspec: {{match: {{serial: [ab]}}, action: cut, reason: stolen}}\n"
        )
    };
    let read = |text: &str| {
        PolicySet::parse(vec![Source::new("p.yaml", text)], Options::default()).unwrap()
    };
    let old = read(&mesh(", certificates: {lifetime: 1h}"));
    let new =
        read(&mesh(", certificates: {lifetime: 30m}, stale_after: 5m").replace("cut", "drain"));
    let said = diff(&old, &new, testing::now()).in_words();
    assert_eq!(
        said,
        [
            "revocation edge/r changed: action cut -> drain",
            "the Mesh document changed: certificates.lifetime 1h -> 30m, stale_after none -> 5m",
        ]
    );
}

#[test]
fn a_change_for_a_namespace_is_told_once() {
    let old = rule_of(
        "d",
        "inference/llm",
        "{namespace: edge}",
        "allow: [{methods: [GET], paths: any}]",
    );
    let new = rule_of("d", "inference/llm", "{namespace: edge}", "allow: any");
    let told = changes(&old, &new);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "inference/llm:web edge/*");
}

#[test]
fn what_decides_names_counts_as_widening() {
    let old = factory(&chain());
    let new = PolicySet::parse(
        old.documents()
            .iter()
            .map(|one| Source::new("p.yaml", one.text.replace("name: i}", "name: j}")))
            .collect(),
        Options::default(),
    )
    .unwrap();
    let difference = diff(&old, &new, testing::now());
    assert!(difference.doors.is_empty() && difference.may_widen());
    assert_eq!(difference.names.len(), 4);
    assert_eq!(
        difference.names[0].what,
        "profile edge/p changed: any_of[0].simulated.images[i].name i -> none, any_of[0].simulated.images[j].name none -> j"
    );
}

#[test]
fn a_revocation_that_goes_may_widen_and_one_that_comes_does_not() {
    let revocation = "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r, namespace: edge}\nspec: {match: {workload: [gateway]}, action: cut, reason: stolen}\n";
    let (without, with) = (factory(&chain()), factory(&(chain() + revocation)));
    let harsher = revocation.replace("[gateway]", "[browser]");
    let other = factory(&(chain() + &harsher));
    let compare = |old, new| diff(old, new, testing::now());
    for (old, new, what, may_widen) in [
        (&without, &with, "is new", false),
        (&with, &without, "is gone", true),
        (
            &with,
            &other,
            "changed: match.workload + browser - gateway",
            true,
        ),
    ] {
        let difference = compare(old, new);
        assert_eq!(difference.revocations.len(), 1, "{difference:?}");
        assert_eq!(difference.revocations[0].what, what);
        assert_eq!(difference.may_widen(), may_widen, "{what}");
    }
    assert!(compare(&with, &with).is_empty());
}

fn revocation(name: &str, found: &str) -> String {
    format!(
        "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {name}, namespace: edge}}\nspec: {{match: {found}, action: cut, reason: stolen}}\n"
    )
}

#[test]
fn who_can_says_for_whom_a_revocation_shuts_the_door() {
    let ask = |found: &str| {
        let set = factory(&(chain() + &revocation("r", found)));
        let door: Door = "data/store:web".parse().unwrap();
        let found = who_can(&set, &door, true, testing::now()).unwrap();
        let shut: Vec<(Option<String>, bool)> = { found.shut.iter() }
            .map(|one| (one.who.as_ref().map(ToString::to_string), one.is_whole))
            .collect();
        assert!(
            found
                .shut
                .iter()
                .all(|one| one.by.document == "Revocation edge/r")
        );
        (shut, found.indirect.len())
    };
    let of = |name: &str, is_whole| vec![(Some(name.to_owned()), is_whole)];
    assert_eq!(ask("{workload: [data/store]}"), (of("data/store", true), 2));
    // Nobody reaches the store through a gateway to which nobody talks.
    assert_eq!(ask("{workload: [gateway]}"), (of("edge/gateway", true), 1));
    assert_eq!(
        ask("{workload: [inference/llm]}"),
        (of("inference/llm", true), 0)
    );
    let some = "{workload: [gateway], device: {tpm: {firmware: \"<7\"}}}";
    assert_eq!(ask(some), (of("edge/gateway", false), 2));
    assert_eq!(ask("{class: [software]}"), (vec![(None, false)], 2));
    assert_eq!(ask("{spiffe_id: [\"spiffe://elsewhere/**\"]}"), (vec![], 2));
}

#[test]
fn a_revocation_that_is_over_shuts_no_door() {
    let expired = revocation("r", "{workload: [data/store]}")
        .replace("action: cut", "action: cut, expires: 2020-01-01T00:00:00Z");
    let set = factory(&(chain() + &expired));
    let door: Door = "data/store:web".parse().unwrap();
    let found = who_can(&set, &door, true, testing::now()).unwrap();
    assert_eq!((found.shut.len(), found.indirect.len()), (0, 2));
}
