//! Promise 9, for a revocation that drains: whoever it means may finish what is open, and begins nothing new. What a peer
//! without our sidecar sees of it on the wire is in `interop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vouchsafe_tests::backend::{self, Backend};
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::{client, wait};

fn documents() -> String {
    let port = "{name: web, port: 7000, protocol: http}";
    file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        simulated_node("app/three"),
        workload("app/server", "any", "one", &[port]),
        workload("app/client", "any", "two", &[]),
        workload("app/other", "any", "three", &[]),
        access("app/server", "web", "app/client", "allow: any"),
        access("app/server", "web", "app/other", "allow: any"),
    ])
}

/// Answers `/held` when it is told to, and anything else at once.
fn held() -> (Backend, Arc<AtomicBool>) {
    let may_finish = Arc::<AtomicBool>::default();
    let told = Arc::clone(&may_finish);
    let backend = Backend::answering(move |request| {
        if request.line.contains("/held") {
            wait::until("the test to let the answer end", || {
                told.load(Ordering::Relaxed).then_some(())
            });
        }
        backend::response(200, "done")
    });
    (backend, may_finish)
}

#[test]
fn a_call_finishes_under_a_revocation_that_drains_and_new_ones_are_denied() {
    for lane in ["shared", "dedicated"] {
        let mesh = Mesh::start(&documents());
        let (application, may_finish) = held();
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("web", application.address())
            .lane(lane)
            .start(mesh.path());
        let start = |name: &'static str, workload, machine| {
            mesh.simulated(name, workload, machine, "any")
                .outbound("app/server", "web")
                .lane(lane)
                .start(mesh.path())
        };
        let mut client = start("client", "app/client", "two");
        let mut other = start("other", "app/other", "three");
        for sidecar in [&mut server, &mut client, &mut other] {
            sidecar.wait_ready();
        }
        let door = client.outbound(0);
        let get = |door| client::get(door, "/");
        for door in [door, other.outbound(0)] {
            wait::until("the door to be open", || {
                get(door)
                    .is_ok_and(|answer| answer.status == 200)
                    .then_some(())
            });
        }
        let open = std::thread::spawn(move || client::get(door, "/held"));
        wait::until("the call to arrive", || {
            let requests = application.requests();
            let held = requests.iter().find(|one| one.line.contains("/held"));
            held.map(drop)
        });
        let revoke = ["revoke", "app/leaving", "--workload", "app/client"];
        let drain = [
            "--action",
            "drain",
            "--reason",
            "gone",
            "--max-drop",
            "100%",
        ];
        mesh.cli(&[&revoke[..], &drain].concat()).expect_success();
        // Which word depends on which of both sidecars ends it.
        let arrived = application.requests().len();
        let denied = get(door).expect("the sidecar answers");
        assert!(
            matches!(denied.status, 403 | 502 | 503),
            "{lane}: {denied:?}"
        );
        assert_eq!(
            application.requests().len(),
            arrived,
            "{lane}: a new call of the revoked reaches the application"
        );
        let kept = get(other.outbound(0)).expect("the sidecar answers");
        assert_eq!(kept.status, 200, "{lane}: somebody else is denied");
        may_finish.store(true, Ordering::Relaxed);
        let answer = open.join().expect("it does not panic");
        let answer = answer.expect("the open call is cut off");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "done"),
            "{lane}"
        );
    }
}
