use super::*;
use crate::set::PolicySet;
use crate::source::Source;

fn number(text: &str, plain: bool) -> Option<Comparison> {
    read(EvidenceKind::SevSnp, "vmpl", text, plain)
}

fn read(kind: EvidenceKind, claim: &str, text: &str, plain: bool) -> Option<Comparison> {
    comparison(&scalar(text, plain), definition(kind, claim).unwrap())
}

fn scalar(text: &str, plain: bool) -> Node {
    let text = text.to_owned();
    Node {
        span: crate::source::Span::default(),
        value: Value::Scalar(Scalar { text, plain }),
    }
}

#[test]
fn numbers_compare_as_numbers() {
    let at_least = number(">=9", false).unwrap();
    assert!(at_least.holds(&ClaimValue::Number(10)));
    assert!(at_least.holds(&ClaimValue::Number(9)));
    assert!(!at_least.holds(&ClaimValue::Number(8)));
    assert!(number("<3", true).unwrap().holds(&ClaimValue::Number(2)));
    assert!(!number(">3", true).unwrap().holds(&ClaimValue::Number(3)));
    assert!(number("<= 3", true).unwrap().holds(&ClaimValue::Number(3)));
    for text in [
        "", ">=", "=>3", "-3", "+3", "3.0", "0x3", "03", "==3", ">= -1",
    ] {
        assert_eq!(number(text, true), None, "{text}");
    }
    assert_eq!(number("3", false), None, "a quoted number is a text");
}

#[test]
fn versions_compare_as_versions_and_need_quotes_where_yaml_sees_a_number() {
    let read = |text, plain| read(EvidenceKind::NvidiaGpu, "driver", text, plain);
    let at_least = read(">=570.86", true).unwrap();
    assert!(at_least.holds(&ClaimValue::Version("570.124".parse().unwrap())));
    assert!(!at_least.holds(&ClaimValue::Version("570.9".parse().unwrap())));
    assert_eq!(read("570.10", true), None);
    assert!(read("570.10", false).is_some());
    assert!(read("570.10.1", true).is_some());
}

#[test]
fn texts_of_closed_lists_are_read_as_verifiers_write_them() {
    let holds = |claim, written: &str, found: &str| {
        let read = read(EvidenceKind::Tdx, claim, written, true);
        read.map(|one| one.holds(&ClaimValue::Text(found.into())))
    };
    assert_eq!(holds("tcb_status", "OutOfDate", "OutOfDate"), Some(true));
    assert_eq!(holds("tcb_status", "UpToDate", "OutOfDate"), Some(false));
    assert_eq!(holds("tcb_status", "outofdate", "OutOfDate"), None);
    assert_eq!(holds("fmspc", "00806F050000", "00806f050000"), Some(true));
    assert_eq!(holds("fmspc", "00806f05", "00806f050000"), None);
    let features = "0x0000000000061ae7";
    assert_eq!(holds("xfam", "0x61AE7", features), Some(true));
    assert_eq!(holds("xfam", "61ae7", features), None);
}

/// A profile, a rule and a revocation that compare a claim; `{}` is the comparison.
const COMPARING: [(&str, &str); 3] = [
    (
        "AttestationProfile",
        "spec:\n  any_of:\n    - tdx:\n        images: [{name: i, mrtd: MRTD, rtmr1: MRTD}]\n        {}\n",
    ),
    (
        "AccessPolicy",
        "spec:\n  to: {workload: x, port: web}\n  from: [{namespace: a}]\n  allow: any\n  client:\n    require:\n      tdx:\n        {}\n",
    ),
    (
        "Revocation",
        "spec:\n  action: cut\n  reason: r\n  match:\n    device:\n      tdx:\n        {}\n",
    ),
];

#[test]
fn a_word_or_a_length_that_no_verifier_says_is_refused_wherever_claims_are_compared() {
    // A workload beside, so that the rule has a door.
    let beside = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: x, namespace: a}\nspec: {profile: p, members: {nodes: [n]}, ports: [{name: web, port: 1, protocol: http}]}\n";
    for (kind, spec) in COMPARING {
        let problems = |comparison: &str| {
            let text = format!(
                "apiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: n, namespace: a}}\n{}",
                spec.replace("MRTD", &"ab".repeat(48))
                    .replace("{}", comparison)
            );
            let line = text
                .lines()
                .position(|line| line.contains(comparison))
                .unwrap()
                + 1;
            let sources = vec![
                Source::new("beside.yaml", beside),
                Source::new("n.yaml", text),
            ];
            let shown = match PolicySet::slice(sources) {
                Ok(_) => String::new(),
                Err(problems) => problems.to_string(),
            };
            (line, shown)
        };
        for good in [
            "tcb_status: [UpToDate, OutOfDate]",
            "fmspc: 00806F050000",
            "xfam: \"0x61ae7\"",
        ] {
            assert_eq!(problems(good).1, "", "{kind} {good}");
        }
        for (bad, column, words) in [
            ("tcb_status: UpToDat", 21, "did you mean `UpToDate`?"),
            (
                "tcb_status: [UpToDate, OutOfDateConfigurationNeded]",
                32,
                "did you mean `OutOfDateConfigurationNeeded`?",
            ),
            (
                "tcb_status: fine",
                21,
                "allowed: `UpToDate`, `SWHardeningNeeded`",
            ),
            (
                "fmspc: 00806f05",
                16,
                "allowed: 6 bytes: 12 hexadecimal digits",
            ),
            (
                "xfam: 61ae7",
                15,
                "allowed: a hexadecimal number (`0x30000`)",
            ),
            (
                "mrseam: [abcd]",
                18,
                "allowed: 48 bytes: 96 hexadecimal digits",
            ),
        ] {
            let (line, shown) = problems(bad);
            let place = format!("n.yaml:{line}:{column}");
            assert!(
                shown.contains(&place) && shown.contains(words),
                "{kind} {bad}: {shown}"
            );
        }
    }
}
