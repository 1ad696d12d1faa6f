//! Verdicts: each check by its name, and what follows from all of them.

use std::fmt;

use vouchsafe_attestation::claims::EvidenceKind;

use crate::appraise::Appraised;

/// A check of evidence. The word is the same in verdict, refusal, log, metric and documentation.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Check {
    /// The set is bounded, in order, and ends in its only binding root.
    EvidenceSet,
    /// Each piece was offered and challenged on this stream.
    Solicited,
    /// The set has exactly the kinds that some alternative of the profile names.
    RequiredEvidence,
    /// The endorsement key's public area can be read.
    EkPublic,
    /// The endorsement key is a storage key that can't leave its TPM.
    EkAttributes,
    /// The endorsement key's chain is readable and certifies this very key.
    EkCertificate,
    /// A pinned root vouches for the endorsement key.
    EkCertified,
    /// The attestation key's public area can be read.
    AkPublic,
    /// The attestation key signs only what its TPM made, and can't leave it.
    AkAttributes,
    /// The attestation key signs with one accepted scheme.
    AkScheme,
    /// A credential could be made for the endorsement key.
    MakeCredential,
    /// The TPM opened the credential: both keys live in it.
    Credential,
    /// The quote is a TPM's statement, and a quote.
    Quote,
    /// The attestation key signed the quote.
    QuoteSignature,
    /// The attestation key is in the endorsement hierarchy, whose quotes state counters and firmware openly.
    AkHierarchy,
    /// The evidence is bound to this attestation.
    Binding,
    /// The quote covers exactly the PCRs that were asked for.
    PcrSelection,
    /// A value is given for each quoted PCR and no other.
    PcrValues,
    /// The values are those that were quoted.
    PcrDigest,
    /// The TPM's clock did not become unsafe within one boot.
    ClockSafe,
    /// The endorsement key is the one that the instance enrolled with.
    SameEk,
    /// The attestation key is the one that the instance enrolled with.
    SameAk,
    /// The reset counter did not decrease.
    ResetCount,
    /// The restart counter did not decrease within one boot.
    RestartCount,
    /// The clock did not run backwards within one boot.
    Clock,
    /// The event log can be read.
    EventLog,
    /// The event log replays to the quoted values.
    EventLogReplay,
    /// The measurement list is there and can be read.
    ImaLog,
    /// What is left out of the measurement list was judged before, in this boot and by these rules.
    ImaCheckpoint,
    /// The measurement list replays to the quoted PCR 10.
    ImaReplay,
    /// The profile allows every file that was measured.
    ImaFile,
    /// The quoted values are those of a reference image.
    Image,
    /// Secure Boot is as the profile demands.
    SecureBoot,
    /// The class is at least what the profile demands.
    Class,
    /// The trust domain accepts simulated evidence.
    SimulatedAccepted,
    /// The simulated machine is the one that was offered.
    SimulatedMachine,
    /// What a vendor must say of the hardware was not to be had.
    EndorsementMissing,
    /// What a vendor says of the hardware is out of date.
    EndorsementExpired,
    /// No device shows itself twice.
    DistinctDevices,
    /// As many devices have shown themselves as were offered, and as the profile demands.
    DeviceCount,
    /// The vTPM's key is the one that was offered, and that the hardware vouches for.
    VtpmKey,
    /// A check of the hardware's own verifier, by its own words.
    Hardware(HardwareCheck),
}

/// A check by the verifier of one kind of hardware ([`crate::judgement`]).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HardwareCheck {
    /// The kind.
    pub kind: EvidenceKind,
    /// Number of the device among those of its kind.
    pub index: u32,
    /// Name of the check.
    pub name: &'static str,
    /// The word for why it refuses; the name where it does not.
    pub reason: &'static str,
}

