//! Trust between renewals, with real processes and software TPMs: a machine that turns bad loses its live connections on
//! every sidecar; silence lapses and fresh evidence restores; silence of everybody cuts nobody; a control plane that was
//! away cuts nobody, and what it allowed ends with its certificates (promises 5 and 7).

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, mesh, simulated_mesh, simulated_node, simulated_profile, tpm_node, tpm_profile,
    workload,
};
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_tests::{binaries, process, wait};

const UNTOUCHED: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const PORT: &[&str] = &["{name: raw, port: 7000, protocol: tcp}"];

fn standings(mesh: &Mesh) -> Vec<Value> {
    let records = mesh.records().into_iter();
    records
        .filter(|record| record["kind"] == "standing_changed")
        .collect()
}

fn timed(mesh: String, settings: &str) -> String {
    mesh.replacen("trust_domain:", &format!("{settings}\n  trust_domain:"), 1)
}

#[track_caller]
fn endorsement_key(tpm: &Swtpm) -> String {
    let program = binaries::tree().join("deploy/local/tpm.py");
    let arguments = [Path::new("endorsement-key"), &tpm.socket()];
    let said = process::run(program, arguments).expect_success();
    said.trim().to_owned()
}

fn attester(tpm: &Swtpm) -> String {
    format!("{{tpm: {{swtpm: 'unix:{}'}}}}", tpm.socket().display())
}

#[test]
fn a_machine_that_turns_bad_between_renewals_loses_its_live_connections_everywhere() {
    let tpms = [(); 3].map(|()| Swtpm::start().expect("swtpm starts; `./tests/run` installs it"));
    let [server_tpm, client_tpm, other_tpm] = &tpms;
    // Renewals are far away: what is noticed is noticed by the log's own proof.
    let settings = "reattest: {root: 10m, tpm_log: 1s}";
    let mesh = Mesh::start(&file([
        timed(mesh(), settings),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/one", &endorsement_key(server_tpm)),
        tpm_node("app/two", &endorsement_key(client_tpm)),
        tpm_node("app/three", &endorsement_key(other_tpm)),
        workload("app/server", "boot", "one", PORT),
        workload("app/client", "boot", "two", &[]),
        workload("app/other", "boot", "three", &[]),
        access("app/server", "raw", "app/client", ""),
        access("app/server", "raw", "app/other", ""),
    ]));
    let application = Backend::echo(b"", b"");
    let mut server = mesh
        .sidecar("server", "app/server", &attester(server_tpm))
        .inbound("raw", application.address())
        .start(mesh.path());
    let start = |name: &'static str, workload, tpm| {
        mesh.sidecar(name, workload, &attester(tpm))
            .outbound("app/server", "raw")
            .start(mesh.path())
    };
    let mut client = start("client", "app/client", client_tpm);
    let mut other = start("other", "app/other", other_tpm);
    for sidecar in [&mut server, &mut client, &mut other] {
        sidecar.wait_ready();
    }
    let mut bad = wait::until("a flow of the client", || Flow::open(&client));
    let mut good = wait::until("a flow of the other", || Flow::open(&other));
    let confirmed = || mesh.metric("vouchsafe_confirmed_total", &["tpm_log"]);
    wait::until("parts to be confirmed", || {
        (confirmed() > 3.0).then_some(())
    });
    assert_eq!(standings(&mesh), Vec::<Value>::new());

    // Something else is measured into the client's machine.
    client_tpm.extend(11, [7; 16]).expect("the TPM extends");
    assert!(bad.ends(), "a machine that turned bad keeps its connection");
    assert!(good.echoes(), "somebody else was cut");
    assert!(
        Flow::open(&client).is_none(),
        "a machine that turned bad is let in"
    );
    assert!(Flow::open(&other).is_some());
    wait::until("the log to say why", || {
        let log = server.process.output();
        log.contains("\"reason\":\"revoked\"").then_some(())
    });
    let changes = standings(&mesh);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let change = &changes[0];
    assert_eq!(change["standing"], "revoked");
    assert_eq!(change["reason"], "image");
    assert_eq!(change["workload"], "app/client");
    let difference = change["difference"][0].as_str().expect("a difference");
    let changed = format!("PCR 11 of bank sha256 was {UNTOUCHED}, is ");
    assert!(difference.starts_with(&changed), "{difference}");
    let explained = mesh
        .cli(&["workload", "explain", "app/client"])
        .expect_success();
    assert!(explained.contains("PCR 11 of bank sha256"), "{explained}");
}

/// A server and a client with made-up machines, and a flow between them.
struct Pair {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    flow: Flow,
    mesh: Mesh,
    _application: Backend,
}

