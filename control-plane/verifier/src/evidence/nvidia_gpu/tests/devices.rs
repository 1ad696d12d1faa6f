//! Report, chain, firmware, nonce, mode and versions.

use super::maker::{DRIVER, FIRMWARE, NONCE, PDI, VBIOS, tcb_info};
use super::*;
use crate::judgement::Value;

fn gpu(change: impl FnOnce(&mut Maker)) -> Maker {
    Maker::gpu().with(change)
}

fn ruled(change: impl FnOnce(&mut Rules)) -> Maker {
    gpu(|gpu| change(&mut gpu.rules))
}

#[test]
fn device_as_it_should_be_is_affirmed() {
    affirms(&Maker::gpu());
    affirms(&Maker::switch());
    affirms(&gpu(|gpu| gpu.trailing = 1));
}

#[test]
fn claims_say_what_was_proven() {
    let judgement = Maker::gpu().judge();
    for (name, expected) in [
        ("device", Value::from("gpu")),
        ("architecture", Value::from("hopper")),
        ("hardware_model", Value::from("GH100 A01 GSP BROM")),
        ("chip_id", Value::from("410102030405060708")),
        ("ueid", Value::from("1799")),
        ("driver", Value::from(DRIVER)),
        ("vbios", Value::from(VBIOS)),
        ("mode", Value::from("single_gpu")),
        ("firmware_id", Value::from(hex::encode(FIRMWARE))),
        ("confidential_compute", Value::from(true)),
        ("protected_pcie", Value::from(false)),
        ("secure_boot", Value::from(true)),
        ("debug", Value::from(false)),
        ("revocation_checked", Value::from(false)),
        ("count", Value::from(1_u64)),
        ("switches", Value::from(0_u64)),
    ] {
        assert_eq!(judgement.claims.get(name), Some(&expected), "{name}");
    }
    let mismatch = gpu(|gpu| gpu.measurements[1].1 = vec![7; 48]).judge();
    assert!(!mismatch.claims.contains_key("secure_boot"));
    assert!(!mismatch.claims.contains_key("debug"));
    assert!(!judgement.claims.contains_key("devtools"));
}

#[test]
fn report_of_another_form_is_refused() {
    let malformed = |change: fn(&mut Maker)| refuses("report_malformed", &gpu(change));
    malformed(|gpu| gpu.request[0] = 0x12);
    malformed(|gpu| gpu.request[1] = 0xe1);
    malformed(|gpu| gpu.request[2] = 0);
    malformed(|gpu| gpu.request[3] = 1);
    malformed(|gpu| gpu.response[0] = 0x10);
    malformed(|gpu| gpu.response[1] = 0x61);
    malformed(|gpu| gpu.blocks = 2);
    malformed(|gpu| gpu.blocks = 4);
    malformed(|gpu| gpu.form = 2);
    malformed(|gpu| gpu.measurements[0].0 = 2);
    malformed(|gpu| gpu.fields.push((3, b"570.1\0".to_vec())));
    // Fields that decide something have the values that are known.
    malformed(|gpu| gpu.set(11, &[0x54]));
    malformed(|gpu| gpu.set(11, &[]));
    malformed(|gpu| gpu.set(20, &[0; 32]));
    malformed(|gpu| gpu.set(21, &[0x55, 0x55]));
    malformed(|gpu| gpu.set(22, &[0; 9]));
    malformed(|gpu| gpu.set(26, &[0; 7]));
    malformed(|gpu| gpu.set(34, &[2, 0]));
    malformed(|gpu| gpu.set(34, &[1]));
    malformed(|gpu| gpu.set(36, &[3, 0]));
    malformed(|gpu| gpu.set(36, &[0]));
    malformed(|gpu| gpu.trailing = 16 * 1024);
    // Others may come.
    affirms(&gpu(|gpu| gpu.set(99, &[1, 2, 3])));
    affirms(&gpu(|gpu| gpu.set(34, &[1, 0])));
}

