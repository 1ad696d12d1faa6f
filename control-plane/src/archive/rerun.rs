//! Making a recorded decision again.
//!
//! The record says what the bundle must hold, by its digest; the bundle says what each of its objects must hold. From
//! these, and nothing else of the control plane, the evidence is judged by the very function that judged it then, and
//! for an issuance the attestation result is written again: its SHA-256 must be the one in record and certificate.
//!
//! # What can't be made again
//! Whether a TPM opened its credential is taken from the bundle, which keeps no secrets. Membership (Nodes, join tokens,
//! counts of instances) is state of its time: where a refusal came from there, or before the evidence was judged, the
//! evidence is judged and the rest is said.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use vouchsafe_api::convert::attest::{Evidence, Hello};
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_api::convert::time;
use vouchsafe_api::v1;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;
use vouchsafe_verifier::appraise::Appraised;
use vouchsafe_verifier::endorsement::{EkRoot, EkRoots};
use vouchsafe_verifier::evidence::tpm::{Challenged, CheckedOffer};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use super::bundle::{Bundle, Outcome, VERSION};
use super::{ReadError, read};
use crate::case::{Case, Connection, tpm_offer};
use crate::ear::{self, Subject};
use crate::reference::pcr_selection;
use crate::refusal::Refused;

/// What came of making a decision again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Rerun {
    /// `issued`, or the reason of the refusal, as recorded.
    pub recorded: String,
    /// `affirmed`, or the reason for which the evidence is refused now.
    pub judged: String,
    /// What was found, where it is refused.
    pub detail: String,
    /// SHA-256 of the attestation result as recorded; empty for a refusal.
    pub recorded_result: String,
    /// The same as it is written now.
    pub result: String,
    /// Whether both agree: bit for bit for an issuance, in the reason for a refusal of evidence.
    pub agrees: bool,
    /// Whether the decision followed from the evidence alone; if not, membership or something earlier decided.
    pub is_complete: bool,
    /// Name and SHA-256 of each endorsement that was used.
    pub endorsements: Vec<(String, String)>,
}

/// Why a decision can't be made again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// The record's entry is not of an attestation.
    #[error("the entry is of no attestation: only issuances and refusals can be made again")]
    NoAttestation,
    /// A refusal without evidence.
    #[error("the attestation was refused before evidence came: there is nothing to judge")]
    NoEvidence,
    /// The archive does not hold what is needed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What the archive holds is not of a form that is understood.
    #[error("the bundle's `{0}` can't be read")]
    Malformed(&'static str),
}

/// Makes a decision again, from the archive of a data folder.
///
/// # Errors
/// [`RerunError`].
pub fn rerun(data: &Path, entry: &RecordEntry, roots: &VendorRoots) -> Result<Rerun, RerunError> {
    let (digest, recorded, result) = match &entry.event {
        Event::Issued(issued) => (
            issued.evidence_sha256,
            "issued".to_owned(),
            hex::encode(issued.result_sha256),
        ),
        Event::Refused(refused) => (
            refused.evidence_sha256,
            refused.reason.clone(),
            String::new(),
        ),
        _ => return Err(RerunError::NoAttestation),
    };
    if digest == [0; 32] {
        return Err(RerunError::NoEvidence);
    }
    let bundle = load(data, &digest)?;
    let profile = bundle.profile(data)?;
    let judged = match bundle.case(data, &profile, roots)? {
        Ok(case) => case
            .judge(&profile)
            .map(|fitting| (case, fitting.appraised)),
        Err(refused) => Err(refused),
    };
    bundle.compare(recorded, result, judged)
}

fn load(data: &Path, digest: &[u8; 32]) -> Result<Bundle, RerunError> {
    let bytes = read(data, digest)?;
    let bundle: Bundle =
        serde_json::from_slice(&bytes).map_err(|_| RerunError::Malformed("form"))?;
    if bundle.version != VERSION {
        return Err(RerunError::Malformed("version"));
    }
    Ok(bundle)
}