impl Pair {
    fn start(settings: &str) -> Self {
        let mesh = Mesh::start(&file([
            timed(simulated_mesh(), settings),
            simulated_profile("app/any", "any"),
            simulated_node("app/one"),
            simulated_node("app/two"),
            workload("app/server", "any", "one", PORT),
            workload("app/client", "any", "two", &[]),
            access("app/server", "raw", "app/client", ""),
        ]));
        let application = Backend::echo(b"", b"");
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("raw", application.address())
            .start(mesh.path());
        let mut client = mesh
            .simulated("client", "app/client", "two", "any")
            .outbound("app/server", "raw")
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        let flow = wait::until("a flow to pass", || Flow::open(&client));
        Self {
            client,
            server,
            flow,
            mesh,
            _application: application,
        }
    }
}

#[test]
fn silence_of_one_cuts_it_and_fresh_evidence_lets_it_in_again() {
    let mut pair = Pair::start("reattest: {root: 1s}");
    // It stands still, as a machine that hangs does.
    pair.client.process.signal("STOP");
    wait::until("the client to lapse", || {
        let changes = standings(&pair.mesh);
        let lapsed = changes
            .iter()
            .find(|change| change["standing"] == "lapsed")?;
        assert_eq!(lapsed["workload"], "app/client");
        assert_eq!(lapsed["reason"], "root");
        Some(())
    });
    wait::until("the server to cut it", || {
        let log = pair.server.process.output();
        log.contains("\"reason\":\"lapsed\"").then_some(())
    });
    pair.client.process.signal("CONT");
    assert!(pair.flow.ends(), "a flow of a lapsed client goes on");
    wait::until("the client to be restored", || {
        let changes = standings(&pair.mesh);
        changes
            .iter()
            .any(|change| change["standing"] == "live")
            .then_some(())
    });
    wait::until("a flow to pass again", || Flow::open(&pair.client));
}

#[test]
fn silence_of_everybody_cuts_nobody() {
    let mut pair = Pair::start("reattest: {root: 1s}");
    for sidecar in [&pair.client, &pair.server] {
        sidecar.process.signal("STOP");
    }
    wait::until("the brake to hold", || {
        let records = pair.mesh.records();
        let held = |record: &Value| record["kind"] == "brake_changed" && record["state"] == "held";
        records.iter().any(held).then_some(())
    });
    let status = pair.mesh.status();
    let brakes = status["brakes"].as_array().expect("a list");
    assert!(
        brakes.iter().any(|brake| brake["scope"] == "mesh"),
        "{status}"
    );
    for sidecar in [&pair.client, &pair.server] {
        sidecar.process.signal("CONT");
    }
    assert!(pair.flow.echoes(), "a flow was cut");
    assert_eq!(standings(&pair.mesh), Vec::<Value>::new());
}

#[test]
fn a_control_plane_that_was_away_cuts_nobody_when_it_comes_back() {
    let mut pair = Pair::start("reattest: {root: 3s}");
    pair.mesh.stop();
    assert!(pair.flow.echoes(), "what was allowed must go on");
    // Longer than silence may last while the control plane is ready, which is more than sidecars then wait between tries.
    let away = std::time::Instant::now();
    wait::until("time to pass", || {
        assert!(pair.flow.echoes(), "what was allowed must go on");
        (away.elapsed() > Duration::from_secs(12)).then_some(())
    });
    pair.mesh.restart();
    let issued = || pair.mesh.metric("vouchsafe_issued_total", &[]);
    wait::until("both to renew again", || (issued() >= 4.0).then_some(()));
    assert!(pair.flow.echoes(), "a flow was cut");
    assert_eq!(standings(&pair.mesh), Vec::<Value>::new());
}

#[test]
fn a_forced_renewal_replaces_every_certificate_and_cuts_nothing() {
    let mut pair = Pair::start("reattest: {root: 10m}");
    let issued = || pair.mesh.metric("vouchsafe_issued_total", &[]);
    assert_eq!(issued(), 2.0);
    let command = ["renew", "--all", "--over", "2s", "--reason", "key ceremony"];
    let said = pair.mesh.cli(&command).expect_success();
    assert!(
        said.starts_with("2 instance(s) of the mesh renew by "),
        "{said}"
    );
    wait::until("both to renew", || (issued() >= 4.0).then_some(()));
    assert!(pair.flow.echoes(), "a flow was cut");
    let records = pair.mesh.records();
    let forced = records
        .iter()
        .find(|record| record["kind"] == "renewal_forced");
    assert_eq!(forced.expect("a record")["reason"], "key ceremony");
    // Each renewed once: nobody is meant twice.
    let renewals = records.iter().filter(|record| record["purpose"] == "renew");
    assert_eq!(renewals.count(), 2);
}

