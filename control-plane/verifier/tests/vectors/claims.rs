//! The catalog of claims against what verifiers make of real evidence: no claim that policy can't read by its type, and
//! no claim that policy can read and nothing makes.

use std::collections::{BTreeMap, BTreeSet};

use vouchsafe_attestation::claims::{
    ClaimDefinition, ClaimType, ClaimValue, EvidenceKind, Texts, claims_of, definition,
};
use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::evidence::dcap::collateral::TcbStatus;
use vouchsafe_verifier::evidence::nvidia_gpu::report::Mode;
use vouchsafe_verifier::evidence::sev_snp::Product;
use vouchsafe_verifier::judgement::Value;

use crate::{at, borrowed, judge, load, testdata};

const FOLDERS: [(&str, Kind); 6] = [
    ("snp", Kind::SevSnp),
    ("tdx", Kind::Tdx),
    ("az-snp-vtpm", Kind::AzSnpVtpm),
    ("az-tdx-vtpm", Kind::AzTdxVtpm),
    ("nvidia", Kind::NvidiaGpu),
    ("nitro", Kind::Nitro),
];

/// What is shown to auditors and is no claim: what evidence is bound to, values in bulk, and details of one report.
const SHOWN_ONLY: [&str; 14] = [
    "mrsignerseam",
    "nonce",
    "pcr_selection",
    "pcrs",
    "public_key",
    "report_data",
    "report_id",
    "seam_attributes",
    "switches",
    "tee_tcb_svn_2",
    "timestamp_ms",
    "trailing",
    "user_data",
    "vek_chip_id",
];

/// Families that are shown only: floors of a profile count for them too.
const SHOWN_FAMILIES: [&str; 3] = ["committed_tcb.", "current_tcb.", "launch_tcb."];

/// Claims that a profile makes, by naming images.
const BY_PROFILE: [&str; 1] = ["image"];

/// Claims of devices that no vector shows: what the driver says beside the report.
const BY_DRIVER: [&str; 1] = ["devtools"];

fn made(folder: &str, kind: Kind) -> BTreeMap<&'static str, Vec<Value>> {
    let mut made: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    for entry in std::fs::read_dir(testdata().join(folder)).unwrap() {
        let case = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
        let files = load(&case, &[]);
        let judgement = judge(kind, &borrowed(&files), at("2025-06-01T00:00:00Z"));
        for (name, value) in judgement.claims {
            made.entry(name).or_default().push(value);
        }
    }
    made
}

fn fits(claim: &ClaimDefinition, value: &Value) -> bool {
    let wanted = claim.value;
    let parses = |text: &String| {
        let is_written_so = claim.texts.canonical(text).as_ref() == Some(text);
        ClaimValue::parse(wanted, text).is_ok() && is_written_so
    };
    match (wanted, value) {
        (ClaimType::Bool, Value::Bool(_))
        | (ClaimType::Number, Value::Number(_))
        | (ClaimType::Set, Value::Set(_)) => true,
        (ClaimType::Bool | ClaimType::Number | ClaimType::Set, _)
        | (_, Value::Bool(_) | Value::Number(_)) => false,
        (_, Value::Text(text)) => parses(text),
        // Several devices that differ.
        (_, Value::Set(texts)) => texts.iter().all(parses),
    }
}

#[test]
fn verifiers_make_exactly_the_claims_of_the_catalog() {
    let mut wrong = Vec::new();
    for (folder, kind) in FOLDERS {
        let made = made(folder, kind);
        // The hardware below a vTPM is judged by the code of the bare hardware, of which there are more vectors.
        let below = match kind {
            Kind::AzSnpVtpm => self::made("snp", Kind::SevSnp),
            Kind::AzTdxVtpm => self::made("tdx", Kind::Tdx),
            _ => BTreeMap::new(),
        };
        let kind: EvidenceKind = kind.evidence_kind().unwrap();
        for (name, values) in &made {
            match definition(kind, name) {
                Some(claim) => wrong.extend(
                    { values.iter() }
                        .filter(|value| !fits(claim, value))
                        .map(|value| format!("{kind}.{name} is no {:?}: {value:?}", claim.value)),
                ),
                None if SHOWN_ONLY.contains(name) => {}
                None if SHOWN_FAMILIES.iter().any(|family| name.starts_with(family)) => {}
                None => wrong.push(format!(
                    "{kind}.{name} is not in the catalog: {:?}",
                    values[0]
                )),
            }
        }
        let known: BTreeSet<&str> = { made.keys().chain(below.keys()).copied() }
            .chain(BY_PROFILE)
            .chain(BY_DRIVER)
            .collect();
        wrong.extend(
            { claims_of(kind).iter() }
                .filter(|claim| !known.contains(claim.name))
                .map(|claim| format!("{kind}.{} is made by nothing", claim.name)),
        );
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lists_that_the_catalog_closes_are_those_of_the_verifiers() {
    let words = |kind, name| match definition(kind, name).unwrap().texts {
        Texts::Words(words) => words,
        other => panic!("{name}: {other:?}"),
    };
    let statuses = TcbStatus::ALL.map(TcbStatus::as_str);
    assert_eq!(words(EvidenceKind::Tdx, "tcb_status"), statuses);
    let products = [Product::Milan, Product::Genoa, Product::Turin].map(Product::as_str);
    assert_eq!(words(EvidenceKind::SevSnp, "product"), products);
    let modes = [Mode::SingleGpu, Mode::MultiGpu, Mode::ProtectedPcie].map(Mode::as_str);
    assert_eq!(words(EvidenceKind::NvidiaGpu, "mode"), modes);
}
