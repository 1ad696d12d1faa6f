//! What each fuzz target does with its bytes. Ordinary tests replay the corpora through the same functions
//! (`tests/corpus.rs` of the verifier), so that a crash that was found once stays fixed on stable.

use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use vouchsafe_verifier::corim::Corim;
use vouchsafe_verifier::dossier::{self, Dossier, File, Kind, Rules};
use vouchsafe_verifier::endorsement::EkRoots;
use vouchsafe_verifier::endorsement::bundle::{self, Unsigned};
use vouchsafe_verifier::endorsement::need::Need;
use vouchsafe_verifier::endorsement::needs::{MAX_NEEDS, needs};
use vouchsafe_verifier::endorsement::object::Endorsement;
use vouchsafe_verifier::evidence::nvidia_gpu::report::Report;
use vouchsafe_verifier::evidence::tpm::attest::Quote;
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::ima;
use vouchsafe_verifier::evidence::tpm::public::{Curve, Key, PublicArea};
use vouchsafe_verifier::evidence::tpm::signature::Signature;
use vouchsafe_verifier::evidence::tpm::{CheckedOffer, Offer};
use vouchsafe_verifier::judgement::Status;
use vouchsafe_verifier::ocsp::Response;

/// A public area, by itself and as either key of an offer.
pub fn public_area(data: &[u8]) {
    if let Ok(public) = PublicArea::parse(data) {
        assert_eq!(public.as_bytes(), data);
        assert_eq!(public.name().len(), 2 + public.name_hash.digest_len());
    }
    let offer = Offer {
        ek_public: data.to_vec(),
        ek_chain: Vec::new(),
        ak_public: data.to_vec(),
    };
    // No key is both a storage key and a restricted signing key.
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    assert!(CheckedOffer::check(&offer, &EkRoots::default(), now).is_err());
}

/// A `TPMS_ATTEST`.
pub fn quote(data: &[u8]) {
    if let Ok(quote) = Quote::parse(data) {
        assert!(quote.extra_data.len() <= data.len());
        assert!(quote.selection.banks().count() <= 2);
    }
}

/// A `TPMT_SIGNATURE`.
pub fn signature(data: &[u8]) {
    let _ = Signature::parse(data);
}

/// A boot event log: parsed, replayed, asked for Secure Boot.
pub fn event_log(data: &[u8]) {
    for log in [EventLog::parse(data), EventLog::parse_padded(data)]
        .into_iter()
        .flatten()
    {
        assert!(log.events().len() <= data.len() / 16);
        let _ = (log.is_ccel(), log.rtmr(0), log.ccel_secure_boot());
        for hash in HashAlgorithm::ALL {
            for pcr in 0..8 {
                if let Some(value) = log.replay(hash, pcr) {
                    assert_eq!(value.len(), hash.digest_len());
                }
            }
            let _ = log.secure_boot(hash);
            for one in log.measured(hash) {
                assert!(!one.what.describe().contains(char::is_control));
            }
        }
    }
}

/// A manifest of reference values: read, and never taken for signed by what is no key.
pub fn corim(data: &[u8]) {
    if let Ok(found) = Corim::parse(data, None) {
        assert!(found.references.len() <= data.len());
    }
    assert!(Corim::parse(data, Some(&[])).is_err());
}

/// A measurement list in either form: replayed, and cut back to what a quote in its middle covers.
pub fn ima(data: &[u8]) {
    let text = std::str::from_utf8(data).map(ima::parse_text);
    for entries in [Ok(ima::parse(data)), text].into_iter().flatten().flatten() {
        assert!(entries.len() <= data.len() / 16);
        let start = ima::Checkpoint::start(HashAlgorithm::Sha256);
        let half = entries.len() / 2;
        let quoted = start.replay(&entries[..half]);
        let (checkpoint, taken) = start.advance(entries.clone(), &quoted).unwrap();
        assert_eq!(taken, entries[..half]);
        assert_eq!(checkpoint.replay(&entries[half..]), start.replay(&entries));
        let _ = ima::policy::Policy::default().check(0, &entries);
    }
}

/// Any file of a TPM's, by itself: an attestation in protobuf, JSON, a quote, a list, a log, a key, a certificate.
pub fn tpm(data: &[u8]) {
    look(Kind::Tpm, data);
}

