//! Promise 5, for revocations: whom one means is cut off on live connections at once, and kept out, while everybody else
//! goes on; when it ends, so does its effect.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::Time;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

/// A server with two clients on machines of their own.
fn documents(revocation: Option<(&str, &str)>) -> String {
    let mut documents = vec![
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        simulated_node("app/three"),
        workload(
            "app/server",
            "any",
            "one",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "any", "two", &[]),
        workload("app/other", "any", "three", &[]),
        access("app/server", "raw", "app/client", ""),
        access("app/server", "raw", "app/other", ""),
    ];
    if let Some((found, action)) = revocation {
        documents.push(format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: incident-7, namespace: app}}\nspec:\n  match: {found}\n  action: {action}\n  reason: incident 7\n"
        ));
    }
    documents.join("---\n")
}

struct Factory {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    other: Sidecar,
    server: Sidecar,
    mesh: Mesh,
    _application: Backend,
}

impl Factory {
    fn start(lane: &'static str) -> Self {
        let mesh = Mesh::start(&documents(None));
        let application = Backend::echo(b"", b"");
        let server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("raw", application.address())
            .lane(lane)
            .start(mesh.path());
        let client = |name: &'static str, workload, machine| {
            mesh.simulated(name, workload, machine, "any")
                .outbound("app/server", "raw")
                .lane(lane)
                .start(mesh.path())
        };
        let client_sidecar = client("client", "app/client", "two");
        let other = client("other", "app/other", "three");
        let mut factory = Self {
            client: client_sidecar,
            other,
            server,
            mesh,
            _application: application,
        };
        factory.server.wait_ready();
        factory.client.wait_ready();
        factory.other.wait_ready();
        for sidecar in [&factory.client, &factory.other] {
            wait::until("a flow to pass", || Flow::open(sidecar).map(drop));
        }
        factory
    }

    fn revoke(&self, found: &str, action: &str) {
        self.mesh.write_policy(&documents(Some((found, action))));
    }
}

#[track_caller]
fn check_cut(lane: &'static str, found: &str) {
    let factory = Factory::start(lane);
    let mut revoked = Flow::open(&factory.client).expect("the client is let in");
    let mut kept = Flow::open(&factory.other).expect("the other client is let in");
    factory.revoke(found, "cut");
    assert!(revoked.ends(), "a live flow of a revoked client goes on");
    assert!(kept.echoes(), "somebody else was cut");
    assert!(
        Flow::open(&factory.client).is_none(),
        "a revoked client is let in"
    );
    assert!(Flow::open(&factory.other).is_some());
    wait::until("the log to say why", || {
        let log = factory.server.process.output();
        log.contains("\"reason\":\"revoked\"").then_some(())
    });
    factory.mesh.write_policy(&documents(None));
    wait::until("the client to be let in again", || {
        Flow::open(&factory.client).map(drop)
    });
    assert!(kept.echoes(), "somebody else was cut");
}

#[test]
fn a_revoked_workload_is_cut_off_on_the_dedicated_lane() {
    check_cut("dedicated", "{workload: [client]}");
}

#[test]
fn a_revoked_workload_is_cut_off_on_the_shared_lane() {
    check_cut("shared", "{workload: [client]}");
}

#[test]
fn a_revoked_name_is_cut_off_by_its_pattern() {
    check_cut(
        "dedicated",
        "{spiffe_id: [\"spiffe://simulated.example/ns/app/workload/client\"]}",
    );
}

#[test]
fn a_revocation_that_denies_what_is_new_leaves_what_is_live() {
    let factory = Factory::start("dedicated");
    let mut live = Flow::open(&factory.client).expect("the client is let in");
    factory.revoke("{workload: [client]}", "deny_new");
    wait::until("new flows to be denied", || {
        Flow::open(&factory.client).is_none().then_some(())
    });
    assert!(live.echoes(), "a live flow was cut");
}

#[test]
fn a_revoked_workload_gets_no_certificate() {
    let mesh = Mesh::start(&documents(Some(("{workload: [client]}", "cut"))));
    let sidecar = mesh
        .simulated("client", "app/client", "two", "any")
        .outbound("app/server", "raw")
        .start(mesh.path());
    sidecar
        .process
        .wait_for_output("listening: everything is denied");
    wait::until("the refusal to be recorded", || {
        let records = mesh.records();
        let is_refusal = |record: &serde_json::Value| record.to_string().contains("\"revoked\"");
        records.iter().any(is_refusal).then_some(())
    });
    assert!(!sidecar.is_ready());
    mesh.write_policy(&documents(None));
    wait::until("the client to get its identity", || {
        sidecar.is_ready().then_some(())
    });
}

