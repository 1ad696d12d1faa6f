use std::time::Duration;

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind};
use vouchsafe_attestation::name::Name;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::{Withdrawal, Withdrawn};

use super::*;
use crate::policy::{Binding, Context, Decision, DenyReason, Direction, authorize};
use crate::scalar;
use crate::set::{Options, PolicySet};
use crate::source::Source;
use crate::testing;

fn document(found: &str, more: &str) -> String {
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r, namespace: a}}\nspec:\n  match: {found}\n  action: cut\n  reason: they said so\n{more}"
    )
}

fn read(text: &str) -> Result<Revocation, String> {
    let set = PolicySet::slice(vec![Source::new("r.yaml", text)]);
    let set = set.map_err(|problems| problems.to_string())?;
    let mut revocation = set.revocations().next().cloned().ok_or_else(String::new)?;
    let resolved = revocation.resolve(|name| set.node(name));
    resolved.map_err(|problem| problem.to_string())?;
    Ok(revocation)
}

fn peer() -> (SpiffeId, AttestationResult) {
    let claims = [
        ("image", ClaimValue::Text("llm-1".to_owned())),
        ("reset_count", ClaimValue::Number(7)),
        ("ek_sha256", ClaimValue::Text("ee".repeat(32))),
    ];
    let mut result = testing::result(Class::Software, EvidenceKind::Tpm, &claims, Duration::ZERO);
    result.policy_revision = Revision {
        epoch: 1,
        sequence: 41,
    };
    let id = "spiffe://factory.example/ns/a/workload/x".parse().unwrap();
    (id, result)
}

#[track_caller]
fn means(found: &str, expected: bool) {
    let revocation = read(&document(found, "")).unwrap_or_else(|error| panic!("{error}"));
    let (id, result) = peer();
    let bearer = Bearer {
        id: &id,
        serial: Some(&[0, 0xab, 1]),
        spki_sha256: Some(&[2; 32]),
        authority_spki_sha256: Some(&[3; 32]),
        intermediate_spki_sha256: &[[5; 32], [6; 32]],
        result: Some(&result),
    };
    let found = revocation.means(&bearer, &testing::trust_domain(), testing::now());
    assert_eq!(found, expected, "{:?}", revocation.matches);
}

#[test]
fn each_predicate_means_what_it_says_and_nothing_else() {
    let (two, three) = ("02".repeat(32), "03".repeat(32));
    for (key, yes, no) in [
        ("serial", "[AB01]".to_owned(), "[ab02]".to_owned()),
        ("serial", "[\"0000ab01\"]".to_owned(), "[ab0100]".to_owned()),
        ("spki_sha256", format!("[{two}]"), format!("[{three}]")),
        ("authority_sha256", format!("[{three}]"), format!("[{two}]")),
        // An intermediate of its chain, whichever.
        (
            "authority_sha256",
            format!("[{}]", "05".repeat(32)),
            format!("[{}]", "04".repeat(32)),
        ),
        (
            "authority_sha256",
            format!("[{two}, {}]", "06".repeat(32)),
            format!("[{two}, {}]", "07".repeat(32)),
        ),
        ("workload", "[b/y, a/x]".to_owned(), "[a/y]".to_owned()),
        ("workload", "[x]".to_owned(), "[xx]".to_owned()),
        (
            "class",
            "[software]".to_owned(),
            "[hardware, simulated]".to_owned(),
        ),
        (
            "policy_revision_below",
            "\"1.42\"".to_owned(),
            "\"1.41\"".to_owned(),
        ),
        (
            "policy_revision_below",
            "\"2.0\"".to_owned(),
            "\"0.99\"".to_owned(),
        ),
        (
            "spiffe_id",
            "[\"spiffe://factory.example/ns/a/workload/*\"]".to_owned(),
            "[\"spiffe://factory.example/ns/a/*\"]".to_owned(),
        ),
        (
            "spiffe_id",
            "[\"spiffe://factory.example/**\"]".to_owned(),
            "[\"spiffe://partner.example/**\"]".to_owned(),
        ),
        (
            "spiffe_id",
            "[\"spiffe://factory.example/ns/a/**\"]".to_owned(),
            "[\"spiffe://factory.example/ns/a/workload/x/**\"]".to_owned(),
        ),
        (
            "hardware_id",
            format!("[other, {}]", "EE".repeat(32)),
            format!("[{}]", "ef".repeat(32)),
        ),
        (
            "measurement",
            "[llm-1]".to_owned(),
            "[llm-2, tpm]".to_owned(),
        ),
        (
            "device",
            "{tpm: {image: [llm-1, llm-2], reset_count: \"<8\"}}".to_owned(),
            "{tpm: {image: llm-1, reset_count: \"<7\"}}".to_owned(),
        ),
        // A claim that the device lacks counts as the revoked one; a device that is not there does not.
        (
            "device",
            "{tpm: {firmware: \"<5\"}}".to_owned(),
            "{nvidia_gpu: {devtools: true}}".to_owned(),
        ),
    ] {
        means(&format!("{{{key}: {yes}}}"), true);
        means(&format!("{{{key}: {no}}}"), false);
    }
}

