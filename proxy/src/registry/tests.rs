//! The registry against a full scan: what is found by its indices is all that there is, and no more.

use std::sync::OnceLock;

use http::Method;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_attestation::claims::{Claims, Class, EvidenceKind};
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::standing::Withdrawn;
use vouchsafe_attestation::svid::ATTESTATION_RESULT_OID;
use vouchsafe_attestation::trust_bundle::Authority;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::policy::{Context, authorize, authorize_live};
use vouchsafe_config::revocation::{Action, Bearer};
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

use super::*;
use crate::drain::Drain;
use crate::http::head::Asked;
use crate::http1::head::Target;

/// Inside the default validity of generated certificates: 2027-01-15T08:00:00Z.
pub(super) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) fn after(minutes: u64) -> SystemTime {
    start() + Duration::from_secs(60 * minutes)
}

fn trust_domain() -> TrustDomain {
    "factory.example".parse().unwrap()
}

const WORKLOADS: [&str; 3] = ["one", "two", "three"];
const AGES: [u64; 2] = [0, 25];
pub(super) const LOCAL: &str = "app/server";

/// An authority and the peers that it vouches for: each workload with evidence of each age.
pub(super) struct Known {
    bundle: Arc<TrustBundle>,
    pub(super) peers: Vec<Arc<Verified>>,
}

pub(super) fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let authority = Authority::new(trust_domain(), certificate.der(), true).unwrap();
        let bundle = Arc::new(TrustBundle::new(vec![authority]).unwrap());
        let mut peers = Vec::new();
        for (number, workload) in WORKLOADS.into_iter().enumerate() {
            for age in AGES {
                let instance = u8::try_from(number * 100).unwrap() + u8::try_from(age).unwrap();
                peers.push(peer(&issuer, &bundle, workload, instance, age));
            }
        }
        Known { bundle, peers }
    })
}

fn peer(
    issuer: &Issuer<'_, KeyPair>,
    bundle: &TrustBundle,
    workload: &str,
    instance: u8,
    age: u64,
) -> Arc<Verified> {
    let result = AttestationResult {
        class: Class::Simulated,
        root: EvidenceKind::Simulated,
        instance: InstanceId([instance; 16]),
        evidence_time: start() - Duration::from_secs(60 * age),
        policy_revision: Revision::default(),
        ear_sha256: [0; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Simulated,
            index: 0,
            claims: Claims::default(),
        }],
        inclusion_promise: None,
    };
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    let id = format!("spiffe://{}/ns/app/workload/{workload}", trust_domain());
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let der = result.encode().unwrap();
    leaf.custom_extensions = vec![CustomExtension::from_oid_content(
        &ATTESTATION_RESULT_OID,
        der,
    )];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, issuer).unwrap();
    let peer = verify_peer(&[leaf.der().clone()], bundle, PeerRole::Client, start()).unwrap();
    let leaf_sha256 = vouchsafe_attestation::svid::sha256(leaf.der());
    Arc::new(Verified::new(peer, leaf_sha256))
}

/// A policy as a test wishes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) rules: Vec<RuleWish>,
    /// (workload, action)
    pub(super) revocations: Vec<(usize, usize)>,
    /// Whether the server's `raw` port only audits.
    pub(super) audits: bool,
    /// A peer whose instance has lapsed.
    pub(super) lapsed: Option<usize>,
    /// Moves all rules down in their file, which changes nothing.
    pub(super) padding: bool,
    /// Numbers of the `raw` ports.
    pub(super) range: usize,
}

#[derive(Clone, Debug)]
pub(super) struct RuleWish {
    /// `None`: a door of the server; else one of that workload's, which the server calls.
    pub(super) to: Option<usize>,
    pub(super) raw: bool,
    pub(super) from: usize,
    pub(super) path: usize,
    pub(super) within: Option<u64>,
    pub(super) expires: Option<u64>,
}

pub(super) const PATHS: [&str; 3] = ["/a", "/b", "/c"];
const RANGES: [&str; 4] = ["7000-7009", "7000-7004", "7003-7009", "7003-7004"];
const NUMBERS: [u16; 3] = [7000, 7003, 7008];
pub(super) const WEB: u16 = 8000;
const ACTIONS: [&str; 3] = ["deny_new", "drain", "cut"];

