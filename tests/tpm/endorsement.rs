//! Certificates of endorsement keys, made by a maker of software TPMs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_attestation::claims::{ClaimValue, Class};
use vouchsafe_config::proxy;
use vouchsafe_tests::documents::{self, file, tpm_profile, workload};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::swtpm::{Swtpm, TpmMaker};
use vouchsafe_tests::{binaries, process};
use vouchsafe_verifier::endorsement::{EkRoot, EkRoots};
use vouchsafe_verifier::evidence::tpm::{CheckedOffer, Offer};

use crate::support::*;

fn roots(maker: &TpmMaker, class: Class) -> EkRoots {
    let root = CertificateDer::from_pem_file(maker.root()).unwrap();
    EkRoots::new(vec![EkRoot::new(&root, class).unwrap()])
}

fn with_issuer(swtpm: &Swtpm, maker: &TpmMaker) -> proxy::Tpm {
    proxy::Tpm {
        ek_chain: Some(maker.issuer()),
        ..config(swtpm)
    }
}

fn check(offer: &Offer, roots: &EkRoots) -> Result<CheckedOffer, &'static str> {
    CheckedOffer::check(offer, roots, SystemTime::now()).map_err(|refusal| refusal.reason())
}

#[tokio::test]
async fn a_certified_endorsement_key_is_worth_what_its_root_vouches_for() {
    let maker = TpmMaker::new().unwrap();
    let swtpm = Swtpm::start_certified(&maker).unwrap();
    let mut attester = open(with_issuer(&swtpm, &maker)).await;
    let offer = offer(&mut attester).await;
    assert_eq!(
        offer.ek_chain.len(),
        2,
        "the TPM's own leaf, and the file's issuer"
    );
    for class in [Class::Software, Class::Hardware] {
        let checked = check(&offer, &roots(&maker, class)).unwrap();
        assert!(checked.is_certified());
        assert_eq!(checked.class(), class);
    }
    // Nobody pinned the maker: the same key, uncertified, is a program as far as anyone can tell.
    let unknown = check(&offer, &EkRoots::default()).unwrap();
    assert!(!unknown.is_certified());
    assert_eq!(unknown.class(), Class::Software);
    let other_maker = TpmMaker::new().unwrap();
    let _other = Swtpm::start_certified(&other_maker).unwrap();
    assert!(
        !check(&offer, &roots(&other_maker, Class::Hardware))
            .unwrap()
            .is_certified()
    );
    // Without the intermediate there is no path.
    let mut leaf_only = offer.clone();
    leaf_only.ek_chain.truncate(1);
    assert!(
        !check(&leaf_only, &roots(&maker, Class::Hardware))
            .unwrap()
            .is_certified()
    );
}

#[tokio::test]
async fn evidence_of_a_certified_rsa_endorsement_key_is_accepted() {
    let maker = TpmMaker::new().unwrap();
    let swtpm = Swtpm::start_certified(&maker).unwrap();
    let mut attester = open(with_issuer(&swtpm, &maker)).await;
    let offer = offer(&mut attester).await;
    let (credential, challenged) = check(&offer, &roots(&maker, Class::Hardware))
        .unwrap()
        .challenge(selection())
        .unwrap();
    let names = attester.names(TPM);
    let base = View::honest().base(&names.ek, &names.ak);
    let evidence = collect(&mut attester, &base, &message(&credential, &selection())).await;
    let mut reference = image(&evidence.pcrs);
    let tpm = reference.any_of[0].tpm.as_mut().unwrap();
    tpm.class = Class::Hardware;
    tpm.ek_certified = Some(true);
    let mut attempt = Attempt {
        view: View::honest(),
        challenged,
        evidence,
        reference,
        previous: None,
    };
    let appraised = attempt.judge().unwrap();
    assert_eq!(appraised.class(), Class::Hardware);
    assert_eq!(
        appraised.devices()[0].claims.get("ek_certified"),
        Some(&ClaimValue::Bool(true))
    );
    attempt.reference.any_of[0]
        .tpm
        .as_mut()
        .unwrap()
        .ek_certified = Some(false);
    attempt.refused("ek_certified");
}

#[tokio::test]
async fn an_uncertified_tpm_is_refused_where_hardware_is_demanded() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    let demand = |attempt: &mut Attempt, class, certified| {
        let tpm = attempt.reference.any_of[0].tpm.as_mut().unwrap();
        tpm.class = class;
        tpm.ek_certified = certified;
    };
    demand(&mut attempt, Class::Hardware, None);
    attempt.refused("class");
    demand(&mut attempt, Class::Software, Some(true));
    attempt.refused("ek_certified");
}

