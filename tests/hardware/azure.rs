//! Azure's confidential VMs: a paravisor before a real software TPM, and a metadata service.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use vouchsafe_api::convert::attest::{PcrHash, PcrSelection};
use vouchsafe_config::proxy::{AzVtpm, Tpm, TpmTransport};
use vouchsafe_proxy::attester::CollectError;
use vouchsafe_proxy::attester::az_vtpm::{AzVtpmAttester, AzVtpmError, Hardware, HclParts};
use vouchsafe_tests::paravisor::{self, Paravisor};
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::dossier::{Expected, Kind};
use vouchsafe_verifier::judgement::Outcome;

use crate::support::{judge, outcome, vector};

const NOW: u64 = 1_780_000_000;

fn snp() -> paravisor::Hardware {
    paravisor::Hardware::SevSnp(vector("snp/milan-v2-vcek/report.bin"))
}

/// Answers each request with this body; sends what it was asked.
fn metadata_service(body: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            // Our requests end with their head, or with a body of JSON.
            while !(request.ends_with(b"}")
                || request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n"))
            {
                let Ok(length @ 1..) = client.read(&mut buffer) else {
                    break;
                };
                request.extend_from_slice(&buffer[..length]);
            }
            let length = body.len();
            let _gone = write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            let _gone = asked.send(String::from_utf8_lossy(&request).into_owned());
        }
    });
    (address, questions)
}

fn config(paravisor: &Paravisor, imds: String) -> AzVtpm {
    AzVtpm {
        tpm: Tpm {
            transport: TpmTransport::SwtpmUnix(paravisor.socket()),
            ek_chain: None,
            event_log: None,
            ima_log: None,
        },
        imds,
    }
}

fn selection() -> Vec<PcrSelection> {
    vec![PcrSelection {
        hash: PcrHash::Sha256,
        pcrs: (0..24).collect(),
    }]
}

