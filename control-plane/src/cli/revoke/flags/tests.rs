use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    predicates: Predicates,
    #[arg(long, value_enum, default_value = "cut")]
    action: ActionWord,
    #[arg(long)]
    expires: Option<Expiry>,
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn line(options: &[&str]) -> Result<Line, String> {
    let line = Line::try_parse_from(["revoke"].iter().chain(options));
    line.map_err(|error| error.to_string())
}

fn document(options: &[&str]) -> Result<String, String> {
    let line = line(options)?;
    let expires = line.expires.map(|expires| expires.at(now())).transpose()?;
    line.predicates.document(&Terms {
        name: &"platform/r".parse().unwrap(),
        action: line.action,
        reason: "they said \"so\"",
        expires,
    })
}

/// The documents that a revocation needs beside itself.
const BESIDE: &str = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: gpu-07, namespace: platform}\nspec: {hardware: {gpu_ueids: [\"17\"]}}\n---\n";

fn read(text: &str) -> PolicySet {
    let source = Source::new("r.yaml", format!("{BESIDE}{text}"));
    PolicySet::parse(vec![source], Options::default())
        .unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

#[test]
fn every_predicate_is_a_flag_whose_document_says_the_same() {
    let sha = "ab".repeat(32);
    for (flag, value, line) in [
        ("--serial", "5e0c41", "serial: [\"5e0c41\"]".to_owned()),
        ("--spki", &*sha, format!("spki_sha256: [\"{sha}\"]")),
        (
            "--spiffe-id",
            "spiffe://factory.example/ns/edge/**",
            "spiffe_id: [\"spiffe://factory.example/ns/edge/**\"]".to_owned(),
        ),
        (
            "--workload",
            "edge/gateway",
            "workload: [\"edge/gateway\"]".to_owned(),
        ),
        ("--node", "gpu-07", "node: [\"gpu-07\"]".to_owned()),
        (
            "--hardware-id",
            "9f3c",
            "hardware_id: [\"9f3c\"]".to_owned(),
        ),
        (
            "--measurement",
            "5fee30d",
            "measurement: [\"5fee30d\"]".to_owned(),
        ),
        (
            "--advisory",
            "INTEL-SA-00828",
            "advisory: [\"INTEL-SA-00828\"]".to_owned(),
        ),
        (
            "--authority",
            &*sha,
            format!("authority_sha256: [\"{sha}\"]"),
        ),
        ("--class", "software", "class: [\"software\"]".to_owned()),
        (
            "--policy-revision-below",
            "1.42",
            "policy_revision_below: \"1.42\"".to_owned(),
        ),
        (
            "--claim",
            "sev_snp.tcb.microcode<72",
            "device: {sev_snp: {tcb: {microcode: \"<72\"}}}".to_owned(),
        ),
        (
            "--claim",
            "nvidia_gpu.driver<570.86",
            "device: {nvidia_gpu: {driver: \"<570.86\"}}".to_owned(),
        ),
        (
            "--claim",
            "nvidia_gpu.vbios<=96.00.9F.00.01",
            "device: {nvidia_gpu: {vbios: \"<=96.00.9F.00.01\"}}".to_owned(),
        ),
        (
            "--claim",
            "tdx.tcb_status=OutOfDate",
            "device: {tdx: {tcb_status: \"OutOfDate\"}}".to_owned(),
        ),
        (
            "--claim",
            "tpm.firmware=7",
            "device: {tpm: {firmware: 7}}".to_owned(),
        ),
        (
            "--claim",
            "sev_snp.debug=true",
            "device: {sev_snp: {debug: true}}".to_owned(),
        ),
        (
            "--claim",
            "nvidia_gpu.driver=570.10",
            "device: {nvidia_gpu: {driver: \"570.10\"}}".to_owned(),
        ),
    ] {
        let document = document(&[flag, value]).unwrap();
        assert!(document.contains(&format!("    {line}\n")), "{document}");
        let set = read(&document);
        let revocation = set.revocations().next().unwrap();
        assert_eq!(revocation.reason, "they said \"so\"");
        assert_eq!(revocation.action.as_str(), "cut");
    }
}

#[test]
fn flags_stand_beside_each_other_and_one_claim_s_families_stay_together() {
    let document = document(&[
        "--claim",
        "sev_snp.tcb.microcode<72",
        "--claim",
        "sev_snp.tcb.snp<23",
        "--claim",
        "tpm.firmware<7",
        "--workload",
        "edge/gateway",
        "--workload",
        "edge/other",
        "--action",
        "drain",
        "--expires",
        "2027-12-24T00:00:00Z",
    ])
    .unwrap();
    assert!(
        document.contains("tcb: {microcode: \"<72\", snp: \"<23\"}"),
        "{document}"
    );
    assert!(
        document.contains("workload: [\"edge/gateway\", \"edge/other\"]"),
        "{document}"
    );
    let set = read(&document);
    let revocation = set.revocations().next().unwrap();
    assert_eq!(revocation.matches.devices.len(), 2);
    assert!(revocation.expires.is_some());
    assert_eq!(revocation.action.as_str(), "drain");
}

#[test]
fn what_can_t_be_said_by_a_flag_is_refused() {
    for (options, words) in [
        (&[][..], "say whom it means"),
        (&["--claim", "tpm"], "expected `<kind>.<claim>"),
        (&["--claim", "tpm.imagee=x"], "no claim `imagee`"),
        (&["--claim", "tpn.image=x"], "tpn"),
        (
            &["--claim", "tpm.firmware<7", "--claim", "tpm.firmware>3"],
            "given twice",
        ),
    ] {
        let error = document(options).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_mistake_is_blamed_on_its_flag_and_not_on_a_file() {
    for (options, flag, words) in [
        (&["--serial", "xyz"][..], "--serial `", "20 bytes"),
        (&["--spki", "ab"], "--spki `", "64"),
        (
            &["--spiffe-id", "edge/gateway"],
            "--spiffe-id `",
            "`**` at the end",
        ),
        (
            &["--hardware-id", "0000"],
            "--hardware-id `",
            "zeros are nobody's",
        ),
        (&["--authority", "zz"], "--authority `", "hexadecimal"),
        (
            &["--policy-revision-below", "7"],
            "--policy-revision-below `",
            "<epoch>.<sequence>",
        ),
        (&["--claim", "tpm.firmware=seven"], "--claim `", ""),
        (
            &["--workload", "edge/Gateway"],
            "--workload",
            "edge/Gateway",
        ),
        (&["--node", "gpu 07", "--serial", "ab"], "--node", "gpu 07"),
        (
            &["--class", "hard", "--serial", "ab"],
            "--class",
            "hardware, software, simulated",
        ),
        (
            &["--action", "kill", "--serial", "ab"],
            "--action",
            "cut, drain, deny_new",
        ),
        (
            &["--expires", "tomorrow", "--serial", "ab"],
            "--expires",
            "`24h`",
        ),
    ] {
        let error = document(options).unwrap_err();
        assert!(
            error.contains(flag) && error.contains(words) && !error.contains(".yaml"),
            "{options:?}: {error}"
        );
    }
}

#[test]
fn an_end_is_a_moment_to_come_however_it_is_written() {
    let expires = |text: &str| document(&["--serial", "ab", "--expires", text]);
    let said = |text: &str| {
        let document = expires(text).unwrap();
        document.lines().last().unwrap().trim().to_owned()
    };
    assert_eq!(said("24h"), "expires: \"2027-01-16T08:00:00Z\"");
    assert_eq!(said("7d"), "expires: \"2027-01-22T08:00:00Z\"");
    assert_eq!(
        said("2027-01-16T10:00:00+02:00"),
        "expires: \"2027-01-16T08:00:00Z\""
    );
    for over in ["2020-01-01T00:00:00Z", "2027-01-15T08:00:00Z"] {
        let error = expires(over).unwrap_err();
        assert!(error.contains("would mean nobody"), "{error}");
    }
    for no_end in ["0s", "-1h", "1", "2027-01-16"] {
        assert!(expires(no_end).is_err(), "{no_end}");
    }
}
