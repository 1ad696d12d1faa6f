//! Asking: right paths, each failure by its name, nobody waits for another's vendor.

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use vouchsafe_verifier::dossier::{Dossier, Rules, inspect};
use vouchsafe_verifier::endorsement::need::{AmdSigner, RimId};
use vouchsafe_verifier::evidence::sev_snp::Product;
use vouchsafe_verifier::judgement::Outcome;

use super::vendor::{PCK_CRL, QE, ROOT_CRL, Reply, der, ok, rim, status};
use super::*;

const QUOTE: &str = "tdx/v4-uptodate-dstack/quote.bin";

#[tokio::test]
async fn what_a_quote_needs_is_fetched_and_judges_it() {
    let vendor = Vendor::start().await;
    Intel::of("tdx/v4-uptodate-dstack").serve(&vendor);
    let hand = Hand::at(NOON);
    let endorsements = intel(&vendor, &hand);
    let gathered = endorsements
        .gather(&needs_of(Kind::Tdx, QUOTE), "dev/api")
        .await;
    assert!(gathered.missing.is_empty(), "{:?}", gathered.missing);
    assert_eq!(gathered.refusal(), None);
    let mut asked = vendor.asked();
    asked.sort();
    let expected = [
        PCK_CRL,
        ROOT_CRL,
        QE,
        "/tdx/certification/v4/tcb?fmspc=B0C06F000000",
    ];
    assert_eq!(asked, expected);
    let quote = data(&format!("testdata/{QUOTE}"));
    let dossier = Dossier {
        files: &[File {
            name: "quote.bin",
            bytes: &quote,
        }],
        endorsements: &gathered.as_files(),
    };
    let now = (hand.clock())();
    let glance = inspect(Kind::Tdx, dossier, &Rules::default(), now);
    let checks = &glance.judgement().checks;
    assert!(checks.iter().all(|check| check.outcome != Outcome::Missing));
    // And nobody is asked again.
    let again = endorsements
        .gather(&needs_of(Kind::Tdx, QUOTE), "dev/api")
        .await;
    assert_eq!((again.files.len(), vendor.asked().len()), (4, 4));
}

#[tokio::test]
async fn a_chips_certificate_is_asked_for_by_chip_and_versions() {
    let vendor = Vendor::start().await;
    let pem = data("testdata/snp/genoa-v3-azure-aci/vek.pem");
    vendor.set("/vcek/v1/Genoa/b1e24a27", ok(der(&pem)));
    let sources = EndorsementSources {
        amd_kds: vendor.base.clone(),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at("2026-06-01T00:00:00Z"), tempo());
    let needs = needs_of(Kind::SevSnp, "snp/genoa-v3-azure-aci/report.bin");
    let gathered = endorsements.gather(&needs, "").await;
    let [file] = gathered.files.as_slice() else {
        panic!("{gathered:?}")
    };
    assert!(
        file.name.starts_with("amd-vcek-genoa-b1e24a27"),
        "{}",
        file.name
    );
    // The list is not there, and the chain is not waited for.
    assert_eq!(reason(&gathered), ("endorsement_missing", "not_found"));
    let asked = vendor.asked();
    let vcek = asked.iter().find(|path| path.contains("blSPL")).unwrap();
    assert!(
        vcek.ends_with("?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"),
        "{vcek}"
    );
    assert!(asked.contains(&"/vcek/v1/Genoa/crl".to_owned()));
}

