//! Promises 5 and 7 under faults: whatever happens to the control plane or to clocks during changes, every sidecar applies
//! revisions in their order, ends up with the newest, and lets nobody back in who is revoked.
//!
//! A revision is the whole state and not a step to it, so a sidecar that was away gets the newest and never those in
//! between: skipping is how it catches up. What must hold is that whatever it applied is what the record says was put in
//! force under that number, that the last one is reached, and that an act that is still in force when it comes back is in
//! force there as well, whichever revision it came with. That the content is the published one is proven by the hash that
//! each sidecar acknowledges: `status` calls one behind whose hash is another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::cable::Cable;
use vouchsafe_tests::clock::MovedClock;
use vouchsafe_tests::documents::{
    access, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

/// A server that two may call; as many further rules as there were changes; and who of them is revoked.
fn documents(changes: usize, revoked: &[&str]) -> String {
    let port = "{name: raw, port: 7000, protocol: tcp}";
    let mut documents = vec![
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        simulated_node("app/three"),
        workload("app/server", "any", "one", &[port]),
        workload("app/client", "any", "two", &[]),
        workload("app/other", "any", "three", &[]),
        access("app/server", "raw", "app/client", ""),
        access("app/server", "raw", "app/other", ""),
    ];
    for change in 0..changes {
        documents.push(format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: change-{change}, namespace: app}}\nspec:\n  to: {{workload: server, port: raw}}\n  from: [{{workload: app/other}}]\n"
        ));
    }
    for workload in revoked {
        documents.push(format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: {workload}-gone, namespace: app}}\nspec: {{match: {{workload: [app/{workload}]}}, action: cut, reason: gone}}\n"
        ));
    }
    documents.join("---\n")
}

/// A flow that passes bytes both ways now.
fn passes(door: SocketAddr) -> bool {
    let Ok(mut flow) = TcpStream::connect(door) else {
        return false;
    };
    let mut back = [0; 4];
    flow.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && flow.write_all(b"ping").is_ok()
        && flow.read_exact(&mut back).is_ok()
        && back == *b"ping"
}

