//! Real endorsements, each changed in one way.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::endorsement::need::{AmdSigner, IntelTee, PckCa, RimId};
use crate::evidence::sev_snp::Product;
use crate::evidence::sev_snp::report::Report;

fn data(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(folder.join(path)).unwrap()
}

fn at(text: &str) -> SystemTime {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

fn pem(ders: &[Vec<u8>]) -> String {
    ders.iter()
        .map(|der| {
            let text = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        })
        .collect()
}

#[track_caller]
fn check(need: &Need, bytes: &[u8], now: &str, expected: Result<(), &'static str>) {
    let found = Endorsement::verify(need, bytes, &[], at(now));
    let found = found.map(drop).map_err(|error| error.reason());
    assert_eq!(found, expected, "{}", need.name());
}

/// A part of Intel's collateral, as a cache keeps it.
fn part(names: &[&str]) -> Vec<u8> {
    let whole: Value =
        serde_json::from_slice(&data("testdata/tdx/v4-uptodate-dstack/collateral.json")).unwrap();
    let part: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), whole[*name].clone()))
        .collect();
    Value::Object(part).to_string().into_bytes()
}

fn tcb_info() -> (Need, Vec<u8>) {
    let need = Need::IntelTcbInfo {
        tee: IntelTee::Tdx,
        fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
    };
    let names = ["tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"];
    (need, part(&names))
}

fn vcek() -> (Need, Vec<u8>) {
    let folder = "testdata/snp/genoa-v3-azure-aci";
    let report = Report::parse(&data(&format!("{folder}/report.bin"))).unwrap();
    let need = Need::AmdVcek {
        product: Product::Genoa,
        chip_id: report.chip_id().to_vec(),
        tcb: report.reported_tcb(Product::Genoa),
    };
    let der = x509::certificates(&data(&format!("{folder}/vek.pem")))
        .unwrap()
        .swap_remove(0);
    (need, der)
}

#[test]
fn certificates_of_chips_are_verified_up_to_the_root() {
    let (need, der) = vcek();
    check(&need, &der, "2026-06-01T00:00:00Z", Ok(()));
    check(&need, &der, "2040-01-01T00:00:00Z", Err("expired"));
    check(&need, &der, "2019-01-01T00:00:00Z", Err("not_yet_valid"));
    check(&need, b"<html>", "2026-06-01T00:00:00Z", Err("malformed"));
    let mut other = der.clone();
    *other.last_mut().unwrap() ^= 1;
    check(&need, &other, "2026-06-01T00:00:00Z", Err("signature"));
}

#[test]
fn a_certificate_of_another_chip_or_version_is_refused() {
    let (need, der) = vcek();
    let Need::AmdVcek {
        product,
        chip_id,
        tcb,
    } = need
    else {
        unreachable!()
    };
    let mut other_chip = chip_id.clone();
    other_chip[0] ^= 1;
    let mut other_tcb = tcb;
    other_tcb.microcode += 1;
    for (product, chip_id, tcb) in [
        (product, other_chip, tcb),
        (product, chip_id.clone(), other_tcb),
    ] {
        let need = Need::AmdVcek {
            product,
            chip_id,
            tcb,
        };
        check(&need, &der, "2026-06-01T00:00:00Z", Err("wrong_subject"));
    }
    let need = Need::AmdVcek {
        product: Product::Milan,
        chip_id,
        tcb,
    };
    check(&need, &der, "2026-06-01T00:00:00Z", Err("signature"));
}

#[test]
fn authorities_that_certify_nothing_do_no_harm() {
    let (need, der) = vcek();
    let now = at("2026-06-01T00:00:00Z");
    let junk = pem(&[data("roots/amd-milan-ask.der"), b"junk".to_vec()]);
    let authorities = [junk.as_bytes()];
    assert!(Endorsement::verify(&need, &der, &authorities, now).is_ok());
}

#[test]
fn authorities_of_amd_are_verified_in_their_roles() {
    let files = |name: &str| {
        pem(&[
            data(&format!("roots/amd-milan-{name}.der")),
            data("roots/amd-milan-ark.der"),
        ])
    };
    let need = |product, signer| Need::AmdChain { product, signer };
    let now = "2026-01-01T00:00:00Z";
    let (vcek, vlek) = (AmdSigner::Vcek, AmdSigner::Vlek);
    let (ask, asvk) = (files("ask"), files("asvk"));
    check(&need(Product::Milan, vcek), ask.as_bytes(), now, Ok(()));
    check(&need(Product::Milan, vlek), asvk.as_bytes(), now, Ok(()));
    let swapped = need(Product::Milan, vlek);
    check(&swapped, ask.as_bytes(), now, Err("wrong_subject"));
    let other = need(Product::Genoa, vcek);
    check(&other, ask.as_bytes(), now, Err("signature"));
    let alone = pem(&[data("roots/amd-milan-ark.der")]);
    let milan = need(Product::Milan, vcek);
    check(&milan, alone.as_bytes(), now, Err("malformed"));
}

