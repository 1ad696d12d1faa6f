//! The same evidence, wrapped as vendors' tools wrap it, is judged the same; damaged files have reasons of their own.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use vouchsafe_verifier::dossier::{File, Kind};

use crate::{at, judge, load};

/// Judges files and returns the reason.
fn reason(kind: Kind, now: &str, files: &[(&str, Vec<u8>)]) -> &'static str {
    let files: Vec<_> = { files.iter() }
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    judge(kind, &files, at(now)).reason
}

fn file(case: &str, name: &str) -> Vec<u8> {
    load(case, &[name]).remove(0).1
}

fn lines(text: &str) -> String {
    let lines: Vec<_> = { text.as_bytes().chunks(76) }
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    lines.join("\r\n") + "\r\n"
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = lines(&STANDARD.encode(der));
    format!("-----BEGIN {label}-----\n{text}-----END {label}-----\n")
}

/// The ways to write bytes as a file by themselves.
fn alone(bytes: &[u8]) -> Vec<Vec<u8>> {
    vec![
        bytes.to_vec(),
        hex::encode(bytes).into_bytes(),
        format!("0x{}\n", hex::encode_upper(bytes)).into_bytes(),
        STANDARD.encode(bytes).into_bytes(),
        URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        lines(&STANDARD.encode(bytes)).into_bytes(),
        json!({"version": 1, "body": {"bytes": STANDARD.encode(bytes)}})
            .to_string()
            .into_bytes(),
        json!([{"bytes": bytes}]).to_string().into_bytes(),
        STANDARD
            .encode(json!({"bytes": hex::encode(bytes)}).to_string())
            .into_bytes(),
    ]
}

/// The table of SNP's host: GUID, offset, length; then a row of zeros; then the certificates.
fn table(certificates: &[&[u8]]) -> Vec<u8> {
    let mut offset = 24 * (certificates.len() + 1);
    let (mut head, mut body) = (Vec::new(), Vec::new());
    for der in certificates {
        head.extend([0x63; 16]);
        head.extend(u32::try_from(offset).unwrap().to_le_bytes());
        head.extend(u32::try_from(der.len()).unwrap().to_le_bytes());
        body.extend(*der);
        offset += der.len();
    }
    [head, vec![0; 24], body].concat()
}

const SNP_CASE: &str = "snp/milan-v2-vcek";
const SNP_TIME: &str = "2025-06-01T00:00:00Z";

#[test]
fn sev_snp_reports_are_found_in_every_wrapping() {
    let (report, vek) = (file(SNP_CASE, "report.bin"), file(SNP_CASE, "vek.der"));
    let check = |files: &[(&str, Vec<u8>)]| reason(Kind::SevSnp, SNP_TIME, files);
    for (number, wrapped) in alone(&report).into_iter().enumerate() {
        let found = check(&[("attestation", wrapped), ("vcek", vek.clone())]);
        assert_eq!(found, "verified", "report {number}");
    }
    let vek_pem = pem("CERTIFICATE", &vek);
    let thim = json!({"vcekCert": vek_pem, "tcbm": "DB00", "certificateChain": vek_pem});
    let mut wrappings = alone(&vek);
    wrappings.push(vek_pem.clone().into_bytes());
    wrappings.push(STANDARD.encode(&vek_pem).into_bytes());
    wrappings.push(table(&[&vek]));
    wrappings.push(thim.to_string().into_bytes());
    wrappings.push([vek.as_slice(), &vek].concat());
    wrappings.push(format!("-- vcek.pem --\n{vek_pem}\n-- more.pem --\n{vek_pem}").into_bytes());
    for (number, wrapped) in wrappings.into_iter().enumerate() {
        let found = check(&[("report.bin", report.clone()), ("vcek", wrapped)]);
        assert_eq!(found, "verified", "certificate {number}");
    }
    let together = json!({"report": STANDARD.encode(&report), "vcek": STANDARD.encode(&vek)});
    let answer = [
        &[0, 0, 0, 0, 0xa0, 4, 0, 0][..],
        &[0; 24],
        &report,
        &[0; 2784],
    ]
    .concat();
    for whole in [
        [report.as_slice(), &table(&[&vek])].concat(),
        together.to_string().into_bytes(),
    ] {
        assert_eq!(check(&[("evidence", whole)]), "verified");
    }
    assert_eq!(
        check(&[("page", answer.clone()), ("vcek", vek.clone())]),
        "verified"
    );
    let mut other = answer;
    other[2000] = 1;
    assert_eq!(check(&[("page", other), ("vcek", vek)]), "report_malformed");
}

