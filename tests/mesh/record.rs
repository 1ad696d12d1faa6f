//! Promise 9: every issuance and refusal is in the record, and whoever changes a byte of it is found out.

use vouchsafe_tests::documents::{
    file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::wait;

fn start() -> Mesh {
    Mesh::start(&file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        workload("app/server", "any", "one", &[]),
    ]))
}

fn count(mesh: &Mesh, kind: &str) -> usize {
    mesh.records()
        .iter()
        .filter(|record| record["kind"] == kind)
        .count()
}

#[test]
fn issuances_and_refusals_are_recorded_and_survive_a_restart() {
    let mut mesh = start();
    let mut good = mesh
        .simulated("good", "app/server", "one", "any")
        .start(mesh.path());
    good.wait_ready();
    let bad = mesh
        .simulated("bad", "app/server", "unlisted", "any")
        .start(mesh.path());
    wait::until("the refusal to be recorded", || {
        (count(&mesh, "refused") > 0).then_some(())
    });
    drop((good, bad));
    assert_eq!(count(&mesh, "issued"), 1);
    let records = mesh.records();
    let issued = records
        .iter()
        .find(|record| record["kind"] == "issued")
        .expect("counted above");
    assert_eq!(
        issued["spiffe_id"], "spiffe://simulated.example/ns/app/workload/server",
        "{issued}"
    );
    assert_eq!(issued["class"], "simulated", "{issued}");
    mesh.cli(&["log", "verify"]).expect_success();

    mesh.stop();
    mesh.restart();
    let after = mesh.records();
    assert_eq!(
        after[..records.len()],
        records[..],
        "a restart changed the record"
    );
    mesh.cli(&["log", "verify"]).expect_success();
}

#[test]
fn a_changed_byte_of_the_record_is_found() {
    let mut mesh = start();
    let mut sidecar = mesh
        .simulated("good", "app/server", "one", "any")
        .start(mesh.path());
    sidecar.wait_ready();
    drop(sidecar);
    mesh.stop();
    mesh.cli(&["log", "verify"]).expect_success();

    let file = mesh.data().join("records");
    let good = std::fs::read(&file).expect("the record is a file");
    assert!(good.len() > 100, "the record has only {} bytes", good.len());
    // A byte in the middle, the last byte, a lost tail, a lost head.
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut last = good.clone();
    *last.last_mut().expect("it has bytes") ^= 1;
    for (what, content) in [
        ("a flipped bit in the middle", flipped),
        ("a flipped bit at the end", last),
        ("a lost head", good[64..].to_vec()),
        ("a lost tail", good[..good.len() / 2].to_vec()),
    ] {
        std::fs::write(&file, content).expect("the record can be written");
        let outcome = mesh.cli(&["log", "verify"]);
        assert!(
            !outcome.success,
            "{what} is not noticed: {}",
            outcome.stdout
        );
    }
    std::fs::write(&file, good).expect("the record can be written");
    mesh.cli(&["log", "verify"]).expect_success();
}