/// The evidence of a decision.
///
/// # Errors
/// [`RerunError`].
pub fn evidence(data: &Path, digest: &[u8; 32]) -> Result<Evidence, RerunError> {
    load(data, digest)?.evidence()
}

/// The case of a decision, to be judged by another profile than then.
///
/// # Errors
/// [`RerunError`].
pub(super) fn recall(
    data: &Path,
    digest: &[u8; 32],
    profile: &AttestationProfile,
    roots: &VendorRoots,
) -> Result<Result<Case, Refused>, RerunError> {
    load(data, digest)?.case(data, profile, roots)
}

impl Bundle {
    fn compare(
        &self,
        recorded: String,
        recorded_result: String,
        judged: Result<(Case, Appraised), Refused>,
    ) -> Result<Rerun, RerunError> {
        let endorsements = self.endorsements.iter();
        let mut rerun = Rerun {
            judged: "affirmed".to_owned(),
            detail: String::new(),
            result: String::new(),
            agrees: false,
            is_complete: true,
            endorsements: endorsements
                .map(|one| (one.name.clone(), one.sha256.clone()))
                .collect(),
            recorded,
            recorded_result,
        };
        match (&judged, &self.outcome) {
            (Ok((case, appraised)), Outcome::Issued { .. }) => {
                rerun.result = hex::encode(sha256(&self.result(case, appraised)?));
                rerun.agrees = rerun.result == rerun.recorded_result;
            }
            // The record has no entry for what was confirmed.
            (Ok(_), Outcome::Confirmed { .. }) => rerun.agrees = rerun.recorded != "issued",
            // Good evidence that was refused: by membership, or for what came before.
            (Ok(_), Outcome::Refused { .. }) => {
                rerun.is_complete = false;
                rerun.agrees = rerun.recorded != "issued";
            }
            (Err(refused), _) => {
                rerun.judged = refused.reason.to_owned();
                rerun.detail.clone_from(&refused.detail);
                rerun.agrees = rerun.judged == rerun.recorded;
            }
        }
        Ok(rerun)
    }

    /// The attestation result, written again.
    fn result(&self, case: &Case, appraised: &Appraised) -> Result<Vec<u8>, RerunError> {
        let Outcome::Issued {
            spiffe_id,
            instance,
            not_after_ms,
            co_location,
            ..
        } = &self.outcome
        else {
            return Err(RerunError::Malformed("outcome"));
        };
        let subject = Subject {
            spiffe_id,
            trust_domain: &self.trust_domain,
            instance: InstanceId(array("instance", instance)?),
            spki_sha256: case.hello.spki_sha256,
            nonce: case.connection.nonce,
            profile: &self.profile,
            revision: case.revision,
            co_location: *co_location,
            now: case.time,
            not_after: at("not_after_ms", *not_after_ms)?,
        };
        Ok(ear::compose(&subject, appraised))
    }

    fn profile(&self, data: &Path) -> Result<AttestationProfile, RerunError> {
        let text = String::from_utf8(read(data, &array("policy", &self.policy)?)?);
        let text = text.map_err(|_| RerunError::Malformed("policy"))?;
        let source = Source::new("archive", text);
        let set = PolicySet::parse(vec![source], Options::default())
            .map_err(|_| RerunError::Malformed("policy"))?;
        let name = self.profile.parse();
        let name = name.map_err(|_| RerunError::Malformed("profile"))?;
        let profile = set.profile(&name).cloned();
        profile.ok_or(RerunError::Malformed("profile"))
    }

