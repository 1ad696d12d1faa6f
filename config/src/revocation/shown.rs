//! What devices show of themselves under several names: identities, measurements, advisories.

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind};
use vouchsafe_attestation::result::AttestationResult;

/// A sort of claims that a revocation looks for whatever the kind of device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sort {
    /// Which piece of hardware it is.
    Identity,
    /// What runs there.
    Measurement,
    /// What is known to be wrong with it.
    Advisory,
}

impl Sort {
    /// Whether some device shows one of the wanted texts. Allocates nothing.
    ///
    /// Unlike a condition on one claim, what a device does not show is not met: an identity that a host hides would else be
    /// everybody's.
    pub(super) fn is_shown(self, result: &AttestationResult, wanted: &[String]) -> bool {
        // Digits of hex are written in both cases.
        let is_wanted = |found: &str| wanted.iter().any(|one| one.eq_ignore_ascii_case(found));
        result.devices.iter().any(|device| {
            let claims = self.claims(device.kind).iter();
            claims
                .filter_map(|claim| device.claims.get(claim))
                .any(|found| match found {
                    ClaimValue::Text(found) => is_wanted(found),
                    ClaimValue::Set(found) => found.iter().any(|one| is_wanted(one)),
                    ClaimValue::Bool(_)
                    | ClaimValue::Number(_)
                    | ClaimValue::Version(_)
                    | ClaimValue::HexVersion(_)
                    | ClaimValue::Time(_) => false,
                })
        })
    }

    pub(super) fn claims(self, kind: EvidenceKind) -> &'static [&'static str] {
        match self {
            Self::Identity => identities(kind),
            Self::Measurement => measurements(kind),
            Self::Advisory => match kind {
                EvidenceKind::Tdx | EvidenceKind::AzTdxVtpm => &["advisories"],
                EvidenceKind::Tpm
                | EvidenceKind::SevSnp
                | EvidenceKind::AzSnpVtpm
                | EvidenceKind::NvidiaGpu
                | EvidenceKind::Nitro
                | EvidenceKind::Simulated => &[],
            },
        }
    }
}

fn identities(kind: EvidenceKind) -> &'static [&'static str] {
    match kind {
        EvidenceKind::Tpm => &["ek_sha256"],
        EvidenceKind::SevSnp => &["chip_id"],
        EvidenceKind::AzSnpVtpm => &["chip_id", "vm_unique_id"],
        EvidenceKind::Tdx => &["ppid", "platform_instance_id"],
        EvidenceKind::AzTdxVtpm => &["ppid", "platform_instance_id", "vm_unique_id"],
        EvidenceKind::NvidiaGpu => &["ueid", "chip_id"],
        EvidenceKind::Nitro => &["instance_id", "module_id"],
        EvidenceKind::Simulated => &["machine"],
    }
}

fn measurements(kind: EvidenceKind) -> &'static [&'static str] {
    match kind {
        EvidenceKind::Tpm | EvidenceKind::Simulated => &["image"],
        EvidenceKind::SevSnp => &["image", "measurement"],
        EvidenceKind::AzSnpVtpm => &["image", "measurement", "pcr_digest"],
        EvidenceKind::Tdx => &[
            "image", "mrtd", "mrseam", "rtmr0", "rtmr1", "rtmr2", "rtmr3",
        ],
        EvidenceKind::AzTdxVtpm => &[
            "image",
            "mrtd",
            "mrseam",
            "rtmr0",
            "rtmr1",
            "rtmr2",
            "rtmr3",
            "pcr_digest",
        ],
        EvidenceKind::NvidiaGpu => &["firmware_id"],
        EvidenceKind::Nitro => &["image", "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"],
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_attestation::claims::{ClaimType, definition};

    use super::*;

    #[test]
    fn every_claim_that_is_looked_for_is_in_the_catalog_as_a_text() {
        for kind in EvidenceKind::ALL {
            for sort in [Sort::Identity, Sort::Measurement, Sort::Advisory] {
                for claim in sort.claims(kind) {
                    let found = definition(kind, claim).map(|one| one.value);
                    let is_text = matches!(found, Some(ClaimType::Text | ClaimType::Set));
                    assert!(is_text, "{kind} {claim}: {found:?}");
                }
            }
        }
    }
}
