//! What real evidence needs, and that nothing needs much.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::dossier::{Rules, inspect};
use crate::endorsement::need::IntelTee;
use crate::evidence::sev_snp::report::Tcb;
use crate::judgement::Outcome;

type Named = Vec<(String, Vec<u8>)>;

fn case(folder: &str) -> Named {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(folder);
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .filter(|(name, _)| name != "case.json")
        .collect()
}

fn borrowed(files: &Named) -> Vec<File<'_>> {
    files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

#[track_caller]
fn check(kind: Kind, folder: &str, only: &str, expected: &[&str]) {
    let mut files = case(folder);
    files.retain(|(name, _)| only.is_empty() || only.contains(name.as_str()));
    let found: Vec<String> = needs(kind, &borrowed(&files))
        .iter()
        .map(Need::name)
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn reports_of_snp_name_product_chip_and_versions() {
    let kind = Kind::SevSnp;
    let found = needs(
        kind,
        &borrowed(&only("snp/genoa-v3-azure-aci", "report.bin")),
    );
    let [chain, crl, vcek] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(chain.name(), "amd-chain-genoa-vcek.pem");
    assert_eq!(crl.name(), "amd-crl-genoa-vcek.der");
    assert!(vcek.name().starts_with("amd-vcek-genoa-"), "{vcek:?}");
    let Need::AmdVcek { chip_id, tcb, .. } = vcek else {
        panic!("{vcek:?}")
    };
    assert_eq!(chip_id.len(), 64);
    assert_eq!(tcb.fmc, None);
}

fn only(folder: &str, name: &str) -> Named {
    let mut files = case(folder);
    files.retain(|(held, _)| held == name);
    files
}

#[test]
fn turin_names_eight_bytes_and_five_versions() {
    let found = needs(
        Kind::SevSnp,
        &borrowed(&only("snp/turin-v5-azure-aci", "report.bin")),
    );
    let vcek = found.iter().find_map(|need| match need {
        Need::AmdVcek { chip_id, tcb, .. } => Some((chip_id.clone(), *tcb)),
        _ => None,
    });
    let (chip_id, Tcb { fmc, .. }) = vcek.unwrap();
    assert_eq!(chip_id.len(), 8);
    assert!(fmc.is_some());
}

#[test]
fn certificates_that_came_along_are_not_asked_for() {
    let milan = ["amd-chain-milan-vcek.pem", "amd-crl-milan-vcek.der"];
    check(Kind::SevSnp, "snp/milan-v2-vcek", "", &milan);
    let genoa = ["amd-chain-genoa-vcek.pem", "amd-crl-genoa-vcek.der"];
    check(Kind::SevSnp, "snp/genoa-v3-azure-aci", "", &genoa);
    let provider = ["amd-chain-milan-vlek.pem", "amd-crl-milan-vlek.der"];
    check(Kind::SevSnp, "snp/milan-v3-vlek-vmpl1", "", &provider);
    check(Kind::AzSnpVtpm, "az-snp-vtpm/milan-v1", "", &milan);
}

#[test]
fn a_certificate_of_another_chip_or_firmware_does_not_do() {
    let asked = |places: &[usize]| {
        let mut files = case("snp/genoa-v3-azure-aci");
        let report = files.iter().position(|(name, _)| name == "report.bin");
        let (_, report) = &mut files[report.unwrap()];
        for at in places {
            report[*at] ^= 1;
        }
        needs(Kind::SevSnp, &borrowed(&files))
            .into_iter()
            .find_map(|need| match need {
                Need::AmdVcek { chip_id, tcb, .. } => Some((chip_id, tcb)),
                _ => None,
            })
    };
    assert_eq!(asked(&[]), None);
    let report = only("snp/genoa-v3-azure-aci", "report.bin").remove(0).1;
    // Boot loader, operating system, firmware and microcode of the reported versions, then the chip.
    for at in [0x180, 0x181, 0x186, 0x187] {
        let (chip, tcb) = asked(&[at]).unwrap();
        assert_eq!(chip, report[0x1a0..0x1e0]);
        let parts = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode];
        let place = [0x180, 0x181, 0x186, 0x187]
            .iter()
            .position(|held| *held == at);
        assert_eq!(parts[place.unwrap()], report[at] ^ 1);
    }
    let (chip, _) = asked(&[0x1a0]).unwrap();
    assert_eq!(chip[0], report[0x1a0] ^ 1);
    // What the firmware runs or has committed is not what the key is of.
    assert_eq!(asked(&[0x38, 0x1e0, 0x1f0]), None);
}

#[test]
fn a_report_that_does_not_say_its_product_needs_nothing_without_a_certificate() {
    check(Kind::SevSnp, "snp/milan-v2-vcek", "report.bin", &[]);
}

#[test]
fn quotes_name_platform_authority_and_tee() {
    let tdx = [
        "intel-tcb-info-tdx-b0c06f000000.json",
        "intel-qe-identity-tdx.json",
        "intel-pck-crl-platform.json",
        "intel-root-crl.json",
    ];
    check(Kind::Tdx, "tdx/v4-uptodate-dstack", "quote.bin", &tdx);
    let found = needs(
        Kind::Sgx,
        &borrowed(&only("sgx/sgx-v3-debug-occlum", "quote.bin")),
    );
    assert!(matches!(
        found.first(),
        Some(Need::IntelTcbInfo {
            tee: IntelTee::Sgx,
            ..
        })
    ));
}