pub(super) fn epoch(wish: &Wish) -> Arc<PolicyEpoch> {
    let mut text = String::from(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example, danger_accept_simulated: true}\n",
    );
    let mut document = |kind: &str, name: &str, spec: &str| {
        text += &format!(
            "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: app}}\nspec:\n{spec}\n"
        );
    };
    document(
        "AttestationProfile",
        "any",
        "  any_of: [{simulated: {images: [{name: any}]}}]",
    );
    document("Node", "node", "  hardware: {simulated_machine: m}");
    let audit = if wish.audits {
        ", enforcement: audit"
    } else {
        ""
    };
    let ports = |audit: &str| {
        format!(
            "  profile: any\n  members: {{nodes: [node]}}\n  ports: [{{name: raw, ports: {}, protocol: tcp{audit}}}, {{name: web, port: {WEB}, protocol: http}}]",
            RANGES[wish.range]
        )
    };
    document("Workload", "server", &ports(audit));
    for workload in WORKLOADS {
        document("Workload", workload, &ports(""));
    }
    let padding = if wish.padding { "  # moved\n\n" } else { "" };
    for (number, rule) in wish.rules.iter().enumerate() {
        let (to, from) = match rule.to {
            None => ("server", WORKLOADS[rule.from]),
            Some(to) => (WORKLOADS[to], "server"),
        };
        let port = if rule.raw { "raw" } else { "web" };
        let mut spec = format!(
            "{padding}  to: {{workload: {to}, port: {port}}}\n  from: [{{workload: {from}}}]\n"
        );
        if let Some(within) = rule.within {
            spec += &format!("  client: {{attested_within: {within}m}}\n");
        }
        if let Some(expires) = rule.expires {
            spec += &format!("  expires: 2027-01-15T08:{expires}:00Z\n  reason: drill\n");
        }
        if !rule.raw {
            spec += &format!(
                "  allow: [{{methods: [GET], paths: [{}]}}]\n",
                PATHS[rule.path]
            );
        }
        document("AccessPolicy", &format!("rule-{number}"), &spec);
    }
    for (number, (workload, action)) in wish.revocations.iter().enumerate() {
        let (workload, action) = (WORKLOADS[*workload], ACTIONS[*action]);
        let spec =
            format!("  match: {{workload: [{workload}]}}\n  action: {action}\n  reason: drill");
        document("Revocation", &format!("revocation-{number}"), &spec);
    }
    let source = Source::new("policy.yaml", text.clone());
    let set = PolicySet::parse(vec![source], Options { now: None });
    let set = set.unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let trust = wish.lapsed.map(|peer| InstanceTrust {
        instance: known().peers[peer].peer.result().unwrap().instance,
        state: Withdrawn::Lapsed,
        reason: "silent".to_owned(),
        since: start(),
    });
    Arc::new(PolicyEpoch {
        policy: Arc::new((set.policy(&trust_domain())).withdraw(trust.into_iter().map(Into::into))),
        ..PolicyEpoch::default()
    })
}

/// A registry with connections and what is open on them.
struct Factory {
    registry: Rc<Registry>,
    epoch: Arc<PolicyEpoch>,
    drain: Drain,
    connections: Vec<Registration>,
    streams: Vec<Open>,
}

struct Open {
    connection: usize,
    port: &'static str,
    number: u16,
    path: Option<&'static str>,
    ticket: Ticket,
}

impl Factory {
    fn start(wish: &Wish) -> Self {
        let factory = Self {
            registry: Rc::new(Registry::new(LOCAL.parse().unwrap(), 0)),
            epoch: epoch(wish),
            drain: Drain::new(Duration::ZERO),
            connections: Vec::new(),
            streams: Vec::new(),
        };
        factory.registry.rejudge(&factory.epoch, start());
        factory.registry.rejudge_peers(&known().bundle, start());
        factory
    }

