//! A port in `audit` with real processes: what it admits reaches the control plane by itself, and `vouchsafe suggest`
//! makes of it the rule that lets the port be enforced.

use serde_json::Value;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::{client, wait};

fn documents(enforcement: &str, more: &str) -> String {
    let door = format!("{{name: web, port: 8000, protocol: http, enforcement: {enforcement}}}");
    let documents = file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        workload("app/server", "any", "one", &[&door]),
        workload("app/client", "any", "two", &[]),
        access(
            "app/server",
            "web",
            "app/client",
            "allow: [{methods: [GET], paths: [/a]}]",
        ),
    ]);
    format!("{documents}{more}")
}

/// What `suggest` says without any log.
fn suggest(mesh: &Mesh) -> Value {
    let said = mesh.cli(&["suggest", "-o", "json"]);
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[test]
fn what_audit_admits_becomes_the_rule_that_lets_the_port_be_enforced_without_any_log() {
    let mesh = Mesh::start(&documents("audit", ""));
    let application = Backend::http("hello");
    let mut server = mesh
        .simulated("server", "app/server", "one", "any")
        .inbound("web", application.address())
        .start(mesh.path());
    let mut caller = mesh
        .simulated("client", "app/client", "two", "any")
        .outbound("app/server", "web")
        .start(mesh.path());
    server.wait_ready();
    caller.wait_ready();
    let get = |path: &str| {
        let response = client::get(caller.outbound(0), path);
        response.map_or(0, |response| response.status)
    };
    wait::until("a request to pass", || (get("/a") == 200).then_some(()));
    assert_eq!(suggest(&mesh)["suggestions"], serde_json::json!([]));
    for path in ["/files/17", "/files/18?secret=1", "/files/19", "/b"] {
        assert_eq!(get(path), 200, "audit keeps {path} out");
    }
    let said = wait::until("the control plane to be told of all", || {
        let said = suggest(&mesh);
        (said["audited"] == 4).then_some(said)
    });
    let suggestions = said["suggestions"].as_array().expect("a list");
    assert_eq!(suggestions.len(), 1, "{said}");
    assert_eq!(suggestions[0]["door"], "app/server:web");
    assert_eq!(said["still_denied"], serde_json::json!([]), "{said}");
    let document = suggestions[0]["document"].as_str().expect("a document");
    assert!(document.contains("\"/b\", \"/files/*\""), "{document}");
    assert!(!document.contains("secret"), "{document}");

    // With the proposal the port is enforced, and nothing of it is missed.
    mesh.write_policy(&documents("enforce", &format!("---\n{document}")));
    wait::until("the port to be enforced", || {
        (get("/c") == 403).then_some(())
    });
    for path in ["/a", "/b", "/files/20"] {
        assert_eq!(get(path), 200, "{path} is kept out");
    }
}