#[test]
fn devices_name_their_manifests() {
    let rims = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("nvidia-rim-{name}.xml"))
            .collect()
    };
    for (folder, names) in [
        (
            "nvidia/hopper-550.90.07-full",
            &[
                "NV_GPU_DRIVER_GH100_550.90.07",
                "NV_GPU_VBIOS_1010_0200_882_96009F0001",
            ][..],
        ),
        (
            "nvidia/switch-ls10",
            &["NV_SWITCH_BIOS_5612_0002_890_9610550001"],
        ),
    ] {
        let found = of_device(folder);
        let (asked, found): (Vec<_>, Vec<_>) = found
            .iter()
            .map(Need::name)
            .partition(|name| name.starts_with("ocsp-"));
        assert_eq!(found, rims(names));
        // All but the leaf, which no responder knows, and the root.
        assert_eq!(asked.len(), 3);
    }
    let found = of_device("nvidia/blackwell-575.32");
    assert!(
        found
            .iter()
            .any(|need| need.name().contains("NV_GPU_CC_DRIVER_GB100_575.32")),
        "{found:?}"
    );
}

fn of_device(folder: &str) -> Vec<Need> {
    let mut files = case(folder);
    files.retain(|(name, _)| name == "report.bin" || name == "chain.pem");
    needs(Kind::NvidiaGpu, &borrowed(&files))
}

#[test]
fn nobody_is_asked_about_certificates_that_are_not_nvidias() {
    let mut files = case("nvidia/switch-ls10");
    files.retain(|(name, _)| name == "report.bin" || name == "chain.pem");
    for (name, bytes) in &mut files {
        if name == "chain.pem" {
            let mut chain = x509::certificates(bytes).unwrap();
            chain.pop();
            *bytes = chain
                .iter()
                .map(|der| {
                    format!(
                        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                        STANDARD.encode(der)
                    )
                })
                .collect::<String>()
                .into_bytes();
        }
    }
    let found = needs(Kind::NvidiaGpu, &borrowed(&files));
    assert!(found.iter().all(|need| !matches!(need, Need::Ocsp { .. })));
    assert_eq!(found.len(), 1);
}

#[test]
fn a_list_of_devices_names_each_manifest_once() {
    let files = case("nvidia/hopper-590.12-ppcie");
    let found = needs(Kind::NvidiaGpu, &borrowed(&files));
    let mut names: Vec<_> = found.iter().map(Need::name).collect();
    assert!((2..=64).contains(&names.len()), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), found.len());
}

#[test]
fn garbage_needs_nothing() {
    let garbage = [
        &b""[..],
        b"{}",
        b"[]",
        b"<a/>",
        &[0; 1184],
        &[0xff; 4096],
        b"HCLA",
    ];
    for bytes in garbage {
        for kind in Kind::ALL {
            let files = [File {
                name: "file",
                bytes,
            }];
            assert_eq!(needs(kind, &files), []);
        }
    }
}

/// Intel's collateral, taken apart into the files of a cache.
fn parts_of_collateral() -> Named {
    let whole = only("tdx/v4-uptodate-dstack", "collateral.json");
    let whole: Value = serde_json::from_slice(&whole[0].1).unwrap();
    let part = |file: &str, names: &[&str]| {
        let part: serde_json::Map<String, Value> = names
            .iter()
            .map(|name| ((*name).to_owned(), whole[*name].clone()))
            .collect();
        (
            file.to_owned(),
            Value::Object(part).to_string().into_bytes(),
        )
    };
    vec![
        part(
            "intel-tcb-info-tdx-b0c06f000000.json",
            &["tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"],
        ),
        part(
            "intel-qe-identity-tdx.json",
            &[
                "qe_identity",
                "qe_identity_signature",
                "qe_identity_issuer_chain",
            ],
        ),
        part(
            "intel-pck-crl-platform.json",
            &["pck_crl", "pck_crl_issuer_chain"],
        ),
        part("intel-root-crl.json", &["root_ca_crl"]),
    ]
}

#[test]
fn a_quote_is_judged_by_endorsements_that_were_kept_one_by_one() {
    let quote = only("tdx/v4-uptodate-dstack", "quote.bin");
    let parts = parts_of_collateral();
    let now = "2025-07-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
    let missing = |parts: &Named| {
        let dossier = Dossier {
            files: &borrowed(&quote),
            endorsements: &borrowed(parts),
        };
        let glance = inspect(Kind::Tdx, dossier, &Rules::default(), now.into());
        let judgement = glance.judgement();
        let checks = judgement.checks.iter();
        (
            { checks }.any(|check| check.outcome == Outcome::Missing),
            judgement.reason,
        )
    };
    let (is_missing, reason) = missing(&parts);
    assert!(!is_missing, "{reason}");
    for left_out in 0..parts.len() {
        let mut parts = parts.clone();
        parts.remove(left_out);
        assert_eq!(missing(&parts), (true, "endorsement_missing"));
    }
}
