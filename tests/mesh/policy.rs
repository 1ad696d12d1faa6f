//! Promises 1 and 6, and the hot reload: default deny between attested peers, a change acts on new requests at once and
//! without a restart, and a folder that breaks never replaces what was good.

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::{client, wait};

const ALLOW_A: &str = "allow: [{methods: [GET], paths: [/a]}]";
const ALLOW_B: &str = "allow: [{methods: [GET], paths: [/b]}]";

/// Two attested workloads and a rule between them, if any.
fn documents(rule: Option<&str>) -> String {
    let rule = match rule {
        Some(allow) => access("app/server", "web", "app/client", allow),
        // Another rule opens the door to somebody else: the door exists, and this caller is not in it.
        None => access("app/server", "web", "app/other", ALLOW_A),
    };
    file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        workload(
            "app/server",
            "any",
            "one",
            &["{name: web, port: 8000, protocol: http}"],
        ),
        workload("app/client", "any", "two", &[]),
        workload("app/other", "any", "two", &[]),
        rule,
    ])
}

struct Attested {
    // Dropped in this order: sidecars, control plane, application.
    client: Sidecar,
    server: Sidecar,
    mesh: Mesh,
    application: Backend,
}

impl Attested {
    #[track_caller]
    fn start(rule: Option<&str>) -> Self {
        let mesh = Mesh::start(&documents(rule));
        let application = Backend::http("hello");
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("web", application.address())
            .start(mesh.path());
        let mut client = mesh
            .simulated("client", "app/client", "two", "any")
            .outbound("app/server", "web")
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        Self {
            client,
            server,
            mesh,
            application,
        }
    }

    fn get(&self, path: &str) -> client::Response {
        client::get(self.client.outbound(0), path).unwrap_or_default()
    }

    /// Waits until a path is answered with this status: the endpoints and a changed policy arrive when they arrive.
    #[track_caller]
    fn wait_for(&self, path: &str, status: u16) -> client::Response {
        wait::until(&format!("GET {path} to be answered with {status}"), || {
            Some(self.get(path)).filter(|response| response.status == status)
        })
    }
}

#[test]
fn an_attested_caller_without_a_rule_is_denied() {
    let mesh = Attested::start(None);
    let response = mesh.wait_for("/a", 403);
    // It is not even told of the door; `peers` shows that the door would not open either.
    assert_eq!(
        response.header("vouchsafe-reason"),
        Some("unknown_door"),
        "{response:?}"
    );
    assert_eq!(mesh.application.bytes(), b"");
}

#[test]
fn a_changed_policy_acts_on_new_requests_without_a_restart() {
    let mesh = Attested::start(Some(ALLOW_A));
    assert_eq!(mesh.wait_for("/a", 200).body, "hello");
    let denied = mesh.get("/b");
    assert_eq!(
        (denied.status, denied.header("vouchsafe-reason")),
        (403, Some("request"))
    );
    let process = (mesh.client.process.id(), mesh.server.process.id());

    mesh.mesh.write_policy(&documents(Some(ALLOW_B)));
    mesh.wait_for("/b", 200);
    mesh.wait_for("/a", 403);
    mesh.mesh.write_policy(&documents(None));
    mesh.wait_for("/b", 403);
    mesh.mesh.write_policy(&documents(Some(ALLOW_A)));
    mesh.wait_for("/a", 200);
    assert_eq!(
        process,
        (mesh.client.process.id(), mesh.server.process.id())
    );
    // Every path that was denied really stayed outside.
    let lines: Vec<_> = mesh
        .application
        .requests()
        .into_iter()
        .map(|request| request.line)
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("GET /a ") || line.starts_with("GET /b ")),
        "{lines:?}"
    );
}

#[test]
fn a_broken_policy_folder_keeps_the_last_good_policy_and_says_so() {
    let mesh = Attested::start(Some(ALLOW_A));
    mesh.wait_for("/a", 200);
    assert_eq!(mesh.mesh.status()["policy_error"], "");
    assert_eq!(
        mesh.mesh.metric("vouchsafe_policy_broken", &[]).to_string(),
        "0"
    );

    let broken = documents(Some(ALLOW_B)).replace("kind: Workload", "kind: Wrokload");
    mesh.mesh.write_policy(&broken);
    wait::until("the metric to say that the policy is broken", || {
        (mesh.mesh.metric("vouchsafe_policy_broken", &[]) == 1.0).then_some(())
    });
    let error = mesh.mesh.status()["policy_error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        error.contains("Wrokload") && error.contains("all.yaml"),
        "{error}"
    );
    assert!(
        mesh.mesh.process.output().contains("Wrokload"),
        "the log is silent"
    );
    // The old policy is in force, whole: what it allowed and what it denied.
    assert_eq!(mesh.get("/a").status, 200);
    assert_eq!(mesh.get("/b").status, 403);

    mesh.mesh.write_policy(&documents(Some(ALLOW_B)));
    mesh.wait_for("/b", 200);
    assert_eq!(mesh.mesh.status()["policy_error"], "");
}

#[test]
fn a_broken_policy_folder_at_the_first_start_is_not_served() {
    let broken = documents(None).replace("kind: Workload", "kind: Wrokload");
    let said = Mesh::refuse(&broken);
    assert!(
        said.contains("Wrokload") && said.contains("all.yaml"),
        "{said}"
    );
}
