//! One attestation in its phases, with a place to tamper between them.

use std::time::SystemTime;

use vouchsafe_api::convert::attest as api;
use vouchsafe_attestation::binding::{Base, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::proxy;
use vouchsafe_proxy::attester::Attesters;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::appraise::{Appraised, Expected, appraise};
use vouchsafe_verifier::endorsement::EkRoots;
use vouchsafe_verifier::evidence::tpm::credential::Credential;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use vouchsafe_verifier::evidence::tpm::{self, Challenged, CheckedOffer, TpmState};
use vouchsafe_verifier::evidence::{Evidence, EvidenceItem};
use vouchsafe_verifier::reference_value::{Alternative, ReferenceValues, TpmImage, TpmReference};
use vouchsafe_verifier::vendor_roots::VendorRoots;
use vouchsafe_verifier::verdict::Refusal;

/// What enters the transcript, each field changeable.
#[derive(Clone)]
pub struct View {
    pub purpose: Purpose,
    pub role: Role,
    pub trust_domain: TrustDomain,
    pub workload: &'static str,
    pub client_nonce: [u8; 32],
    pub server_nonce: [u8; 32],
    pub spki_sha256: [u8; 32],
    pub server_leaf_sha256: [u8; 32],
    pub exporter: [u8; 32],
    pub revision: Revision,
}

impl View {
    /// What both honest ends see.
    pub fn honest() -> Self {
        Self {
            purpose: Purpose::Enroll,
            role: Role::Attester,
            trust_domain: "factory.example".parse().unwrap(),
            workload: "inference/llm",
            client_nonce: [1; 32],
            server_nonce: [2; 32],
            spki_sha256: [3; 32],
            server_leaf_sha256: [4; 32],
            exporter: [5; 32],
            revision: Revision {
                epoch: 1,
                sequence: 7,
            },
        }
    }

    pub fn base(&self, ek_name: &[u8], ak_name: &[u8]) -> Base {
        Transcript {
            purpose: self.purpose,
            role: self.role,
            trust_domain: &self.trust_domain,
            workload: &self.workload.parse().unwrap(),
            client_nonce: Nonce(self.client_nonce),
            server_nonce: Nonce(self.server_nonce),
            spki_sha256: self.spki_sha256,
            server_leaf_sha256: self.server_leaf_sha256,
            exporter: self.exporter,
            ek_name,
            ak_name,
            policy_revision: self.revision,
        }
        .base()
    }
}

pub fn config(swtpm: &Swtpm) -> proxy::Tpm {
    proxy::Tpm {
        transport: proxy::TpmTransport::SwtpmUnix(swtpm.socket()),
        ek_chain: None,
        event_log: None,
        ima_log: None,
    }
}

pub async fn open(config: proxy::Tpm) -> Attesters {
    Attesters::open(&[proxy::Attester::Tpm(config)])
        .await
        .unwrap()
}

/// What these attestations ask for.
pub const TPM: &[EvidenceKind] = &[EvidenceKind::Tpm];

pub async fn offer(attester: &mut Attesters) -> tpm::Offer {
    let mut offers = attester.offers().await.unwrap();
    match (offers.pop(), offers.pop()) {
        (Some(api::Offer::Tpm(offer)), None) => tpm::Offer {
            ek_public: offer.ek_public,
            ek_chain: offer.ek_chain,
            ak_public: offer.ak_public,
        },
        other => panic!("expected one offer of a TPM, found {other:?}"),
    }
}

/// The verifier's half of the challenge.
pub fn challenge(offer: &tpm::Offer, selection: PcrSelection) -> (Credential, Challenged) {
    CheckedOffer::check(offer, &EkRoots::default(), SystemTime::now())
        .unwrap()
        .challenge(selection)
        .unwrap()
}

/// The challenge as the sidecar gets it.
pub fn message(credential: &Credential, selection: &PcrSelection) -> api::Challenge {
    let banks = selection.banks().map(|(hash, set)| api::PcrSelection {
        hash: match hash {
            HashAlgorithm::Sha256 => api::PcrHash::Sha256,
            HashAlgorithm::Sha384 => api::PcrHash::Sha384,
        },
        pcrs: set.iter().collect(),
    });
    api::Challenge {
        nonce: Nonce([2; 32]),
        server_time: SystemTime::now(),
        required: TPM.to_vec(),
        policy_revision: View::honest().revision,
        answers: vec![api::Answer::Tpm(api::TpmAnswer {
            credential_blob: credential.blob.clone(),
            encrypted_secret: credential.encrypted_secret.clone(),
            selection: banks.collect(),
            ima: None,
        })],
    }
}

/// What the sidecar sends, as the verifier takes it.
pub async fn collect(
    attester: &mut Attesters,
    base: &Base,
    challenge: &api::Challenge,
) -> tpm::Evidence {
    let mut items = attester.collect(base, challenge).await.unwrap();
    match (items.pop(), items.pop()) {
        (
            Some(api::EvidenceItem {
                index: 0,
                body: api::EvidenceBody::Tpm(evidence),
            }),
            None,
        ) => tpm::Evidence {
            quote: evidence.quote,
            signature: evidence.signature,
            pcrs: values(&evidence.pcrs),
            event_log: evidence.event_log,
            activated_credential: evidence.activated_credential,
            ima_log: evidence.ima_log,
            ima_offset: evidence.ima_offset,
        },
        other => panic!("expected one piece of a TPM's evidence, found {other:?}"),
    }
}

fn values(banks: &[api::PcrBank]) -> PcrValues {
    let mut values = PcrValues::default();
    for bank in banks {
        let hash = bank.hash.as_str().parse().unwrap();
        for (pcr, digest) in &bank.values {
            values.insert(hash, *pcr, digest.clone()).unwrap();
        }
    }
    values
}

/// A profile of one image: these values.
pub fn image(pcrs: &PcrValues) -> ReferenceValues {
    ReferenceValues {
        any_of: vec![Alternative {
            tpm: Some(TpmReference {
                images: vec![TpmImage {
                    name: "node-1".into(),
                    pcrs: pcrs.clone(),
                    until: None,
                }],
                class: Class::Software,
                ek_certified: None,
                secure_boot: None,
                ima: None,
            }),
            ..Alternative::default()
        }],
    }
}

/// PCRs 0 to 7 and 10 of both banks: more than a TPM reads at once.
pub fn selection() -> PcrSelection {
    let mut selection = PcrSelection::default();
    for hash in HashAlgorithm::ALL {
        selection.add(hash, PcrSet::new((0..8).chain([10])).unwrap());
    }
    selection
}

/// Everything of one honest attestation, ready to be judged or tampered with.
pub struct Attempt {
    pub view: View,
    pub challenged: Challenged,
    pub evidence: tpm::Evidence,
    pub reference: ReferenceValues,
    pub previous: Option<TpmState>,
}

impl Attempt {
    pub async fn honest(swtpm: &Swtpm) -> Self {
        let mut attester = open(config(swtpm)).await;
        Self::with(&mut attester).await
    }

    pub async fn with(attester: &mut Attesters) -> Self {
        Self::asking(attester, None).await
    }

    /// Asks for the kernel's measurement list too.
    pub async fn asking(attester: &mut Attesters, ima: Option<api::ImaFrom>) -> Self {
        let offer = offer(attester).await;
        let (credential, challenged) = challenge(&offer, selection());
        let names = attester.names(TPM);
        let base = View::honest().base(&names.ek, &names.ak);
        let mut message = message(&credential, &selection());
        let [api::Answer::Tpm(answer)] = message.answers.as_mut_slice() else {
            panic!("one answer, to the TPM");
        };
        answer.ima = ima;
        let evidence = collect(attester, &base, &message).await;
        Self {
            view: View::honest(),
            reference: image(&evidence.pcrs),
            challenged,
            evidence,
            previous: None,
        }
    }

    pub fn judge(&self) -> Result<Appraised, Refusal> {
        let offer = self.challenged.offer();
        let base = self.view.base(&offer.ek_name(), &offer.ak_name());
        let expected = Expected {
            base: &base,
            required: TPM,
            tpm: Some(&self.challenged),
            previous_tpm: self.previous.as_ref(),
            vtpm_key: None,
            nvidia_devices: 0,
            simulated_machine: None,
            danger_accept_simulated: false,
            endorsements: &[],
            roots: &VendorRoots::PINNED,
        };
        let items = [EvidenceItem {
            index: 0,
            evidence: Evidence::Tpm(self.evidence.clone()),
        }];
        appraise(&items, &self.reference, &expected, SystemTime::now()).into_outcome()
    }

    #[track_caller]
    pub fn refused(&self, reason: &str) {
        match self.judge() {
            Err(refusal) => assert_eq!(refusal.reason(), reason, "{refusal}"),
            Ok(appraised) => panic!("accepted, expected `{reason}`: {appraised:?}"),
        }
    }
}
