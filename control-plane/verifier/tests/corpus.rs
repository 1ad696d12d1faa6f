//! Replays the fuzz targets' corpora, so that stable compilers check them too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test, outside its functions"
)]

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate exports them")]
mod targets;

#[path = "../../../tests/src/mutation.rs"]
#[expect(
    unreachable_pub,
    clippy::print_stderr,
    reason = "a module of the test harness, which exports and tells"
)]
mod mutation;

use std::path::Path;

#[track_caller]
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let paths = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    for whole in &inputs {
        run(whole);
        // And what a cut or a flipped byte makes of it.
        for at in (0..whole.len()).step_by(1 + whole.len() / 512) {
            run(&whole[..at]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            run(&flipped);
        }
    }
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    mutation::mutate(&inputs, MUTANTS, run);
}

#[test]
fn the_corpus_of_public_area_is_handled() {
    replay("public_area", targets::public_area);
}

#[test]
fn the_corpus_of_quote_is_handled() {
    replay("quote", targets::quote);
}

#[test]
fn the_corpus_of_signature_is_handled() {
    replay("signature", targets::signature);
}

#[test]
fn the_corpus_of_event_log_is_handled() {
    replay("event_log", targets::event_log);
}

#[test]
fn the_corpus_of_corim_is_handled() {
    replay("corim", targets::corim);
}

#[test]
fn the_corpus_of_ima_is_handled() {
    replay("ima", targets::ima);
}

#[test]
fn vectors_of_tpms_are_handled_whatever_happens_to_them() {
    let vectors = [
        "tpm/gce-cos85-nonce9009.pb",
        "tpm/quote-rsa-trustee.json",
        "tpm/quote.msg",
        "tpm/windows-gcp-shielded.json",
        "tpm/ima-ng-sha256.log",
        "tpm/pca_tpm_ecc_sign_cert.pem",
        "ccel/cos-113-tdx/ccel.bin",
    ];
    replay_vectors(&vectors, targets::tpm);
}

#[test]
fn the_corpus_of_ek_certificate_is_handled() {
    replay("ek_certificate", targets::ek_certificate);
}

#[test]
fn the_corpus_of_endorsement_bundle_is_handled() {
    replay("endorsement_bundle", targets::endorsement_bundle);
}

#[test]
fn the_corpus_of_endorsement_answer_is_handled() {
    replay("endorsement_answer", targets::endorsement_answer);
}

/// The kinds that are judged from files begin with the vectors themselves.
#[track_caller]
fn replay_vectors(vectors: &[&str], run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let read = |vector: &&str| std::fs::read(folder.join(vector)).unwrap();
    let inputs: Vec<_> = vectors.iter().map(read).collect();
    for whole in &inputs {
        replay_one(whole, 128, run);
    }
    mutation::mutate(&inputs, MUTANTS_OF_VECTORS, run);
}

/// Runs an input, and what a cut or a flipped byte makes of it at about `places`.
fn replay_one(whole: &[u8], places: usize, run: fn(&[u8])) {
    run(whole);
    for at in (0..whole.len()).step_by(1 + whole.len() / places) {
        run(&whole[..at]);
        let mut flipped = whole.to_vec();
        flipped[at] ^= 0xff;
        run(&flipped);
    }
}

#[test]
fn vectors_of_sev_snp_are_handled_whatever_happens_to_them() {
    let vectors = [
        "snp/milan-v2-vcek/report.bin",
        "snp/milan-v2-vcek/vek.der",
        "snp/crl-milan-empty/crl.der",
        "snp/genoa-v3-json-e2e/evidence.json",
    ];
    replay_vectors(&vectors, targets::sev_snp);
}

#[test]
fn vectors_of_tdx_are_handled_whatever_happens_to_them() {
    let vectors = [
        "tdx/v4-uptodate-dstack/quote.bin",
        "tdx/v4-uptodate-dstack/collateral.json",
        "tdx/v5-trustee/quote.bin",
    ];
    replay_vectors(&vectors, targets::tdx);
}

#[test]
fn vectors_of_sgx_are_handled_whatever_happens_to_them() {
    let vectors = ["sgx/sgx-v3-debug-occlum/quote.bin"];
    replay_vectors(&vectors, targets::sgx);
}

#[test]
fn vectors_of_az_snp_vtpm_are_handled_whatever_happens_to_them() {
    let vectors = [
        "az-snp-vtpm/milan-v1/evidence.json",
        "az-snp-vtpm/neg-mixed-parts/hcl-report.bin",
    ];
    replay_vectors(&vectors, targets::az_snp_vtpm);
}

#[test]
fn vectors_of_nvidia_gpu_are_handled_whatever_happens_to_them() {
    let vectors = [
        "nvidia/switch-ls10/report.bin",
        "nvidia/rim-driver-550.144.03/rim.xml",
        "nvidia/switch-ls10/chain.pem",
    ];
    replay_vectors(&vectors, targets::nvidia_gpu);
    let containers = [
        "nvidia/hopper-590.12-ppcie/evidence.json",
        "nvidia/eat-nras-samples/hopperClaimsv3_detached_eat.json",
    ];
    replay_vectors(&containers, targets::nvidia_gpu);
}

#[test]
fn reports_of_nvidia_devices_are_handled_whatever_happens_to_them() {
    let vectors = [
        "nvidia/hopper-590.12-ppcie/evidence.json",
        "nvidia/blackwell-575.32/report.bin",
        "nvidia/neg-switch-other-chain/report.bin",
    ];
    replay_vectors(&vectors, targets::nvidia_report);
}

#[test]
fn manifests_of_nvidia_are_handled_whatever_happens_to_them() {
    let vectors = [
        "nvidia/switch-ls10/vbios-rim.xml",
        "nvidia/rim-parse-failures/success_payload_multiple_alternatives.xml",
        "nvidia/rim-parse-failures/failure_invalid_cert_bytes.xml",
    ];
    replay_vectors(&vectors, targets::nvidia_rim);
}

#[test]
fn dossiers_of_nvidia_devices_are_handled_whatever_happens_to_them() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nvidia/hopper-550.90.07-full");
    let files = [
        "driver-rim.xml",
        "report.bin",
        "chain.pem",
        "ocsp-gpu_vbios_l4.b64",
    ];
    let files = files.map(|name| std::fs::read(folder.join(name)).unwrap());
    let whole = files.join(targets::SEAM);
    replay_one(&whole, 96, targets::nvidia_dossier);
    mutation::mutate(&[whole], MUTANTS_OF_VECTORS, targets::nvidia_dossier);
}

#[test]
fn the_corpus_of_ocsp_is_handled() {
    replay("ocsp", targets::ocsp);
}

#[test]
fn vectors_of_nitro_are_handled_whatever_happens_to_them() {
    let vectors = [
        "nitro/prod-dstack-1/doc.cose",
        "nitro/prod-evervault/doc.cose",
    ];
    replay_vectors(&vectors, targets::nitro);
}

/// Changed inputs of each corpus: seconds for all of them.
const MUTANTS: u64 = 2_000;
/// Of vectors, whose signatures take their time.
const MUTANTS_OF_VECTORS: u64 = 200;