#[track_caller]
fn means_device(kind: EvidenceKind, claim: &str, value: ClaimValue, found: &str, expected: bool) {
    let result = testing::result(Class::Hardware, kind, &[(claim, value)], Duration::ZERO);
    let id = "spiffe://factory.example/ns/a/workload/x".parse().unwrap();
    let bearer = Bearer {
        id: &id,
        serial: None,
        spki_sha256: None,
        authority_spki_sha256: None,
        intermediate_spki_sha256: &[],
        result: Some(&result),
    };
    let revocation = read(&document(found, "")).unwrap_or_else(|error| panic!("{error}"));
    let means = revocation.means(&bearer, &testing::trust_domain(), testing::now());
    assert_eq!(means, expected, "{kind} {claim}: {found}");
}

#[test]
fn hardware_is_meant_by_identity_measurement_level_version_and_advisory() {
    use EvidenceKind::{AzTdxVtpm, Nitro, NvidiaGpu, SevSnp, Simulated, Tdx};
    let text = |text: &str| ClaimValue::Text(text.to_owned());
    let number = ClaimValue::Number;
    let version = |text: &str| ClaimValue::Version(text.parse().unwrap());
    let vbios = |text: &str| ClaimValue::HexVersion(text.parse().unwrap());
    let set = |text: &str| ClaimValue::Set(std::iter::once(text.to_owned()).collect());
    for (kind, claim, bad, good, found) in [
        (
            SevSnp,
            "chip_id",
            text("c1"),
            text("c2"),
            "{hardware_id: [C1]}",
        ),
        (Tdx, "ppid", text("p1"), text("p2"), "{hardware_id: [p1]}"),
        (
            NvidiaGpu,
            "ueid",
            text("17"),
            text("18"),
            "{hardware_id: [\"17\"]}",
        ),
        (
            Nitro,
            "instance_id",
            text("i-1"),
            text("i-2"),
            "{hardware_id: [i-1]}",
        ),
        (
            Simulated,
            "machine",
            text("m"),
            text("n"),
            "{hardware_id: [m]}",
        ),
        (
            SevSnp,
            "measurement",
            text("aa"),
            text("ab"),
            "{measurement: [AA]}",
        ),
        (
            Tdx,
            "rtmr2",
            text("aa"),
            text("ab"),
            "{measurement: [bb, aa]}",
        ),
        (Nitro, "pcr0", text("aa"), text("ab"), "{measurement: [aa]}"),
        (
            SevSnp,
            "tcb.microcode",
            number(71),
            number(72),
            "{device: {sev_snp: {tcb: {microcode: \"<72\"}}}}",
        ),
        (
            NvidiaGpu,
            "driver",
            version("570.85"),
            version("570.86"),
            "{device: {nvidia_gpu: {driver: \"<570.86\"}}}",
        ),
        (
            NvidiaGpu,
            "vbios",
            vbios("96.00.9E.00.01"),
            vbios("96.00.9F.00.01"),
            "{device: {nvidia_gpu: {vbios: \"<96.00.9F.00.01\"}}}",
        ),
        (
            Tdx,
            "advisories",
            set("INTEL-SA-1"),
            set("INTEL-SA-2"),
            "{advisory: [INTEL-SA-1]}",
        ),
        (
            AzTdxVtpm,
            "advisories",
            set("INTEL-SA-1"),
            set("INTEL-SA-2"),
            "{advisory: [INTEL-SA-1]}",
        ),
    ] {
        means_device(kind, claim, bad, found, true);
        means_device(kind, claim, good, found, false);
    }
    // Who hides his processor shows zeros, like everybody else who does.
    means_device(
        SevSnp,
        "product",
        text("Milan"),
        "{hardware_id: [c1]}",
        false,
    );
}

/// A revocation of the node `rack`, beside what describes it.
fn read_with_node(hardware: &str) -> Result<Revocation, String> {
    let node = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {{name: rack, namespace: a}}\nspec: {{hardware: {hardware}}}\n---\n"
    );
    read(&(node + &document("{node: [rack]}", "")))
}