/// A certificate of an endorsement key, without any pinned root: never certified.
pub fn ek_certificate(data: &[u8]) {
    let key = Key::Ecc {
        curve: Curve::P256,
        x: vec![1; 32],
        y: vec![2; 32],
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let chain = [CertificateDer::from(data)];
    assert!(EkRoots::default().verify(&chain, &key, now).is_err());
}

/// A report of SEV-SNP, a certificate, or a revocation list; written out as JSON, a report holds its chain.
pub fn sev_snp(data: &[u8]) {
    look(Kind::SevSnp, data);
}

/// A quote of TDX, or Intel's endorsements.
pub fn tdx(data: &[u8]) {
    look_at_one(Kind::Tdx, data);
}

/// A quote of SGX.
pub fn sgx(data: &[u8]) {
    look_at_one(Kind::Sgx, data);
}

/// Evidence of an Azure vTPM above SEV-SNP; unchanged, it holds all that it needs.
pub fn az_snp_vtpm(data: &[u8]) {
    look(Kind::AzSnpVtpm, data);
}

/// A report of an NVIDIA device, a manifest, a chain, a container of devices without manifests, or an answer of OCSP.
pub fn nvidia_gpu(data: &[u8]) {
    look_at_one(Kind::NvidiaGpu, data);
}

/// A report of an NVIDIA device: what it says is no more than its bytes hold.
pub fn nvidia_report(data: &[u8]) {
    let Ok(report) = Report::parse(data) else {
        return;
    };
    assert!(report.trailing < data.len());
    assert!(report.measurements.len() <= data.len() / 7);
    let links = report.switch_pdis().len() + report.gpu_pdis().len();
    assert!(links <= data.len() / 8);
    let versions = [
        report.driver_version(),
        report.vbios_version(),
        report.board(),
    ];
    for text in versions.into_iter().flatten() {
        assert!(text.len() <= data.len() && !text.contains(char::is_control));
    }
    let _ = (
        report.stated_mode(),
        report.protected_pcie(),
        report.own_pdi(),
    );
}

/// A manifest of NVIDIA's, and so the XML and its canonical form: alone, and in a cache beside a device.
pub fn nvidia_rim(data: &[u8]) {
    let document = [b"<", data.strip_prefix(b"<").unwrap_or(data)].concat();
    look_at_one(Kind::NvidiaGpu, &document);
}

/// Files of one machine, joined by [`SEAM`]: the first of them in a cache, the others as evidence.
pub fn nvidia_dossier(data: &[u8]) {
    let mut rest = data;
    let mut files = Vec::new();
    while let Some(at) = rest.windows(SEAM.len()).position(|window| window == SEAM) {
        let (bytes, after) = rest.split_at(at);
        files.push(File {
            name: "file",
            bytes,
        });
        rest = &after[SEAM.len()..];
    }
    files.push(File {
        name: "ocsp-file",
        bytes: rest,
    });
    let (cached, given) = files.split_at(files.len().min(1));
    let dossier = Dossier {
        files: given,
        endorsements: cached,
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let glance = dossier::inspect(Kind::NvidiaGpu, dossier, &Rules::default(), now);
    // By then no manifest's signer is valid.
    assert_ne!(glance.judgement().status, Status::Affirming);
}

/// Between files of [`nvidia_dossier`].
pub const SEAM: &[u8] = b"\n---8<---\n";

/// An answer of OCSP: nobody could have signed one about the root of NVIDIA's devices.
pub fn ocsp(data: &[u8]) {
    if let Ok(response) = Response::parse(data) {
        assert_eq!(response.is_about(ROOT, ROOT), Ok(false));
        assert!(response.verify(ROOT, ROOT, None).is_err());
    }
}

const ROOT: &[u8] = include_bytes!("../../roots/nvidia-device-root.der");

/// A Nitro document, long after its certificate expired.
pub fn nitro(data: &[u8]) {
    look_at_one(Kind::Nitro, data);
}

/// A bundle of endorsements behind its signature, and one whose signature nobody can make.
pub fn endorsement_bundle(data: &[u8]) {
    assert!(bundle::read(data, &[]).is_err());
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(objects) = bundle::read_objects(text) {
        let again = objects.iter().map(|(need, bytes)| (need, bytes.as_slice()));
        let unsigned = Unsigned::new(again).unwrap();
        let message = std::str::from_utf8(unsigned.message()).unwrap();
        let (_, lines) = message.split_once('\n').unwrap();
        assert_eq!(bundle::read_objects(lines), Ok(objects));
    }
}

/// A vendor's answer to each sort of question: read and verified. Long after, nothing is valid.
pub fn endorsement_answer(data: &[u8]) {
    let (name, body) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => data.split_at(end),
        None => return,
    };
    let Some(need) = std::str::from_utf8(name).ok().and_then(Need::from_name) else {
        return;
    };
    assert_eq!(need.name().as_bytes(), name);
    let body = &body[1..];
    let file = need.read_answer(body, Some("%2D"));
    let now = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    for bytes in [Some(body), file.as_deref().ok()].into_iter().flatten() {
        assert!(Endorsement::verify(&need, bytes, &[bytes], now).is_err());
    }
}

fn look(kind: Kind, data: &[u8]) -> Status {
    let files = [File {
        name: "file",
        bytes: data,
    }];
    assert!(needs(kind, &files).len() <= MAX_NEEDS);
    let dossier = Dossier {
        files: &files,
        endorsements: &files,
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let glance = dossier::inspect(kind, dossier, &Rules::default(), now);
    assert!(!glance.judgement().checks.is_empty());
    glance.judgement().status
}

/// One file is never enough.
fn look_at_one(kind: Kind, data: &[u8]) {
    assert_ne!(look(kind, data), Status::Affirming);
}