#[test]
fn lists_of_amd_are_verified_with_their_dates() {
    let crl = data("testdata/snp/crl-milan-empty/crl.der");
    let need = |product| Need::AmdCrl {
        product,
        signer: AmdSigner::Vcek,
    };
    let milan = need(Product::Milan);
    check(&milan, &crl, "2026-01-01T00:00:00Z", Ok(()));
    check(&milan, &crl, "2026-06-01T00:00:00Z", Err("expired"));
    check(&milan, &crl, "2025-01-01T00:00:00Z", Err("not_yet_valid"));
    let other = need(Product::Turin);
    check(&other, &crl, "2026-01-01T00:00:00Z", Err("wrong_subject"));
    let mut changed = crl.clone();
    *changed.last_mut().unwrap() ^= 1;
    check(&milan, &changed, "2026-01-01T00:00:00Z", Err("signature"));
}

#[test]
fn levels_of_intel_are_verified_as_the_text_that_was_signed() {
    let (need, file) = tcb_info();
    check(&need, &file, "2025-07-01T00:00:00Z", Ok(()));
    check(&need, &file, "2025-08-01T00:00:00Z", Err("expired"));
    check(&need, &file, "2025-06-01T00:00:00Z", Err("not_yet_valid"));
    let text = String::from_utf8(file.clone()).unwrap();
    let changed = text.replace("UpToDate", "OutOfDate").into_bytes();
    check(&need, &changed, "2025-07-01T00:00:00Z", Err("signature"));
    let other = Need::IntelTcbInfo {
        tee: IntelTee::Tdx,
        fmspc: [0; 6],
    };
    check(&other, &file, "2025-07-01T00:00:00Z", Err("wrong_subject"));
    let other = Need::IntelTcbInfo {
        tee: IntelTee::Sgx,
        fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
    };
    check(&other, &file, "2025-07-01T00:00:00Z", Err("wrong_subject"));
    check(&need, b"{}", "2025-07-01T00:00:00Z", Err("malformed"));
}

#[test]
fn levels_signed_by_another_authority_of_intel_are_refused() {
    let (need, file) = tcb_info();
    let mut part: Value = serde_json::from_slice(&file).unwrap();
    let pck = self::part(&["pck_crl_issuer_chain"]);
    let pck: Value = serde_json::from_slice(&pck).unwrap();
    part["tcb_info_issuer_chain"] = pck["pck_crl_issuer_chain"].clone();
    let file = part.to_string();
    check(
        &need,
        file.as_bytes(),
        "2025-07-01T00:00:00Z",
        Err("signature"),
    );
}

#[test]
fn identities_of_quoting_enclaves_are_verified() {
    let names = [
        "qe_identity",
        "qe_identity_signature",
        "qe_identity_issuer_chain",
    ];
    let file = part(&names);
    let tdx = Need::IntelQeIdentity { tee: IntelTee::Tdx };
    check(&tdx, &file, "2025-07-01T00:00:00Z", Ok(()));
    check(&tdx, &file, "2025-08-01T00:00:00Z", Err("expired"));
    let sgx = Need::IntelQeIdentity { tee: IntelTee::Sgx };
    check(&sgx, &file, "2025-07-01T00:00:00Z", Err("wrong_subject"));
    let text = String::from_utf8(file).unwrap();
    let forged = text.replace("isvprodid\\\":2", "isvprodid\\\":3");
    assert_ne!(forged, text);
    check(
        &tdx,
        forged.as_bytes(),
        "2025-07-01T00:00:00Z",
        Err("signature"),
    );
}

#[test]
fn lists_of_intel_are_verified() {
    let pck = part(&["pck_crl", "pck_crl_issuer_chain"]);
    let need = |ca| Need::IntelPckCrl { ca };
    let now = "2025-07-01T00:00:00Z";
    check(&need(PckCa::Platform), &pck, now, Ok(()));
    let processor = need(PckCa::Processor);
    check(&processor, &pck, now, Err("wrong_subject"));
    let late = "2026-07-01T00:00:00Z";
    check(&need(PckCa::Platform), &pck, late, Err("expired"));
    let root = part(&["root_ca_crl"]);
    check(&Need::IntelRootCrl, &root, now, Ok(()));
    let wrong = String::from_utf8(pck)
        .unwrap()
        .replace("pck_crl\"", "root_ca_crl\"");
    let wrong = wrong.replace("\"pck_crl_issuer_chain\"", "\"tcb_info\"");
    check(
        &Need::IntelRootCrl,
        wrong.as_bytes(),
        now,
        Err("wrong_subject"),
    );
}