impl Check {
    /// The bounded word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvidenceSet => "evidence_set",
            Self::Solicited => "unsolicited_evidence",
            Self::RequiredEvidence => "required_evidence",
            Self::EkPublic => "ek_public",
            Self::EkAttributes => "ek_attributes",
            Self::EkCertificate => "ek_certificate",
            Self::EkCertified => "ek_certified",
            Self::AkPublic => "ak_public",
            Self::AkAttributes => "ak_attributes",
            Self::AkScheme => "ak_scheme",
            Self::MakeCredential => "make_credential",
            Self::Credential => "credential",
            Self::Quote => "quote",
            Self::QuoteSignature => "quote_signature",
            Self::AkHierarchy => "ak_hierarchy",
            Self::Binding => "binding",
            Self::PcrSelection => "pcr_selection",
            Self::PcrValues => "pcr_values",
            Self::PcrDigest => "pcr_digest",
            Self::ClockSafe => "clock_safe",
            Self::SameEk => "ek_changed",
            Self::SameAk => "ak_changed",
            Self::ResetCount => "reset_count",
            Self::RestartCount => "restart_count",
            Self::Clock => "clock",
            Self::EventLog => "event_log",
            Self::EventLogReplay => "event_log_replay",
            Self::ImaLog => "ima_log",
            Self::ImaCheckpoint => "ima_checkpoint",
            Self::ImaReplay => "ima_replay",
            Self::ImaFile => "ima_file",
            Self::Image => "image",
            Self::SecureBoot => "secure_boot",
            Self::Class => "class",
            Self::SimulatedAccepted => "simulated_not_accepted",
            Self::SimulatedMachine => "simulated_machine",
            Self::EndorsementMissing => "endorsement_missing",
            Self::EndorsementExpired => "endorsement_expired",
            Self::DistinctDevices => "duplicate_device",
            Self::DeviceCount => "device_count",
            Self::VtpmKey => "vtpm_key",
            Self::Hardware(check) => check.reason,
        }
    }

    /// Whether the same evidence may be good later without anybody changing policy or machine.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::EndorsementMissing | Self::EndorsementExpired)
    }

    /// What the refused end should do next. Never says what was expected: that stays in the operator's log.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::EvidenceSet | Self::Solicited | Self::RequiredEvidence => {
                "offer exactly the evidence that the workload's profile names"
            }
            Self::EkPublic | Self::EkAttributes | Self::EkCertificate | Self::MakeCredential => {
                "check the TPM's endorsement key and its certificate"
            }
            Self::EkCertified | Self::Class => {
                "this workload needs a TPM whose maker the operator trusts"
            }
            Self::AkPublic | Self::AkAttributes | Self::AkScheme | Self::AkHierarchy => {
                "update the sidecar: its attestation key is not acceptable"
            }
            Self::Credential
            | Self::Quote
            | Self::QuoteSignature
            | Self::Binding
            | Self::PcrSelection
            | Self::PcrValues
            | Self::PcrDigest
            | Self::SimulatedMachine => "attest again on a new connection",
            Self::SameEk | Self::SameAk => "enrol again: the TPM or its key has changed",
            Self::ClockSafe | Self::ResetCount | Self::RestartCount | Self::Clock => {
                "the TPM's counters went backwards: have the machine examined"
            }
            Self::ImaLog | Self::ImaCheckpoint | Self::ImaReplay => {
                "attest again with the whole measurement list; the kernel must measure files"
            }
            Self::ImaFile => {
                "stop running files that the workload's profile does not allow, and reboot"
            }
            Self::EventLog | Self::EventLogReplay | Self::Image | Self::SecureBoot => {
                "boot an image that the workload's profile names"
            }
            Self::EndorsementMissing | Self::EndorsementExpired => {
                "try again: the control plane lacks a statement of the hardware's vendor"
            }
            Self::DistinctDevices | Self::DeviceCount => {
                "show each device once, and all that were offered"
            }
            Self::VtpmKey => "offer the attestation key that the hardware's report vouches for",
            Self::Hardware(_) => {
                "the hardware's evidence is not acceptable: ask the operator, whose record says why"
            }
            Self::SimulatedAccepted => {
                "use a TPM, or a trust domain that was created to accept simulated evidence"
            }
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// Not as it must be: refused.
    Failed,
    /// Neither good nor bad in itself; appraisal may ask for it later.
    Noted,
}

/// One check that was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, for the operator; may hold expected values, so it never goes to a peer.
    pub detail: String,
}

/// Why evidence is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("evidence refused by check `{check}`: {detail}")]
pub struct Refusal {
    /// The check that failed.
    pub check: Check,
    /// What was found, for the operator only.
    pub detail: String,
}

impl Refusal {
    /// The bounded word for wire, log and metric.
    pub fn reason(&self) -> &'static str {
        self.check.as_str()
    }

    /// What the refused end should do next.
    pub fn remedy(&self) -> &'static str {
        self.check.remedy()
    }
}

/// What came of an appraisal: every check that was made, and the conclusion.
#[must_use = "a verdict that nobody reads protects nothing"]
#[derive(Clone, Debug)]
pub struct Verdict {
    findings: Vec<Finding>,
    outcome: Result<Appraised, Refusal>,
}

impl Verdict {
    pub(crate) fn new(findings: Findings, outcome: Result<Appraised, Refusal>) -> Self {
        Self {
            findings: findings.0,
            outcome,
        }
    }

    /// The checks, in the order in which they were made. The first failed one ends the appraisal, but for checks of one
    /// device's hardware, which are all made.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The conclusion.
    ///
    /// # Errors
    /// [`Refusal`] naming the check that failed.
    pub fn into_outcome(self) -> Result<Appraised, Refusal> {
        self.outcome
    }

    /// The conclusion, borrowed.
    ///
    /// # Errors
    /// [`Refusal`] naming the check that failed.
    pub fn outcome(&self) -> Result<&Appraised, &Refusal> {
        self.outcome.as_ref()
    }
}

/// Records checks as they are made; the first failed one ends the appraisal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// A check that must hold.
    pub(crate) fn require(
        &mut self,
        check: Check,
        holds: bool,
        detail: impl Into<String>,
    ) -> Result<(), Refusal> {
        let detail = detail.into();
        let outcome = if holds {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.0.push(Finding {
            check,
            outcome,
            detail: detail.clone(),
        });
        if holds {
            Ok(())
        } else {
            Err(Refusal { check, detail })
        }
    }

    /// A step that must succeed; its whole error chain becomes the detail.
    pub(crate) fn succeed<T, E: std::error::Error>(
        &mut self,
        check: Check,
        result: Result<T, E>,
    ) -> Result<T, Refusal> {
        match result {
            Ok(value) => {
                self.require(check, true, "")?;
                Ok(value)
            }
            Err(error) => Err(self.refuse(check, chain(&error))),
        }
    }

    /// A check that failed.
    pub(crate) fn refuse(&mut self, check: Check, detail: impl Into<String>) -> Refusal {
        let detail = detail.into();
        self.0.push(Finding {
            check,
            outcome: Outcome::Failed,
            detail: detail.clone(),
        });
        Refusal { check, detail }
    }

    /// Something to be known that decides nothing here.
    pub(crate) fn note(&mut self, check: Check, detail: impl Into<String>) {
        self.0.push(Finding {
            check,
            outcome: Outcome::Noted,
            detail: detail.into(),
        });
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
