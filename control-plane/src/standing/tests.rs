use proptest::prelude::*;

use super::brake::{ALWAYS, MESH_SHARE, WINDOW, WORKLOAD_SHARE};
use super::*;

const ROOT: Duration = Duration::from_secs(600);
const LOG: Duration = Duration::from_secs(60);
const NOBODY: [usize; 0] = [];

fn id(number: usize) -> InstanceId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    InstanceId(id)
}

fn workload(number: usize) -> WorkloadName {
    format!("app/w{number}").parse().unwrap()
}

fn duties() -> Duties {
    Duties::from([(Duty::Root, ROOT), (Duty::Part(Proof::TpmLog), LOG)])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A mesh whose instances prove in time unless they are silent.
struct Mesh {
    vigil: Vigil,
    /// Workload of each instance.
    instances: Vec<usize>,
    machines: Vec<String>,
    silent: Vec<bool>,
    now: Duration,
    lapsed: Vec<(Duration, usize)>,
    grips: Vec<Grip>,
}

impl Mesh {
    /// Each on a machine of its own.
    fn new(instances: Vec<usize>) -> Self {
        let machines = (0..instances.len()).map(|number| number.to_string());
        Self::on(machines.collect(), instances)
    }

    fn on(machines: Vec<String>, instances: Vec<usize>) -> Self {
        let mut vigil = Vigil::default();
        vigil.ready(Duration::ZERO);
        for (number, of) in instances.iter().enumerate() {
            vigil.proven(
                id(number),
                &workload(*of),
                &machines[number],
                &duties(),
                Duration::ZERO,
            );
        }
        Self {
            vigil,
            silent: vec![false; instances.len()],
            machines,
            instances,
            now: Duration::ZERO,
            lapsed: Vec::new(),
            grips: Vec::new(),
        }
    }

    /// One second; each instance has its own second of the minute for its log, and renews every ten minutes.
    fn second(&mut self) {
        self.now += seconds(1);
        let at = usize::try_from(self.now.as_secs()).unwrap();
        for (number, of) in self.instances.iter().enumerate() {
            if self.silent[number] {
                continue;
            }
            if (at + number * 37).is_multiple_of(600) {
                let duties = duties();
                let workload = workload(*of);
                let machine = &self.machines[number];
                self.vigil
                    .proven(id(number), &workload, machine, &duties, self.now);
            } else if (at + number * 7).is_multiple_of(60) {
                self.vigil.confirmed(&id(number), Proof::TpmLog, self.now);
            }
        }
        for change in self.vigil.look(self.now) {
            match change {
                Change::Lapsed { instance, .. } => {
                    let number = (0..self.instances.len()).find(|one| id(*one) == instance);
                    self.lapsed.push((self.now, number.unwrap()));
                }
                Change::Brake(grip) => self.grips.push(grip),
            }
        }
    }

    fn run(&mut self, for_seconds: u64) {
        for _ in 0..for_seconds {
            self.second();
        }
    }

    fn who_lapsed(&self) -> Vec<usize> {
        self.lapsed.iter().map(|(_, number)| *number).collect()
    }
}

#[test]
fn nobody_who_proves_in_time_lapses() {
    let mut mesh = Mesh::new((0..50).map(|number| number % 7).collect());
    mesh.run(3000);
    assert_eq!(mesh.who_lapsed(), NOBODY);
    assert_eq!(mesh.grips, []);
}

#[test]
fn one_that_is_silent_for_two_intervals_lapses_and_fresh_evidence_restores_it() {
    let mut mesh = Mesh::new(vec![0; 20]);
    mesh.run(60);
    mesh.silent[3] = true;
    mesh.run(100);
    assert_eq!(mesh.who_lapsed(), NOBODY);
    mesh.run(40);
    assert_eq!(mesh.who_lapsed(), [3]);
    assert!(mesh.vigil.confirmed(&id(3), Proof::TpmLog, mesh.now));
    assert!(!mesh.vigil.confirmed(&id(3), Proof::TpmLog, mesh.now));
    mesh.silent[3] = false;
    mesh.run(600);
    assert_eq!(mesh.who_lapsed(), [3]);
}

#[test]
fn a_part_does_not_restore_who_owes_the_whole() {
    let mut vigil = Vigil::default();
    vigil.ready(Duration::ZERO);
    vigil.proven(id(0), &workload(0), "0", &duties(), Duration::ZERO);
    let mut lapsed = Vec::new();
    for at in 0..1400 {
        if at % 50 == 0 {
            vigil.confirmed(&id(0), Proof::TpmLog, seconds(at));
        }
        lapsed.extend(vigil.look(seconds(at)));
    }
    let [Change::Lapsed { duty, .. }] = lapsed.as_slice() else {
        panic!("{lapsed:?}");
    };
    assert_eq!(*duty, Duty::Root);
    assert!(!vigil.confirmed(&id(0), Proof::TpmLog, seconds(1400)));
    assert!(vigil.proven(id(0), &workload(0), "0", &duties(), seconds(1400)));
}

#[test]
fn a_restart_lapses_nobody_before_two_intervals_of_readiness() {
    let mut mesh = Mesh::new(vec![0]);
    mesh.silent = vec![true];
    // A new process knows the instance, and hears of nobody for a while.
    mesh.run(130);
    assert_eq!(mesh.who_lapsed(), NOBODY);
    // One that stood still heard nobody either.
    mesh.now += seconds(3600);
    mesh.run(130);
    assert_eq!(mesh.who_lapsed(), NOBODY);
    mesh.run(20);
    assert_eq!(mesh.who_lapsed(), [0]);
}

#[test]
fn a_control_plane_that_is_not_ready_lapses_nobody() {
    let mut vigil = Vigil::default();
    vigil.proven(id(0), &workload(0), "0", &duties(), Duration::ZERO);
    assert_eq!(vigil.look(seconds(100_000)), []);
}

#[test]
fn whom_we_turned_away_is_not_silent_unless_it_never_proves_anything_in_between() {
    let log = Duty::Part(Proof::TpmLog);
    let run = |is_good: fn(u64) -> bool| {
        let mut vigil = Vigil::default();
        vigil.ready(Duration::ZERO);
        vigil.proven(id(0), &workload(0), "0", &duties(), Duration::ZERO);
        let mut lapsed = None;
        for at in 0..1000 {
            if at % 60 == 0 {
                match is_good(at / 60) {
                    true => drop(vigil.confirmed(&id(0), Proof::TpmLog, seconds(at))),
                    false => vigil.excused(&id(0), log, seconds(at)),
                }
            }
            let changes = vigil.look(seconds(at));
            lapsed = lapsed.or((!changes.is_empty()).then_some(at));
        }
        lapsed
    };
    assert_eq!(run(|minute| minute % 3 == 0), None);
    // Two excuses, and then the silence of two intervals.
    let lapsed = run(|_| false).unwrap();
    assert!((60 + 120..60 + 160).contains(&lapsed), "{lapsed}");
}

#[test]
fn one_machine_with_many_instances_does_not_make_the_brake_hold() {
    // Forty machines with one instance each, and one with a hundred; that one falls silent, and one of the others.
    let mut machines: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    machines.extend(vec!["many".to_owned(); 100]);
    let mut mesh = Mesh::on(machines, vec![0; 140]);
    mesh.run(60);
    mesh.silent[7] = true;
    for number in 40..140 {
        mesh.silent[number] = true;
    }
    mesh.run(400);
    assert_eq!(mesh.grips, []);
    assert_eq!(mesh.who_lapsed().len(), 101);
}

#[test]
fn a_partition_of_everyone_lapses_nobody_and_alarms() {
    for instances in [2, 3, 10, 200] {
        let mut mesh = Mesh::new((0..instances).map(|number| number % 3).collect());
        mesh.run(700);
        mesh.silent = vec![true; instances];
        mesh.run(3000);
        assert_eq!(mesh.who_lapsed(), NOBODY, "{instances}");
        let mesh_grip = mesh.grips.iter().find(|grip| grip.scope.is_none());
        assert!(mesh_grip.is_some_and(|grip| grip.holds), "{instances}");
        // It ends: everybody proves again, and the alarm with it.
        mesh.silent = vec![false; instances];
        mesh.run(700);
        assert_eq!(mesh.vigil.held().count(), 0, "{instances}");
        assert!(mesh.grips.iter().any(|grip| !grip.holds));
        assert_eq!(mesh.who_lapsed(), NOBODY, "{instances}");
    }
}

#[test]
fn the_brake_of_one_workload_holds_no_other() {
    // 400 instances in ten workloads; eleven of one fall silent, and one of another.
    let mut mesh = Mesh::new((0..400).map(|number| number % 10).collect());
    mesh.run(60);
    for number in 0..11 {
        mesh.silent[number * 10] = true;
    }
    mesh.silent[1] = true;
    mesh.run(400);
    assert_eq!(mesh.who_lapsed(), [1]);
    let scopes: Vec<String> = mesh.vigil.held().map(Grip::scope).collect();
    assert_eq!(scopes, ["app/w0"]);
}

#[test]
fn who_was_revoked_stays_so_whatever_it_proves() {
    let mut vigil = Vigil::default();
    vigil.ready(Duration::ZERO);
    vigil.proven(id(0), &workload(0), "0", &duties(), Duration::ZERO);
    assert!(vigil.revoke(&id(0)));
    assert!(!vigil.revoke(&id(0)));
    assert!(!vigil.confirmed(&id(0), Proof::TpmLog, seconds(1)));
    assert!(!vigil.proven(id(0), &workload(0), "0", &duties(), seconds(2)));
    assert!(!vigil.revoke(&id(0)));
    // Nor does it lapse.
    for at in 0..1000 {
        assert_eq!(vigil.look(seconds(at)), []);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Silence(usize),
    Speak(usize),
    Revoke(usize),
}

fn step(instances: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..120).prop_map(Step::Wait),
        4 => (0..instances).prop_map(Step::Silence),
        2 => (0..instances).prop_map(Step::Speak),
        1 => (0..instances).prop_map(Step::Revoke),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn within_ten_minutes_no_more_lapse_than_the_brake_allows(
        workloads in 1usize..4,
        steps in proptest::collection::vec(step(40), 1..60),
    ) {
        let instances = 40;
        let mut mesh = Mesh::new((0..instances).map(|number| number % workloads).collect());
        let mut revoked = vec![false; instances];
        for step in steps {
            match step {
                Step::Wait(time) => mesh.run(time),
                Step::Silence(number) => mesh.silent[number] = true,
                Step::Speak(number) => mesh.silent[number] = false,
                Step::Revoke(number) => {
                    // Never braked, and news exactly once.
                    let was = std::mem::replace(&mut revoked[number], true);
                    prop_assert_eq!(mesh.vigil.revoke(&id(number)), !was);
                }
            }
        }
        mesh.run(400);
        for (index, (from, _)) in mesh.lapsed.iter().enumerate() {
            let within: std::collections::BTreeSet<usize> = mesh.lapsed[index..]
                .iter()
                .take_while(|(when, _)| *when < *from + WINDOW)
                .map(|(_, number)| *number)
                .collect();
            prop_assert!(within.len() <= (instances / MESH_SHARE).max(ALWAYS));
            for of in 0..workloads {
                let members = mesh.instances.iter().filter(|one| **one == of).count();
                let own = within.iter().filter(|number| mesh.instances[**number] == of).count();
                prop_assert!(own <= (members / WORKLOAD_SHARE).max(ALWAYS));
            }
        }
        // Only silence lapses, and whoever proves everything afresh is trusted again.
        for number in 0..instances {
            let own = workload(mesh.instances[number]);
            let machine = number.to_string();
            mesh.vigil.proven(id(number), &own, &machine, &duties(), mesh.now);
            prop_assert!(!mesh.vigil.proven(id(number), &own, &machine, &duties(), mesh.now));
        }
        let changes = mesh.vigil.look(mesh.now);
        let lapses = |change: &Change| matches!(change, Change::Lapsed { .. });
        prop_assert!(!changes.iter().any(lapses));
    }
}