#[tokio::test]
async fn the_vtpm_quotes_over_our_nonce_and_the_report_takes_up_our_data() {
    let tpm = Swtpm::start().unwrap();
    let paravisor = Paravisor::start(&tpm, snp(), true).unwrap();
    let (imds, asked) = metadata_service(r#"{"vcekCert": "LEAF", "certificateChain": "CHAIN"}"#);
    let attester = AzVtpmAttester::open(&config(&paravisor, imds))
        .await
        .unwrap();
    assert_eq!(attester.hardware(), Hardware::SevSnp);
    // Twice, because the index that takes the data exists the second time.
    for byte in [7, 8] {
        let nonce = [byte; 32];
        let said = attester
            .collect(&nonce, &[byte; 64], &selection())
            .await
            .unwrap();
        assert_eq!(said.hcl_report, paravisor.report());
        let written = HclParts::of(&said.hcl_report).unwrap().user_data();
        assert_eq!(written, Some(format!("{byte:02X}").repeat(64)));
        assert_eq!(said.hardware, b"LEAF\nCHAIN");
        assert_eq!(said.pcrs[0].values.len(), 24);
        assert!(
            asked
                .recv()
                .unwrap()
                .starts_with("GET /metadata/THIM/amd/certification")
        );

        let files = [
            ("quote.msg", said.quote.as_slice()),
            ("quote.sig", &said.signature),
            ("ak.pub", attester.ak_public()),
        ];
        let expected = Expected::Nonce(nonce.to_vec());
        let judgement = judge(Kind::Tpm, &files, expected, NOW);
        for check in ["ak_attributes", "quote_signature", "binding"] {
            assert_eq!(outcome(&judgement, check), Outcome::Passed, "{check}");
        }
        let judgement = judge(Kind::Tpm, &files, Expected::Nonce(vec![9; 32]), NOW);
        assert_ne!(outcome(&judgement, "binding"), Outcome::Passed);

        // As an Azure machine's it is read to where the hardware's signature is missing, and no further.
        let vek = vector("snp/milan-v2-vcek/vek.der");
        // Algorithm, hash and size stand before a signature of RSASSA.
        let signature = &said.signature[6..];
        let files = [
            ("hcl-report.bin", said.hcl_report.as_slice()),
            ("tpm-quote.msg", &said.quote),
            ("tpm-quote.sig", signature),
            ("vek.der", &vek),
        ];
        let expected = Expected::Nonce(nonce.to_vec());
        let judgement = judge(Kind::AzSnpVtpm, &files, expected, NOW);
        for check in ["hcl_format", "report_format", "runtime_data"] {
            assert_eq!(outcome(&judgement, check), Outcome::Passed, "{check}");
        }
        assert_eq!(judgement.reason, "report_signature");
    }
}

#[tokio::test]
async fn the_local_report_of_a_trust_domain_is_quoted_by_the_metadata_service() {
    let tpm = Swtpm::start().unwrap();
    let paravisor = Paravisor::start(&tpm, paravisor::Hardware::Tdx, false).unwrap();
    let (imds, asked) = metadata_service(r#"{"quote": "dGhlIHF1b3Rl"}"#);
    let attester = AzVtpmAttester::open(&config(&paravisor, imds))
        .await
        .unwrap();
    assert_eq!(attester.hardware(), Hardware::Tdx);
    let said = attester
        .collect(&[7; 32], &[7; 64], &selection())
        .await
        .unwrap();
    assert_eq!(said.hardware, b"the quote");
    let asked = asked.recv().unwrap();
    assert!(asked.starts_with("POST /acc/tdquote"), "{asked}");
    assert!(asked.to_lowercase().contains("metadata: true"), "{asked}");
    // 1024 bytes, all zero here but for the report data: the digest of the runtime data.
    let head = format!(r#"{{"report":"{}"#, "A".repeat(170));
    assert!(asked.contains(&head), "{asked}");
    let tail = format!(r#"{}"}}"#, "A".repeat(1366 - 256));
    assert!(asked.contains(&tail), "{asked}");
    // This paravisor takes no data of the guest, and was given none.
    assert_eq!(HclParts::of(&said.hcl_report).unwrap().user_data(), None);
}

#[tokio::test]
async fn without_the_metadata_service_a_trust_domain_can_prove_nothing_and_an_snp_guest_can() {
    let tpm = Swtpm::start().unwrap();
    let nobody = || "127.0.0.1:1".to_owned();
    let tdx = Paravisor::start(&tpm, paravisor::Hardware::Tdx, false).unwrap();
    let attester = AzVtpmAttester::open(&config(&tdx, nobody())).await.unwrap();
    let error = attester
        .collect(&[7; 32], &[7; 64], &selection())
        .await
        .unwrap_err();
    assert!(
        matches!(error, CollectError::AzVtpm(AzVtpmError::Imds(_))),
        "{error:?}"
    );
    let tpm = Swtpm::start().unwrap();
    let snp = Paravisor::start(&tpm, snp(), false).unwrap();
    let attester = AzVtpmAttester::open(&config(&snp, nobody())).await.unwrap();
    let said = attester
        .collect(&[7; 32], &[7; 64], &selection())
        .await
        .unwrap();
    assert!(said.hardware.is_empty());
}

#[tokio::test]
async fn a_tpm_of_another_machine_is_not_taken_for_azures() {
    let tpm = Swtpm::start().unwrap();
    let config = AzVtpm {
        tpm: Tpm {
            transport: TpmTransport::SwtpmUnix(tpm.socket()),
            ek_chain: None,
            event_log: None,
            ima_log: None,
        },
        imds: "127.0.0.1:1".to_owned(),
    };
    let error = AzVtpmAttester::open(&config).await.unwrap_err();
    assert!(
        matches!(error, CollectError::AzVtpm(AzVtpmError::NoReport)),
        "{error:?}"
    );
}
