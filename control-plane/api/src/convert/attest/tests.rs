use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use prost::Message;

use super::reattest::{Confirmed, Proof, Slot};
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
            Offer::SevSnp,
            Offer::Tdx,
            Offer::AzSnpVtpm(AzVtpmOffer {
                ak_public: vec![7; 310],
            }),
            Offer::AzTdxVtpm(AzVtpmOffer {
                ak_public: vec![8; 310],
            }),
            Offer::NvidiaGpu(NvidiaGpuOffer {
                gpus: 8,
                switches: 4,
            }),
            Offer::Nitro,
        ],
        join_token: Some(JoinToken::new("0123456789abcdef").unwrap()),
        endpoints: vec![Endpoint {
            listener: "[::1]:8443".into(),
            ports: vec!["openai".parse().unwrap()],
        }],
        software_version: "0.1.0".into(),
        proof: None,
    }
}

fn reattestation() -> Hello {
    Hello {
        purpose: Purpose::Reattest,
        join_token: None,
        proof: Some(Proof::TpmLog),
        ..hello()
    }
}

fn slots() -> Vec<Slot> {
    let at = UNIX_EPOCH + Duration::from_millis(1_800_000_060_000);
    { Proof::ALL.into_iter() }
        .map(|proof| Slot { proof, at })
        .collect()
}

fn challenge() -> Challenge {
    Challenge {
        nonce: Nonce([7; 32]),
        server_time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
        required: EvidenceKind::ALL.to_vec(),
        policy_revision: Revision {
            epoch: 1,
            sequence: 9,
        },
        answers: vec![
            Answer::Tpm(TpmAnswer {
                credential_blob: vec![8; 70],
                encrypted_secret: vec![9; 258],
                selection: vec![PcrSelection {
                    hash: PcrHash::Sha256,
                    pcrs: vec![0, 7, 23],
                }],
                ima: Some(ImaFrom {
                    entries: 826,
                    reset_count: 7,
                }),
            }),
            Answer::AzSnpVtpm(selection()),
            Answer::AzTdxVtpm(selection()),
        ],
    }
}

fn selection() -> Vec<PcrSelection> {
    vec![PcrSelection {
        hash: PcrHash::Sha256,
        pcrs: (0..24).collect(),
    }]
}

fn banks() -> Vec<PcrBank> {
    let values = |length| vec![(0, vec![6; length]), (23, vec![7; length])];
    vec![
        PcrBank {
            hash: PcrHash::Sha256,
            values: values(32),
        },
        PcrBank {
            hash: PcrHash::Sha384,
            values: values(48),
        },
    ]
}

fn vtpm() -> AzVtpmEvidence {
    AzVtpmEvidence {
        hcl_report: vec![1; 2600],
        quote: vec![2; 120],
        signature: vec![3; 262],
        pcrs: banks(),
        event_log: vec![],
        hardware: vec![4; 5000],
    }
}

fn evidence() -> Evidence {
    let bodies = [
        EvidenceBody::Simulated(SimulatedEvidence {
            machine: "laptop".into(),
            image: "dev".into(),
            binding: [3; 32],
        }),
        EvidenceBody::Tpm(TpmEvidence {
            quote: vec![4; 120],
            signature: vec![5; 72],
            pcrs: banks(),
            event_log: vec![8; 400],
            activated_credential: vec![9; 32],
            ima_log: vec![3; 300],
            ima_offset: 826,
        }),
        EvidenceBody::NvidiaGpu(NvidiaGpuEvidence {
            report: vec![1; 600],
            certificate_chain: vec![2; 600],
            architecture: "hopper".into(),
            is_switch: true,
            driver: Some(NvidiaDriverState {
                confidential_compute: true,
                devtools: false,
            }),
        }),
        EvidenceBody::SevSnp(SevSnpEvidence {
            report: vec![1; 1184],
            certificates: vec![],
        }),
        EvidenceBody::Tdx(TdxEvidence {
            quote: vec![1; 900],
            event_log: vec![2; 300],
        }),
        EvidenceBody::AzSnpVtpm(vtpm()),
        EvidenceBody::AzTdxVtpm(vtpm()),
        EvidenceBody::Nitro(NitroEvidence {
            document: vec![1; 500],
        }),
    ];
    let items = bodies
        .into_iter()
        .map(|body| EvidenceItem { index: 0, body });
    Evidence {
        csr: vec![1; 300],
        items: items.collect(),
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
        reattest: slots(),
    }
}

fn confirmed() -> Confirmed {
    Confirmed {
        server_time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_001),
        reattest: slots(),
    }
}

fn refusal() -> Refusal {
    Refusal {
        reason: "unknown_workload".into(),
        remedy: "write a Workload document".into(),
        retry_after: Duration::from_secs(30),
    }
}

fn requests() -> [AttestRequest; 4] {
    let unsigned = Evidence {
        csr: vec![],
        ..evidence()
    };
    [
        AttestRequest::Hello(Box::new(reattestation())),
        AttestRequest::Evidence(Box::new(unsigned)),
        AttestRequest::Hello(Box::new(hello())),
        AttestRequest::Evidence(Box::new(evidence())),
    ]
}

