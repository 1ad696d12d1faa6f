//! Promise 5, for a sidecar that the control plane does not reach: it goes on until `stale_after`, then ends what is live
//! and denies what is new, by a reason of its own; word from the control plane restores it.

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::{client, wait};

fn documents() -> String {
    let mesh = simulated_mesh().replacen("trust_domain:", "stale_after: 10s\n  trust_domain:", 1);
    file([
        mesh,
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        workload(
            "app/server",
            "any",
            "one",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "any", "two", &[]),
        access("app/server", "raw", "app/client", ""),
    ])
}

#[track_caller]
fn check(lane: &'static str) {
    let mut mesh = Mesh::start(&documents());
    let application = Backend::echo(b"", b"");
    let mut server = mesh
        .simulated("server", "app/server", "one", "any")
        .inbound("raw", application.address())
        .lane(lane)
        .start(mesh.path());
    let mut caller = mesh
        .simulated("client", "app/client", "two", "any")
        .outbound("app/server", "raw")
        .lane(lane)
        .start(mesh.path());
    server.wait_ready();
    caller.wait_ready();
    let mut live = wait::until("a flow to pass", || Flow::open(&caller));

    // Killed, so that nobody is told that it leaves.
    mesh.process.signal("KILL");
    mesh.process.wait();
    assert!(live.echoes(), "an outage ends what is live at once");
    assert!(Flow::open(&caller).is_some(), "an outage denies at once");

    assert!(live.ends(), "what is live outlives `stale_after`");
    for sidecar in [&server, &caller] {
        wait::until("both sidecars to be stale", || {
            let ready = client::get(sidecar.metrics, "/readyz").ok()?;
            (ready.status == 503 && ready.body.contains("nothing heard")).then_some(())
        });
    }
    assert!(
        Flow::open(&caller).is_none(),
        "a stale sidecar lets something in"
    );
    wait::until("a log to say why", || {
        let logs = [&server, &caller].map(|sidecar| sidecar.process.output());
        let says = |what: &str| logs.iter().any(|log| log.contains(what));
        let stale = "\"reason\":\"stale\"";
        // One line of what was live, one of what was new.
        let (cut, denied) = ("\"decision\":\"allow\"", "\"decision\":\"deny\"");
        let lines = |decision: &str| {
            let all = logs.iter().flat_map(|log| log.lines());
            let mut found = all.filter(|line| line.contains(decision) && line.contains(stale));
            found.next().is_some()
        };
        (says(stale) && lines(cut) && lines(denied)).then_some(())
    });

    mesh.restart();
    wait::until("word from the control plane to restore it", || {
        Flow::open(&caller).map(drop)
    });
    for sidecar in [&server, &caller] {
        assert!(sidecar.is_ready());
    }
}

#[test]
fn a_sidecar_that_hears_nothing_fails_closed_after_its_bound_on_the_dedicated_lane() {
    check("dedicated");
}

#[test]
fn a_sidecar_that_hears_nothing_fails_closed_after_its_bound_on_the_shared_lane() {
    check("shared");
}
