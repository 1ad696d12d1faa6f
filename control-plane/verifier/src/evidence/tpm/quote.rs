//! Verifying a quote: one function per check.

use vouchsafe_attestation::binding::DeviceBinding;
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind, SetClaimError};
use vouchsafe_attestation::result::DeviceResult;

use super::attest::{ClockInfo, Quote};
use super::event_log::{EventLog, SecureBoot};
use super::ima::policy::Policy;
use super::ima::{self, Checkpoint};
use super::pcr::{PcrSet, PcrValues};
use super::public::PublicArea;
use super::signature::Signature;
use super::{Challenged, Evidence, JudgedList, TpmState};
use crate::verdict::{Check, Findings, Refusal};

/// A quote that passed all checks but appraisal: its values are true, not yet good.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) pcrs: PcrValues,
    pub(crate) secure_boot: Option<SecureBoot>,
    pub(crate) state: TpmState,
    pub(crate) certified: bool,
    pub(crate) class: Class,
    pub(crate) ima: Option<List>,
    firmware: u64,
}

/// What a quote covers of a measurement list and was not judged before.
#[derive(Clone, Debug)]
pub(crate) struct List {
    /// The rules by which what came before was judged; `None` where this is the beginning.
    pub(crate) before: Option<[u8; 32]>,
    /// Number of the first entry in its boot.
    pub(crate) first: u64,
    pub(crate) entries: Vec<ima::Entry>,
    pub(crate) checkpoint: Checkpoint,
}

/// Verifies a quote against what was challenged.
pub(crate) fn verify(
    evidence: &Evidence,
    binding: &DeviceBinding,
    challenged: &Challenged,
    previous: Option<&TpmState>,
    findings: &mut Findings,
) -> Result<Verified, Refusal> {
    let ak = &challenged.offer.ak;
    check_credential(evidence, challenged, findings)?;
    let quote = findings.succeed(Check::Quote, Quote::parse(&evidence.quote))?;
    check_signature(evidence, ak, findings)?;
    check_hierarchy(&quote, challenged, findings)?;
    check_binding(&quote, binding, findings)?;
    check_selection(&quote, challenged, findings)?;
    check_values(&quote, evidence, findings)?;
    check_digest(&quote, evidence, ak, findings)?;
    let state = TpmState {
        ek_sha256: challenged.offer.ek_sha256(),
        ak_name: ak.name(),
        clock: quote.clock,
        ima: None,
    };
    if let Some(previous) = previous {
        check_same_keys(&state, previous, findings)?;
        check_counters(&state.clock, &previous.clock, findings)?;
    }
    let secure_boot = check_event_log(&quote, evidence, findings)?;
    let ima = check_list(&quote, evidence, previous, findings)?;
    Ok(Verified {
        pcrs: evidence.pcrs.clone(),
        secure_boot,
        state,
        certified: challenged.offer.is_certified(),
        class: challenged.offer.class(),
        ima,
        firmware: quote.firmware,
    })
}

fn check_credential(
    evidence: &Evidence,
    challenged: &Challenged,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    findings.require(
        Check::Credential,
        challenged.is_opened_by(&evidence.activated_credential),
        "the secret that only the TPM with both keys can open",
    )
}

fn check_signature(
    evidence: &Evidence,
    ak: &PublicArea,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    match Signature::parse(&evidence.signature) {
        Ok(signature) => findings.require(
            Check::QuoteSignature,
            signature.verifies(ak, &evidence.quote),
            format!("{:?} by the offered attestation key", signature.scheme),
        ),
        Err(error) => Err(findings.refuse(Check::QuoteSignature, error.to_string())),
    }
}

/// A key outside the endorsement hierarchy has its counters and firmware version obfuscated in quotes (TPM 2.0 Part 1
/// §36.7), so they could not be compared. The qualified name says where the key is: directly in the hierarchy, or
/// below the endorsement key.
fn check_hierarchy(
    quote: &Quote,
    challenged: &Challenged,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let (ek, ak) = (&challenged.offer.ek, &challenged.offer.ak);
    let hierarchy = TPM_RH_ENDORSEMENT.to_be_bytes();
    let open = [
        ak.qualified_name(&hierarchy),
        ak.qualified_name(&ek.qualified_name(&hierarchy)),
    ];
    findings.require(
        Check::AkHierarchy,
        open.contains(&quote.qualified_signer),
        hex::encode(&quote.qualified_signer),
    )
}