#[test]
fn manifests_are_verified_and_are_what_their_name_says() {
    let folder = "testdata/nvidia/hopper-550.90.07-full";
    let driver = data(&format!("{folder}/driver-rim.xml"));
    let vbios = data(&format!("{folder}/vbios-rim.xml"));
    let need = |id: &str| Need::NvidiaRim {
        id: RimId::new(id).unwrap(),
    };
    let now = "2025-08-21T12:00:00Z";
    let named = need("NV_GPU_DRIVER_GH100_550.90.07");
    check(&named, &driver, now, Ok(()));
    let firmware = need("NV_GPU_VBIOS_1010_0200_882_96009F0001");
    check(&firmware, &vbios, now, Ok(()));
    check(&named, &vbios, now, Err("wrong_subject"));
    let old = need("NV_GPU_DRIVER_GH100_550.90.06");
    check(&old, &driver, now, Err("wrong_subject"));
    let chip = need("NV_GPU_CC_DRIVER_GB100_550.90.07");
    check(&chip, &driver, now, Err("wrong_subject"));
    check(&named, &driver, "2040-01-01T00:00:00Z", Err("expired"));
    let text = String::from_utf8(driver).unwrap();
    let forged = text.replacen("active=\"True\"", "active=\"False\"", 1);
    check(&named, forged.as_bytes(), now, Err("signature"));
    check(&named, b"<a/>", now, Err("malformed"));
}

/// An answer of NVIDIA's responder, about a certificate of a device's chain.
fn ocsp() -> (Need, Vec<u8>) {
    let folder = "testdata/nvidia/hopper-550.90.07-full";
    let chain = x509::certificates(&data(&format!("{folder}/chain.pem"))).unwrap();
    let text = data(&format!("{folder}/ocsp-gpu_certificate_l3.b64"));
    let need = Need::Ocsp {
        certificate: chain[2].clone(),
        issuer: chain[3].clone(),
    };
    (need, STANDARD.decode(text.trim_ascii()).unwrap())
}

#[test]
fn answers_about_certificates_are_verified_and_live_a_day() {
    let (need, answer) = ocsp();
    check(&need, &answer, "2025-08-21T12:00:00Z", Ok(()));
    check(&need, &answer, "2025-08-23T00:00:00Z", Err("expired"));
    check(&need, &answer, "2025-08-20T00:00:00Z", Err("not_yet_valid"));
    check(&need, b"0", "2025-08-21T12:00:00Z", Err("malformed"));
    let Need::Ocsp {
        certificate,
        issuer,
    } = &need
    else {
        unreachable!()
    };
    let other = Need::Ocsp {
        certificate: issuer.clone(),
        issuer: certificate.clone(),
    };
    check(
        &other,
        &answer,
        "2025-08-21T12:00:00Z",
        Err("wrong_subject"),
    );
    let text = hex::encode(&answer);
    // `good` becomes `unknown`.
    let changed = hex::decode(text.replacen("8000180f", "8200180f", 1)).unwrap();
    assert_ne!(changed, answer);
    check(&need, &changed, "2025-08-21T12:00:00Z", Err("signature"));
}

#[test]
fn a_manifest_needs_answers_about_its_signers() {
    let rim = data("testdata/nvidia/hopper-550.90.07-full/driver-rim.xml");
    let need = Need::NvidiaRim {
        id: RimId::new("NV_GPU_DRIVER_GH100_550.90.07").unwrap(),
    };
    let rim = Endorsement::verify(&need, &rim, &[], at("2025-08-21T12:00:00Z")).unwrap();
    let needs = crate::endorsement::needs::of_endorsement(&rim);
    assert_eq!(needs.len(), 3);
    let folder = "testdata/nvidia/hopper-550.90.07-full";
    let answers = ["gpu_driver_rim_l4", "gpu_driver_rim_l3", "gpu_rim_l2"];
    for (need, answer) in needs.iter().zip(answers) {
        let text = data(&format!("{folder}/ocsp-{answer}.b64"));
        let answer = STANDARD.decode(text.trim_ascii()).unwrap();
        check(need, &answer, "2025-10-24T18:00:00Z", Ok(()));
    }
}

#[test]
fn an_older_edition_is_told_from_a_newer_one() {
    let (need, file) = tcb_info();
    let held = Endorsement::verify(&need, &file, &[], at("2025-07-01T00:00:00Z")).unwrap();
    assert_eq!(held.issued(), at("2025-06-19T10:16:03Z"));
    assert_eq!(held.until(), at("2025-07-19T10:16:03Z"));
    let with = |number, from| Endorsement {
        validity: Validity {
            number,
            from,
            ..held.validity
        },
        ..held.clone()
    };
    let (number, from) = (held.validity.number, held.validity.from);
    assert!(!held.is_older_than(&held));
    assert!(with(number - 1, from + 1).is_older_than(&held));
    assert!(with(number, from - 1).is_older_than(&held));
    assert!(held.is_older_than(&with(number + 1, from - 1)));
}