#[tokio::test]
async fn a_manifest_brings_answers_about_its_signers() {
    let vendor = Vendor::start().await;
    let id = "NV_GPU_DRIVER_GH100_550.90.07";
    let folder = "testdata/nvidia/hopper-550.90.07-full";
    let document = data(&format!("{folder}/driver-rim.xml"));
    vendor.set(&format!("/v1/rim/{id}"), rim(id, &document));
    let sources = EndorsementSources {
        nvidia_rim: vendor.base.clone(),
        nvidia_ocsp: vendor.base.clone(),
        ..sources()
    };
    let hand = Hand::at("2025-10-24T18:00:00Z");
    let endorsements = endorsements(sources, &hand, tempo());
    let need = Need::NvidiaRim {
        id: RimId::new(id).unwrap(),
    };
    // The responder answers each request with the answer about the leaf: right for one of three.
    let text = data(&format!("{folder}/ocsp-gpu_driver_rim_l4.b64"));
    let answer = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        text.trim_ascii(),
    );
    vendor.set("/30", ok(answer.unwrap()));
    let gathered = endorsements.gather(std::slice::from_ref(&need), "").await;
    let names: Vec<_> = gathered.files.iter().map(|file| &file.name[..5]).collect();
    assert_eq!(names, ["nvidi", "ocsp-"]);
    let wrong: Vec<_> = gathered
        .missing
        .iter()
        .map(|missing| missing.error.reason())
        .collect();
    assert_eq!(wrong, ["wrong_subject", "wrong_subject"]);
}

#[tokio::test]
async fn one_request_serves_all_who_need_the_same() {
    let vendor = Vendor::start().await;
    Intel::of("tdx/v4-uptodate-dstack").serve(&vendor);
    let endorsements = intel(&vendor, &Hand::at(NOON));
    let needs = needs_of(Kind::Tdx, QUOTE);
    let all = (0..32).map(|_| endorsements.gather(&needs, "dev/api"));
    for gathered in join_all(all).await {
        assert_eq!(gathered.files.len(), 4);
    }
    assert_eq!(vendor.asked().len(), 4);
}

#[tokio::test]
async fn a_vendor_that_hangs_delays_nobody_who_needs_another() {
    let (amd, intel) = (Vendor::start().await, Vendor::start().await);
    amd.set("/", Reply::Hang);
    Intel::of("tdx/v4-uptodate-dstack").serve(&intel);
    let sources = EndorsementSources {
        amd_kds: amd.base.clone(),
        intel_pcs: intel.base.clone(),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at(NOON), tempo());
    let hanging = endorsements.clone();
    let hanging = tokio::spawn(async move {
        let needs = needs_of(Kind::SevSnp, "snp/genoa-v3-azure-aci/report.bin");
        hanging.gather(&needs, "").await
    });
    until(|| amd.count("/") >= 2).await;
    for _ in 0..8 {
        let gathered = endorsements.gather(&needs_of(Kind::Tdx, QUOTE), "").await;
        assert_eq!(gathered.files.len(), 4);
        assert!(!hanging.is_finished());
    }
    amd.release();
    let gathered = hanging.await.unwrap();
    assert!(gathered.files.is_empty());
}

#[tokio::test]
async fn an_attestation_waits_no_longer_than_it_should_and_the_answer_is_kept() {
    let vendor = Vendor::start().await;
    let right = Intel::of("tdx/v4-uptodate-dstack").qe_identity();
    vendor.set(QE, Reply::Turns(vec![Reply::Hang, right]));
    let sources = EndorsementSources {
        intel_pcs: vendor.base.clone(),
        wait: Duration::from_millis(50),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at(NOON), tempo());
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "slow"));
    let (word, detail, wait) = gathered.refusal().unwrap();
    assert_eq!(word, "endorsement_missing");
    assert!(
        detail.contains("intel-qe-identity-tdx.json (slow)"),
        "{detail}"
    );
    assert!(wait > Duration::ZERO);
    // The flight goes on: its second attempt is answered.
    vendor.release();
    until(|| endorsements.valid().len() == 1).await;
    assert!(
        endorsements
            .gather(&[QE_IDENTITY], "")
            .await
            .missing
            .is_empty()
    );
}

/// Waits for something that must come to pass.
async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap();
}

/// One need, one reply, one reason, and how often the service was asked.
async fn check(reply: Reply, expected: &str, asked: usize) {
    let vendor = Vendor::start().await;
    vendor.set(QE, reply.clone());
    let endorsements = intel(&vendor, &Hand::at(NOON));
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    let found = reason(&gathered);
    assert_eq!(found, ("endorsement_missing", expected), "{reply:?}");
    assert_eq!(vendor.asked().len(), asked, "{reply:?}");
}

