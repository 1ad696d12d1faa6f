//! What an operator asks about instances: what a revocation can name of each, and what policy says of one by its
//! certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vouchsafe_api::v1::operator_server::Operator;
use vouchsafe_attestation::svid::sha256;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::cli::explain::{Explain, explain};
use crate::rpc::operator::OperatorApi;

fn certificate(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

fn key(der: &[u8]) -> [u8; 32] {
    sha256(certificate(der).public_key().raw)
}

#[tokio::test]
async fn status_shows_of_each_instance_what_a_revocation_can_name_and_a_restart_knows_it() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let (first, svid_key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let mut sidecar = sidecar;
    sidecar.purpose = Purpose::Renew;
    let svid = (first.certificate_chain.clone(), svid_key);
    let (issued, _) = { factory.attest_with_key(&sidecar, Some(&svid)).await }.unwrap();
    let (leaf, authority) = (&issued.certificate_chain[0], &issued.certificate_chain[1]);
    let check = |status: v1::StatusResponse| {
        assert_eq!(status.sidecars.len(), 1, "{status:?}");
        let shown = &status.sidecars[0];
        assert_eq!(shown.serial, certificate(leaf).raw_serial());
        assert_ne!(
            shown.serial,
            certificate(&first.certificate_chain[0]).raw_serial()
        );
        assert_eq!(shown.spki_sha256, key(leaf));
        assert_eq!(shown.authority_sha256, key(authority));
        let words = |claims: &[v1::ShownClaim]| -> Vec<String> {
            let words = claims.iter();
            words
                .map(|one| format!("{}={}", one.claim, one.value))
                .collect()
        };
        assert_eq!(words(&shown.identities), ["simulated.machine=laptop"]);
        assert_eq!(words(&shown.measurements), ["simulated.image=dev"]);
    };
    check(factory.status().await);

    let api = OperatorApi::new(Arc::clone(factory.control_plane()));
    let listed = api.list_workloads(tonic::Request::new(v1::ListWorkloadsRequest {}));
    let listed = listed.await.unwrap().into_inner();
    assert_eq!(listed.nodes, ["dev/laptop", "dev/other", "dev/rack"]);
    assert_eq!(listed.images, ["dev", "node"]);
    drop(api);

    // What a renewal changes is in the store within seconds, or when the control plane ends.
    let factory = factory.restart().await.unwrap();
    check(factory.status().await);
    factory.stop().await;
}

#[tokio::test]
async fn a_peer_is_judged_by_its_certificate_as_a_revocation_names_it() {
    let factory = Factory::start(POLICY).await;
    let issued = { factory.attest(&Sidecar::new("dev/api", "laptop")).await }.unwrap();
    let chain = &issued.certificate_chain;
    let serial = hex::encode(certificate(&chain[0]).raw_serial());
    let (spki, authority) = (hex::encode(key(&chain[0])), hex::encode(key(&chain[1])));
    let file = factory.data().join("peer.pem");
    let policy = factory.data().join("../policy");
    let asked = |certificates: &[Vec<u8>]| {
        let blocks = certificates.iter().map(|der| {
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                STANDARD.encode(der)
            )
        });
        fs::write(&file, blocks.collect::<String>()).unwrap();
        let question = Explain {
            policy: vec![policy.clone()],
            from: None,
            to: "dev/web".to_owned(),
            port: "http".to_owned(),
            method: Some("GET".to_owned()),
            path: None,
            grpc: false,
            peer: Some(file.clone()),
            class: None,
            claims: Vec::new(),
            evidence_age: Duration::ZERO,
            unattested: false,
        };
        explain(&question, now())
    };
    assert_eq!(asked(chain).status, 0, "{:?}", asked(chain));
    let revocation = policy.join("revocation.yaml");
    for (found, is_meant) in [
        (format!("serial: [\"{serial}\"]"), true),
        (format!("serial: [\"00{serial}\"]"), true),
        ("serial: [\"4bcd\"]".to_owned(), false),
        (format!("spki_sha256: [\"{spki}\"]"), true),
        (format!("spki_sha256: [\"{authority}\"]"), false),
        (format!("authority_sha256: [\"{authority}\"]"), true),
        (format!("authority_sha256: [\"{spki}\"]"), false),
    ] {
        fs::write(
            &revocation,
            format!("apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: r, namespace: dev}}\nspec: {{match: {{{found}}}, action: cut, reason: stolen}}\n"),
        )
        .unwrap();
        let outcome = asked(chain);
        assert_eq!(outcome.status, u8::from(is_meant), "{found}: {outcome:?}");
        assert_eq!(outcome.output.contains("DENY: revoked"), is_meant);
        assert!(!outcome.output.contains("not judged"), "{outcome:?}");
        // A file without the chain says nothing of who signed it: that is said, never taken for nobody.
        let alone = asked(&chain[..1]);
        let by_authority = found.starts_with("authority");
        assert_eq!(
            alone.output.contains("not judged"),
            by_authority,
            "{alone:?}"
        );
    }
    factory.stop().await;
}