#[test]
fn damaged_files_beside_a_report_have_their_own_reasons() {
    let (report, vek) = (file(SNP_CASE, "report.bin"), file(SNP_CASE, "vek.der"));
    let crl = file("snp/crl-milan-empty", "crl.der");
    let check = |files: &[(&str, Vec<u8>)]| reason(Kind::SevSnp, SNP_TIME, files);
    let good = || [("report.bin", report.clone()), ("vek.der", vek.clone())];
    let with = |name: &'static str, bytes: Vec<u8>| {
        let mut files = good().to_vec();
        files.retain(|(held, _)| *held != name);
        files.push((name, bytes));
        check(&files)
    };
    assert_eq!(with("crl.der", crl.clone()), "verified");
    assert_eq!(
        with("crl.pem", pem("X509 CRL", &crl).into_bytes()),
        "verified"
    );
    assert_eq!(with("crl.der", crl[1..].to_vec()), "crl_malformed");
    assert_eq!(
        with("vek.der", vek[..100].to_vec()),
        "certificate_malformed"
    );
    let broken = pem("CERTIFICATE", &vek[..100]).into_bytes();
    assert_eq!(with("chain.pem", broken), "certificate_malformed");
    // What has nothing to do with it changes nothing.
    assert_eq!(with("README.md", b"What this is.".to_vec()), "verified");
    assert_eq!(with("nonce.bin", vec![0xfe; 32]), "verified");
    assert_eq!(
        with("report.bin", report[..1183].to_vec()),
        "report_malformed"
    );
    assert_eq!(
        with("report.bin", [report.as_slice(), &[0]].concat()),
        "report_malformed"
    );
    assert_eq!(with("report.bin", Vec::new()), "report_malformed");
    assert_eq!(with("other-report.bin", report.clone()), "verified");
    let other = file("snp/milan-v2-debug", "report.bin");
    assert_eq!(with("other-report.bin", other), "evidence_ambiguous");
    assert_eq!(check(&[("vek.der", vek.clone())]), "evidence_missing");
    assert_eq!(check(&good()[..1]), "endorsement_missing");
}

#[test]
fn reports_written_out_as_json_must_have_every_field() {
    let case = "snp/genoa-v3-json-e2e";
    let text = String::from_utf8(file(case, "evidence.json")).unwrap();
    let check = |text: &str| {
        let files = [("evidence.json", text.as_bytes().to_vec())];
        reason(Kind::SevSnp, "2026-01-01T00:00:00Z", &files)
    };
    assert_eq!(check(&text), "verified");
    assert_eq!(
        check(&text.replace("\"vmpl\":0", "\"vmpl\":1")),
        "report_signature"
    );
    assert_eq!(check(&text.replace("\"vmpl\":0,", "")), "report_malformed");
    assert_eq!(
        check(&text.replace("\"cert_chain\"", "\"other\"")),
        "verified"
    );
    assert_eq!(check(&text[..text.len() - 1]), "report_malformed");
    let shorter = text.replace("\"family_id\":[0,", "\"family_id\":[");
    assert_eq!(check(&shorter), "report_malformed");
}

const TDX_CASE: &str = "tdx/v4-gcp-padded-8000";
const TDX_TIME: &str = "2025-07-10T00:00:00Z";