#[test]
fn a_node_is_meant_by_any_identity_that_its_document_states() {
    let (id, result) = peer();
    let bearer = Bearer {
        id: &id,
        serial: None,
        spki_sha256: None,
        authority_spki_sha256: None,
        intermediate_spki_sha256: &[],
        result: Some(&result),
    };
    let (ours, other) = ("ee".repeat(32), "ef".repeat(32));
    for (hardware, expected) in [
        (format!("{{tpm_ek_sha256: \"{ours}\"}}"), true),
        (format!("{{tpm_ek_sha256: \"{other}\"}}"), false),
        (
            format!("{{tpm_ek_sha256: \"{ours}\", gpu_ueids: [\"17\"]}}"),
            true,
        ),
        ("{gpu_ueids: [\"17\"]}".to_owned(), false),
    ] {
        let revocation = read_with_node(&hardware).unwrap_or_else(|error| panic!("{error}"));
        let means = revocation.means(&bearer, &testing::trust_domain(), testing::now());
        assert_eq!(means, expected, "{hardware}");
    }
}

#[test]
fn a_revocation_of_a_node_goes_nowhere_without_its_document() {
    let error = read(&document("{node: [rack]}", "")).unwrap_err();
    assert!(error.contains("there is no Node `a/rack`"), "{error}");
    let node = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: NAME, namespace: a}\nspec: {hardware: {simulated_machine: m}}\n---\n";
    let workload = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: x, namespace: a}\nspec:\n  profile: p\n  members: {nodes: [rack]}\n---\n";
    let texts = [
        node.replace("NAME", "rack"),
        node.replace("NAME", "unnamed"),
        workload.to_owned(),
        document("{node: [rack]}", ""),
    ];
    let set = PolicySet::slice(vec![Source::new("r.yaml", texts.concat())]).unwrap();
    let slice = set.slice_for(&"a/x".parse().unwrap());
    let titles: Vec<String> = slice.iter().map(|one| one.title()).collect();
    assert_eq!(titles, ["Node a/rack", "Workload a/x", "Revocation a/r"]);
}

/// A machine with a GPU of this driver and a switch, which has none.
fn gpus(driver: &str) -> AttestationResult {
    let claims = [
        ("device", ClaimValue::Text("gpu".to_owned())),
        ("driver", ClaimValue::Version(driver.parse().unwrap())),
    ];
    let kind = EvidenceKind::NvidiaGpu;
    let mut result = testing::result(Class::Hardware, kind, &claims, Duration::ZERO);
    let switch = [("device", ClaimValue::Text("switch".to_owned()))];
    let switch = testing::result(Class::Hardware, kind, &switch, Duration::ZERO);
    result.devices.extend(switch.devices);
    result
}

#[test]
fn a_list_of_drivers_is_revoked_on_gpus_and_means_no_switch() {
    for (driver, found, expected) in [
        ("550.54.14", "\"<550.90\"", true),
        ("550.90.07", "\"<550.90\"", false),
        ("570.86.15", "\"<550.90\"", false),
        ("550.90.07", "[550.54.14, 550.90.07]", true),
        ("570.86.15", "[550.54.14, 550.90.07]", false),
    ] {
        let (found, result) = (
            format!("{{device: {{nvidia_gpu: {{driver: {found}}}}}}}"),
            gpus(driver),
        );
        let revocation = read(&document(&found, "")).unwrap_or_else(|error| panic!("{error}"));
        let (id, _) = peer();
        let bearer = Bearer {
            id: &id,
            serial: None,
            spki_sha256: None,
            authority_spki_sha256: None,
            intermediate_spki_sha256: &[],
            result: Some(&result),
        };
        let means = revocation.means(&bearer, &testing::trust_domain(), testing::now());
        assert_eq!(means, expected, "{driver} {found}");
    }
}

