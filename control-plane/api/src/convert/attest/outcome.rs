//! The outcome: a certificate, or a refusal.

use std::time::Duration;

use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::svid::Leaf;

use super::reattest::slots;
use super::{Issued, Refusal, some_word};
use crate::convert::{ConvertError, array, each, mesh_state, some_bytes, text, time, unix_ms};
use crate::v1;

impl TryFrom<v1::Issued> for Issued {
    type Error = ConvertError;

    fn try_from(wire: v1::Issued) -> Result<Self, ConvertError> {
        let certificate = |der| some_bytes("certificate_chain", Leaf::MAX_BYTES, der);
        let bundle = wire
            .trust_bundle
            .ok_or(ConvertError::Missing("trust_bundle"))?;
        if wire.certificate_chain.is_empty() {
            return Err(ConvertError::Missing("certificate_chain"));
        }
        Ok(Self {
            certificate_chain: each(
                "certificate_chain",
                MAX_CHAIN,
                wire.certificate_chain,
                certificate,
            )?,
            attestation_result: some_bytes(
                "attestation_result",
                MAX_RESULT_BYTES,
                wire.attestation_result,
            )?,
            trust_bundle: mesh_state::authorities(bundle)?,
            renew_at: time("renew_at_ms", wire.renew_at_ms)?,
            server_time: time("server_time_ms", wire.server_time_ms)?,
            instance: InstanceId(array("instance", &wire.instance)?),
            reattest: slots(wire.reattest)?,
        })
    }
}

impl From<Issued> for v1::Issued {
    fn from(issued: Issued) -> Self {
        Self {
            certificate_chain: issued.certificate_chain,
            attestation_result: issued.attestation_result,
            trust_bundle: Some(mesh_state::trust_bundle(issued.trust_bundle)),
            renew_at_ms: unix_ms(issued.renew_at),
            server_time_ms: unix_ms(issued.server_time),
            instance: issued.instance.0.to_vec(),
            reattest: issued.reattest.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = ConvertError;

    fn try_from(wire: v1::Refusal) -> Result<Self, ConvertError> {
        let max = u64::try_from(MAX_RETRY_AFTER.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            reason: some_word("reason", wire.reason)?,
            remedy: text("remedy", MAX_REMEDY_BYTES, wire.remedy)?,
            retry_after: Duration::from_millis(wire.retry_after_ms.min(max)),
        })
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason,
            remedy: refusal.remedy,
            retry_after_ms: u64::try_from(refusal.retry_after.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// As many as a verifier of chains takes.
const MAX_CHAIN: usize = 8;
const MAX_RESULT_BYTES: usize = 64 * 1024;
const MAX_REMEDY_BYTES: usize = 1024;
/// Beyond a day, a sidecar had better ask again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
