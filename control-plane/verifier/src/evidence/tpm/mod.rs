//! TPM 2.0: offers, credential activation and quotes.
//!
//! The order of the protocol is in the types: an [`Offer`] becomes a [`CheckedOffer`], which becomes [`Challenged`]
//! when a credential is made for it, and only a quote by that very key is looked at.
//!
//! Source: TPM 2.0 Part 1 §24 and §31; TCG TPM 2.0 Keys for Device Identity and Attestation §5; DESIGN §5.

pub mod attest;
pub mod checks;
pub mod credential;
pub mod event_log;
pub mod hash;
pub mod ima;
pub mod measured;
pub mod pcr;
pub mod public;
mod quote;
pub mod rules;
pub mod signature;
pub mod wire;

use std::time::SystemTime;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;
use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::svid::sha256;
use zeroize::Zeroizing;

use crate::endorsement::{EkChainError, EkRoots};
use crate::verdict::{Check, Findings, Refusal, chain};

use attest::{ClockInfo, ParseQuoteError, Quote};
use credential::{Credential, MakeCredentialError, SECRET_BYTES, make_credential};
use event_log::EventLog;
use ima::Checkpoint;
use pcr::{PcrSelection, PcrValues};
use public::{Attributes, Key, PublicArea};

pub(crate) use quote::{Verified, verify};

/// The keys of a TPM, as received.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Certificates of the endorsement key in DER, leaf first; empty where the machine has none.
    pub ek_chain: Vec<Vec<u8>>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
}

/// A quote with all that is needed to judge it, as received.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Values of the quoted PCRs.
    pub pcrs: PcrValues,
    /// Boot event log as the firmware left it; empty where the machine has none.
    pub event_log: Vec<u8>,
    /// What the credential blob held.
    pub activated_credential: Vec<u8>,
    /// The kernel's measurement list from entry `ima_offset` on; empty where none was asked for.
    pub ima_log: Vec<u8>,
    /// Entries of this boot that were judged before and left out.
    pub ima_offset: u64,
}

/// What is kept of a TPM between attestations, to see that it is the same one and did not go back in time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmState {
    /// SHA-256 of the endorsement key's public area.
    pub ek_sha256: [u8; 32],
    /// Name of the attestation key.
    pub ak_name: Vec<u8>,
    /// Time and counters of the newest quote.
    pub clock: ClockInfo,
    /// How far the measurement list was judged; `None` where no profile asked for it.
    pub ima: Option<JudgedList>,
}

/// How far a measurement list was judged, and by which rules: others have to see it from its beginning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JudgedList {
    /// Up to here.
    pub checkpoint: Checkpoint,
    /// Digest of the rules.
    pub policy_sha256: [u8; 32],
}

/// An offer whose keys may be used: the only thing that a credential is made for.
#[derive(Clone, Debug)]
pub struct CheckedOffer {
    ek: PublicArea,
    ak: PublicArea,
    certified: Option<Class>,
    findings: Findings,
}

impl CheckedOffer {
    /// Reads an offer, and refuses keys that prove nothing.
    ///
    /// A chain that leads to no pinned root, or does not say that it is an endorsement key's, is noted, not refused: then
    /// the TPM is of class `software`, which profiles may accept. A chain that is of another key is refused.
    ///
    /// # Errors
    /// [`Refusal`] naming the check that failed.
    pub fn check(offer: &Offer, roots: &EkRoots, now: SystemTime) -> Result<Self, Refusal> {
        let mut findings = Findings::default();
        let ek = findings.succeed(Check::EkPublic, PublicArea::parse(&offer.ek_public))?;
        check_ek_attributes(&ek, &mut findings)?;
        let ak = findings.succeed(Check::AkPublic, PublicArea::parse(&offer.ak_public))?;
        check_ak_attributes(&ak, &mut findings)?;
        check_ak_scheme(&ak, &mut findings)?;
        let certified = check_ek_chain(&offer.ek_chain, &ek.key, roots, now, &mut findings)?;
        Ok(Self {
            ek,
            ak,
            certified,
            findings,
        })
    }

    /// Name of the endorsement key, for the binding transcript.
    pub fn ek_name(&self) -> Vec<u8> {
        self.ek.name()
    }

    /// Name of the attestation key, for the binding transcript.
    pub fn ak_name(&self) -> Vec<u8> {
        self.ak.name()
    }

    /// SHA-256 of the endorsement key's public area: which TPM it is, as a `Node` pins it.
    pub fn ek_sha256(&self) -> [u8; 32] {
        sha256(self.ek.as_bytes())
    }

    /// Whether a pinned root vouches for the endorsement key.
    pub fn is_certified(&self) -> bool {
        self.certified.is_some()
    }

    /// What the root vouches for; [`Class::Software`] without one.
    pub fn class(&self) -> Class {
        self.certified.unwrap_or(Class::Software)
    }

    /// Makes the credential that only this TPM can open while it holds this attestation key. The secret is random and
    /// stays here; `selection` is what the quote must cover.
    ///
    /// # Errors
    /// [`Refusal`] of [`Check::MakeCredential`] when the endorsement key is no valid key.
    pub fn challenge(self, selection: PcrSelection) -> Result<(Credential, Challenged), Refusal> {
        let Self {
            ek,
            ak,
            certified,
            mut findings,
        } = self;
        let secret = fresh_secret();
        let made = secret.and_then(|secret| {
            make_credential(&ek, &ak.name(), &secret).map(|credential| (credential, secret))
        });
        let (credential, secret) = findings.succeed(Check::MakeCredential, made)?;
        let offer = Self {
            ek,
            ak,
            certified,
            findings,
        };
        Ok((
            credential,
            Challenged {
                offer,
                secret,
                selection,
            },
        ))
    }
}

