//! Quotes of a TPM whose attestation key is ours: what no honest TPM says can be signed here, so that each check is seen
//! to refuse by itself.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use vouchsafe_attestation::binding::{EvidenceDigest, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::revision::Revision;

use super::super::hash::HashAlgorithm;
use super::super::pcr::PcrSelection;
use super::super::wire::put_sized;
use super::super::{CheckedOffer, Offer};
use super::*;
use crate::endorsement::EkRoots;
use crate::verdict::Outcome;

struct Forger {
    ak: EcdsaKeyPair,
    challenged: Challenged,
}

/// What the quote says, each part changeable.
#[derive(Clone)]
struct Said {
    signer: Vec<u8>,
    extra_data: Vec<u8>,
    clock: ClockInfo,
    pcrs: PcrValues,
    selection: PcrSelection,
}

fn public_area(attributes: u32, tail: &[u8], key: &EcdsaKeyPair) -> Vec<u8> {
    let mut area = vec![0, 0x23, 0, 0x0b];
    area.extend(attributes.to_be_bytes());
    area.extend([0, 0]); // no policy
    area.extend(tail);
    area.extend([0, 3, 0, 0x10]); // P-256, no key derivation
    let point = key.public_key().as_ref();
    put_sized(&mut area, &point[1..33]);
    put_sized(&mut area, &point[33..]);
    area
}

fn key() -> EcdsaKeyPair {
    let pair = rcgen::KeyPair::generate().unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap()
}

fn binding() -> DeviceBinding {
    Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &"demo.example".parse().unwrap(),
        workload: &"inference/llm".parse().unwrap(),
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: b"",
        ak_name: b"",
        policy_revision: Revision::default(),
    }
    .base()
    .device(EvidenceKind::Tpm, 0, &EvidenceDigest::empty())
}

fn values() -> PcrValues {
    let mut values = PcrValues::default();
    for pcr in 0..8 {
        values
            .insert(HashAlgorithm::Sha256, pcr, vec![pcr; 32])
            .unwrap();
    }
    values
}

