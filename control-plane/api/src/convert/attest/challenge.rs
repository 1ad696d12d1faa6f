//! The challenge: what evidence is wanted, and over what.

use vouchsafe_attestation::binding::Nonce;

use super::{
    Answer, Challenge, ImaFrom, MAX_BANKS, MAX_OFFERS, PCRS, PcrHash, PcrSelection, TpmAnswer,
    ascending, pcr,
};
use crate::convert::{ConvertError, array, each, some_bytes, time, unix_ms};
use crate::v1;

impl TryFrom<v1::Challenge> for Challenge {
    type Error = ConvertError;

    fn try_from(wire: v1::Challenge) -> Result<Self, ConvertError> {
        let kind = |word: String| {
            word.parse().map_err(|_| ConvertError::Malformed {
                field: "required",
                expected: "a kind of evidence that this build knows",
            })
        };
        let revision = wire
            .policy_revision
            .ok_or(ConvertError::Missing("policy_revision"))?;
        Ok(Self {
            nonce: Nonce(array("nonce", &wire.nonce)?),
            server_time: time("server_time_ms", wire.server_time_ms)?,
            required: each("required", MAX_OFFERS, wire.required, kind)?,
            policy_revision: revision.into(),
            answers: each("answers", MAX_OFFERS, wire.answers, Answer::try_from)?,
        })
    }
}

impl From<Challenge> for v1::Challenge {
    fn from(challenge: Challenge) -> Self {
        let kinds = challenge.required.iter();
        Self {
            nonce: challenge.nonce.0.to_vec(),
            server_time_ms: unix_ms(challenge.server_time),
            required: kinds.map(|kind| kind.as_str().to_owned()).collect(),
            policy_revision: Some(challenge.policy_revision.into()),
            answers: challenge.answers.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = ConvertError;

    fn try_from(wire: v1::Answer) -> Result<Self, ConvertError> {
        use v1::answer::Kind;
        match wire.kind.ok_or(ConvertError::Missing("answers.kind"))? {
            Kind::Tpm(tpm) => Ok(Self::Tpm(TpmAnswer {
                credential_blob: some_bytes(
                    "credential_blob",
                    MAX_BLOB_BYTES,
                    tpm.credential_blob,
                )?,
                encrypted_secret: some_bytes(
                    "encrypted_secret",
                    MAX_BLOB_BYTES,
                    tpm.encrypted_secret,
                )?,
                selection: selections(tpm.selection)?,
                ima: tpm.ima.map(|from| ImaFrom {
                    entries: from.entries,
                    reset_count: from.reset_count,
                }),
            })),
            Kind::AzSnpVtpm(vtpm) => selections(vtpm.selection).map(Self::AzSnpVtpm),
            Kind::AzTdxVtpm(vtpm) => selections(vtpm.selection).map(Self::AzTdxVtpm),
        }
    }
}

impl From<Answer> for v1::Answer {
    fn from(answer: Answer) -> Self {
        use v1::answer::Kind;
        let vtpm = |selection: Vec<PcrSelection>| v1::AzVtpmAnswer {
            selection: selection.into_iter().map(Into::into).collect(),
        };
        let kind = match answer {
            Answer::Tpm(tpm) => Kind::Tpm(v1::TpmAnswer {
                credential_blob: tpm.credential_blob,
                encrypted_secret: tpm.encrypted_secret,
                selection: tpm.selection.into_iter().map(Into::into).collect(),
                ima: tpm.ima.map(|from| v1::ImaFrom {
                    entries: from.entries,
                    reset_count: from.reset_count,
                }),
            }),
            Answer::AzSnpVtpm(selection) => Kind::AzSnpVtpm(vtpm(selection)),
            Answer::AzTdxVtpm(selection) => Kind::AzTdxVtpm(vtpm(selection)),
        };
        Self { kind: Some(kind) }
    }
}

fn selections(wire: Vec<v1::PcrSelection>) -> Result<Vec<PcrSelection>, ConvertError> {
    each("selection", MAX_BANKS, wire, PcrSelection::try_from)
}

impl TryFrom<v1::PcrSelection> for PcrSelection {
    type Error = ConvertError;

    fn try_from(wire: v1::PcrSelection) -> Result<Self, ConvertError> {
        let pcrs = each("pcrs", PCRS, wire.pcrs, pcr)?;
        ascending("pcrs", pcrs.iter())?;
        let hash = PcrHash::parse(&wire.hash)?;
        Ok(Self { hash, pcrs })
    }
}

impl From<PcrSelection> for v1::PcrSelection {
    fn from(bank: PcrSelection) -> Self {
        Self {
            hash: bank.hash.as_str().to_owned(),
            pcrs: bank.pcrs.into_iter().map(u32::from).collect(),
        }
    }
}

/// `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET` of RSA 4096 have less than 600 bytes.
const MAX_BLOB_BYTES: usize = 1024;