#[test]
fn report_is_signed_by_the_key_that_nvidias_chain_ends_in() {
    refuses("report_signature", &gpu(|gpu| gpu.signed_by_other = true));
    refuses("root_not_pinned", &gpu(|gpu| gpu.root_is_other = true));
    refuses("chain_incomplete", &gpu(|gpu| gpu.leaf_by_other = true));
    refuses("chain_incomplete", &gpu(|gpu| gpu.certificates = 2));
    refuses("root_not_pinned", &gpu(|gpu| gpu.certificates = 3));
    refuses("chain_incomplete", &gpu(|gpu| gpu.leaf_is_authority = true));
    refuses("chain_constraints", &gpu(|gpu| gpu.leaf_is_critical = true));
    refuses("chain_constraints", &gpu(|gpu| gpu.issuer_depth = Some(0)));
    refuses("certificate_expired", &gpu(|gpu| gpu.now = 4001));
    refuses("certificate_expired", &gpu(|gpu| gpu.leaf_until = 1999));
    refuses("certificate_not_yet_valid", &gpu(|gpu| gpu.now = 999));
}

#[test]
fn chip_that_is_not_known_or_not_for_production_is_refused() {
    let model = |model| gpu(|gpu| gpu.model = model);
    refuses("architecture_unknown", &model("GR100 A01 GSP BROM"));
    refuses("architecture_unknown", &model("GH100"));
    refuses("debug_part", &model("GH100 A01 GSP BROM Debug"));
    refuses("debug_part", &gpu(|gpu| gpu.leaf_name = "FMC DEBUG"));
}

#[test]
fn certificate_names_the_firmware_that_the_report_names() {
    let mismatch = |info: Vec<u8>| refuses("firmware_id_mismatch", &gpu(|gpu| gpu.tcb_info = info));
    mismatch(tcb_info(&[0xf1; 48]));
    mismatch(tcb_info(&[0; 48]));
    mismatch(tcb_info(&[0xf0; 32]));
    mismatch(Vec::new());
    mismatch(vec![0x30, 0]);
    mismatch([tcb_info(&FIRMWARE), vec![0]].concat());
    let inner = &tcb_info(&FIRMWARE)[2..];
    mismatch(element(0x30, &[inner, &inner[3..]].concat()));
    // As Blackwell writes it, with a second digest of zeros.
    let digest = |digest: &[u8]| element(0x30, &[element(6, SHA384), element(4, digest)].concat());
    let digests = [digest(&FIRMWARE), digest(&[0; 48])].concat();
    let blackwell = element(
        0x30,
        &[element(0x80, b"NVIDIA"), element(0xa6, &digests)].concat(),
    );
    affirms(&gpu(|gpu| gpu.tcb_info = blackwell));

    let without = |is_required| {
        gpu(|gpu| {
            gpu.without(20);
            gpu.rules.require_firmware_id = is_required;
        })
    };
    affirms(&without(false));
    refuses("firmware_id_missing", &without(true));
}

#[test]
fn nonce_is_the_one_that_was_asked_for_and_stated() {
    refuses("nonce_mismatch", &gpu(|gpu| gpu.nonce[31] ^= 1));
    refuses(
        "nonce_mismatch",
        &gpu(|gpu| gpu.nonce = NONCE[..31].to_vec()),
    );
    refuses("nonce_mismatch", &gpu(|gpu| gpu.nonce.push(0)));
    let stated = |nonce: Vec<u8>| gpu(|gpu| gpu.stated.nonce = Some(nonce));
    affirms(&stated(NONCE.to_vec()));
    refuses("nonce_mismatch", &stated(vec![6; 32]));
    refuses("nonce_mismatch", &stated(Vec::new()));
}

#[test]
fn architecture_is_the_one_that_was_stated() {
    let stated = |word: &str| gpu(|gpu| gpu.stated.architecture = Some(word.into()));
    affirms(&stated("HOPPER"));
    refuses("architecture_mismatch", &stated("BLACKWELL"));
    refuses("architecture_mismatch", &stated(""));
}

#[test]
fn switch_names_the_number_that_its_chip_was_certified_with() {
    let pdis = |pdis: &[u8]| Maker::switch().with(|switch| switch.set(22, pdis));
    affirms(&pdis(&PDI));
    refuses("switch_pdi_mismatch", &pdis(&[9; 8]));
    refuses("switch_pdi_mismatch", &pdis(&[PDI, PDI].concat()));
    let without = Maker::switch().with(|switch| switch.without(22));
    refuses("switch_pdi_mismatch", &without);
}