/// Knocks without pause at a door that must stay shut, and counts how often it opened.
struct Knocking {
    ends: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Knocking {
    fn at(door: SocketAddr) -> Self {
        let (ends, opened) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (told, count) = (Arc::clone(&ends), Arc::clone(&opened));
        let thread = std::thread::spawn(move || {
            let mut knocks = 0;
            while !told.load(Ordering::Relaxed) {
                if passes(door) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                knocks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            knocks
        });
        Self {
            ends,
            opened,
            thread: Some(thread),
        }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    fn end(mut self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs until now");
        thread.join().expect("it does not panic")
    }
}

struct Factory {
    // Dropped in this order: processes before their folder.
    sidecars: Vec<Sidecar>,
    mesh: Mesh,
    cable: Cable,
    clock: MovedClock,
    /// Of the machine of the server.
    server_clock: MovedClock,
    _application: Backend,
    changes: usize,
}

const SERVER: usize = 0;
const CLIENT: usize = 1;
const OTHER: usize = 2;

impl Factory {
    fn start() -> Self {
        let clock = MovedClock::build();
        let server_clock = MovedClock::build();
        let mesh = Mesh::start_with(&documents(0, &[]), Some(clock.library()));
        let cable = Cable::to(mesh.listen());
        let application = Backend::echo(b"", b"");
        let spec = |name: &str, machine: &str| {
            let attester = format!("{{simulated: {{machine: {machine}, image: any}}}}");
            mesh.sidecar_at(cable.address(), name, &format!("app/{name}"), &attester)
        };
        let sidecars = [
            spec("server", "one")
                .inbound("raw", application.address())
                .preload(server_clock.library()),
            spec("client", "two").outbound("app/server", "raw"),
            spec("other", "three").outbound("app/server", "raw"),
        ];
        let mut factory = Self {
            sidecars: sidecars.iter().map(|one| one.start(mesh.path())).collect(),
            mesh,
            cable,
            clock,
            server_clock,
            _application: application,
            changes: 0,
        };
        for sidecar in &mut factory.sidecars {
            sidecar.wait_ready();
        }
        for caller in [CLIENT, OTHER] {
            let door = factory.sidecars[caller].outbound(0);
            wait::until("a flow to pass", || passes(door).then_some(()));
        }
        factory
    }

    /// Writes one more rule, with the revocation.
    fn change(&mut self) {
        self.change_and_revoke(&["client"]);
    }

    fn change_and_revoke(&mut self, revoked: &[&str]) {
        self.changes += 1;
        self.mesh.write_policy(&documents(self.changes, revoked));
    }

    /// Waits until the control plane has put in force what was written last.
    fn in_force(&self, before: usize) {
        wait::until("the change to be in force", || {
            (self.published().len() > before).then_some(())
        });
    }

    /// Every revision with another policy that the record says was put in force.
    fn published(&self) -> Vec<u64> {
        let records = self.mesh.records().into_iter();
        let changes = records.filter(|record| record["kind"] == "policy_changed");
        let sequences = changes.filter_map(|record| record["policy_sequence"].as_u64());
        sequences.collect()
    }

    /// Waits until every sidecar has applied what was written last.
    fn settled(&self) -> u64 {
        // The rules of the change, beside the two that were there before.
        let rules = self.changes as u64 + 2;
        let server = &self.sidecars[SERVER];
        wait::until("the server to have the newest policy", || {
            (server.admin("/policy")["rules"] == rules).then_some(())
        });
        wait::until("every sidecar to have the newest revision", || {
            let status = self.mesh.status();
            let sidecars = status["sidecars"].as_array()?.clone();
            let settled = sidecars.iter().all(|one| {
                one["connected"] == true
                    && one["behind"] == 0
                    && one["applied"] == status["revision"]
            });
            (settled && sidecars.len() == self.sidecars.len())
                .then(|| sequence(&status["revision"]))
        })
    }

    /// Every revision that a sidecar applied, in the order in which it did.
    fn applied(&self, sidecar: usize) -> Vec<u64> {
        let output = self.sidecars[sidecar].process.output();
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let applied = lines.filter(|line| line["message"] == "mesh state applied");
        applied.map(|line| sequence(&line["revision"])).collect()
    }
}

fn sequence(revision: &Value) -> u64 {
    let (_, sequence) = revision
        .as_str()
        .and_then(|text| text.split_once('.'))
        .expect("`epoch.sequence`");
    sequence.parse().expect("a number")
}

#[test]
fn no_fault_of_the_control_plane_loses_or_reorders_a_revision_or_lets_the_revoked_back_in() {
    let mut factory = Factory::start();
    factory.change();
    let mut newest = factory.settled();
    // Revisions before are of sidecars that came, and of their endpoints.
    let first = newest;
    let knocking = Knocking::at(factory.sidecars[CLIENT].outbound(0));
    let other = factory.sidecars[OTHER].outbound(0);
    let check = |factory: &Factory, newest: &mut u64, what: &str| {
        let now = factory.settled();
        assert!(now > *newest, "{what}: revision {now} after {newest}");
        *newest = now;
        assert!(passes(other), "{what}: nobody else is cut off");
        assert_eq!(knocking.opened(), 0, "{what}: the revoked got in");
    };

    // Killed at several moments of a change: before it is seen, while it is judged, after it is in force.
    for pause in [0, 250, 450, 700] {
        factory.change();
        std::thread::sleep(Duration::from_millis(pause));
        factory.mesh.kill();
        assert!(passes(other), "what was allowed goes on without it");
        factory.mesh.restart();
        check(&factory, &mut newest, &format!("killed after {pause} ms"));
    }

    // Unplugged: what was held back comes late, or never because the connection is reset.
    for cut in [false, true] {
        factory.cable.unplug();
        for _ in 0..3 {
            factory.change();
            std::thread::sleep(Duration::from_millis(600));
        }
        assert!(passes(other), "what was allowed goes on without it");
        factory.cable.plug(cut);
        check(&factory, &mut newest, &format!("unplugged, cut: {cut}"));
    }

    // Somebody is revoked while nobody hears of it, in a revision that other changes follow before anybody does.
    factory.cable.unplug();
    for revoked in [&["client"][..], &["client", "other"], &["client", "other"]] {
        let before = factory.published().len();
        factory.change_and_revoke(revoked);
        factory.in_force(before);
    }
    assert!(passes(other), "who is not reached goes on");
    factory.cable.plug(true);
    newest = factory.settled();
    assert!(
        !passes(other),
        "a revocation of a revision in between is missed"
    );
    factory.change();
    wait::until("the other to be let in again", || {
        passes(other).then_some(())
    });
    check(&factory, &mut newest, "revoked and not, unplugged");

    // Killed and started again behind a cable that is unplugged, with changes before and after.
    factory.cable.unplug();
    factory.change();
    factory.mesh.kill();
    factory.change();
    factory.mesh.restart();
    factory.cable.plug(true);
    check(&factory, &mut newest, "killed while unplugged");

    // Restarted in good order, with a change in between.
    factory.mesh.stop();
    factory.change();
    factory.mesh.restart();
    check(&factory, &mut newest, "restarted");

    // Its clock leaps ahead, then back to before where it was; and it is killed with a wrong one.
    for seconds in [300, -20] {
        factory.clock.shift(seconds);
        factory.change();
        check(
            &factory,
            &mut newest,
            &format!("clock moved by {seconds} s"),
        );
    }
    factory.change();
    factory.mesh.kill();
    factory.mesh.restart();
    check(&factory, &mut newest, "killed with its clock behind");

    // Farther back than its authorities: revisions go on in their order, to those who know its root.
    factory.clock.shift(-600);
    factory.change();
    check(&factory, &mut newest, "clock before its authorities");
    factory.clock.shift(0);
    factory.change();
    check(&factory, &mut newest, "clock set right");
    factory.change();
    factory.mesh.kill();
    factory.mesh.restart();
    check(&factory, &mut newest, "killed with its clock set right");

    // The clock of a sidecar's machine leaps: mesh time is the control plane's, so neither does a live certificate end
    // nor does one that was revoked come back.
    for seconds in [7_200, -7_200, 0] {
        factory.server_clock.shift(seconds);
        factory.change();
        check(
            &factory,
            &mut newest,
            &format!("a sidecar's clock moved by {seconds} s"),
        );
    }

    let published = factory.published();
    for sidecar in [SERVER, CLIENT, OTHER] {
        let applied = factory.applied(sidecar);
        let invented: Vec<_> = { applied.iter() }
            .filter(|one| **one > first && !published.contains(one))
            .collect();
        assert!(invented.is_empty(), "{invented:?} of {published:?}");
        assert!(
            applied.is_sorted_by(|one, next| one < next),
            "in their order, each once: {applied:?}"
        );
        assert_eq!(applied.last(), Some(&newest));
        for outcome in [
            "lower_revision",
            "forked_revision",
            "signature",
            "proof",
            "repair",
        ] {
            let labels = [format!("outcome=\"{outcome}\"")];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let count =
                factory.sidecars[sidecar].metric("vouchsafe_mesh_state_messages_total", &labels);
            assert!(count == 0.0, "{outcome}: {count}");
        }
    }
    assert!(knocking.end() > 10, "the door was tried all the time");

    // Revoked by command, and killed as soon as that is answered.
    let revoke = ["revoke", "app/incident", "--workload", "app/other"];
    let why = ["--reason", "stolen", "--max-drop", "100%"];
    let made = factory.mesh.cli(&[&revoke[..], &why].concat());
    made.expect_success();
    factory.mesh.kill();
    assert!(!passes(other), "what was answered is in force without it");
    factory.mesh.restart();
    assert!(factory.settled() > newest);
    assert!(!passes(other), "and after it was started again");
    let end = ["revoke", "end", "app/incident", "--reason", "found"];
    factory.mesh.cli(&end).expect_success();
    wait::until("the other to be let in again", || {
        passes(other).then_some(())
    });

    // It ends only by an act.
    factory.mesh.write_policy(&documents(factory.changes, &[]));
    let door = factory.sidecars[CLIENT].outbound(0);
    wait::until("the client to be let in again", || {
        passes(door).then_some(())
    });
}