#[test]
fn a_driver_is_required_of_gpus_and_of_at_least_one() {
    let text = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r, namespace: a}\nspec:\n  match: {device: {nvidia_gpu: {driver: \">=550.90\"}}}\n  action: cut\n  reason: r\n";
    // `require` and `device` are read alike.
    let required = &read(text).unwrap().matches.devices[0];
    assert_eq!(required.check(&gpus("570.86.15")), Ok(()));
    assert_eq!(required.check(&gpus("550.54.14")), Err(Some("driver")));
    let mut switches = gpus("570.86.15");
    switches.devices.remove(0);
    assert_eq!(required.check(&switches), Err(Some("driver")));
    switches.devices.clear();
    assert_eq!(required.check(&switches), Err(None));
}

#[test]
fn all_that_is_written_must_hold() {
    means("{workload: [a/x], class: [software]}", true);
    means("{workload: [a/x], class: [hardware]}", false);
    means("{workload: [a/y], class: [software]}", false);
}

#[test]
fn what_a_bearer_does_not_show_is_not_met() {
    let (id, _) = peer();
    let bare = Bearer {
        id: &id,
        serial: None,
        spki_sha256: None,
        authority_spki_sha256: None,
        intermediate_spki_sha256: &[],
        result: None,
    };
    let keys = "{serial: [ab]}|{class: [software]}|{policy_revision_below: \"9.9\"}|{device: {tpm: {image: i}}}|{hardware_id: [m]}|{measurement: [i]}|{advisory: [a]}";
    for found in keys.split('|') {
        let revocation = read(&document(found, "")).unwrap();
        assert!(
            !revocation.means(&bare, &testing::trust_domain(), testing::now()),
            "{found}"
        );
    }
    let revocation = read(&document("{workload: [a/x]}", "")).unwrap();
    assert!(revocation.means(&bare, &testing::trust_domain(), testing::now()));
}

#[test]
fn a_revocation_ends_at_its_own_hour() {
    let text = document("{workload: [a/x]}", "  expires: 2027-01-15T08:00:00Z\n");
    let revocation = read(&text).unwrap();
    let (id, result) = peer();
    let bearer = Bearer {
        id: &id,
        serial: None,
        spki_sha256: None,
        authority_spki_sha256: None,
        intermediate_spki_sha256: &[],
        result: Some(&result),
    };
    let expires = revocation.expires.unwrap();
    let at = |now| revocation.means(&bearer, &testing::trust_domain(), now);
    assert!(at(expires - Duration::from_secs(1)));
    assert!(!at(expires));
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    for (found, words) in [
        ("{}", "it means him"),
        ("{serial: [xyz]}", "20 bytes"),
        ("{serial: [\"00\"]}", "20 bytes"),
        ("{serial: []}", "the list is empty"),
        ("{hardware_id: [\"0000\"]}", "zeros are nobody's"),
        (
            "{spiffe_id: [\"spiffe://factory.example/a*\"]}",
            "`**` at the end",
        ),
        (
            "{spiffe_id: [\"spiffe://factory.example/**/a\"]}",
            "`**` at the end",
        ),
        ("{policy_revision_below: \"7\"}", "<epoch>.<sequence>"),
        ("{device: {tpm: {imagee: x}}}", "did you mean `image`?"),
        (
            "{sev_snp: {tcb: {microcode: \"<72\"}}}",
            "claims of devices stand under `device`: `device: {sev_snp: ...}`",
        ),
        ("{devices: {tpm: {image: x}}}", "did you mean `device`?"),
    ] {
        let error = read(&document(found, "")).unwrap_err();
        assert!(
            error.contains(words) && error.contains("r.yaml:"),
            "{found}: {error}"
        );
    }
}

#[test]
fn a_revocation_warns_a_day_before_its_end() {
    let warned = |hours: u64| {
        let expires = scalar::show_time(testing::now() + Duration::from_secs(hours * 3600));
        let text = document("{serial: [ab]}", &format!("  expires: {expires}\n"));
        let mesh = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example}\n---\n";
        let options = Options {
            now: Some(testing::now()),
        };
        let set = PolicySet::parse(
            vec![Source::new("r.yaml", format!("{mesh}{text}"))],
            options,
        );
        let set = set.unwrap_or_else(|error| panic!("{error}"));
        set.warnings()
            .iter()
            .map(|one| one.message.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(warned(25), Vec::<String>::new());
    assert_eq!(warned(23), ["the revocation ends within a day"]);
}

/// Two doors that are open to everybody of the namespace, one of which only counts denials.
fn policy(revocations: &[String]) -> crate::policy::Policy {
    let mut text = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: x, namespace: a}\nspec:\n  profile: p\n  members: {nodes: [n]}\n  ports: [{name: web, port: 1, protocol: http}, {name: seen, port: 2, protocol: http, enforcement: audit}]\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: r, namespace: a}\nspec:\n  to: {workload: x, port: web}\n  from: [{namespace: a}]\n  allow: any\n".to_owned();
    for (at, one) in revocations.iter().enumerate() {
        text.push_str("---\n");
        text.push_str(&one.replace("name: r,", &format!("name: r{at},")));
    }
    let set = PolicySet::slice(vec![Source::new("p.yaml", text)]);
    set.unwrap_or_else(|error| panic!("{error}"))
        .policy(&testing::trust_domain())
}

fn decide(policy: &crate::policy::Policy, port: &str, direction: Direction) -> Decision {
    let port: Name = port.parse().unwrap();
    let local = "a/x".parse().unwrap();
    let peer = testing::workload_peer("a/x", Some(&testing::attested()));
    let context = Context {
        direction,
        local: &local,
        peer: &peer,
        binding: Binding::Exporter(testing::now()),
        port: &port,
        number: None,
        request: None,
        user: None,
        on_behalf_of: None,
        now: testing::now(),
    };
    authorize(policy, &context)
}

#[test]
fn no_rule_and_no_audit_admits_whom_a_revocation_means() {
    let revoked = policy(&[document("{class: [software]}", "")]);
    let free = policy(&[document("{class: [simulated]}", "")]);
    for direction in [Direction::Inbound, Direction::Outbound] {
        assert!(matches!(
            decide(&free, "web", direction),
            Decision::Allow(_)
        ));
        for port in ["web", "seen"] {
            let found = decide(&revoked, port, direction);
            assert_eq!(found, Decision::Deny(DenyReason::Revoked), "{port}");
        }
    }
}

#[test]
fn of_several_the_sternest_counts() {
    let mild = document("{workload: [a/x]}", "").replace("action: cut", "action: deny_new");
    let drain = document("{class: [software]}", "").replace("action: cut", "action: drain");
    let policy = policy(&[mild, drain]);
    let peer = testing::workload_peer("a/x", Some(&testing::attested()));
    let revocation = policy
        .revoked(&Bearer::from(&peer), testing::now())
        .unwrap();
    assert_eq!(revocation.action, Action::Drain);
    assert_eq!(revocation.source.document, "Revocation a/r1");
}

#[test]
fn an_instance_whose_standing_is_withdrawn_is_denied_by_its_own_word_and_nobody_else_is() {
    let result = testing::attested();
    let with = |instance, state| {
        policy(&[]).withdraw([Withdrawal {
            instance,
            state,
            reason: "ima_file".into(),
            since: testing::now(),
        }])
    };
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (state, reason) in [
            (Withdrawn::Lapsed, DenyReason::Lapsed),
            (Withdrawn::Revoked, DenyReason::Revoked),
        ] {
            let withdrawn = with(result.instance, state);
            for port in ["web", "seen"] {
                let found = decide(&withdrawn, port, direction);
                assert_eq!(found, Decision::Deny(reason), "{port}");
            }
        }
        let other = with(InstanceId([0xee; 16]), Withdrawn::Revoked);
        let found = decide(&other, "web", direction);
        assert!(matches!(found, Decision::Allow(_)), "{found:?}");
    }
}

