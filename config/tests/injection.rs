//! Mistakes are found all at once and each exactly where it is: one to eight of them, over kinds and files.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use proptest::prelude::*;
use vouchsafe_config::problem::Severity;
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

const MESH: &str = r#"apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: factory}
spec:
  trust_domain: factory.example
  certificates: {lifetime: 1h}
  danger_accept_simulated: false
"#;

const PROFILES: &str = r#"apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: measured, namespace: inference}
spec:
  any_of:
    - tpm:
        classes: [software]
        event_log: required
        secure_boot: true
        images:
          - name: llm-1
            pcrs: {sha256: {"4": 5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7f}}
            until: 2126-12-24T00:00:00Z
            max_instances: 2
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: gpu-07, namespace: inference}
spec: {hardware: {tpm_ek_sha256: 9f3c1fe4e7cd2a1cf3dc8a7d3ac7f3b0d6bb5c5e5f1a54d9c0b8a6f2f3a4b5c6}}
"#;

const WORKLOADS: &str = r#"apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: inference}
spec:
  profile: measured
  members: {nodes: [gpu-07]}
  ports:
    - {name: openai, port: 8000, protocol: http}
    - {name: kv, ports: 5000-5031, protocol: tcp}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: gateway, namespace: edge, labels: {tier: prod}}
spec:
  profile: inference/measured
  members: {nodes: [inference/gpu-07]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: batch, namespace: edge, labels: {tier: eval}}
spec:
  profile: inference/measured
  members:
    join_tokens: [{sha256: 0300000000000000000000000000000000000000000000000000000000000003, expires: 2126-01-01T00:00:00Z}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: alone, namespace: edge}
spec:
  profile: inference/measured
  members: {nodes: [inference/gpu-07]}
  ports: [{name: one, port: 1111, protocol: http, enforcement: audit, lane: shared}]
"#;

const ACCESS: &str = r#"apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: first, namespace: inference}
spec:
  to: {workload: llm, port: openai}
  from: [{workload: edge/gateway}]
  client: {attested_within: 20m, require: {tpm: {image: [llm-1]}}}
  allow:
    - {methods: [POST], paths: [/v1/chat/completions, "/v1/models/*"]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: second, namespace: inference}
spec:
  to: {workload: llm, port: kv}
  from: [{namespace: edge, labels: {tier: eval}}]
  client: {require: {tpm: {reset_count: "<10"}}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: third, namespace: edge}
spec:
  to: {workload: alone, port: one}
  from: [{workload: batch}]
  allow: any
"#;

const FILES: [(&str, &str); 4] = [
    ("mesh.yaml", MESH),
    ("profiles.yaml", PROFILES),
    ("workloads.yaml", WORKLOADS),
    ("access.yaml", ACCESS),
];