#[tokio::test]
async fn each_failure_has_its_reason_and_is_repeated_only_where_that_helps() {
    let right = Intel::of("tdx/v4-uptodate-dstack");
    let Reply::Answer(_, headers, body) = right.qe_identity() else {
        unreachable!()
    };
    let with = |body: Vec<u8>| Reply::Answer(200, headers.clone(), body);
    check(status(404), "not_found", 1).await;
    check(status(400), "not_found", 1).await;
    check(status(403), "status", 1).await;
    check(
        Reply::Answer(302, vec![("location", "/elsewhere".into())], vec![]),
        "status",
        1,
    )
    .await;
    check(status(500), "status", 3).await;
    check(status(503), "status", 3).await;
    check(Reply::Close, "broken_off", 3).await;
    check(Reply::CutOff(body.clone()), "broken_off", 3).await;
    check(with(vec![b' '; 2 * 1024 * 1024]), "answer_too_large", 1).await;
    check(with(b"<html>".to_vec()), "malformed", 1).await;
    check(ok(body.clone()), "malformed", 1).await;
    check(right.tcb_info(), "malformed", 1).await;
    let text = String::from_utf8(body).unwrap();
    let forged = text.replace("\"isvprodid\":2", "\"isvprodid\":3");
    assert_ne!(forged, text);
    check(with(forged.into()), "signature", 1).await;
    let sgx = Intel::of("sgx/sgx-v3-confswhardening").qe_identity();
    check(sgx, "wrong_subject", 1).await;
    let later = Intel::of("tdx/v5-trustee").qe_identity();
    check(later, "not_yet_valid", 1).await;
}

#[tokio::test]
async fn an_answer_that_is_over_is_refused() {
    let vendor = Vendor::start().await;
    vendor.set(QE, Intel::of("tdx/v4-uptodate-dstack").qe_identity());
    let endorsements = intel(&vendor, &Hand::at("2025-08-01T00:00:00Z"));
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "expired"));
}

#[tokio::test]
async fn a_pause_that_a_service_wants_is_made() {
    let vendor = Vendor::start().await;
    let right = Intel::of("tdx/v4-uptodate-dstack").qe_identity();
    let slower = |wait: &str| Reply::Answer(429, vec![("Retry-After", wait.into())], vec![]);
    vendor.set(QE, Reply::Turns(vec![slower("0"), slower("0"), right]));
    let endorsements = intel(&vendor, &Hand::at(NOON));
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert!(gathered.missing.is_empty(), "{gathered:?}");
    assert_eq!(vendor.asked().len(), 3);
    // A pause that is longer than the flight is not sat out, and nobody else asks meanwhile.
    vendor.set(ROOT_CRL, slower("3600"));
    let gathered = endorsements.gather(&[Need::IntelRootCrl], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "paced"));
    let pck = Need::IntelPckCrl {
        ca: vouchsafe_verifier::endorsement::need::PckCa::Platform,
    };
    let gathered = endorsements.gather(&[pck], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "paced"));
    assert_eq!(vendor.count(PCK_CRL), 0);
}

#[tokio::test]
async fn a_service_that_does_not_answer_in_time_is_a_timeout() {
    let vendor = Vendor::start().await;
    vendor.set(QE, Reply::Hang);
    let sources = EndorsementSources {
        intel_pcs: vendor.base.clone(),
        ..sources()
    };
    let deadlines = Deadlines {
        connect: Duration::from_secs(5),
        whole: Duration::from_millis(20),
    };
    let endorsements = Endorsements::with(
        sources,
        None,
        EndorsementMetrics::new().unwrap(),
        Hand::at(NOON).clock(),
        tempo(),
        HttpClient::new(None, deadlines),
        VendorRoots::PINNED,
    );
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "timeout"));
}

#[tokio::test]
async fn a_service_that_is_down_is_left_alone_after_a_few_failures() {
    let endorsements = endorsements(sources(), &Hand::at(NOON), tempo());
    let ask = async || {
        let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
        reason(&gathered).1
    };
    assert_eq!(ask().await, "connect");
    // The fifth failure opens the circuit, within the second flight.
    assert_eq!(ask().await, "circuit_open");
    assert_eq!(ask().await, "circuit_open");
}

