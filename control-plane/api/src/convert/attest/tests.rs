use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use prost::Message;

use super::*;

fn hello() -> Hello {
    Hello {
        purpose: Purpose::Enroll,
        workload: "inference/llm".parse().unwrap(),
        spki_sha256: [1; 32],
        client_nonce: Nonce([2; 32]),
        offers: vec![
            Offer::Tpm(TpmOffer {
                ek_public: vec![3; 300],
                ek_chain: vec![vec![4; 900], vec![5; 900]],
                ak_public: vec![6; 90],
            }),
            Offer::Simulated {
                machine: "laptop".into(),
            },
        ],
        join_token: Some(JoinToken::new("0123456789abcdef").unwrap()),
        endpoints: vec![Endpoint {
            listener: "[::1]:8443".into(),
            ports: vec!["openai".parse().unwrap()],
        }],
        software_version: "0.1.0".into(),
    }
}

fn challenge() -> Challenge {
    Challenge {
        nonce: Nonce([7; 32]),
        server_time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
        required: vec![EvidenceKind::Tpm],
        policy_revision: Revision {
            epoch: 1,
            sequence: 9,
        },
        answers: vec![Answer::Tpm(TpmAnswer {
            credential_blob: vec![8; 70],
            encrypted_secret: vec![9; 258],
            selection: vec![PcrSelection {
                hash: PcrHash::Sha256,
                pcrs: vec![0, 7, 23],
            }],
        })],
    }
}

fn evidence() -> Evidence {
    Evidence {
        csr: vec![1; 300],
        items: vec![
            EvidenceItem {
                index: 0,
                body: EvidenceBody::Simulated(SimulatedEvidence {
                    machine: "laptop".into(),
                    image: "dev".into(),
                    binding: [3; 32],
                }),
            },
            EvidenceItem {
                index: 0,
                body: EvidenceBody::Tpm(TpmEvidence {
                    quote: vec![4; 120],
                    signature: vec![5; 72],
                    pcrs: vec![PcrBank {
                        hash: PcrHash::Sha384,
                        values: vec![(0, vec![6; 48]), (23, vec![7; 48])],
                    }],
                    event_log: vec![8; 4000],
                    activated_credential: vec![9; 32],
                }),
            },
        ],
    }
}

fn issued() -> Issued {
    Issued {
        certificate_chain: vec![vec![1; 700], vec![2; 500]],
        attestation_result: b"{}".to_vec(),
        trust_bundle: vec![AuthorityCertificate {
            trust_domain: "factory.example".into(),
            certificate: vec![3; 500],
            attested: true,
        }],
        renew_at: UNIX_EPOCH + Duration::from_millis(1_800_000_600_000),
        server_time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_001),
        instance: InstanceId([4; 16]),
    }
}

fn refusal() -> Refusal {
    Refusal {
        reason: "unknown_workload".into(),
        remedy: "write a Workload document".into(),
        retry_after: Duration::from_secs(30),
    }
}

fn requests() -> [AttestRequest; 2] {
    [
        AttestRequest::Hello(Box::new(hello())),
        AttestRequest::Evidence(Box::new(evidence())),
    ]
}

fn responses() -> [AttestResponse; 3] {
    [
        AttestResponse::Challenge(Box::new(challenge())),
        AttestResponse::Issued(Box::new(issued())),
        AttestResponse::Refusal(refusal()),
    ]
}

#[test]
fn every_message_survives_the_wire() {
    for request in requests() {
        let bytes = v1::AttestRequest::from(request.clone()).encode_to_vec();
        let wire = v1::AttestRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(AttestRequest::try_from(wire), Ok(request));
    }
    for response in responses() {
        let bytes = v1::AttestResponse::from(response.clone()).encode_to_vec();
        let wire = v1::AttestResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(AttestResponse::try_from(wire), Ok(response));
    }
}

#[test]
fn every_truncation_is_refused_or_means_something_else() {
    for request in requests() {
        let whole = v1::AttestRequest::from(request.clone()).encode_to_vec();
        for end in 0..whole.len() {
            if let Ok(wire) = v1::AttestRequest::decode(&whole[..end]) {
                assert_ne!(AttestRequest::try_from(wire), Ok(request.clone()), "{end}");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(wire) = v1::AttestRequest::decode(bytes.as_slice()) {
            let _ = AttestRequest::try_from(wire);
        }
        if let Ok(wire) = v1::AttestResponse::decode(bytes.as_slice()) {
            let _ = AttestResponse::try_from(wire);
        }
    }

    #[test]
    fn a_flipped_bit_never_goes_unnoticed(at in 0usize..5000, bit in 0u8..8) {
        let request = AttestRequest::Evidence(Box::new(evidence()));
        let mut bytes = v1::AttestRequest::from(request.clone()).encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(wire) = v1::AttestRequest::decode(bytes.as_slice()) {
            prop_assert_ne!(AttestRequest::try_from(wire), Ok(request));
        }
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut v1::Hello), field: &str) {
    let mut wire = v1::Hello::from(hello());
    change(&mut wire);
    let error = Hello::try_from(wire).unwrap_err();
    assert!(
        error.to_string().contains(&format!("`{field}`")),
        "expected `{field}`, found: {error}"
    );
}

#[test]
fn each_bound_of_a_hello_is_enforced() {
    refused(|hello| hello.purpose = 0, "purpose");
    refused(|hello| hello.purpose = 9, "purpose");
    refused(|hello| hello.workload = "llm".into(), "workload");
    refused(|hello| hello.workload = "a".repeat(200), "workload");
    refused(|hello| hello.spki_sha256 = vec![0; 31], "spki_sha256");
    refused(|hello| hello.client_nonce = vec![0; 33], "client_nonce");
    refused(|hello| hello.client_nonce.clear(), "client_nonce");
    refused(|hello| hello.offers.clear(), "offers");
    refused(
        |hello| hello.offers = vec![hello.offers[1].clone(); 2],
        "offers",
    );
    refused(
        |hello| hello.offers = vec![v1::Offer { kind: None }],
        "offers.kind",
    );
    refused(|hello| hello.join_token = "short".into(), "join_token");
    refused(|hello| hello.join_token = "a".repeat(257), "join_token");
    refused(
        |hello| hello.join_token = "with a space in it".into(),
        "join_token",
    );
    refused(
        |hello| hello.endpoints = vec![hello.endpoints[0].clone(); 17],
        "endpoints",
    );
    refused(
        |hello| hello.endpoints[0].listener = "host".into(),
        "endpoints.listener",
    );
    refused(
        |hello| hello.endpoints[0].listener = "host:0".into(),
        "endpoints.listener",
    );
    refused(
        |hello| hello.endpoints[0].ports = vec!["Upper".into()],
        "endpoints.ports",
    );
    refused(
        |hello| hello.software_version = "a\nb".into(),
        "software_version",
    );
}

#[test]
fn an_empty_or_oversize_quote_is_refused() {
    let with_quote = |quote: Vec<u8>| {
        let mut wire = v1::Evidence::from(evidence());
        let Some(v1::evidence_item::Kind::Tpm(tpm)) = &mut wire.items[1].kind else {
            unreachable!("the second item is a TPM's");
        };
        tpm.quote = quote;
        Evidence::try_from(wire)
    };
    assert_eq!(with_quote(vec![]), Err(ConvertError::Missing("quote")));
    assert_eq!(
        with_quote(vec![0; 5000]).unwrap_err().reason(),
        "oversize_message"
    );
}

#[test]
fn a_token_never_shows_in_debug_output() {
    assert!(!format!("{:?}", hello()).contains("0123456789abcdef"));
}
