//! Every check with each input turned.

pub(crate) mod machine;

use self::machine::{CHIP, CRL, Crl, Machine, NOW, OLD_CRL};
use super::checks::CHECKS;
use super::report::Tcb;
use super::{Product, Rules};
use crate::judgement::flips::{Flip, assert_table};

fn flip(
    check: &'static str,
    reason: &'static str,
    machine: Machine,
    change: impl FnOnce(&mut Machine),
) -> Flip {
    Flip {
        check,
        reason,
        follows: &[],
        judgement: machine.changed(change).judge(),
    }
}

fn milan(check: &'static str, reason: &'static str, change: impl FnOnce(&mut Machine)) -> Flip {
    flip(check, reason, Machine::milan(), change)
}

fn crl(reason: &'static str, crl: Crl) -> Flip {
    milan("crl", reason, |m| {
        m.rules.require_crl = true;
        m.crl = Some(crl);
    })
}

/// Negative tests 8 to 14, 38 and 39 of the reference are among these.
#[test]
fn every_check_notices_its_input_alone() {
    let mut flips = flips_of_the_chain();
    flips.extend(flips_of_the_report());
    flips.extend(flips_of_the_guest());
    let good = [
        Machine::milan().judge(),
        Machine::turin().judge(),
        Machine::vlek().judge(),
        Machine::milan().changed(meet_every_rule).judge(),
        Machine::vlek()
            .changed(|m| m.rules.csp_ids = vec!["cloud".into()])
            .judge(),
    ];
    let sources = [
        include_str!("mod.rs"),
        include_str!("chain.rs"),
        include_str!("guest.rs"),
    ];
    assert_table(CHECKS, &good, &flips, &sources);
}

fn meet_every_rule(m: &mut Machine) {
    m.report[0x09] = 1;
    m.report[0x0a] = 1 << 1 | 1 << 4;
    m.report[0x40] = 1 << 5 | 1 << 4 | 1 << 3;
    m.report[0x110..0x140].fill(0xdd);
    m.report[0x00] = 5;
    m.report[0x1f8] = 7;
    m.report[0x200] = 3;
    m.rules = Rules {
        measurements: vec![[1; 48], [0xaa; 48]],
        host_data: vec![[0xbb; 32]],
        id_key_digests: vec![[0xcc; 48]],
        author_key_digests: vec![[0xdd; 48]],
        family_ids: vec![[0; 16]],
        image_ids: vec![[0; 16]],
        chip_ids: vec![CHIP],
        tcb: Tcb {
            bootloader: 3,
            snp: 22,
            microcode: 210,
            ..Tcb::default()
        },
        min_abi: (1, 0),
        required_mitigations: 3,
        refuse_unknown_bits: true,
        forbid_smt: true,
        require_single_socket: true,
        forbid_cxl: true,
        require_alias_check: true,
        require_ciphertext_hiding: true,
        require_power_meter_disabled: true,
        require_crl: true,
        ..Rules::default()
    };
    m.crl = Some(CRL);
}