#[test]
fn mode_is_one_of_those_accepted() {
    let mode = |flag: u8, pcie: u8, modes: &[Mode]| {
        gpu(|gpu| {
            gpu.set(36, &[flag, 0]);
            gpu.set(21, &[pcie]);
            gpu.rules.modes = modes.to_vec();
        })
    };
    affirms(&mode(0, 0x55, &[Mode::SingleGpu]));
    affirms(&mode(1, 0x55, &[Mode::SingleGpu, Mode::MultiGpu]));
    affirms(&mode(2, 0xaa, &[Mode::ProtectedPcie]));
    refuses("mode", &mode(1, 0x55, &[Mode::SingleGpu]));
    refuses("mode_contradicts", &mode(2, 0x55, &[]));
    refuses("mode_contradicts", &mode(0, 0xaa, &[]));
    let silent = gpu(|gpu| {
        gpu.without(21);
        gpu.rules.modes = vec![Mode::SingleGpu];
    });
    refuses("mode", &silent);
}

#[test]
fn confidential_computing_is_on_where_it_must_be() {
    let on = |change: fn(&mut Maker)| {
        gpu(|gpu| {
            gpu.rules.confidential_compute = Some(true);
            change(gpu);
        })
    };
    affirms(&on(|_| {}));
    refuses("confidential_compute", &on(|gpu| gpu.set(21, &[0xaa])));
    refuses("confidential_compute", &on(|gpu| gpu.without(21)));
    let said = |confidential_compute, devtools| {
        gpu(|gpu| {
            gpu.rules.confidential_compute = Some(true);
            gpu.rules.devtools = Some(false);
            gpu.stated.driver = Some(DriverState {
                confidential_compute,
                devtools,
            });
        })
    };
    affirms(&said(true, false));
    refuses("confidential_compute", &said(false, false));
    refuses("devtools", &said(true, true));
    // Nobody said that they are off.
    refuses("devtools", &ruled(|rules| rules.devtools = Some(false)));
    affirms(&gpu(|gpu| {
        gpu.without(21);
        gpu.rules.confidential_compute = Some(true);
        gpu.stated.driver = Some(DriverState {
            confidential_compute: true,
            devtools: false,
        });
    }));
}

#[test]
fn driver_and_vbios_are_among_those_accepted() {
    let version = |text: &str| text.parse::<Version>().unwrap();
    let vbios = |text: &str| text.parse::<HexVersion>().ok();
    affirms(&ruled(|rules| rules.drivers = vec![DRIVER.into()]));
    refuses(
        "driver",
        &ruled(|rules| rules.drivers = vec!["570.2".into()]),
    );
    affirms(&ruled(|rules| rules.min_driver = Some(version("570.0.9"))));
    affirms(&ruled(|rules| rules.min_driver = Some(version("570.1"))));
    refuses(
        "driver_too_old",
        &ruled(|rules| rules.min_driver = Some(version("570.1.1"))),
    );
    refuses(
        "driver_revoked",
        &ruled(|rules| rules.revoked_drivers = vec![DRIVER.into()]),
    );
    affirms(&ruled(|rules| {
        rules.revoked_drivers = vec!["570.10".into()]
    }));

    affirms(&ruled(|rules| rules.vbios = vec![VBIOS.into()]));
    refuses(
        "vbios",
        &ruled(|rules| rules.vbios = vec!["96.00.9F.00.02".into()]),
    );
    affirms(&ruled(|rules| rules.min_vbios = vbios(VBIOS)));
    affirms(&ruled(|rules| rules.min_vbios = vbios("96.00.0A")));
    refuses(
        "vbios_too_old",
        &ruled(|rules| rules.min_vbios = vbios("96.00.A0")),
    );
    refuses(
        "vbios_revoked",
        &ruled(|rules| rules.revoked_vbios = vec![VBIOS.to_lowercase()]),
    );
    // A switch has no driver to be too old.
    affirms(&Maker::switch().with(|switch| switch.rules.min_driver = Some(version("999"))));
}

#[test]
fn flipped_and_cut_reports_are_refused() {
    // Without manifests nothing is wrong with it yet, and what is compared here is the report alone.
    let maker = gpu(|gpu| gpu.rims.clear());
    lacks("rim_missing", &maker);
    let mut made = maker.make();
    let whole = made.report.clone();
    let root = made.root.clone();
    // Every bit of real reports is flipped elsewhere; here it is the judgement that must say so.
    for index in (0..whole.len()).step_by(7) {
        for cut in [true, false] {
            made.report = whole.clone();
            if cut {
                made.report.truncate(index);
            } else {
                made.report[index] ^= 1 << (index % 8);
            }
            let roots = Roots {
                device: &root,
                rim: &root,
            };
            let status = made.judge(&maker, roots).status;
            assert_eq!(status, Status::Contraindicated, "{index} {cut}");
        }
    }
}