impl CheckedOffer {
    /// A challenge whose credential holds zeros, to judge a recorded attestation again: whether the TPM opened its
    /// credential is in the record and can't be seen again. What this accepts proves nothing new.
    pub fn danger_recall(self, selection: PcrSelection) -> Challenged {
        Challenged {
            offer: self,
            secret: Zeroizing::new([0; SECRET_BYTES]),
            selection,
        }
    }
}

/// An offer that was challenged. It lives as long as the challenge and is consumed with it.
pub struct Challenged {
    offer: CheckedOffer,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    selection: PcrSelection,
}

impl Challenged {
    /// The offer.
    pub fn offer(&self) -> &CheckedOffer {
        &self.offer
    }

    /// What the quote must cover.
    pub fn selection(&self) -> &PcrSelection {
        &self.selection
    }

    /// Whether this is what the credential held.
    pub fn is_opened_by(&self, found: &[u8]) -> bool {
        self.secret.as_slice().ct_eq(found).into()
    }

    pub(crate) fn findings(&self) -> &Findings {
        &self.offer.findings
    }
}

impl std::fmt::Debug for Challenged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenged")
            .field("ek_sha256", &hex::encode(self.offer.ek_sha256()))
            .field("selection", &self.selection)
            .finish_non_exhaustive()
    }
}

fn fresh_secret() -> Result<Zeroizing<[u8; SECRET_BYTES]>, MakeCredentialError> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    SystemRandom::new()
        .fill(secret.as_mut_slice())
        .map_err(|_| MakeCredentialError::Crypto)?;
    Ok(secret)
}

const STAYS_IN_ITS_TPM: Attributes = Attributes::FIXED_TPM
    .and(Attributes::FIXED_PARENT)
    .and(Attributes::SENSITIVE_DATA_ORIGIN);

/// A storage key: restricted, so that the TPM opens credentials with it only by `TPM2_ActivateCredential`.
fn check_ek_attributes(ek: &PublicArea, findings: &mut Findings) -> Result<(), Refusal> {
    let wanted = STAYS_IN_ITS_TPM
        .and(Attributes::RESTRICTED)
        .and(Attributes::DECRYPT);
    let storage = ek.attributes.has(wanted)
        && !ek.attributes.has(Attributes::SIGN)
        && ek.protects_with_aes_bits.is_some();
    findings.require(
        Check::EkAttributes,
        storage,
        format!("attributes 0x{:08x}", ek.attributes.0),
    )
}

/// A restricted signing key: an unrestricted one would sign a forged `TPMS_ATTEST`.
fn check_ak_attributes(ak: &PublicArea, findings: &mut Findings) -> Result<(), Refusal> {
    let wanted = STAYS_IN_ITS_TPM
        .and(Attributes::RESTRICTED)
        .and(Attributes::SIGN);
    findings.require(
        Check::AkAttributes,
        ak.attributes.has(wanted) && !ak.attributes.has(Attributes::DECRYPT),
        format!("attributes 0x{:08x}", ak.attributes.0),
    )
}

/// A restricted key has its scheme fixed; without SHA-1, which has no [`hash::HashAlgorithm`].
fn check_ak_scheme(ak: &PublicArea, findings: &mut Findings) -> Result<(), Refusal> {
    use public::SigningScheme::{Ecdsa, RsaPss, RsaSsa};
    let fits = match (&ak.key, ak.scheme) {
        (Key::Rsa { .. }, Some(RsaSsa(_) | RsaPss(_))) | (Key::Ecc { .. }, Some(Ecdsa(_))) => true,
        (Key::Rsa { .. }, Some(Ecdsa(_)) | None)
        | (Key::Ecc { .. }, Some(RsaSsa(_) | RsaPss(_)) | None) => false,
    };
    findings.require(Check::AkScheme, fits, format!("{:?}", ak.scheme))
}

fn check_ek_chain(
    certificates: &[Vec<u8>],
    ek: &Key,
    roots: &EkRoots,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<Option<Class>, Refusal> {
    let certificates: Vec<_> = certificates
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    match roots.verify(&certificates, ek, now) {
        Ok(class) => {
            findings.require(Check::EkCertified, true, class.as_str())?;
            Ok(Some(class))
        }
        Err(error @ (EkChainError::Empty | EkChainError::Usage | EkChainError::Path(_))) => {
            findings.note(Check::EkCertified, chain(&error));
            Ok(None)
        }
        Err(
            error @ (EkChainError::TooLarge | EkChainError::Malformed | EkChainError::OtherKey),
        ) => Err(findings.refuse(Check::EkCertificate, chain(&error))),
    }
}

/// What a quote says, unverified.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The quote.
    pub quote: Quote,
    /// Values that were sent along.
    pub pcrs: PcrValues,
    /// Number of events in the log; `None` without a readable one.
    pub events: Option<usize>,
}

pub(crate) fn inspect(evidence: &Evidence) -> Result<Inspection, ParseQuoteError> {
    Ok(Inspection {
        quote: Quote::parse(&evidence.quote)?,
        pcrs: evidence.pcrs.clone(),
        events: EventLog::parse(&evidence.event_log)
            .ok()
            .map(|log| log.events().len()),
    })
}

#[cfg(test)]
mod tests;