fn flips_of_the_chain() -> Vec<Flip> {
    let vlek = Machine::vlek;
    vec![
        milan("vek", "endorsement_missing", |m| m.vek_name = "SEV-OTHER"),
        milan("vek_issuer", "vek_issuer_unknown", |m| {
            m.vek_issuer_name = Some("SEV-Nobody");
        }),
        milan("vek_dates", "vek_expired", |m| m.vek_dates[1] = NOW - 1),
        milan("vek_dates", "vek_not_yet_valid", |m| {
            m.vek_dates[0] = NOW + 1
        }),
        milan("vek_signature", "vek_signature", |m| {
            m.vek_signed_by_other = true
        }),
        milan("vek_signature", "vek_signature", |m| m.issuer_is_ca = false),
        milan("ask_signature", "ask_signature", |m| {
            m.issuer_signed_by_other = true
        }),
        milan("vek_role", "vek_role", |m| m.issuer_name = "SEV-VLEK-Milan"),
        flip("vek_role", "vek_role", vlek(), |m| {
            m.issuer_name = "SEV-Milan"
        }),
        milan("ask_dates", "ask_expired", |m| m.issuer_dates[1] = NOW - 1),
        milan("ask_dates", "ask_not_yet_valid", |m| {
            m.issuer_dates[0] = NOW + 1
        }),
        milan("ark_dates", "ark_expired", |m| m.root_dates[1] = NOW - 1),
        milan("ark_dates", "ark_not_yet_valid", |m| {
            m.root_dates[0] = NOW + 1
        }),
        milan("crl", "crl_missing", |m| m.rules.require_crl = true),
        crl(
            "crl_missing",
            Crl {
                is_of_stranger: true,
                ..CRL
            },
        ),
        crl(
            "crl_malformed",
            Crl {
                is_cut: true,
                ..CRL
            },
        ),
        crl(
            "crl_signature",
            Crl {
                is_of_other: true,
                ..CRL
            },
        ),
        crl(
            "ask_revoked",
            Crl {
                revokes_issuer: true,
                ..CRL
            },
        ),
        crl(
            "ask_revoked",
            Crl {
                revokes_issuer: true,
                is_cached: true,
                ..OLD_CRL
            },
        ),
        crl("crl_expired", OLD_CRL),
        crl(
            "crl_expired",
            Crl {
                is_cached: true,
                ..OLD_CRL
            },
        ),
        crl(
            "crl_not_yet_valid",
            Crl {
                dates: [NOW + 1, 4000],
                ..CRL
            },
        ),
        // A poisoned cache revokes nothing and proves nothing.
        crl(
            "crl_missing",
            Crl {
                is_of_other: true,
                revokes_issuer: true,
                is_cached: true,
                ..CRL
            },
        ),
        crl(
            "crl_missing",
            Crl {
                is_cut: true,
                is_cached: true,
                ..CRL
            },
        ),
        flip("vlek", "vlek_not_accepted", vlek(), |m| {
            m.rules.accept_vlek = false
        }),
        flip("csp_id", "csp_id", vlek(), |m| {
            m.rules.csp_ids = vec!["other".into()]
        }),
        flip("csp_id", "csp_id", vlek(), |m| {
            m.extensions.truncate(4);
            m.rules.csp_ids = vec!["cloud".into()];
        }),
    ]
}

fn flips_of_the_report() -> Vec<Flip> {
    let (turin, vlek) = (Machine::turin, Machine::vlek);
    let mut flips = vec![
        milan("cpuid", "product_unknown", |m| m.report[0x188] = 0x17),
        milan("product", "product_mismatch", |m| m.report[0x189] = 0x11),
        flip("product", "product_mismatch", turin(), |m| {
            m.report[0] = 2;
            m.report[0x188..0x18b].fill(0);
            m.report[0x1f8..0x208].fill(0);
        }),
        milan("signing_key", "signing_key_mismatch", |m| {
            m.report[0x48] = 1 << 2
        }),
        milan("signing_key", "signing_key_mismatch", |m| {
            m.report[0x48] = 7 << 2
        }),
        flip("signing_key", "signing_key_mismatch", vlek(), |m| {
            m.report[0x48] = 0
        }),
        milan("chip_key", "chip_key_masked", |m| m.report[0x48] = 2),
        milan("report_signature", "report_signature", |m| {
            m.signed_by_other = true
        }),
        milan("vek_tcb", "vek_tcb_mismatch", |m| m.report[0x187] = 209),
        milan("vek_tcb", "vek_tcb_mismatch", |m| {
            m.extensions[2].1 = vec![2, 1, 21]
        }),
        milan("vek_tcb", "vek_tcb_mismatch", |m| {
            drop(m.extensions.remove(3))
        }),
        milan("vek_tcb", "vek_tcb_mismatch", |m| {
            m.extensions.push(("3.1", vec![2, 1, 3]));
        }),
        flip("vek_tcb", "vek_tcb_mismatch", turin(), |m| {
            m.extensions[0].1[2] = 2
        }),
        flip("vek_tcb", "vek_tcb_mismatch", turin(), |m| {
            drop(m.extensions.remove(0))
        }),
        milan("hwid", "hwid_mismatch", |m| m.report[0x1a0] ^= 1),
        milan("hwid", "hwid_mismatch", |m| drop(m.extensions.remove(4))),
        milan("hwid", "hwid_mismatch", |m| m.extensions[4].1.truncate(8)),
        milan("hwid", "chip_id_masked", |m| m.report[0x1a0..0x1e0].fill(0)),
        flip("hwid", "hwid_mismatch", turin(), |m| m.report[0x1a8] = 9),
        flip("hwid", "hwid_mismatch", vlek(), |m| m.report[0x1a0] = 1),
        flip("hwid", "hwid_mismatch", vlek(), |m| {
            m.extensions.push(("4", CHIP.to_vec()));
        }),
        milan("tcb_order", "tcb_order", |m| m.report[0x1e7] = 200),
        milan("tcb_order", "tcb_order", |m| m.report[0x3f] = 200),
        flip("tcb_order", "tcb_order", turin(), |m| m.report[0x38] = 0),
        milan("tcb_reported", "reported_tcb_too_old", |m| {
            m.rules.tcb.bootloader = 4
        }),
        milan("tcb_launch", "launch_tcb_too_old", |m| {
            m.rules.tcb.bootloader = 3;
            m.report[0x1f0] = 2;
        }),
        flip("tcb_launch", "launch_tcb_too_old", turin(), |m| {
            m.rules.tcb.fmc = Some(1);
            m.report[0x1f0] = 0;
        }),
    ];
    // Firmware keeps these in order, so the order is broken too.
    for (check, reason, at) in [
        ("tcb_committed", "committed_tcb_too_old", 0x1e0),
        ("tcb_current", "current_tcb_too_old", 0x38),
    ] {
        flips.push(Flip {
            follows: &["tcb_order"],
            ..milan(check, reason, |m| {
                m.rules.tcb.bootloader = 3;
                m.report[at] = 2;
            })
        });
    }
    flips
}

