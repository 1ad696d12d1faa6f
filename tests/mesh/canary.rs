//! A canary with real processes: its share tries the change, everybody else goes on by the policy in force; promotion
//! moves all, rollback moves the share back, and no sidecar ever sees a lower revision.

use serde_json::Value;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

const NODES: [&str; 5] = ["one", "two", "three", "four", "five"];

/// A server and a workload of four clients; without its rule the clients are denied.
fn documents(has_rule: bool) -> String {
    let nodes = NODES.map(|name| simulated_node(&format!("app/{name}")));
    let rule = match has_rule {
        true => access("app/server", "raw", "app/client", ""),
        false => access("app/server", "raw", "app/other", ""),
    };
    file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        nodes.join("---\n"),
        workload(
            "app/server",
            "any",
            "one",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "any", "two, three, four, five", &[]),
        workload("app/other", "any", "one", &[]),
        rule,
    ])
}

struct Factory {
    // Dropped in this order: processes before their folder.
    clients: Vec<Sidecar>,
    server: Sidecar,
    mesh: Mesh,
    application: Backend,
}

impl Factory {
    /// With a share of whom the server is none, so that who is denied is who tries the canary.
    fn start() -> Self {
        let mesh = Mesh::start(&documents(true));
        let application = Backend::echo(b"", b"");
        let server = start_server(&mesh, &application, 0);
        let clients = NODES.iter().skip(1).map(|machine| {
            mesh.simulated(&format!("client-{machine}"), "app/client", machine, "any")
                .outbound("app/server", "raw")
                .start(mesh.path())
        });
        let mut factory = Self {
            clients: clients.collect(),
            server,
            mesh,
            application,
        };
        factory.wait_ready();
        // Instances draw their names, and who tries a canary goes by that.
        for attempt in 1.. {
            let would = factory.command(&[
                "apply",
                &factory.change(false),
                "--canary",
                "20%",
                "--dry-run",
            ]);
            assert_eq!(would["canary"]["of"], 5, "{would}");
            let chosen = would["sidecars"].as_array().expect("a list");
            assert_eq!(chosen.len(), 1, "{would}");
            if chosen[0]["workload"] == "app/client" {
                break;
            }
            factory.server = start_server(&factory.mesh, &factory.application, attempt);
            factory.wait_ready();
        }
        factory
    }

    fn wait_ready(&mut self) {
        for sidecar in self.clients.iter_mut().chain([&mut self.server]) {
            sidecar.wait_ready();
        }
        wait::until("all sidecars to be connected and none else", || {
            let status = self.mesh.status();
            let sidecars = status["sidecars"].as_array()?;
            let connected = sidecars.iter().filter(|one| one["connected"] == true);
            (connected.count() == 5).then_some(())
        });
        for client in &self.clients {
            wait::until("a flow to pass", || Flow::open(client));
        }
    }

    /// A folder with the policy as it would be.
    fn change(&self, has_rule: bool) -> String {
        let folder = self.mesh.path().join("change");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let path = folder.join("all.yaml");
        std::fs::write(&path, documents(has_rule)).expect("the folder can be written");
        path.display().to_string()
    }