#[tokio::test]
async fn a_chain_of_another_key_is_refused() {
    let maker = TpmMaker::new().unwrap();
    let (one, other) = (
        Swtpm::start_certified(&maker).unwrap(),
        Swtpm::start_certified(&maker).unwrap(),
    );
    let honest = offer(&mut open(with_issuer(&one, &maker)).await).await;
    let theirs = offer(&mut open(with_issuer(&other, &maker)).await).await;
    let pinned = roots(&maker, Class::Hardware);
    let with_chain = |ek_chain: Vec<Vec<u8>>| {
        let offer = Offer {
            ek_chain,
            ..honest.clone()
        };
        check(&offer, &pinned).map(|checked| checked.is_certified())
    };
    assert_eq!(with_chain(honest.ek_chain.clone()), Ok(true));
    assert_eq!(with_chain(theirs.ek_chain.clone()), Err("ek_certificate"));
    // An authority's certificate in the leaf's place.
    assert_eq!(
        with_chain(vec![honest.ek_chain[1].clone()]),
        Err("ek_certificate")
    );
    assert_eq!(with_chain(vec![vec![0x30, 0]]), Err("ek_certificate"));
    assert_eq!(
        with_chain(vec![honest.ek_chain[0].clone(); 9]),
        Err("ek_certificate")
    );
    assert_eq!(with_chain(vec![]), Ok(false));
    for end in 0..honest.ek_chain[0].len() {
        let cut = vec![
            honest.ek_chain[0][..end].to_vec(),
            honest.ek_chain[1].clone(),
        ];
        assert_eq!(with_chain(cut), Err("ek_certificate"), "{end}");
    }
}

/// `TPM2_NV_UndefineSpace` of the RSA certificate, by the platform: a maker that publishes certificates elsewhere.
const FORGET_CERTIFICATE: &[u8] = &[
    0x80, 0x02, 0, 0, 0, 31, 0, 0, 0x01, 0x22, 0x40, 0, 0, 0x0c, 0x01, 0xc0, 0, 0x02, 0, 0, 0, 9,
    0x40, 0, 0, 9, 0, 0, 0, 0, 0,
];

#[tokio::test]
async fn a_chain_from_a_file_chooses_the_key_that_it_certifies() {
    let maker = TpmMaker::new().unwrap();
    let swtpm = Swtpm::start_certified(&maker).unwrap();
    let from_nv = offer(&mut open(with_issuer(&swtpm, &maker)).await).await;
    swtpm.transact(FORGET_CERTIFICATE).unwrap();
    // Nothing says which key is certified: the default one, and no chain that fits it.
    let plain = offer(&mut open(config(&swtpm)).await).await;
    assert_ne!(plain.ek_public, from_nv.ek_public);
    assert_eq!(plain.ek_chain, Vec::<Vec<u8>>::new());
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem: String = from_nv.ek_chain.iter().map(|der| pem(der)).collect();
    std::fs::write(file.path(), pem).unwrap();
    let with_file = proxy::Tpm {
        ek_chain: Some(file.path().to_owned()),
        ..config(&swtpm)
    };
    let from_file = offer(&mut open(with_file).await).await;
    assert_eq!(from_file.ek_public, from_nv.ek_public);
    assert_eq!(from_file.ek_chain, from_nv.ek_chain);
    let checked = check(&from_file, &roots(&maker, Class::Hardware)).unwrap();
    assert!(checked.is_certified());
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, chunk) in der.chunks(3).enumerate() {
        let mut bytes = [0; 4];
        bytes[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(bytes);
        for place in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * place) & 0x3f).unwrap();
            let padding = place > chunk.len();
            text.push(if padding { '=' } else { ALPHABET[six].into() });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

/// The chain of an endorsement key is evidence like any other: what of it ends first ends the certificate.
#[test]
fn no_certificate_outlives_the_chain_of_the_endorsement_key() {
    let maker = TpmMaker::new().unwrap();
    let swtpm = Swtpm::start_certified(&maker).unwrap();
    // Makers put more into their files than a path needs.
    let mut params = rcgen::CertificateParams::default();
    let until = SystemTime::now() + Duration::from_secs(900);
    params.not_after = until.into();
    let short = params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let chain = folder.path().join("chain.pem");
    let issuer = std::fs::read_to_string(maker.issuer()).unwrap();
    std::fs::write(&chain, issuer + "\n" + &short.pem()).unwrap();
    let socket = swtpm.socket();
    // A certified TPM has its maker's key, which `collect` reads as the sidecar does.
    let bundle = folder.path().join("bundle");
    let place = |path: &Path| path.to_str().unwrap().to_owned();
    let (out, tpm, ek_chain) = (place(&bundle), place(&socket), place(&chain));
    let named = ["--node", "machine", "--namespace", "app"];
    let arguments = [
        "collect",
        "--out",
        &out,
        "--tpm",
        &tpm,
        "--ek-chain",
        &ek_chain,
    ];
    let node = process::run(binaries::proxy(), [&arguments[..], &named].concat());
    let mesh = Mesh::start(&file([
        documents::mesh(),
        tpm_profile("app/boot", "good", 11, &"0".repeat(64)),
        node.expect_success(),
        workload("app/one", "boot", "machine", &[]),
    ]));
    let attester = format!(
        "{{tpm: {{swtpm: 'unix:{}', ek_chain: {}}}}}",
        socket.display(),
        chain.display()
    );
    let mut sidecar = mesh.sidecar("one", "app/one", &attester).start(mesh.path());
    sidecar.wait_ready();
    let records = mesh.records();
    let issued = records.iter().find(|one| one["kind"] == "issued").unwrap();
    let since = until.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(issued["not_after"].as_u64(), Some(since.as_secs() * 1000));
}