    fn connect(&mut self, peer: usize, direction: Direction) -> usize {
        let new = NewConnection {
            direction,
            lane: LaneKind::Shared,
            peer: Some(Arc::clone(&known().peers[peer])),
            port: None,
            doors: (direction == Direction::Inbound)
                .then(|| ["raw", "web"].map(|name| name.parse().unwrap()).into()),
            lease_end: None,
            now: start(),
        };
        let open = self.drain.signal().enter(direction);
        let registered = self.registry.register(new, open);
        self.registry.settle(&registered.live, start());
        self.connections.push(registered);
        self.connections.len() - 1
    }

    fn decide(
        &self,
        connection: usize,
        port: &str,
        number: Option<u16>,
        path: Option<&str>,
        now: SystemTime,
        decide: fn(&vouchsafe_config::policy::Policy, &Context<'_>) -> Decision,
    ) -> Decision {
        let live = &self.connections[connection].live;
        let request = path.map(|path| vouchsafe_config::policy::Request {
            method: "GET",
            path,
            grpc: false,
        });
        decide(
            &self.epoch.policy,
            &Context {
                direction: live.direction,
                local: &LOCAL.parse().unwrap(),
                peer: &live.peer().as_ref().unwrap().peer,
                binding: live.binding(),
                port: &port.parse().unwrap(),
                number,
                request: request.as_ref(),
                user: None,
                on_behalf_of: None,
                now,
            },
        )
    }

    /// Opens a stream where policy admits it.
    fn open(&mut self, connection: usize, port: &'static str, path: Option<&'static str>) -> bool {
        let number = if port == "web" { WEB } else { NUMBERS[0] };
        self.open_at(connection, (port, number), path)
    }

    fn open_at(
        &mut self,
        connection: usize,
        (port, number): (&'static str, u16),
        path: Option<&'static str>,
    ) -> bool {
        let decision = self.decide(connection, port, Some(number), path, start(), authorize);
        let live = &self.connections[connection].live;
        let mut facts = Facts {
            port: Some(port.parse().unwrap()),
            number,
            asked: path.map(|path| Asked::Request {
                method: Method::GET,
                target: Target::Usual(format!("{path}?query").parse().unwrap()),
            }),
            is_grpc: false,
        };
        let ticket = self.registry.admit(live, &mut facts, decision);
        let is_open = ticket.is_some();
        self.streams.extend(ticket.map(|ticket| Open {
            connection,
            port,
            number,
            path,
            ticket,
        }));
        is_open
    }

    fn replace(&mut self, wish: &Wish, now: SystemTime) {
        self.epoch = epoch(wish);
        self.registry.rejudge(&self.epoch, now);
    }

    /// What a full scan says of each stream: whether it must have ended by now.
    fn scan(&self, now: SystemTime) -> Vec<bool> {
        let each = self.streams.iter().map(|open| {
            let live = &self.connections[open.connection].live;
            let peer = live.peer();
            let bearer = Bearer::from(&peer.as_ref().unwrap().peer);
            let revoked = self.epoch.policy.revoked(&bearer, now);
            let number = Some(open.number);
            let decision = self.decide(
                open.connection,
                open.port,
                number,
                open.path,
                now,
                authorize_live,
            );
            revoked.is_some_and(|revocation| revocation.action == Action::Cut)
                || matches!(decision, Decision::Deny(_))
        });
        each.collect()
    }

    /// Whether the policy in force admits the peer of a connection to any of its doors, were its evidence of today.
    fn is_welcome(&self, connection: usize, now: SystemTime) -> bool {
        ["raw", "web"].iter().any(|port| {
            let decision = self.decide(connection, port, None, None, now, authorize_live);
            match decision {
                Decision::Allow(_) | Decision::Audit(_) => true,
                Decision::Deny(reason) => reason != DenyReason::NoRule,
            }
        })
    }

    fn ended(&self) -> Vec<bool> {
        let each = self.streams.iter();
        each.map(|open| open.ticket.why_cut().is_some()).collect()
    }

    fn reason(&self, stream: usize) -> Option<&'static str> {
        let why = self.streams[stream].ticket.why_cut();
        why.map(|why| why.reason.as_str())
    }
}

fn rule() -> impl Strategy<Value = RuleWish> {
    (
        proptest::option::weighted(0.3, 0..3_usize),
        proptest::bool::weighted(0.3),
        0..3_usize,
        0..3_usize,
        proptest::option::weighted(0.4, prop_oneof![Just(20_u64), Just(30), Just(40)]),
        proptest::option::weighted(0.2, prop_oneof![Just(10_u64), Just(20), Just(50)]),
    )
        .prop_map(|(to, raw, from, path, within, expires)| RuleWish {
            // Ages are asked of clients alone.
            within: within.filter(|_| to.is_none()),
            to,
            raw,
            from,
            path,
            expires,
        })
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        proptest::collection::vec(rule(), 0..12),
        proptest::collection::vec((0..3_usize, 0..3_usize), 0..2),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.2, 0..6_usize),
        any::<bool>(),
        prop_oneof![Just(0), 0..RANGES.len()],
    )
        .prop_map(
            |(rules, revocations, audits, lapsed, padding, range)| Wish {
                rules,
                revocations,
                audits,
                lapsed,
                padding,
                range,
            },
        )
}