impl Forger {
    fn new() -> Self {
        let (ek, ak) = (key(), key());
        let offer = Offer {
            // A storage key with AES-128 in CFB mode and no scheme; a restricted signing key with ECDSA and SHA-256.
            ek_public: public_area(0x0003_00b2, &[0, 6, 0, 0x80, 0, 0x43, 0, 0x10], &ek),
            ek_chain: Vec::new(),
            ak_public: public_area(0x0005_0472, &[0, 0x10, 0, 0x18, 0, 0x0b], &ak),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let checked = CheckedOffer::check(&offer, &EkRoots::default(), now).unwrap();
        let (_, challenged) = checked.challenge(values().selection()).unwrap();
        Self { ak, challenged }
    }

    fn honest(&self) -> Said {
        let hierarchy = TPM_RH_ENDORSEMENT.to_be_bytes();
        Said {
            signer: self.challenged.offer.ak.qualified_name(&hierarchy),
            extra_data: binding().as_bytes().to_vec(),
            clock: ClockInfo {
                clock: 1000,
                reset_count: 5,
                restart_count: 2,
                safe: true,
            },
            pcrs: values(),
            selection: values().selection(),
        }
    }

    fn sign(&self, said: &Said) -> Evidence {
        let mut quote = vec![0xff, b'T', b'C', b'G', 0x80, 0x18];
        put_sized(&mut quote, &said.signer);
        put_sized(&mut quote, &said.extra_data);
        quote.extend(said.clock.clock.to_be_bytes());
        quote.extend(said.clock.reset_count.to_be_bytes());
        quote.extend(said.clock.restart_count.to_be_bytes());
        quote.push(said.clock.safe.into());
        quote.extend(7_u64.to_be_bytes());
        quote.extend([0, 0, 0, 1, 0, 0x0b, 3]);
        quote.extend(said.selection.bank(HashAlgorithm::Sha256).bitmap());
        let digest = said.pcrs.digest(&said.selection, HashAlgorithm::Sha256);
        put_sized(&mut quote, &digest.unwrap_or_default());
        let signed = self.ak.sign(&SystemRandom::new(), &quote).unwrap();
        let mut signature = vec![0, 0x18, 0, 0x0b];
        put_sized(&mut signature, &signed.as_ref()[..32]);
        put_sized(&mut signature, &signed.as_ref()[32..]);
        Evidence {
            quote,
            signature,
            pcrs: said.pcrs.clone(),
            activated_credential: self.challenged.secret.to_vec(),
            ..Evidence::default()
        }
    }

    fn verify(&self, evidence: &Evidence, previous: Option<&TpmState>) -> Result<TpmState, Check> {
        let mut findings = Findings::default();
        let verified = verify(
            evidence,
            &binding(),
            &self.challenged,
            previous,
            &mut findings,
        );
        if let Err(refusal) = &verified {
            let last = findings.0.last().unwrap();
            assert_eq!((last.check, last.outcome), (refusal.check, Outcome::Failed));
        }
        verified
            .map(|verified| verified.state)
            .map_err(|refusal| refusal.check)
    }

    #[track_caller]
    fn refused(&self, check: Check, change: impl FnOnce(&mut Said)) {
        let mut said = self.honest();
        change(&mut said);
        assert_eq!(self.verify(&self.sign(&said), None).unwrap_err(), check);
    }
}

#[test]
fn each_part_of_a_signed_quote_is_checked_by_itself() {
    let forger = Forger::new();
    forger.verify(&forger.sign(&forger.honest()), None).unwrap();
    // The key is a child of the endorsement key, as some templates make it.
    let hierarchy = TPM_RH_ENDORSEMENT.to_be_bytes();
    let (ek, ak) = (&forger.challenged.offer.ek, &forger.challenged.offer.ak);
    let mut child = forger.honest();
    child.signer = ak.qualified_name(&ek.qualified_name(&hierarchy));
    forger.verify(&forger.sign(&child), None).unwrap();
    // In any other hierarchy, counters and firmware are hidden.
    for other in [0x4000_0001_u32, 0x4000_0007, 0x4000_000c] {
        forger.refused(Check::AkHierarchy, |said| {
            said.signer = ak.qualified_name(&other.to_be_bytes());
        });
    }
    forger.refused(Check::AkHierarchy, |said| said.signer = ak.name());
    forger.refused(Check::Binding, |said| said.extra_data[0] ^= 1);
    forger.refused(Check::Binding, |said| said.extra_data.clear());
    forger.refused(Check::PcrSelection, |said| {
        said.selection = PcrSelection::default();
        said.selection
            .add(HashAlgorithm::Sha256, PcrSet::new(0..7).unwrap());
    });
    let mut narrowed = forger.sign(&forger.honest());
    narrowed.pcrs = PcrValues::default();
    assert_eq!(
        forger.verify(&narrowed, None).unwrap_err(),
        Check::PcrValues
    );
    let mut other = forger.sign(&forger.honest());
    other.pcrs = {
        let mut values = PcrValues::default();
        for pcr in 0..8 {
            values
                .insert(HashAlgorithm::Sha256, pcr, vec![9; 32])
                .unwrap();
        }
        values
    };
    assert_eq!(forger.verify(&other, None).unwrap_err(), Check::PcrDigest);
    let mut unopened = forger.sign(&forger.honest());
    unopened.activated_credential[0] ^= 1;
    assert_eq!(
        forger.verify(&unopened, None).unwrap_err(),
        Check::Credential
    );
}

#[test]
fn a_statement_that_is_no_quote_is_refused_though_the_key_signed_it() {
    let forger = Forger::new();
    let sign = |change: fn(&mut Vec<u8>)| {
        let mut evidence = forger.sign(&forger.honest());
        change(&mut evidence.quote);
        let signed = forger
            .ak
            .sign(&SystemRandom::new(), &evidence.quote)
            .unwrap();
        evidence.signature.truncate(4);
        put_sized(&mut evidence.signature, &signed.as_ref()[..32]);
        put_sized(&mut evidence.signature, &signed.as_ref()[32..]);
        forger.verify(&evidence, None).map(drop)
    };
    assert_eq!(sign(|_| {}), Ok(()));
    // Magic, type (creation, certification), a byte more.
    assert_eq!(sign(|quote| quote[0] = 0xfe), Err(Check::Quote));
    assert_eq!(sign(|quote| quote[5] = 0x1a), Err(Check::Quote));
    assert_eq!(sign(|quote| quote[5] = 0x17), Err(Check::Quote));
    assert_eq!(sign(|quote| quote.push(0)), Err(Check::Quote));
}

#[test]
fn counters_go_forwards_and_a_safe_clock_stays_safe_within_one_boot() {
    let forger = Forger::new();
    let before = forger.verify(&forger.sign(&forger.honest()), None).unwrap();
    let after = |change: fn(&mut ClockInfo)| {
        let mut said = forger.honest();
        change(&mut said.clock);
        forger.verify(&forger.sign(&said), Some(&before)).map(drop)
    };
    assert_eq!(after(|_| {}), Ok(()));
    assert_eq!(after(|clock| clock.clock += 1), Ok(()));
    assert_eq!(after(|clock| clock.clock -= 1), Err(Check::Clock));
    assert_eq!(
        after(|clock| clock.restart_count -= 1),
        Err(Check::RestartCount)
    );
    assert_eq!(
        after(|clock| clock.reset_count -= 1),
        Err(Check::ResetCount)
    );
    assert_eq!(after(|clock| clock.safe = false), Err(Check::ClockSafe));
    // A resume or a boot explains it.
    assert_eq!(
        after(|clock| {
            clock.safe = false;
            clock.restart_count += 1;
        }),
        Ok(())
    );
    assert_eq!(
        after(|clock| {
            *clock = ClockInfo {
                clock: 0,
                reset_count: 6,
                restart_count: 0,
                safe: false,
            };
        }),
        Ok(())
    );
    // Clear before, it may stay clear.
    let unsafe_before = TpmState {
        clock: ClockInfo {
            safe: false,
            ..before.clock
        },
        ..before.clone()
    };
    let mut said = forger.honest();
    said.clock.safe = false;
    forger
        .verify(&forger.sign(&said), Some(&unsafe_before))
        .unwrap();
    // Another machine, another key.
    let other_ek = TpmState {
        ek_sha256: [9; 32],
        ..before.clone()
    };
    let other_ak = TpmState {
        ak_name: vec![9; 34],
        ..before.clone()
    };
    let honest = forger.sign(&forger.honest());
    assert_eq!(
        forger.verify(&honest, Some(&other_ek)).unwrap_err(),
        Check::SameEk
    );
    assert_eq!(
        forger.verify(&honest, Some(&other_ak)).unwrap_err(),
        Check::SameAk
    );
}
