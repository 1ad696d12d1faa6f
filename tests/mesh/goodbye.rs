//! A sidecar that leaves says so: nobody waits for its proofs, so a graceful scale-down of most of a workload is neither
//! silence nor an alarm, and nobody believes the certificates that are left over.

use serde_json::Value;
use vouchsafe_tests::documents::{
    file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

const NODES: [&str; 5] = ["one", "two", "three", "four", "five"];

fn documents() -> String {
    // Silence of two seconds lapses.
    let mesh =
        simulated_mesh().replacen("trust_domain:", "reattest: {root: 1s}\n  trust_domain:", 1);
    let nodes = NODES.map(|name| simulated_node(&format!("app/{name}")));
    file([
        mesh,
        simulated_profile("app/any", "any"),
        nodes.join("---\n"),
        workload("app/crowd", "any", &NODES.join(", "), &[]),
    ])
}

fn kinds_of(mesh: &Mesh, wanted: &str) -> Vec<Value> {
    let records = mesh.records().into_iter();
    records.filter(|record| record["kind"] == wanted).collect()
}

#[test]
fn most_of_a_workload_leaves_gracefully_without_an_alarm_and_without_its_trust() {
    let mesh = Mesh::start(&documents());
    let mut crowd: Vec<Sidecar> = NODES
        .iter()
        .map(|machine| {
            mesh.simulated(machine, "app/crowd", machine, "any")
                .start(mesh.path())
        })
        .collect();
    for sidecar in &mut crowd {
        sidecar.wait_ready();
    }
    wait::until("all to be connected", || {
        let status = mesh.status();
        let sidecars = status["sidecars"].as_array()?;
        let connected = sidecars.iter().filter(|one| one["connected"] == true);
        (connected.count() == NODES.len()).then_some(())
    });
    let stays = crowd.pop().expect("there are five");
    for sidecar in crowd {
        assert!(sidecar.process.terminate().success());
    }
    let left = kinds_of(&mesh, "standing_changed");
    assert_eq!(left.len(), 4, "{left:?}");
    for one in &left {
        assert_eq!(
            (&one["standing"], &one["reason"], &one["workload"]),
            (&"lapsed".into(), &"left".into(), &"app/crowd".into())
        );
    }
    // Long enough for their silence to count several times over.
    let renewals = || kinds_of(&mesh, "issued").len();
    let before = renewals();
    wait::until("the one that stays to renew some more times", || {
        (renewals() >= before + 6).then_some(())
    });
    assert_eq!(kinds_of(&mesh, "brake_changed"), Vec::<Value>::new());
    assert_eq!(kinds_of(&mesh, "standing_changed").len(), 4);
    let status = mesh.status();
    assert_eq!(status["brakes"], serde_json::json!([]), "{status}");
    let sidecars = status["sidecars"].as_array().expect("a list");
    let live = sidecars.iter().filter(|one| one["standing"] == "live");
    assert_eq!(live.count(), 1, "{status}");
    assert!(stays.is_ready());
}