/// Policies that follow each other: each keeps some rules of the one before, so that there is something to carry on.
fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let step = (wish(), proptest::collection::vec(any::<bool>(), 12));
    proptest::collection::vec(step, 2..5).prop_map(|steps| {
        let mut wishes: Vec<Wish> = Vec::new();
        for (mut wish, keep) in steps {
            if let Some(before) = wishes.last() {
                let kept = before.rules.iter().zip(keep).filter(|(_, keep)| *keep);
                wish.rules.truncate(3);
                wish.rules.extend(kept.map(|(rule, _)| rule.clone()));
            } else {
                wish.revocations.clear();
                wish.lapsed = None;
            }
            wishes.push(wish);
        }
        wishes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_indexed_falls_exactly_where_a_full_scan_would_end_it(
        wishes in wishes(),
        opened in proptest::collection::vec(
            (0..6_usize, any::<bool>(), proptest::collection::vec(0..6_usize, 0..6)),
            1..10,
        ),
        minutes in proptest::collection::vec(0..30_u64, 5),
    ) {
        let mut factory = Factory::start(&wishes[0]);
        for (peer, inbound, streams) in opened {
            let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
            let connection = factory.connect(peer, direction);
            for stream in streams {
                let path = PATHS.get(stream).copied();
                let door = match path {
                    Some(_) => ("web", WEB),
                    None => ("raw", NUMBERS[stream - PATHS.len()]),
                };
                factory.open_at(connection, door, path);
            }
        }
        let mut ended = vec![false; factory.streams.len()];
        let mut minute = 0;
        for (wish, more) in wishes[1..].iter().zip(minutes) {
            minute += more;
            let now = after(minute);
            // Time alone, under the policy that is in force.
            factory.registry.sweep(now, None, Phase::Serving);
            for (ended, falls) in ended.iter_mut().zip(factory.scan(now)) {
                *ended |= falls;
            }
            prop_assert_eq!(&factory.ended(), &ended, "by {} minutes", minute);
            // Who asks beforehand is told what happens then.
            let live = factory.registry.count_live();
            let told = factory.registry.would_fall(&epoch(wish), now);
            let weighed = told.clone();
            prop_assert_eq!(&factory.ended(), &ended, "a question ends nothing");
            let before = ended.clone();
            factory.replace(wish, now);
            for (ended, falls) in ended.iter_mut().zip(factory.scan(now)) {
                *ended |= falls;
            }
            prop_assert_eq!(&factory.ended(), &ended, "by {:?}", wish);
            // Whoever may ask for nothing any more holds no place, also where it never asked.
            for (place, connection) in factory.connections.iter().enumerate() {
                let is_over = connection.live.is_draining();
                let calls_us = connection.live.direction == Direction::Inbound;
                let is_welcome = factory.is_welcome(place, now);
                prop_assert!(is_over || is_welcome || !calls_us, "{} by {:?}", place, wish);
            }
            let told: usize = told
                .iter()
                .filter(|fallen| fallen.action == "cut")
                .map(|fallen| if fallen.stream.is_some() { 1 } else { fallen.connection.open.len() })
                .sum();
            let weights: u64 = weighed.iter().map(|fallen| fallen.weight).sum();
            prop_assert!(weights <= live, "{} of {}", weights, live);
            // A connection that ends is told with all that is open on it, also what ends already.
            let fell = ended.iter().zip(&before).filter(|(now, before)| *now != *before).count();
            prop_assert!(told >= fell, "{} were told, {} fell", told, fell);
        }
    }
}

fn rule_for(from: usize, path: usize) -> RuleWish {
    RuleWish {
        to: None,
        raw: false,
        from,
        path,
        within: None,
        expires: None,
    }
}

fn two_rules() -> Wish {
    Wish {
        rules: vec![rule_for(0, 0), rule_for(0, 1)],
        ..Wish::default()
    }
}

/// A connection of the first workload with a stream for each of its two rules.
fn two_streams() -> Factory {
    let mut factory = Factory::start(&two_rules());
    let connection = factory.connect(0, Direction::Inbound);
    assert!(factory.open(connection, "web", Some("/a")));
    assert!(factory.open(connection, "web", Some("/b")));
    factory
}

#[test]
fn a_stream_falls_with_its_rule_and_its_neighbour_lives() {
    let mut factory = two_streams();
    let mut wish = two_rules();
    wish.rules.remove(1);
    let told = factory.registry.would_fall(&epoch(&wish), start());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].reason, "rule_removed");
    let stream = told[0].stream.as_ref().unwrap();
    assert_eq!(stream.path.as_deref(), Some("/b"));
    let rule = stream.rule.as_deref().unwrap();
    assert!(rule.starts_with("AccessPolicy app/rule-1:"), "{rule}");
    factory.replace(&wish, start());
    assert_eq!(factory.reason(1), Some("rule_removed"));
    assert_eq!(factory.reason(0), None);
    assert!(factory.connections[0].live.why_cut().is_none());
}