    /// What a command says, as JSON; it may have refused.
    #[track_caller]
    fn command(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--reason", "to see", "-o", "json"]);
        let said = self.mesh.cli(&all);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    fn canary(&self) -> Value {
        self.command(&["apply", &self.change(false), "--canary", "20%"])
    }

    /// Numbers of the clients that are let in.
    fn admitted(&self) -> Vec<usize> {
        let all = self.clients.iter().enumerate();
        let admitted = all.filter(|(_, client)| Flow::open(client).is_some());
        admitted.map(|(number, _)| number).collect()
    }

    /// No sidecar was ever sent a revision below another, or one revision with two contents.
    fn check_order(&self) {
        for sidecar in self.clients.iter().chain([&self.server]) {
            let applied = sidecar.process.output();
            let applied = applied
                .lines()
                .filter(|line| line.contains("mesh state applied"));
            let sequences: Vec<u64> = applied
                .filter_map(|line| {
                    let (_, rest) = line
                        .split_once("revision=1.")
                        .or_else(|| line.split_once("\"revision\":\"1."))?;
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse().ok()
                })
                .collect();
            assert!(!sequences.is_empty(), "{}", sidecar.process.output());
            assert!(sequences.is_sorted(), "{sequences:?}");
            for outcome in ["lower_revision", "forked_revision", "proof", "base"] {
                let count = sidecar.metric("vouchsafe_mesh_state_messages_total", &[outcome]);
                assert_eq!(count, 0.0, "{outcome}");
            }
        }
    }
}

fn start_server(mesh: &Mesh, application: &Backend, attempt: u32) -> Sidecar {
    mesh.simulated(&format!("server-{attempt}"), "app/server", "one", "any")
        .inbound("raw", application.address())
        .start(mesh.path())
}

#[test]
fn a_canary_is_tried_by_its_share_survives_a_restart_and_is_made_everybody_s() {
    let mut factory = Factory::start();
    let mut flows: Vec<Flow> = factory.clients.iter().filter_map(Flow::open).collect();
    let refused = factory.command(&[
        "apply",
        &factory.change(false),
        "--canary",
        "20%",
        "--max-drop",
        "0",
    ]);
    assert_eq!(refused["made"], false, "{refused}");
    assert!(flows.iter_mut().all(Flow::echoes), "asking has cut a flow");

    let made = factory.canary();
    assert_eq!(made["made"], true, "{made}");
    assert!(made["sidecars"][0]["applied_us"].is_u64(), "{made}");
    assert!(made["would_drop"].as_u64() >= Some(1), "{made}");
    let admitted = factory.admitted();
    assert_eq!(admitted.len(), 3, "{admitted:?}");
    for (number, flow) in flows.iter_mut().enumerate() {
        match admitted.contains(&number) {
            true => assert!(flow.echoes(), "somebody outside the canary was cut"),
            false => assert!(flow.ends(), "a live flow of the canary goes on"),
        }
    }
    let status = factory.mesh.status();
    assert_eq!(status["canary"]["applied"], 1, "{status}");
    let sidecars = status["sidecars"].as_array().expect("a list");
    let canary = sidecars
        .iter()
        .filter(|one| one["canary"] == true && one["connected"] == true);
    let canary: Vec<&Value> = canary.collect();
    assert_eq!(canary.len(), 1, "{status}");
    assert_eq!(canary[0]["workload"], "app/client");
    let shown = factory.mesh.cli(&["status"]).stdout;
    assert!(
        shown.contains("canary of 20%: 1 of the 5 connected sidecars"),
        "{shown}"
    );

    // A revocation is everybody's.
    let revoked = factory.command(&["revoke", "app/lost", "--serial", "00ff"]);
    let applied = revoked["sidecars"].as_array().expect("a list");
    assert_eq!(applied.len(), 5, "{revoked}");
    assert!(
        applied.iter().all(|one| one["applied_us"].is_u64()),
        "{revoked}"
    );

    factory.mesh.process.signal("KILL");
    factory.mesh.process.wait();
    factory.mesh.restart();
    wait::until("the canary's sidecar to be back", || {
        let status = factory.mesh.status();
        let is_back = status["canary"]["applied"] == 1;
        let sidecars = status["sidecars"].as_array()?;
        let connected = sidecars
            .iter()
            .filter(|one| one["connected"] == true && one["behind"] == 0);
        (is_back && connected.count() == 5).then_some(())
    });
    assert_eq!(factory.admitted(), admitted);

    let promoted = factory.command(&["promote", "--max-drop", "100%"]);
    assert_eq!(promoted["made"], true, "{promoted}");
    for (number, flow) in flows.iter_mut().enumerate() {
        if admitted.contains(&number) {
            assert!(flow.ends(), "a live flow that nothing allows goes on");
        }
    }
    assert_eq!(factory.admitted(), Vec::<usize>::new());
    assert!(factory.mesh.status()["canary"].is_null());
    let acts = factory.mesh.records().into_iter();
    let acts: Vec<_> = acts.filter(|one| one["kind"] == "operator_act").collect();
    let words: Vec<_> = acts.iter().filter_map(|one| one["act"].as_str()).collect();
    assert_eq!(words, ["canary 20%", "revoke", "promote"]);
    assert!(
        acts[0]["actor"]
            .as_str()
            .is_some_and(|who| who.starts_with("uid "))
    );
    factory.check_order();
}

#[test]
fn a_rollback_ends_a_canary_and_its_share_is_back_on_the_policy_in_force() {
    let factory = Factory::start();
    assert_eq!(factory.canary()["made"], true);
    assert_eq!(factory.admitted().len(), 3);
    let ended = factory.command(&["rollback"]);
    assert_eq!(ended["made"], true, "{ended}");
    assert_eq!(factory.admitted().len(), 4);
    assert!(factory.mesh.status()["canary"].is_null());
    factory.check_order();
}