fn flips_of_the_guest() -> Vec<Flip> {
    let turin = Machine::turin;
    let mut flips = vec![
        milan("binding", "report_data_mismatch", |m| {
            m.report[0x8f] ^= 0x80
        }),
        milan("runtime_data", "runtime_data_mismatch", |m| {
            m.is_runtime_data = true;
            m.report[0x50] ^= 1;
        }),
        milan("debug", "debug_enabled", |m| m.report[0x0a] |= 1 << 3),
        milan("migration", "migration_allowed", |m| {
            m.report[0x0a] |= 1 << 2
        }),
        milan("migration", "migration_allowed", |m| m.report[0x160] = 0),
        milan("vmpl", "vmpl", |m| m.report[0x30] = 1),
        milan("vmpl", "vmpl", |m| {
            m.rules.max_vmpl = u32::MAX;
            m.report[0x30..0x34].fill(0xff);
        }),
        milan("abi", "abi_too_old", |m| m.rules.min_abi = (0, 1)),
        milan("smt", "smt_allowed", |m| m.rules.forbid_smt = true),
        milan("single_socket", "single_socket", |m| {
            m.rules.require_single_socket = true
        }),
        milan("cxl", "cxl_allowed", |m| {
            m.rules.forbid_cxl = true;
            m.report[0x0a] |= 1 << 5;
        }),
        milan("measurement", "measurement", |m| {
            m.rules.measurements = vec![[1; 48], [2; 48]]
        }),
        milan("host_data", "host_data", |m| {
            m.rules.host_data = vec![[1; 32]]
        }),
        milan("id_key_digest", "id_key_digest", |m| {
            m.rules.id_key_digests = vec![[1; 48]]
        }),
        milan("author_key_digest", "author_key_digest", |m| {
            m.rules.author_key_digests = vec![[1; 48]];
        }),
        milan("family_id", "family_id", |m| {
            m.rules.family_ids = vec![[1; 16]]
        }),
        milan("image_id", "image_id", |m| {
            m.rules.image_ids = vec![[1; 16]]
        }),
        milan("guest_svn", "guest_svn", |m| m.rules.guest_svn = 1),
        milan("alias_check", "alias_check", |m| {
            m.rules.require_alias_check = true
        }),
        milan("ciphertext_hiding", "ciphertext_hiding", |m| {
            m.rules.require_ciphertext_hiding = true;
        }),
        milan("power_meter", "power_meter", |m| {
            m.rules.require_power_meter_disabled = true
        }),
        milan("mitigations", "mitigations", |m| {
            m.rules.required_mitigations = 1
        }),
        flip("mitigations", "mitigations", turin(), |m| {
            m.rules.required_mitigations = 4
        }),
        milan("chip_id", "chip_id", |m| m.rules.chip_ids = vec![[1; 64]]),
        milan("unknown_bits", "unknown_bits", |m| {
            m.rules.refuse_unknown_bits = true;
            m.report[0x0f] = 1;
        }),
        milan("unknown_bits", "unknown_bits", |m| {
            m.rules.refuse_unknown_bits = true;
            m.report[0x47] = 1;
        }),
    ];
    for (at, value) in [(0, 6), (0, 1), (0x34, 2), (0x330, 1), (0x2d0, 1)] {
        flips.push(milan("report_format", "report_malformed", |m| {
            m.report[at] = value
        }));
    }
    let of_milan = [0x4c, 0x18b, 0x1eb, 0x1ef, 0x1f8, 0x29f, 0x1e2, 0x0a];
    let of_turin = [0x208, 0x1f6];
    for (machine, places) in [
        (Machine::milan as fn() -> _, &of_milan[..]),
        (turin, &of_turin),
    ] {
        for at in places {
            flips.push(flip("reserved", "reserved_bits", machine(), |m| {
                m.report[*at] = 1
            }));
        }
    }
    flips.push(milan("reserved", "reserved_bits", |m| {
        m.report[0x48] = 1 << 5
    }));
    flips
}