#[test]
fn a_range_that_loses_a_number_ends_what_is_open_there_alone() {
    let mut wish = two_rules();
    wish.rules[0].raw = true;
    let mut factory = Factory::start(&wish);
    let connection = factory.connect(0, Direction::Inbound);
    for number in NUMBERS {
        assert!(factory.open_at(connection, ("raw", number), None));
    }
    assert!(factory.open(connection, "web", Some("/b")));
    wish.range = 2;
    let told = factory.registry.would_fall(&epoch(&wish), start());
    let told: Vec<_> = told.iter().map(|fallen| fallen.reason).collect();
    assert_eq!(told, ["unknown_door"]);
    factory.replace(&wish, start());
    assert_eq!(factory.reason(0), Some("unknown_door"));
    assert_eq!(factory.ended(), [true, false, false, false]);
    // What lives on rests on the rule as it stands now, and falls with it.
    wish.rules.remove(0);
    factory.replace(&wish, start());
    assert_eq!(factory.reason(1), Some("rule_removed"));
    assert_eq!(factory.ended(), [true, true, true, false]);
}

#[test]
fn a_wider_range_touches_nothing() {
    let mut wish = two_rules();
    (wish.rules[0].raw, wish.range) = (true, 3);
    let mut factory = Factory::start(&wish);
    let connection = factory.connect(0, Direction::Inbound);
    assert!(factory.open_at(connection, ("raw", NUMBERS[1]), None));
    let before = {
        let open = factory.connections[0].live.open.borrow();
        Rc::clone(&open.iter().next().unwrap().1.admission)
    };
    wish.range = 0;
    factory.replace(&wish, start());
    assert_eq!(factory.ended(), [false]);
    let open = factory.connections[0].live.open.borrow();
    assert!(Rc::ptr_eq(
        &open.iter().next().unwrap().1.admission,
        &before
    ));
}