#[test]
fn quotes_and_intels_endorsements_are_found_in_every_wrapping() {
    let names = ["quote.bin", "collateral.json", "ccel_data.bin"];
    let [quote, collateral, log] = names.map(|name| file(TDX_CASE, name));
    // The ACPI table that says where the log is.
    let acpi = b"CCEL\x38\0\0\0".to_vec();
    let check = |files: &[(&str, Vec<u8>)]| reason(Kind::Tdx, TDX_TIME, files);
    for (number, wrapped) in alone(&quote).into_iter().enumerate() {
        let files = [("quote", wrapped), ("collateral.json", collateral.clone())];
        assert_eq!(check(&files), "verified", "quote {number}");
    }
    let parsed: Value = serde_json::from_slice(&collateral).unwrap();
    let together = json!({
        "quote": URL_SAFE_NO_PAD.encode(&quote),
        "cc_eventlog": STANDARD.encode(&log),
        "collateral": parsed,
    });
    let whole = together.to_string().into_bytes();
    assert_eq!(
        check(&[("evidence.json", whole), ("ccel_table.bin", acpi)]),
        "verified"
    );
    let mut other_log = log;
    // Within the first digest.
    let at = 80;
    other_log[at] ^= 1;
    let files = |log: Vec<u8>| {
        [
            ("quote.bin", quote.clone()),
            ("collateral.json", collateral.clone()),
            ("ccel.bin", log),
        ]
    };
    assert_eq!(check(&files(other_log.clone())), "event_log_replay");
    assert_eq!(
        check(&files(other_log[1..].to_vec())),
        "event_log_malformed"
    );
}

/// The forms in which Intel's services answer, each in a file of its own.
fn answers(collateral: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let parsed: Value = serde_json::from_slice(collateral).unwrap();
    let text = |name: &str| parsed[name].as_str().unwrap();
    let answer = |member: &str, name: &str| {
        let signature = text(&format!("{name}_signature"));
        let body = text(name);
        format!("{{\"{member}\":{body},\"signature\":\"{signature}\"}}").into_bytes()
    };
    vec![
        ("tcb.json", answer("tcbInfo", "tcb_info")),
        ("identity.json", answer("enclaveIdentity", "qe_identity")),
        (
            "signing-chain.pem",
            text("tcb_info_issuer_chain").as_bytes().to_vec(),
        ),
        ("root.crl", hex::decode(text("root_ca_crl")).unwrap()),
        (
            "platform.crl",
            pem("X509 CRL", &hex::decode(text("pck_crl")).unwrap()).into_bytes(),
        ),
    ]
}

#[test]
fn intels_answers_one_by_one_are_as_good_as_all_in_one() {
    let (quote, collateral) = (
        file(TDX_CASE, "quote.bin"),
        file(TDX_CASE, "collateral.json"),
    );
    let check = |files: Vec<(&str, Vec<u8>)>| {
        let files = [vec![("quote.bin", quote.clone())], files].concat();
        reason(Kind::Tdx, TDX_TIME, &files)
    };
    let all = answers(&collateral);
    assert_eq!(check(all.clone()), "verified");
    for (missing, expected) in [
        ("tcb.json", "endorsement_missing"),
        ("identity.json", "endorsement_missing"),
        ("signing-chain.pem", "endorsement_missing"),
        ("root.crl", "crl_missing"),
        ("platform.crl", "crl_missing"),
    ] {
        let mut rest = all.clone();
        rest.retain(|(name, _)| *name != missing);
        assert_eq!(check(rest), expected, "without {missing}");
    }
    // Written anew, the text is not the one that was signed (negative test 16).
    let mut anew = all.clone();
    let value: Value = serde_json::from_slice(&anew[0].1).unwrap();
    anew[0].1 = serde_json::to_vec_pretty(&value).unwrap();
    assert_eq!(check(anew), "tcb_info_signature");
    let mut cut = all;
    cut[0].1.pop();
    assert_eq!(check(cut), "collateral_malformed");
    assert_eq!(
        check(vec![(
            "collateral.json",
            collateral[..collateral.len() - 2].to_vec()
        )]),
        "collateral_malformed"
    );
}