#[test]
fn what_rules_accept_is_accepted() {
    for change in [
        (|m| {
            m.rules.danger_accept_debug = true;
            m.report[0x0a] |= 1 << 3;
        }) as fn(&mut Machine),
        |m| {
            m.rules.danger_accept_migration = true;
            m.report[0x0a] |= 1 << 2;
            m.report[0x160] = 0;
        },
        |m| {
            m.rules.danger_accept_reserved = true;
            m.report[0x4c] = 1;
        },
        |m| {
            m.rules.accept_masked_chip_id = true;
            m.report[0x1a0..0x1e0].fill(0);
        },
        |m| {
            m.rules.max_vmpl = 2;
            m.report[0x30] = 2;
        },
        |m| m.report[0x0f] = 1,
    ] {
        let judgement = Machine::milan().changed(change).judge();
        assert_eq!(judgement.reason, "verified", "{judgement:#?}");
    }
}

#[test]
fn amds_revocation_list_names_the_old_genoa_ask_only() {
    use crate::evidence::x509;
    let crl = x509::parse_crl(include_bytes!(
        "../../../testdata/snp/crl-genoa-revoked-ask/crl.der"
    ))
    .unwrap();
    assert!(x509::is_revoked(&crl, &[0x02, 0x00, 0x01]));
    assert!(x509::is_revoked(&crl, &[0x00, 0x02, 0x00, 0x01]));
    assert!(!x509::is_revoked(&crl, &[0x02, 0x00, 0x02]));
}

#[test]
fn products_are_known_by_family_and_model() {
    assert_eq!(Product::from_cpuid(0x19, 0x01), Some(Product::Milan));
    assert_eq!(Product::from_cpuid(0x19, 0x11), Some(Product::Genoa));
    assert_eq!(Product::from_cpuid(0x19, 0xa0), Some(Product::Genoa));
    assert_eq!(Product::from_cpuid(0x1a, 0x02), Some(Product::Turin));
    assert_eq!(Product::from_cpuid(0x19, 0x20), None);
    assert_eq!(Product::from_cpuid(0x1a, 0x12), None);
}

#[test]
fn every_part_of_a_floor_counts_by_itself() {
    let held = Tcb {
        fmc: Some(1),
        bootloader: 2,
        tee: 3,
        snp: 4,
        microcode: 5,
    };
    assert!(held.is_at_least(&held) && held.is_at_least(&Tcb::default()));
    for raise in [
        |floor: &mut Tcb| floor.fmc = Some(2),
        |floor: &mut Tcb| floor.bootloader = 3,
        |floor: &mut Tcb| floor.tee = 4,
        |floor: &mut Tcb| floor.snp = 5,
        |floor: &mut Tcb| floor.microcode = 6,
    ] {
        let mut floor = held;
        raise(&mut floor);
        assert!(!held.is_at_least(&floor), "{floor}");
    }
}