/// What the command says, as JSON.
#[track_caller]
fn command(mesh: &Mesh, arguments: &[&str]) -> serde_json::Value {
    let mut all = arguments.to_vec();
    all.extend(["-o", "json"]);
    let said = mesh.cli(&all).expect_success();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[track_caller]
fn kinds_of(mesh: &Mesh, wanted: &str) -> Vec<serde_json::Value> {
    let records = mesh.records().into_iter();
    records.filter(|record| record["kind"] == wanted).collect()
}

#[test]
fn a_command_cuts_live_flows_and_only_an_act_on_the_record_lets_them_in_again() {
    let factory = Factory::start("dedicated");
    let mut revoked = Flow::open(&factory.client).expect("the client is let in");
    let mut kept = Flow::open(&factory.other).expect("the other client is let in");

    let slip = [
        "revoke",
        "app/slip",
        "--workload",
        "app/cliet",
        "--reason",
        "x",
    ];
    let slip = factory.mesh.cli(&slip);
    assert_eq!(slip.code, 2, "{slip:?}");
    assert!(
        slip.stderr.contains("did you mean `app/client`?"),
        "{slip:?}"
    );
    assert_eq!(kinds_of(&factory.mesh, "revoked").len(), 0);
    // A serial number that nobody bears: that is said, and whose one that a renewal replaced was.
    let nobody = command(&factory.mesh, &["revoke", "explain", "--serial", "4bcd"]);
    let said = nobody["warnings"].to_string();
    assert!(
        said.contains("means nobody who is known now") && said.contains("is in the record"),
        "{nobody}"
    );
    let status = factory.mesh.status();
    let sidecars = status["sidecars"].as_array().expect("a list").iter();
    let serials = sidecars.map(|one| one["serial"].as_str().unwrap_or_default());
    for serial in serials.filter(|serial| !serial.is_empty()) {
        let one = command(&factory.mesh, &["revoke", "explain", "--serial", serial]);
        let meant = one["sidecars"].as_array().expect("a list").iter();
        let meant = meant.filter(|one| one["revoked"] == true);
        assert_eq!(
            (meant.count(), one["warnings"].to_string()),
            (1, "[]".to_owned())
        );
    }

    let predicates = ["--node", "app/two", "--reason", "stolen"];
    let asked = [&["revoke", "explain", "app/incident-8"][..], &predicates].concat();
    let would = command(&factory.mesh, &asked);
    assert_eq!(would["made"], false);
    // The end that the revoked one calls says that the flow would fall with its connection, and of the other flow neither
    // end does.
    assert_eq!(would["would_drop"], 2, "{would}");
    assert_eq!(would["losses"][0]["workload"], "app/client", "{would}");
    assert!(revoked.echoes(), "asking has cut a flow");

    let refused = [
        &["revoke", "app/incident-8", "--max-drop", "0"][..],
        &predicates,
    ]
    .concat();
    let refused = factory.mesh.cli(&refused);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains("REFUSED"), "{refused:?}");
    assert!(revoked.echoes(), "a refused revocation has cut a flow");

    let made = [&["revoke", "app/incident-8"][..], &predicates].concat();
    let made = command(&factory.mesh, &made);
    assert_eq!(made["made"], true, "{made}");
    let applied = made["sidecars"].as_array().expect("a list");
    assert_eq!(applied.len(), 3, "{made}");
    assert!(
        applied.iter().all(|one| one["applied_us"].is_u64()),
        "{made}"
    );
    // The command has returned: nothing more is served, not even what is live and has not seen its end yet.
    assert!(!revoked.echoes(), "a live flow of a revoked client goes on");
    assert!(
        Flow::open(&factory.client).is_none(),
        "a revoked client is let in"
    );
    assert!(kept.echoes(), "somebody else was cut");
    let listed = command(&factory.mesh, &["revoke", "list"]);
    assert_eq!(listed[0]["name"], "app/incident-8");

    // Beside another one, it alone is asked about.
    let other = [
        "revoke",
        "app/other-way",
        "--workload",
        "app/other",
        "--action",
        "deny_new",
        "--reason",
        "tidy",
    ];
    assert_eq!(command(&factory.mesh, &other)["made"], true);
    let explained = command(&factory.mesh, &["revoke", "explain", "app/incident-8"]);
    assert_eq!(explained["revocation"]["reason"], "stolen", "{explained}");
    let sidecars = explained["sidecars"].as_array().expect("a list");
    let meant: Vec<_> = sidecars
        .iter()
        .filter(|one| one["revoked"] == true)
        .collect();
    assert_eq!(meant.len(), 1, "{explained}");
    assert_eq!(meant[0]["workload"], "app/client");
    let nobody = factory.mesh.cli(&["revoke", "explain", "app/nothing"]);
    assert_eq!(nobody.code, 2, "{nobody:?}");
    let why = ["revoke", "end", "app/other-way", "--reason", "tidied"];
    assert_eq!(command(&factory.mesh, &why)["made"], true);

    let why = ["revoke", "end", "app/incident-8", "--reason", "only moved"];
    let ended = command(&factory.mesh, &why);
    assert_eq!(ended["made"], true, "{ended}");
    wait::until("the client to be let in again", || {
        Flow::open(&factory.client).map(drop)
    });
    let told = kinds_of(&factory.mesh, "revocation_ended");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        (&told[1]["name"], &told[1]["why"]),
        (&"app/incident-8".into(), &"only moved".into())
    );
    assert_eq!(kinds_of(&factory.mesh, "revoked").len(), 2);
}