/// Measures a file as the kernel does: into PCR 10, and into the list.
fn measure(tpm: &Swtpm, list: &Path, path: &str, content: &[u8]) {
    let sized = |bytes: &[u8]| {
        let size = u32::try_from(bytes.len()).expect("a short text");
        [&size.to_le_bytes(), bytes].concat()
    };
    let named = [b"sha256:\0", sha256(content).as_slice()].concat();
    let template = [sized(&named), sized(&[path.as_bytes(), b"\0"].concat())].concat();
    let head = [
        &[10, 0, 0, 0],
        [7; 20].as_slice(),
        &sized(b"ima-ng"),
        &sized(&template),
    ];
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(list);
    let mut file = file.expect("the list can be written");
    file.write_all(&head.concat())
        .expect("the list can be written");
    let digest = sha256(&template);
    let other = digest.repeat(2);
    tpm.measure(10, &digest, &other[..48])
        .expect("the TPM extends");
}

/// One machine with a TPM; `settings` of its profile and of its attester are added.
fn machine(tpm: &Swtpm, profile: &str, attester: &str) -> (Mesh, Sidecar) {
    let profile = tpm_profile("app/boot", "good", 11, UNTOUCHED) + profile;
    let mesh = Mesh::start(&file([
        timed(mesh(), "reattest: {root: 10m, tpm_log: 1s}"),
        profile,
        tpm_node("app/one", &endorsement_key(tpm)),
        workload("app/server", "boot", "one", &[]),
    ]));
    let socket = tpm.socket();
    let attester = format!("{{tpm: {{swtpm: 'unix:{}'{attester}}}}}", socket.display());
    let mut sidecar = mesh
        .sidecar("server", "app/server", &attester)
        .start(mesh.path());
    sidecar.wait_ready();
    (mesh, sidecar)
}

#[test]
fn a_file_that_no_rule_allows_is_noticed_between_renewals_and_named() {
    let tpm = Swtpm::start().expect("swtpm starts; `./tests/run` installs it");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("list");
    measure(&tpm, &list, "boot_aggregate", b"PCRs 0 to 9");
    measure(&tpm, &list, "/bin/sh", b"shell");
    let rules = "        ima: {files: [{path: '/bin/**', danger_any_content: true}]}\n";
    let (mesh, _sidecar) = machine(&tpm, rules, &format!(", ima_log: '{}'", list.display()));
    let confirmed = || mesh.metric("vouchsafe_confirmed_total", &["tpm_log"]);
    wait::until("parts to be confirmed", || {
        (confirmed() > 0.0).then_some(())
    });
    measure(&tpm, &list, "/bin/other", b"a tool");
    let before = confirmed();
    wait::until("a new file to be judged", || {
        (confirmed() > before + 1.0).then_some(())
    });
    assert_eq!(standings(&mesh), Vec::<Value>::new());

    measure(&tpm, &list, "/tmp/evil", b"a rootkit");
    let change = wait::until("the machine to be revoked", || standings(&mesh).pop());
    assert_eq!(change["standing"], "revoked");
    assert_eq!(change["reason"], "ima_file");
    let lines = change["difference"].as_array().expect("a difference");
    let names_it = |line: &&Value| {
        let line = line.as_str().unwrap_or_default();
        line.contains("`/tmp/evil`") && line.contains("is new")
    };
    assert_eq!(lines.iter().filter(names_it).count(), 1, "{change}");
    let others = lines
        .iter()
        .any(|line| line.as_str().unwrap_or_default().contains("/bin/"));
    assert!(
        !others,
        "files that were judged before are shown as new: {change}"
    );
}

#[test]
fn a_machine_that_was_started_anew_is_another_instance() {
    let mut tpm = Swtpm::start().expect("swtpm starts; `./tests/run` installs it");
    let (mesh, _sidecar) = machine(&tpm, "", "");
    // Its PCRs are as good as before; only the TPM's count of resets tells.
    tpm.reboot().expect("the TPM starts again");
    let change = wait::until("the old instance to be revoked", || standings(&mesh).pop());
    assert_eq!(change["standing"], "revoked");
    assert_eq!(change["reason"], "tpm_reset");
    wait::until("a new instance to enrol", || {
        let records = mesh.records();
        let enrolled = records
            .iter()
            .filter(|record| record["purpose"] == "enroll");
        (enrolled.count() == 2).then_some(())
    });
}
