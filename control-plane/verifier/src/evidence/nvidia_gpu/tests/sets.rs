//! Several devices together.

use super::*;
use crate::evidence::nvidia_gpu::report::Pdi;
use crate::judgement::{BindingState, Judgement};

/// Two GPUs and two switches that are wired to one another, in protected PCIe.
struct Set {
    members: Vec<(Maker, &'static str)>,
    rules: Rules,
}

const SWITCHES: [[u8; 8]; 2] = [[1; 8], [2; 8]];
const GPUS: [[u8; 8]; 2] = [[3; 8], [4; 8]];

impl Set {
    fn new() -> Self {
        let gpu = || {
            Maker::gpu().with(|gpu| {
                gpu.set(21, &[0xaa]);
                // Least byte first, in the order of links, of which one is not connected.
                gpu.set(
                    22,
                    &[SWITCHES[1], [0; 8], SWITCHES[0], SWITCHES[1]].concat(),
                );
            })
        };
        let switch = |pdi: &[u8; 8]| {
            Maker::switch().with(|switch| {
                switch.set(22, pdi);
                switch.set(26, &[GPUS[0], GPUS[1], [0; 8], GPUS[0]].concat());
            })
        };
        Self {
            members: vec![
                (gpu(), "41a1"),
                (gpu(), "41a2"),
                (switch(&SWITCHES[0]), "50b1"),
                (switch(&SWITCHES[1]), "50b2"),
            ],
            rules: Rules {
                gpus: Some(2),
                switches: Some(2),
                ..Rules::default()
            },
        }
    }

    fn judge(&self) -> Judgement {
        let made: Vec<_> = self
            .members
            .iter()
            .map(|(maker, chip)| (maker.make(), *chip))
            .collect();
        let members: Vec<_> = made
            .iter()
            .map(|(made, chip)| {
                let path: Vec<_> = made
                    .chain
                    .iter()
                    .rev()
                    .map(|der| x509::parse(der).unwrap())
                    .collect();
                let identity = Identity::of(&path).unwrap();
                Member {
                    identity: Identity {
                        chip_id: (*chip).to_owned(),
                        ..identity
                    },
                    report: Report::parse(&made.report).unwrap(),
                }
            })
            .collect();
        let mut ledger = Ledger::default();
        set::check(&members, &self.rules, &mut ledger);
        ledger.conclude(BindingState::NotChecked)
    }
}

#[track_caller]
fn check(reason: &str, change: impl FnOnce(&mut Set)) {
    let mut set = Set::new();
    change(&mut set);
    let judgement = set.judge();
    assert_eq!(judgement.reason, reason, "{judgement:#?}");
}

#[test]
fn set_as_it_should_be_is_affirmed() {
    check("verified", |_| {});
    check("verified", |set| {
        set.members.truncate(2);
        set.rules.switches = None;
    });
}

#[test]
fn number_of_devices_is_the_one_that_must_be() {
    check("gpu_count", |set| set.rules.gpus = Some(8));
    check("gpu_count", |set| set.rules.gpus = Some(1));
    check("switch_count", |set| set.rules.switches = Some(4));
    check("switch_count", |set| set.members.truncate(2));
}

#[test]
fn device_that_is_shown_twice_is_refused() {
    check("device_twice", |set| set.members[1].1 = set.members[0].1);
    check("device_twice", |set| set.members[3].1 = set.members[0].1);
}

#[test]
fn gpus_are_in_one_mode() {
    check("modes_differ", |set| set.members[1].0.set(21, &[0x55]));
    check("modes_differ", |set| set.members[1].0.without(21));
}

#[test]
fn gpus_and_switches_name_one_another() {
    let other = [[9; 8], SWITCHES[0]].concat();
    check("links_differ", |set| set.members[1].0.set(22, &other));
    check("links_differ", |set| set.members[3].0.set(26, &GPUS[0]));
    check("switch_not_linked", |set| set.members[3].0.set(22, &[9; 8]));
    check("switch_not_linked", |set| {
        set.members.pop();
        set.rules.switches = Some(1);
    });
    check("switch_not_linked", |set| {
        set.members[3].0.set(22, &SWITCHES[0]);
    });
    check("switch_not_linked", |set| {
        for gpu in &mut set.members[..2] {
            gpu.0.without(22);
        }
    });
}

#[test]
fn gpus_write_the_numbers_of_switches_least_byte_first() {
    let gpu = Maker::gpu().with(|gpu| gpu.set(22, &[1, 2, 3, 4, 5, 6, 7, 8]));
    let made = gpu.make();
    let report = Report::parse(&made.report).unwrap();
    assert_eq!(report.switch_pdis(), [Pdi([8, 7, 6, 5, 4, 3, 2, 1])]);
    assert_eq!(report.own_pdi(), Some(Pdi([1, 2, 3, 4, 5, 6, 7, 8])));
}

#[test]
fn claims_of_a_set_are_what_all_devices_claim() {
    let (mut gpu, mut other) = (Ledger::default(), Ledger::default());
    for (ledger, ueid, mode) in [(&mut gpu, "1", true), (&mut other, "2", false)] {
        ledger.claim("ueid", ueid);
        ledger.claim("driver", "570.1");
        ledger.claim("secure_boot", mode);
    }
    let mut third = Ledger::default();
    third.claim("secure_boot", true);
    third.claim("ueid", "1");
    let mut all = Ledger::default();
    for (index, ledger) in [gpu, other, third].into_iter().enumerate() {
        all.absorb(Some(&format!("device {index}")), ledger);
    }
    all.require("x", "x", true, "");
    let claims = all.conclude(BindingState::Checked).claims;
    let ids = crate::judgement::Value::Set(vec!["1".into(), "2".into()]);
    assert_eq!(claims.get("ueid"), Some(&ids));
    assert_eq!(claims.get("driver"), Some(&"570.1".into()));
    assert_eq!(claims.get("secure_boot"), None);
}