#[test]
fn a_workload_that_is_not_there_is_a_warning_with_the_name_that_was_likely_meant() {
    let beside = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example, danger_accept_simulated: true}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: p, namespace: edge}\nspec: {any_of: [{simulated: {images: [{name: i}]}}]}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: n, namespace: edge}\nspec: {hardware: {simulated_machine: n}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: gateway, namespace: edge}\nspec: {profile: p, members: {nodes: [n]}}\n---\n";
    let warnings = |found: &str| {
        let text = format!("{beside}{}", document(found, ""));
        let set = PolicySet::parse(vec![Source::new("r.yaml", text)], Options::default());
        let set = set.unwrap_or_else(|problems| panic!("{problems}"));
        let warnings = set.warnings().iter();
        warnings.map(ToString::to_string).collect::<String>()
    };
    for (found, words) in [
        ("{workload: [edge/gatewy]}", "did you mean `edge/gateway`?"),
        ("{workload: [gateway]}", "there is no Workload `a/gateway`"),
        ("{workload: [edge/later]}", "means nobody until there is"),
        (
            "{spiffe_id: [\"spiffe://factory.example/ns/edge/workload/gatewy\"]}",
            "did you mean `edge/gateway`?",
        ),
    ] {
        let said = warnings(found);
        assert!(said.contains(words), "{found}: {said}");
    }
    for found in [
        "{workload: [edge/gateway]}",
        "{spiffe_id: [\"spiffe://factory.example/ns/edge/**\"]}",
        "{spiffe_id: [\"spiffe://elsewhere/ns/edge/workload/gatewy\"]}",
        "{serial: [ab]}",
    ] {
        assert_eq!(warnings(found), "");
    }
}