/// A mistake: in a file, what is replaced by what, and the words that are blamed within the replacement.
type Mistake = (usize, &'static str, &'static str, &'static str);

/// Mistakes that don't touch each other's documents' meaning, so that each stands whatever others do.
const MISTAKES: [Mistake; 37] = [
    (
        0,
        "trust_domain: factory.example",
        "trust_domain: Factory",
        "Factory",
    ),
    (0, "lifetime: 1h", "lifetme: 1h", "lifetme"),
    (
        0,
        "danger_accept_simulated: false",
        "danger_accept_simulated: no",
        "no",
    ),
    (
        0,
        "metadata: {name: factory}",
        "metadata: {name: factory, owner: me}",
        "owner",
    ),
    (1, "event_log: required", "event_log: maybe", "maybe"),
    (1, "secure_boot: true", "secure_boot: on", "on"),
    (
        1,
        "5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7f",
        "5feee3",
        "5feee3",
    ),
    (1, "\"4\":", "\"24\":", "\"24\""),
    (
        1,
        "until: 2126-12-24T00:00:00Z",
        "until: tomorrow",
        "tomorrow",
    ),
    (1, "max_instances: 2", "max_instances: \"2\"", "\"2\""),
    (1, "classes: [software]", "classes: [softwear]", "softwear"),
    (
        1,
        "    - tpm:\n",
        "    - sev_snp: {}\n      tpm:\n",
        "sev_snp",
    ),
    (
        1,
        "tpm_ek_sha256: 9f3c",
        "tpm_ek_sha256: xf3c",
        "xf3c1fe4e7cd2a1cf3dc8a7d3ac7f3b0d6bb5c5e5f1a54d9c0b8a6f2f3a4b5c6",
    ),
    (2, "profile: measured\n", "profile: mesured\n", "mesured"),
    (2, "nodes: [gpu-07]", "nodes: [gpu-70]", "gpu-70"),
    (2, "ports: 5000-5031", "ports: 5031-5000", "5031-5000"),
    (
        2,
        "labels: {tier: prod}",
        "labels: {tier: [prod]}",
        "[prod]",
    ),
    (
        2,
        "profile: inference/measured\n  members: {nodes: [inference/gpu-07]}\n---",
        "profile: inference/measured\n  # nobody\n---",
        "spec",
    ),
    (
        2,
        "expires: 2126-01-01T00:00:00Z",
        "expires: 2126-01-01",
        "2126-01-01",
    ),
    (2, "port: 1111", "port: 111111", "111111"),
    (2, "enforcement: audit", "enforcement: migrate", "migrate"),
    (2, "lane: shared", "lane: &l shared", "&l"),
    (3, "port: openai}", "port: opnai}", "opnai"),
    (
        3,
        "workload: edge/gateway",
        "workload: edge/gatewaj",
        "edge/gatewaj",
    ),
    (3, "attested_within: 20m", "attested_within: 15m", "15m"),
    (3, "image: [llm-1]", "imagee: [llm-1]", "imagee"),
    (3, "methods: [POST]", "methods: [post]", "post"),
    (
        3,
        "\"/v1/models/*\"",
        "\"/v1/**/models\"",
        "\"/v1/**/models\"",
    ),
    (
        3,
        "name: second, namespace: inference}",
        "name: second, namespace: inference, name: again}",
        "name",
    ),
    (3, "labels: {tier: eval}", "labels: {tier: evil}", "labels"),
    (
        3,
        "reset_count: \"<10\"",
        "reset_count: \"=<10\"",
        "\"=<10\"",
    ),
    (3, "port: kv}", "port: kv, via: x}", "via"),
    (
        3,
        "  to: {workload: alone, port: one}",
        "  reason: emergency\n  to: {workload: alone, port: one}",
        "reason",
    ),
    (
        3,
        "from: [{workload: batch}]",
        "from: [{workload: batch, user: x}]",
        "user",
    ),
    (
        3,
        "from: [{namespace: edge,",
        "from: [{namespce: edge,",
        "namespce",
    ),
    (3, "  allow: any\n", "", "spec"),
    (
        3,
        "workload: alone",
        "workload: inference/alone",
        "inference/alone",
    ),
];

/// Where a mistake's words are, in the text as it is in the end.
fn place(text: &str, (_, _, replacement, blamed): &Mistake) -> Option<(u32, u32, String)> {
    let start = match (*replacement, *blamed) {
        // The key of the document that lacks something.
        ("", _) => text
            .find("name: third")
            .and_then(|at| Some(at + text[at..].find("spec")?)),
        (_, "spec") => text
            .find("# nobody")
            .and_then(|at| text[..at].rfind("spec")),
        (_, "name") => text.find(", name: again").map(|at| at + 2),
        _ => text.find(replacement).and_then(|at| {
            let inside = replacement.rfind(blamed);
            Some(at + inside.or_else(|| text[at..].find(blamed))?)
        }),
    }?;
    let line = text[..start].matches('\n').count() + 1;
    let column = start - text[..start].rfind('\n').map_or(0, |at| at + 1) + 1;
    Some((
        line.try_into().ok()?,
        column.try_into().ok()?,
        (*blamed).to_owned(),
    ))
}

fn inject(chosen: &[Mistake]) -> Vec<(String, String)> {
    let mut files = FILES.map(|(name, text)| (name.to_owned(), text.to_owned()));
    for (file, from, to, _) in chosen {
        let text = &mut files[*file].1;
        assert!(text.contains(from), "`{from}` is there to be replaced");
        *text = text.replacen(from, to, 1);
    }
    files.into()
}

type Place = (String, u32, u32, String);

fn found(files: &[(String, String)]) -> (Vec<Place>, String) {
    let sources = files
        .iter()
        .map(|(name, text)| Source::new(name, text.as_str()))
        .collect();
    let Err(problems) = PolicySet::parse(sources, Options::default()) else {
        return (Vec::new(), String::new());
    };
    let text_of = |name: &str| &files.iter().find(|(file, _)| file == name).unwrap().1;
    let mut places: Vec<_> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(|problem| {
            let blamed = &text_of(&problem.file)[problem.span.range()];
            (
                problem.file.clone(),
                problem.line,
                problem.column,
                blamed.to_owned(),
            )
        })
        .collect();
    places.sort();
    (places, problems.to_string())
}

fn expected(files: &[(String, String)], chosen: &[Mistake]) -> Vec<Place> {
    let mut places: Vec<_> = chosen
        .iter()
        .map(|mistake| {
            let (name, text) = &files[mistake.0];
            let (line, column, blamed) = place(text, mistake).unwrap();
            (name.clone(), line, column, blamed)
        })
        .collect();
    places.sort();
    places
}

#[test]
fn without_a_mistake_nothing_is_reported() {
    let sources = FILES.map(|(name, text)| Source::new(name, text)).into();
    let set =
        PolicySet::parse(sources, Options::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.warnings(), []);
}

#[test]
fn each_mistake_is_reported_exactly_where_it_is() {
    for mistake in MISTAKES {
        let files = inject(&[mistake]);
        let (found, shown) = found(&files);
        assert_eq!(found, expected(&files, &[mistake]), "{mistake:?}\n{shown}");
    }
}

/// Pairs that touch the same words, so that only one of them can be made.
const EXCLUSIVE: [(&str, &str); 4] = [
    ("allow: any", "inference/alone"),
    ("namespce", "tier: evil"),
    ("reason: emergency", "inference/alone"),
    ("/v1/**/models", "methods: [post]"),
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn up_to_eight_mistakes_are_reported_together(
        chosen in prop::sample::subsequence(MISTAKES.to_vec(), 1..=8)
    ) {
        let clashes = |(one, other): &(&str, &str)| {
            let has = |words: &str| chosen.iter().any(|mistake| mistake.1.contains(words) || mistake.2.contains(words));
            has(one) && has(other)
        };
        prop_assume!(!EXCLUSIVE.iter().any(clashes));
        let files = inject(&chosen);
        let (found, shown) = found(&files);
        prop_assert_eq!(found, expected(&files, &chosen), "{}", shown);
    }

    #[test]
    fn every_prefix_of_the_files_is_read_or_refused_with_places(cut in 0..ACCESS.len()) {
        let mut files = inject(&[]);
        files[3].1.truncate(cut);
        let (places, _) = found(&files);
        for (file, line, _, _) in places {
            prop_assert!(file != "access.yaml" || line as usize <= ACCESS[..cut].lines().count() + 1);
        }
    }
}

#[test]
fn truncated_documents_never_pass_for_whole_ones_with_another_meaning() {
    // Cut anywhere, a rule opens the same door to the same clients, or is an error, or is not there.
    let whole = FILES.map(|(name, text)| Source::new(name, text)).into();
    let whole = PolicySet::parse(whole, Options::default()).unwrap();
    for (cut, _) in ACCESS.char_indices() {
        let mut files = inject(&[]);
        files[3].1.truncate(cut);
        let sources = files
            .iter()
            .map(|(name, text)| Source::new(name, text.as_str()))
            .collect();
        let Ok(set) = PolicySet::parse(sources, Options::default()) else {
            continue;
        };
        for rule in set.access_policies() {
            let complete = whole
                .access_policies()
                .find(|other| other.name == rule.name)
                .unwrap();
            assert_eq!(rule.from, complete.from, "cut at {cut}");
            assert_eq!(rule.to, complete.to, "cut at {cut}");
        }
    }
}