#[test]
fn an_idle_connection_is_drained_when_no_rule_admits_its_peer_any_more() {
    let mut factory = two_streams();
    let never_used = factory.connect(0, Direction::Inbound);
    let of_another = factory.connect(2, Direction::Inbound);
    factory.streams.clear();
    let draining = |factory: &Factory| {
        let all = factory.connections.iter();
        all.map(|one| one.live.is_draining()).collect::<Vec<_>>()
    };
    // One of two rules is left, and a third one names another peer.
    let mut wish = two_rules();
    wish.rules.remove(1);
    wish.rules.insert(0, rule_for(1, 0));
    factory.replace(&wish, start());
    assert_eq!(draining(&factory), [false; 3]);
    wish.rules.remove(1);
    let told = factory.registry.would_fall(&epoch(&wish), start());
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|fallen| fallen.action == "drain"));
    assert!(told.iter().all(|fallen| fallen.reason == "rule_removed"));
    factory.replace(&wish, start());
    assert_eq!(draining(&factory), [true, true, false]);
    assert!(factory.connections[never_used].live.why_cut().is_none());
    assert!(!factory.connections[of_another].live.is_draining());
}

#[test]
fn what_would_end_is_counted_as_what_is_live_is() {
    let mut factory = two_streams();
    let connection = factory.connect(2, Direction::Inbound);
    let mut wish = two_rules();
    wish.rules.push(rule_for(1, 2));
    factory.replace(&wish, start());
    assert!(factory.open(connection, "web", Some("/c")));
    // Two connections with peers, and three streams on them.
    assert_eq!(factory.registry.count_live(), 5);
    let weight = |wish: &Wish| {
        let told = factory.registry.would_fall(&epoch(wish), start());
        told.iter().map(|fallen| fallen.weight).sum::<u64>()
    };
    let mut without_one = wish.clone();
    without_one.rules.remove(1);
    assert_eq!(weight(&without_one), 1, "one stream alone");
    let mut without_peer = wish.clone();
    without_peer.rules.truncate(2);
    assert_eq!(weight(&without_peer), 2, "a connection and its stream");
    let mut revoked = wish.clone();
    revoked.revocations = vec![(0, 2)];
    assert_eq!(weight(&revoked), 3, "a connection and its streams");
    assert_eq!(weight(&Wish::default()), 5, "all that lives");
}

#[test]
fn a_rule_that_no_longer_allows_the_request_ends_it_by_that_word() {
    let mut factory = two_streams();
    let mut wish = two_rules();
    wish.rules[0].path = 2;
    factory.replace(&wish, start());
    assert_eq!(factory.reason(0), Some("request"));
    assert_eq!(factory.reason(1), None);
}

#[test]
fn what_rests_on_a_rule_that_stands_is_not_judged_again() {
    let mut factory = two_streams();
    let held = |factory: &Factory| {
        let open = factory.connections[0].live.open.borrow();
        let admissions = open.iter().map(|(_, stream)| Rc::clone(&stream.admission));
        admissions.collect::<Vec<_>>()
    };
    let line = |admission: &Admission| {
        admission
            .written()
            .as_ref()
            .map(|written| written.source.line)
    };
    let before = held(&factory);
    let (first, second) = (line(&before[0]), line(&before[1]));
    // Another rule comes in front, and all rules move in their file.
    let mut wish = two_rules();
    wish.rules.insert(0, rule_for(1, 0));
    wish.padding = true;
    factory.replace(&wish, start());
    let now = held(&factory);
    let same = before.iter().zip(&now);
    assert!(
        same.into_iter()
            .all(|(before, now)| Rc::ptr_eq(before, now))
    );
    // The line in logs is that of the policy in force.
    assert!(line(&now[0]) > first && line(&now[1]) > second);
    assert_eq!(factory.ended(), [false, false]);
}

#[test]
fn evidence_that_grows_too_old_ends_what_its_age_admitted() {
    let mut wish = two_rules();
    wish.rules[0].within = Some(20);
    let mut factory = Factory::start(&wish);
    let connection = factory.connect(0, Direction::Inbound);
    assert!(factory.open(connection, "web", Some("/a")));
    assert!(factory.open(connection, "web", Some("/b")));
    factory.registry.sweep(after(20), None, Phase::Serving);
    assert_eq!(factory.ended(), [false, false]);
    let later = after(20) + Duration::from_millis(1);
    factory.registry.sweep(later, None, Phase::Serving);
    assert_eq!(factory.reason(0), Some("evidence_too_old"));
    assert_eq!(factory.reason(1), None);
}

