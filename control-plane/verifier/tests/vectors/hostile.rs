//! Evidence that is no evidence: ten times too long, compressed, nested without end (negative test 30 of the reference).

use std::time::Instant;

use vouchsafe_verifier::dossier::{File, Kind};
use vouchsafe_verifier::judgement::Status;

use crate::{at, borrowed, judge, load};

/// Evidence that is affirmed, by kind; the first file is the evidence itself.
const GOOD: [(Kind, &str, &str, &[&str], &str); 6] = [
    (
        Kind::SevSnp,
        "snp/milan-v2-vcek",
        "report.bin",
        &["vek.der"],
        "2025-06-01T00:00:00Z",
    ),
    (
        Kind::Tdx,
        "tdx/v4-uptodate-dstack",
        "quote.bin",
        &["collateral.json"],
        "2025-07-01T00:00:00Z",
    ),
    (
        Kind::Nitro,
        "nitro/prod-evervault",
        "doc.cose",
        &[],
        "2022-10-13T09:00:00Z",
    ),
    (
        Kind::AzSnpVtpm,
        "az-snp-vtpm/neg-mixed-parts",
        "hcl-report.bin",
        &["other-quote.json", "vcek.pem"],
        "2025-06-01T00:00:00Z",
    ),
    (
        Kind::NvidiaGpu,
        "nvidia/hopper-550.90.07-full",
        "report.bin",
        &["chain.pem", "driver-rim.xml", "vbios-rim.xml"],
        "2025-10-24T12:00:00Z",
    ),
    (
        Kind::Tpm,
        "tpm",
        "gce-cos85-nonce9009.pb",
        &[],
        "2026-01-01T00:00:00Z",
    ),
];

/// Judges evidence with one file changed; the name of the file stays, so that it has its role all the same.
fn with(row: &(Kind, &str, &str, &[&str], &str), change: impl Fn(&[u8]) -> Vec<u8>) -> Status {
    let (kind, case, evidence, beside, now) = row;
    let names = [&[*evidence], *beside].concat();
    let mut files = load(case, &names);
    for (name, bytes) in &mut files {
        if name == evidence {
            *bytes = change(bytes);
        }
    }
    judge(*kind, &borrowed(&files), at(now)).status
}

#[test]
fn evidence_ten_times_its_size_is_refused() {
    for row in &GOOD {
        assert_eq!(with(row, <[u8]>::to_vec), Status::Affirming, "{row:?}");
        let repeated = with(row, |bytes| bytes.repeat(10));
        assert_ne!(repeated, Status::Affirming, "{row:?}");
        // Platforms pad a quote with zeros, but not to ten times its length; to others they mean something.
        if row.0 != Kind::Tdx {
            let padded = with(row, |bytes| [bytes, &vec![0; bytes.len() * 9]].concat());
            assert_ne!(padded, Status::Affirming, "{row:?}");
        }
    }
}

/// Zeros of 1 GiB, as gzip writes their beginning: nothing here takes evidence that is compressed.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 2, 3, 0xed, 0xc1, 1, 1, 0, 0, 0, 0x80, 0x90, 0xfe, 0xaf, 0xee,
];

#[test]
fn evidence_that_is_compressed_is_refused() {
    for row in &GOOD {
        assert_ne!(with(row, |_| GZIP.to_vec()), Status::Affirming, "{row:?}");
    }
}

#[test]
fn structures_nested_without_end_are_refused_at_once() {
    // As many openings as fit: DER of definite and indefinite length, CBOR, JSON, XML, PEM around DER.
    let der: Vec<u8> = nested_der(16_000);
    let texts: [(&str, Vec<u8>); 6] = [
        ("nested.der", der.clone()),
        ("open.der", [0x30, 0x80].repeat(8_000)),
        (
            "doc.cose",
            [&[0x84, 0x44, 0xa1, 1][..], &[0x81; 100_000]].concat(),
        ),
        ("evidence.json", b"[".repeat(100_000)),
        ("manifest.xml", b"<a>".repeat(100_000)),
        ("chain.pem", pem(&der)),
    ];
    let started = Instant::now();
    for kind in Kind::ALL {
        for (name, bytes) in &texts {
            let judgement = judge(kind, &[File { name, bytes }], at("2026-01-01T00:00:00Z"));
            assert_ne!(judgement.status, Status::Affirming, "{kind:?} {name}");
        }
    }
    // Not a measurement: what is quadratic or worse takes hours.
    assert!(started.elapsed().as_secs() < 300);
}

/// Sequences in sequences, each length as DER has it.
fn nested_der(depth: usize) -> Vec<u8> {
    let mut reversed: Vec<u8> = Vec::new();
    for _ in 0..depth {
        let length = reversed.len();
        let bytes: Vec<u8> = length
            .to_be_bytes()
            .into_iter()
            .skip_while(|byte| *byte == 0)
            .collect();
        reversed.extend(bytes.iter().rev());
        match length {
            0 => reversed.push(0),
            0x80.. => reversed.push(0x80 | u8::try_from(bytes.len()).unwrap()),
            _ => {}
        }
        reversed.push(0x30);
    }
    reversed.reverse();
    reversed
}

fn pem(der: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes()
}