#[test]
fn nothing_is_served_to_the_revoked_after_the_command_has_returned() {
    let factory = Factory::start("shared");
    for round in 0..10 {
        let mut flows: Vec<Flow> = (0..5)
            .map(|_| wait::until("the client to be let in", || Flow::open(&factory.client)))
            .collect();
        let name = format!("app/round-{round}");
        let revoke = ["revoke", &name, "--workload", "app/client"];
        let why = ["--reason", "again", "--max-drop", "100%"];
        let made = command(&factory.mesh, &[&revoke[..], &why].concat());
        let applied = made["sidecars"].as_array().expect("a list");
        assert!(
            applied.iter().all(|one| one["applied_us"].is_u64()),
            "{made}"
        );
        for flow in &mut flows {
            assert!(!flow.echoes(), "round {round}: served after the command");
        }
        assert!(Flow::open(&factory.client).is_none(), "round {round}");
        let end = ["revoke", "end", &name, "--reason", "again"];
        assert_eq!(command(&factory.mesh, &end)["made"], true);
    }
}

#[test]
fn a_revocation_that_ends_within_a_day_is_warned_of() {
    let factory = Factory::start("dedicated");
    let ending = || factory.mesh.metric("vouchsafe_revocations_ending", &[]);
    let status = || factory.mesh.cli(&["status"]).expect_success();
    let revoke = |name: &str, seconds: u64| {
        let expires = SystemTime::now() + Duration::from_secs(seconds);
        let expires = Time::new(expires).expect("it is of this age").to_string();
        let revoke = [
            "revoke",
            name,
            "--workload",
            "app/client",
            "--reason",
            "lent",
        ];
        let until = ["--expires", &expires, "--max-drop", "100%"];
        assert_eq!(
            command(&factory.mesh, &[&revoke[..], &until].concat())["made"],
            true
        );
    };
    revoke("app/far", 3 * 86_400);
    assert!(!status().contains("WARNING"), "{}", status());
    assert_eq!(ending(), 0.0);
    revoke("app/near", 3_600);
    wait::until("the metric to count it", || (ending() == 1.0).then_some(()));
    let said = status();
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("WARNING"))
        .collect();
    assert_eq!(warnings.len(), 1, "{said}");
    assert!(
        warnings[0].contains("revocation app/near ends at ")
            && warnings[0].ends_with("whoever it means is trusted again then"),
        "{said}"
    );
    let end = ["revoke", "end", "app/near", "--reason", "given back"];
    assert_eq!(command(&factory.mesh, &end)["made"], true);
    wait::until("the metric to fall", || (ending() == 0.0).then_some(()));
    assert!(!status().contains("WARNING"), "{}", status());
}