#[test]
fn fresh_evidence_of_a_successor_keeps_what_its_age_admitted() {
    let mut wish = two_rules();
    wish.rules[0].within = Some(30);
    let mut factory = Factory::start(&wish);
    // Evidence of 25 minutes; its successor's is of now.
    let connection = factory.connect(1, Direction::Inbound);
    assert!(factory.open(connection, "web", Some("/a")));
    let live = Rc::clone(&factory.connections[connection].live);
    live.extend_lease(after(60), Arc::clone(&known().peers[0]));
    factory.registry.sweep(after(6), None, Phase::Serving);
    assert_eq!(factory.ended(), [false]);
    assert_eq!(live.lease_end(), Some(after(60)));
    // It is found by its new certificate: what is said of that instance ends it.
    wish.lapsed = Some(0);
    factory.replace(&wish, after(6));
    assert_eq!(factory.reason(0), Some("lapsed"));
}

#[test]
fn a_rule_that_expires_ends_what_it_admitted() {
    let mut wish = two_rules();
    wish.rules[0].expires = Some(10);
    let mut factory = Factory::start(&wish);
    let connection = factory.connect(0, Direction::Inbound);
    assert!(factory.open(connection, "web", Some("/a")));
    assert!(factory.open(connection, "web", Some("/b")));
    factory.registry.sweep(after(9), None, Phase::Serving);
    assert_eq!(factory.ended(), [false, false]);
    factory.registry.sweep(after(10), None, Phase::Serving);
    assert_eq!(factory.reason(0), Some("rule_expired"));
    assert_eq!(factory.reason(1), None);
}

#[test]
fn a_revocation_ends_or_drains_as_it_says_and_names_itself() {
    for (action, ends, drains) in [(0, false, false), (1, false, true), (2, true, true)] {
        let mut factory = two_streams();
        let wish = Wish {
            revocations: vec![(0, action)],
            ..two_rules()
        };
        let told = factory.registry.would_fall(&epoch(&wish), start());
        assert_eq!(told.len(), usize::from(drains), "{action}");
        factory.replace(&wish, start());
        assert_eq!(factory.ended(), [ends, ends], "{action}");
        let live = &factory.connections[0].live;
        assert_eq!(live.is_draining(), drains, "{action}");
        if ends {
            let why = factory.streams[0].ticket.why_cut().unwrap();
            let document = why.document.unwrap();
            assert!(
                document.starts_with("Revocation app/revocation-0:"),
                "{document}"
            );
        }
    }
}

#[test]
fn a_revocation_that_lets_live_ones_be_does_not_keep_them_from_falling_with_their_rule() {
    let mut factory = two_streams();
    let mut wish = two_rules();
    wish.revocations = vec![(0, 0)];
    factory.replace(&wish, start());
    wish.rules.remove(1);
    factory.replace(&wish, start());
    assert_eq!(factory.reason(0), None);
    assert_eq!(factory.reason(1), Some("rule_removed"));
}

#[test]
fn peers_whose_authority_leaves_the_bundle_are_cut() {
    let factory = two_streams();
    factory.registry.rejudge_peers(&known().bundle, start());
    assert_eq!(factory.ended(), [false, false]);
    let empty = Arc::new(TrustBundle::default());
    factory.registry.rejudge_peers(&empty, start());
    assert_eq!(factory.reason(0), Some("authority_removed"));
    assert_eq!(factory.reason(1), Some("authority_removed"));
}

#[test]
fn a_connection_that_is_gone_leaves_nothing_behind() {
    let mut factory = two_streams();
    factory.streams.clear();
    factory.connections.clear();
    assert!(factory.registry.live.borrow().is_empty());
    assert!(factory.registry.peers.borrow().is_empty());
    // Rules that nobody rests on are let go with the next change.
    factory.replace(
        &Wish {
            padding: true,
            ..two_rules()
        },
        start(),
    );
    let connection = factory.connect(0, Direction::Inbound);
    assert!(factory.open(connection, "web", Some("/a")));
    let open = factory.connections[0].live.open.borrow();
    assert_eq!(
        open.iter()
            .next()
            .unwrap()
            .1
            .admission
            .connections
            .borrow()
            .len(),
        1
    );
}