#[tokio::test]
async fn a_failure_answers_for_a_while_without_asking_again() {
    let vendor = Vendor::start().await;
    let sources = EndorsementSources {
        intel_pcs: vendor.base.clone(),
        ..sources()
    };
    let tempo = Tempo {
        negative: Duration::from_secs(60),
        ..tempo()
    };
    let hand = Hand::at(NOON);
    let endorsements = endorsements(sources, &hand, tempo);
    for _ in 0..3 {
        let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
        assert_eq!(reason(&gathered), ("endorsement_missing", "not_found"));
    }
    assert_eq!(vendor.asked().len(), 1);
    hand.set("2025-07-01T12:01:00Z");
    endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(vendor.asked().len(), 2);
}

#[tokio::test]
async fn offline_nobody_is_asked() {
    let vendor = Vendor::start().await;
    let sources = EndorsementSources {
        offline: true,
        intel_pcs: vendor.base.clone(),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at(NOON), tempo());
    let gathered = endorsements.gather(&[QE_IDENTITY], "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "offline"));
    assert!(vendor.asked().is_empty());
}

#[tokio::test]
async fn an_authority_is_asked_for_when_a_certificate_is_not_signed_by_the_known_one() {
    let vendor = Vendor::start().await;
    let mut forged = der(&data("testdata/snp/genoa-v3-azure-aci/vek.pem"));
    *forged.last_mut().unwrap() ^= 1;
    vendor.set("/vcek/v1/Genoa/b1e24a27", ok(forged));
    let sources = EndorsementSources {
        amd_kds: vendor.base.clone(),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at("2026-06-01T00:00:00Z"), tempo());
    let mut needs = needs_of(Kind::SevSnp, "snp/genoa-v3-azure-aci/report.bin");
    needs.retain(|need| matches!(need, Need::AmdVcek { .. }));
    let gathered = endorsements.gather(&needs, "").await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "signature"));
    assert_eq!(vendor.count("/vcek/v1/Genoa/cert_chain"), 1);
}

#[tokio::test]
async fn an_optional_endorsement_is_fetched_but_not_waited_for() {
    let vendor = Vendor::start().await;
    let sources = EndorsementSources {
        amd_kds: vendor.base.clone(),
        ..sources()
    };
    let endorsements = endorsements(sources, &Hand::at("2026-06-01T00:00:00Z"), tempo());
    vendor.set("/", Reply::Hang);
    let chain = Need::AmdChain {
        product: Product::Milan,
        signer: AmdSigner::Vcek,
    };
    let gathered = endorsements.gather(&[chain], "").await;
    assert!(gathered.files.is_empty() && gathered.missing.is_empty());
    until(|| vendor.count("/vcek/v1/Milan/cert_chain") == 1).await;
}

/// A server's certificate for `localhost`, and the file of who signed it.
fn tls(folder: &Path) -> (TlsAcceptor, std::path::PathBuf) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn services_are_verified_by_the_certificates_that_were_named() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, file) = tls(folder.path());
    let vendor = Vendor::start_tls(acceptor).await;
    vendor.set(QE, Intel::of("tdx/v4-uptodate-dstack").qe_identity());
    let ask = async |ca_file: Option<std::path::PathBuf>| {
        let sources = EndorsementSources {
            intel_pcs: vendor.base.clone(),
            ca_file,
            ..sources()
        };
        let endorsements = endorsements(sources, &Hand::at(NOON), tempo());
        endorsements.gather(&[QE_IDENTITY], "").await
    };
    assert!(ask(Some(file)).await.missing.is_empty());
    let other = tempfile::tempdir().unwrap();
    let (_, other_file) = tls(other.path());
    let gathered = ask(Some(other_file)).await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "tls"));
    let gathered = ask(Some(folder.path().join("none.pem"))).await;
    assert_eq!(reason(&gathered), ("endorsement_missing", "tls"));
    assert_eq!(vendor.asked().len(), 1);
}