fn responses() -> [AttestResponse; 4] {
    [
        AttestResponse::Confirmed(confirmed()),
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
    fn a_flipped_bit_never_goes_unnoticed(at in 0usize..20_000, bit in 0u8..8) {
        let request = AttestRequest::Evidence(Box::new(evidence()));
        let mut bytes = v1::AttestRequest::from(request.clone()).encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // A boolean that is true may be written as any number but 0.
        let is_true = bytes[at] ^ (1 << bit) == 1 && bit > 0;
        if let Ok(wire) = v1::AttestRequest::decode(bytes.as_slice()) && !is_true {
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
    let devices = |gpus, switches| {
        let devices = v1::NvidiaGpuOffer { gpus, switches };
        let kind = Some(v1::offer::Kind::NvidiaGpu(devices));
        move |hello: &mut v1::Hello| hello.offers = vec![v1::Offer { kind }]
    };
    refused(devices(0, 0), "gpus");
    refused(devices(17, 0), "gpus");
    refused(devices(8, 9), "switches");
    refused(
        |hello| {
            let kind = v1::offer::Kind::AzSnpVtpm(v1::AzVtpmOffer { ak_public: vec![] });
            hello.offers = vec![v1::Offer { kind: Some(kind) }];
        },
        "ak_public",
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

/// Every field of every kind: absent where it must be there, and longer than it may be.
#[test]
fn each_bound_of_evidence_is_enforced() {
    use v1::evidence_item::Kind;
    type Field = fn(&mut Kind) -> Option<&mut Vec<u8>>;
    macro_rules! field {
        ($($kind:ident)|+ . $name:ident) => {
            (stringify!($name), (|kind| match kind {
                $(Kind::$kind(one))|+ => Some(&mut one.$name),
                _ => None,
            }) as Field)
        };
    }
    let must: &[(&str, Field)] = &[
        field!(Tpm.quote),
        field!(Tpm.signature),
        field!(Tpm.activated_credential),
        field!(SevSnp.report),
        field!(Tdx.quote),
        field!(AzSnpVtpm.hcl_report),
        field!(AzTdxVtpm.quote),
        field!(AzTdxVtpm.signature),
        field!(NvidiaGpu.report),
        field!(NvidiaGpu.certificate_chain),
        field!(Nitro.document),
    ];
    let may: &[(&str, Field)] = &[
        field!(Tpm.event_log),
        field!(SevSnp.certificates),
        field!(Tdx.event_log),
        field!(AzSnpVtpm.event_log),
        field!(AzSnpVtpm.hardware),
    ];
    let with = |field: Field, value: Vec<u8>| {
        let mut wire = v1::Evidence::from(evidence());
        let mut kinds = wire
            .items
            .iter_mut()
            .map(|item| item.kind.as_mut().unwrap());
        *kinds.find_map(field).unwrap() = value;
        Evidence::try_from(wire)
    };
    for (name, field) in must {
        let error = with(*field, vec![]).unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
    for (name, field) in may {
        assert!(with(*field, vec![]).is_ok(), "{name}");
    }
    for (name, field) in must.iter().chain(may) {
        let error = with(*field, vec![0; 800 * 1024]).unwrap_err();
        assert_eq!(error.reason(), "oversize_message", "{name}");
    }
}

#[test]
fn banks_of_pcrs_ascend_so_that_one_set_of_values_has_one_form() {
    let mut evidence = v1::Evidence::from(evidence());
    let v1::evidence_item::Kind::Tpm(tpm) = evidence.items[1].kind.as_mut().unwrap() else {
        unreachable!("the second item is a TPM's");
    };
    tpm.pcrs.reverse();
    assert!(Evidence::try_from(evidence).is_err());
}

fn credential(item: &EvidenceItem) -> Option<&[u8]> {
    match &item.body {
        EvidenceBody::Tpm(tpm) => Some(&tpm.activated_credential),
        _ => None,
    }
}

/// What is digested before the next device signs: a change of any field of any kind changes it.
#[test]
fn canonical_evidence_covers_every_field() {
    for item in evidence().items {
        let whole = item.canonical();
        let wire = v1::EvidenceItem::from(item.clone()).encode_to_vec();
        for at in 0..wire.len() {
            let mut flipped = wire.clone();
            flipped[at] ^= 1;
            let Ok(other) = v1::EvidenceItem::decode(flipped.as_slice()) else {
                continue;
            };
            if let Ok(other) = EvidenceItem::try_from(other)
                && (other.kind(), other.index) == (item.kind(), item.index)
                && credential(&other) == credential(&item)
            {
                assert_ne!(other.canonical(), whole, "{:?} byte {at}", item.kind());
            }
        }
    }
}

#[test]
fn only_a_reattestation_names_a_proof_and_it_must() {
    let with = |hello: Hello, proof: &str| {
        let mut wire = v1::Hello::from(hello);
        wire.proof = proof.to_owned();
        Hello::try_from(wire).map(|hello| hello.proof)
    };
    assert_eq!(with(reattestation(), "gpu"), Ok(Some(Proof::Gpu)));
    assert_eq!(with(hello(), ""), Ok(None));
    for (hello, proof) in [
        (reattestation(), ""),
        (reattestation(), "root"),
        (hello(), "gpu"),
    ] {
        assert!(with(hello, proof).is_err(), "{proof}");
    }
}

#[test]
fn a_proof_has_one_slot() {
    let mut wire = v1::Confirmed::from(confirmed());
    wire.reattest[1] = wire.reattest[0].clone();
    assert!(Confirmed::try_from(wire).is_err());
    let mut wire = v1::Issued::from(issued());
    wire.reattest.extend_from_within(..1);
    assert!(Issued::try_from(wire).is_err());
}

#[test]
fn a_token_never_shows_in_debug_output() {
    assert!(!format!("{:?}", hello()).contains("0123456789abcdef"));
}
