//! What an instance proved, by the claims that a revocation looks for: out of its full attestation result.

use serde_json::Value;
use vouchsafe_api::v1;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::revocation::{identity_claims, measurement_claims};

/// Hardware identities, then measurements, each in the order of devices.
pub(super) fn shown(ear: &str) -> (Vec<v1::ShownClaim>, Vec<v1::ShownClaim>) {
    let ear: Value = serde_json::from_str(ear).unwrap_or_default();
    let (mut identities, mut measurements) = (Vec::new(), Vec::new());
    for (name, device) in ear
        .get("submods")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let kind = name
            .rsplit_once('-')
            .and_then(|(kind, _)| kind.parse().ok());
        if let (Some(kind), Some(claims)) = (kind, device.get("vouchsafe.claims")) {
            collect(kind, identity_claims(kind), claims, &mut identities);
            collect(kind, measurement_claims(kind), claims, &mut measurements);
        }
    }
    (identities, measurements)
}

fn collect(
    kind: EvidenceKind,
    names: &[&'static str],
    claims: &Value,
    found: &mut Vec<v1::ShownClaim>,
) {
    for name in names {
        let values = match claims.get(name) {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).collect(),
            Some(_) | None => Vec::new(),
        };
        found.extend(values.into_iter().map(|value| v1::ShownClaim {
            claim: format!("{kind}.{name}"),
            value: value.to_owned(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_revocations_look_for_is_told_with_its_claim_and_nothing_else_is() {
        let ear = r#"{"submods": {
            "tpm-0": {"vouchsafe.claims": {"ek_sha256": "ee", "image": "base-1", "firmware": 7}},
            "nvidia_gpu-1": {"vouchsafe.claims": {"ueid": "17"}},
            "unheard_of-0": {"vouchsafe.claims": {"image": "x"}}
        }}"#;
        let (identities, measurements) = shown(ear);
        let words = |claims: &[v1::ShownClaim]| -> Vec<String> {
            let words = claims.iter();
            let mut words: Vec<String> = words
                .map(|one| format!("{}={}", one.claim, one.value))
                .collect();
            words.sort();
            words
        };
        assert_eq!(
            words(&identities),
            ["nvidia_gpu.ueid=17", "tpm.ek_sha256=ee"]
        );
        assert_eq!(words(&measurements), ["tpm.image=base-1"]);
        for nothing in [
            "",
            "{}",
            "[",
            r#"{"submods": {"tpm-0": {"vouchsafe.claims": 7}}}"#,
        ] {
            assert_eq!(shown(nothing), (vec![], vec![]), "{nothing}");
        }
    }
}