fn check_binding(
    quote: &Quote,
    binding: &DeviceBinding,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    findings.require(
        Check::Binding,
        binding.matches(&quote.extra_data),
        "the binding of this attestation in `extraData`",
    )
}

/// A narrowed selection would leave out what must be proven; a widened one would digest what nobody asked for.
fn check_selection(
    quote: &Quote,
    challenged: &Challenged,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    findings.require(
        Check::PcrSelection,
        !challenged.selection.is_empty() && quote.selection.same_as(&challenged.selection),
        format!("asked {}, found {}", challenged.selection, quote.selection),
    )
}

fn check_values(
    quote: &Quote,
    evidence: &Evidence,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let given = evidence.pcrs.selection();
    findings.require(
        Check::PcrValues,
        given.same_as(&quote.selection),
        format!("quoted {}, given {given}", quote.selection),
    )
}

/// The digest is made with the hash of the signature, over the selection that was signed.
fn check_digest(
    quote: &Quote,
    evidence: &Evidence,
    ak: &PublicArea,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let digest = ak
        .scheme
        .and_then(|scheme| evidence.pcrs.digest(&quote.selection, scheme.hash()));
    findings.require(
        Check::PcrDigest,
        digest.as_deref() == Some(quote.pcr_digest.as_slice()),
        hex::encode(&quote.pcr_digest),
    )
}

fn check_same_keys(
    state: &TpmState,
    previous: &TpmState,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    findings.require(
        Check::SameEk,
        state.ek_sha256 == previous.ek_sha256,
        hex::encode(state.ek_sha256),
    )?;
    findings.require(
        Check::SameAk,
        state.ak_name == previous.ak_name,
        hex::encode(&state.ak_name),
    )
}

/// Counters of an earlier state mean a restored snapshot of a software TPM, or a quote of another time.
///
/// `safe` is not demanded outright: after a power cut it stays clear for up to 70 minutes of honest operation, and no
/// decision of ours rests on the clock across boots. Within one boot it never turns from set to clear.
fn check_counters(
    now: &ClockInfo,
    before: &ClockInfo,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let counts = |what: &str, before: u64, now: u64| format!("{what} was {before}, is {now}");
    findings.require(
        Check::ResetCount,
        now.reset_count >= before.reset_count,
        counts(
            "reset count",
            before.reset_count.into(),
            now.reset_count.into(),
        ),
    )?;
    if now.reset_count > before.reset_count {
        return Ok(());
    }
    findings.require(
        Check::RestartCount,
        now.restart_count >= before.restart_count,
        counts(
            "restart count",
            before.restart_count.into(),
            now.restart_count.into(),
        ),
    )?;
    findings.require(
        Check::Clock,
        now.clock >= before.clock,
        counts("clock", before.clock, now.clock),
    )?;
    findings.require(
        Check::ClockSafe,
        now.safe || !before.safe || now.restart_count > before.restart_count,
        format!("safe was {}, is {}", before.safe, now.safe),
    )
}

/// Replays the log to every quoted firmware PCR of every quoted bank. `None` without a log.
///
/// PCRs from 8 on are extended by the running system too, which the firmware's log does not know.
fn check_event_log(
    quote: &Quote,
    evidence: &Evidence,
    findings: &mut Findings,
) -> Result<Option<SecureBoot>, Refusal> {
    if evidence.event_log.is_empty() {
        findings.note(Check::EventLog, "no event log was sent");
        return Ok(None);
    }
    let log = findings.succeed(Check::EventLog, EventLog::parse(&evidence.event_log))?;
    let mut secure_boot = SecureBoot::Unknown;
    let mut replayed = 0;
    for (bank, set) in quote.selection.banks() {
        for pcr in set.iter().filter(|pcr| PcrSet::FIRMWARE.contains(*pcr)) {
            let value = log.replay(bank, pcr);
            if value.as_deref() != evidence.pcrs.get(bank, pcr) {
                let found = value.map_or_else(|| "nothing".into(), hex::encode);
                return Err(findings.refuse(
                    Check::EventLogReplay,
                    format!("PCR {pcr} of bank {bank} replays to {found}"),
                ));
            }
            replayed += 1;
            if pcr == SECURE_BOOT_PCR {
                secure_boot = log.secure_boot(bank);
            }
        }
    }
    findings.require(
        Check::EventLogReplay,
        replayed > 0,
        format!("{replayed} values replayed"),
    )?;
    Ok(Some(secure_boot))
}