#[test]
fn nitro_documents_are_found_in_every_wrapping() {
    let document = file("nitro/prod-dstack-1", "doc.cose");
    let check = |bytes: Vec<u8>| {
        reason(
            Kind::Nitro,
            "2025-12-25T13:30:00Z",
            &[("attestation", bytes)],
        )
    };
    for (number, wrapped) in alone(&document).into_iter().enumerate() {
        assert_eq!(check(wrapped), "verified", "{number}");
    }
    let longer = [document.as_slice(), &[0]].concat();
    for (number, wrapped) in alone(&longer).into_iter().enumerate() {
        assert_eq!(check(wrapped), "trailing_data", "{number}");
    }
    for end in [0, 1, 100, document.len() - 1] {
        assert_eq!(check(document[..end].to_vec()), "document_malformed");
    }
    let json = json!({"document": STANDARD.encode(&document[..100])});
    assert_eq!(check(json.to_string().into_bytes()), "document_malformed");
    assert_eq!(check(b"{\"document\": \"".to_vec()), "document_malformed");
}

#[test]
fn azures_evidence_is_found_in_every_wrapping() {
    let text = file("az-snp-vtpm/milan-v1", "evidence.json");
    let text = text.trim_ascii_end();
    let parsed: Value = serde_json::from_slice(text).unwrap();
    let check = |files: &[(&str, Vec<u8>)]| reason(Kind::AzSnpVtpm, SNP_TIME, files);
    let of = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let base64 = |value: &Value| {
        URL_SAFE_NO_PAD
            .decode(value.as_str().unwrap().trim_end_matches('='))
            .unwrap()
    };
    let quote = &parsed["tpm_quote"];
    let hcl = base64(&parsed["hcl_report"]);
    let vek = base64(&parsed["vcek"]);
    let (message, signature) = (of(&quote["message"]), of(&quote["signature"]));
    let values: Vec<Vec<u8>> = quote["pcrs"].as_array().unwrap().iter().map(of).collect();
    let numbered = values.iter().enumerate();
    let numbered: serde_json::Map<_, _> = numbered
        .map(|(pcr, value)| (pcr.to_string(), hex::encode(value).into()))
        .collect();
    let tpmt = [&[0, 0x14, 0, 0x0b, 1, 0][..], &signature].concat();
    for quote in [
        json!({"message": message, "signature": signature, "pcrs": values}),
        json!({"quote": STANDARD.encode(&message), "sig": STANDARD.encode(&tpmt), "pcrs": {"sha256": numbered}}),
        json!({"tpm": {"msg": hex::encode(&message), "signature": hex::encode(&signature)}}),
    ] {
        let files = [
            ("hcl-report.bin", hcl.clone()),
            ("quote.json", quote.to_string().into_bytes()),
            ("vcek.pem", pem("CERTIFICATE", &vek).into_bytes()),
        ];
        assert_eq!(check(&files), "verified", "{quote}");
    }
    let parts = |hcl: Vec<u8>, message: Vec<u8>, signature: Vec<u8>| {
        let files = [
            ("hcl-report.bin", hcl),
            ("tpm-quote.msg", message),
            ("tpm-quote.sig", signature),
            ("vcek.der", vek.clone()),
        ];
        check(&files)
    };
    assert_eq!(parts(hcl.clone(), message.clone(), tpmt), "verified");
    assert_eq!(
        parts(hcl.clone(), message.clone(), signature.clone()),
        "verified"
    );
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    let no_report = hcl[1..].to_vec();
    assert_eq!(
        parts(no_report, message.clone(), signature.clone()),
        "hcl_malformed"
    );
    assert_eq!(
        parts(hcl.clone(), cut(&message), signature.clone()),
        "vtpm_quote_signature"
    );
    assert_eq!(
        parts(hcl.clone(), message, cut(&signature)),
        "vtpm_quote_signature"
    );
    let files = [("hcl-report.bin", hcl), ("vcek.der", vek.clone())];
    assert_eq!(check(&files), "evidence_missing");
    assert_eq!(
        check(&[("evidence.json", text[..text.len() - 1].to_vec())]),
        "hcl_malformed"
    );
    let mut values = parsed;
    values["tpm_quote"]["pcrs"][23] = "none".into();
    assert_eq!(
        check(&[("evidence.json", values.to_string().into_bytes())]),
        "pcr_values_malformed"
    );
}