    /// The case as it was; the inner error is that of keys that were refused before the evidence was looked at.
    fn case(
        &self,
        data: &Path,
        profile: &AttestationProfile,
        roots: &VendorRoots,
    ) -> Result<Result<Case, Refused>, RerunError> {
        let hello: Hello = decode::<v1::Hello>("hello", &self.hello)?
            .try_into()
            .map_err(|_| RerunError::Malformed("hello"))?;
        let evidence = self.evidence()?;
        let required = kinds("required", &self.required)?;
        let part_of = match &self.part_of {
            None => None,
            Some(words) => Some(kinds("part_of", words)?),
        };
        let now = at("time_ms", self.time_ms)?;
        let tpm = match self.credential_opened {
            None => None,
            Some(_) => match self.tpm(&hello, data, profile, now)? {
                Ok(challenged) => Some(challenged),
                Err(refused) => return Ok(Err(refused)),
            },
        };
        let previous_tpm = match self.previous_tpm.clone() {
            None => None,
            Some(stored) => {
                let state = stored.into_state();
                Some(state.ok_or(RerunError::Malformed("previous_tpm"))?)
            }
        };
        let mut endorsements = Vec::new();
        for kept in &self.endorsements {
            let digest = array("endorsements", &kept.sha256)?;
            endorsements.push((kept.name.clone(), read(data, &digest)?));
        }
        let trust_domain = self.trust_domain.parse();
        let case = Case {
            time: now,
            hello,
            evidence,
            required,
            part_of,
            tpm,
            previous_tpm,
            connection: Connection {
                nonce: Nonce(array("nonce", &self.nonce)?),
                leaf_sha256: array("server_leaf_sha256", &self.server_leaf_sha256)?,
                exporter: array("exporter", &self.exporter)?,
            },
            trust_domain: trust_domain.map_err(|_| RerunError::Malformed("trust_domain"))?,
            accepts_simulated: self.accepts_simulated,
            revision: Revision {
                epoch: self.policy_epoch,
                sequence: self.policy_sequence,
            },
            endorsements,
            roots: roots.clone(),
        };
        if hex::encode(case.base().as_bytes()) != self.base {
            return Err(RerunError::Malformed("base"));
        }
        Ok(Ok(case))
    }

    /// With a credential of zeros where the TPM opened its own, and another where it did not.
    fn evidence(&self) -> Result<Evidence, RerunError> {
        let mut wire = decode::<v1::Evidence>("evidence", &self.evidence)?;
        let stand_in = match self.credential_opened {
            Some(true) => [0; 32],
            Some(false) | None => [1; 32],
        };
        for item in &mut wire.items {
            if let Some(v1::evidence_item::Kind::Tpm(tpm)) = &mut item.kind {
                tpm.activated_credential = stand_in.to_vec();
            }
        }
        let evidence = Evidence::try_from(wire);
        evidence.map_err(|_| RerunError::Malformed("evidence"))
    }

    fn tpm(
        &self,
        hello: &Hello,
        data: &Path,
        profile: &AttestationProfile,
        now: SystemTime,
    ) -> Result<Result<Challenged, Refused>, RerunError> {
        let mut roots = Vec::new();
        for kept in &self.ek_roots {
            let class = kept.class.parse();
            let class = class.map_err(|_| RerunError::Malformed("ek_roots"))?;
            let pem = read(data, &array("ek_roots", &kept.certificates)?)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let root = certificate
                    .ok()
                    .and_then(|certificate| EkRoot::new(&certificate, class).ok());
                roots.push(root.ok_or(RerunError::Malformed("ek_roots"))?);
            }
        }
        let offer = tpm_offer(hello).ok_or(RerunError::Malformed("hello"))?;
        let checked = CheckedOffer::check(&offer, &EkRoots::new(roots), now);
        Ok(checked
            .map(|checked| checked.danger_recall(pcr_selection(profile)))
            .map_err(Refused::from))
    }
}

fn kinds(field: &'static str, words: &[String]) -> Result<Vec<EvidenceKind>, RerunError> {
    let kinds = words.iter().map(|word| word.parse());
    kinds
        .collect::<Result<_, _>>()
        .map_err(|_| RerunError::Malformed(field))
}

fn decode<M: Message + Default>(field: &'static str, text: &str) -> Result<M, RerunError> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| RerunError::Malformed(field))?;
    M::decode(bytes.as_slice()).map_err(|_| RerunError::Malformed(field))
}

fn array<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], RerunError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| RerunError::Malformed(field))?;
    Ok(bytes)
}

fn at(field: &'static str, ms: u64) -> Result<SystemTime, RerunError> {
    time(field, ms).map_err(|_| RerunError::Malformed(field))
}