/// Replays the measurement list from where it was judged to, in the same boot, to the quoted PCR 10. `None` without one.
fn check_list(
    quote: &Quote,
    evidence: &Evidence,
    previous: Option<&TpmState>,
    findings: &mut Findings,
) -> Result<Option<List>, Refusal> {
    if evidence.ima_log.is_empty() && evidence.ima_offset == 0 {
        return Ok(None);
    }
    let banks = quote.selection.banks();
    let quoted = { banks }
        .find_map(|(bank, _)| Some((bank, evidence.pcrs.get(bank, ima::PCR)?)))
        .filter(|(bank, _)| quote.selection.bank(*bank).contains(ima::PCR));
    let Some((bank, value)) = quoted else {
        return Err(findings.refuse(Check::ImaReplay, "PCR 10 is not quoted"));
    };
    let judged = previous
        .filter(|previous| previous.clock.reset_count == quote.clock.reset_count)
        .and_then(|previous| previous.ima.as_ref())
        .filter(|judged| judged.checkpoint.bank == bank);
    let (from, before) = match (evidence.ima_offset, judged) {
        (0, _) => (Checkpoint::start(bank), None),
        (offset, Some(judged)) if judged.checkpoint.count == offset => {
            (judged.checkpoint.clone(), Some(judged.policy_sha256))
        }
        (offset, _) => {
            let detail = format!("nothing is known of the {offset} entries before");
            return Err(findings.refuse(Check::ImaCheckpoint, detail));
        }
    };
    let entries = findings.succeed(Check::ImaLog, ima::parse(&evidence.ima_log))?;
    let (checkpoint, entries) = findings.succeed(Check::ImaReplay, from.advance(entries, value))?;
    Ok(Some(List {
        before,
        first: from.count,
        entries,
        checkpoint,
    }))
}

impl Verified {
    /// What to keep for the next attestation, once the list was judged by these rules.
    pub(crate) fn judged_by(self, policy: Option<&Policy>) -> TpmState {
        let judged = self.ima.zip(policy).map(|(list, policy)| JudgedList {
            checkpoint: list.checkpoint,
            policy_sha256: policy.sha256(),
        });
        TpmState {
            ima: judged,
            ..self.state
        }
    }

    /// The claims, once an image matched.
    pub(crate) fn device(&self, index: u32, image: &str) -> Result<DeviceResult, SetClaimError> {
        let mut claims = Claims::default();
        let mut set = |name, value| claims.set(EvidenceKind::Tpm, name, value);
        set("image", ClaimValue::Text(image.to_owned()))?;
        set(
            "ek_sha256",
            ClaimValue::Text(hex::encode(self.state.ek_sha256)),
        )?;
        set("ek_certified", ClaimValue::Bool(self.certified))?;
        set("firmware", ClaimValue::Number(self.firmware))?;
        let clock = &self.state.clock;
        set("reset_count", ClaimValue::Number(clock.reset_count.into()))?;
        set(
            "restart_count",
            ClaimValue::Number(clock.restart_count.into()),
        )?;
        set("event_log", ClaimValue::Bool(self.secure_boot.is_some()))?;
        match self.secure_boot {
            Some(SecureBoot::Enabled) => set("secure_boot", ClaimValue::Bool(true))?,
            Some(SecureBoot::Disabled) => set("secure_boot", ClaimValue::Bool(false))?,
            // A claim that nothing proves is not made: it fails every requirement.
            Some(SecureBoot::Unknown) | None => {}
        }
        Ok(DeviceResult {
            kind: EvidenceKind::Tpm,
            index,
            claims,
        })
    }
}

const SECURE_BOOT_PCR: u8 = 7;
/// Handle of the endorsement hierarchy, which is its name too (TPM 2.0 Part 2 §7.4).
const TPM_RH_ENDORSEMENT: u32 = 0x4000_000b;

#[cfg(test)]
mod tests;
