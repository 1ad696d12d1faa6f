//! Whether hardware that its verifier affirms is what somebody named: an image by its measurements, claims by their
//! conditions. One place for attestations and for files, so that an explanation can't differ from a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use vouchsafe_attestation::claims::{
    ClaimType, ClaimValue, Claims, EvidenceKind, claims_of, definition,
};
use vouchsafe_attestation::condition::Condition;

use crate::judgement::{Ledger, Value};
use crate::reference_value::{HardwareImage, HardwareReference};

type Shown = BTreeMap<&'static str, Value>;

/// What of a judgement policy may read. A value of another form than the catalog's is left out: what is absent fails
/// each requirement.
pub(crate) fn claims(kind: EvidenceKind, shown: &Shown) -> Claims {
    let mut claims = Claims::default();
    for definition in claims_of(kind) {
        let value = shown.get(definition.name);
        if let Some(value) = value.and_then(|value| convert(definition.value, value))
            && claims.set(kind, definition.name, value).is_err()
        {
            debug_assert!(false, "the catalog has this claim, and the value its type");
        }
    }
    claims
}

fn convert(wanted: ClaimType, value: &Value) -> Option<ClaimValue> {
    match (wanted, value) {
        (ClaimType::Bool, Value::Bool(value)) => Some(ClaimValue::Bool(*value)),
        (ClaimType::Number, Value::Number(value)) => Some(ClaimValue::Number(*value)),
        (ClaimType::Set, Value::Set(values)) => {
            Some(ClaimValue::Set(values.iter().cloned().collect()))
        }
        (
            ClaimType::Text | ClaimType::Version | ClaimType::HexVersion | ClaimType::Time,
            Value::Text(text),
        ) => ClaimValue::parse(wanted, text).ok(),
        (
            ClaimType::Bool
            | ClaimType::Number
            | ClaimType::Text
            | ClaimType::Version
            | ClaimType::HexVersion
            | ClaimType::Time
            | ClaimType::Set,
            _,
        ) => None,
    }
}

/// The first image, in the operator's order, whose every value was measured.
///
/// # Errors
/// Why each does not match, for the operator.
pub(crate) fn image<'r>(
    images: &'r [HardwareImage],
    shown: &Shown,
    now: SystemTime,
) -> Result<&'r str, String> {
    let mut misses = Vec::new();
    for image in images {
        match miss(image, shown, now) {
            None => return Ok(&image.name),
            Some(miss) => misses.push(miss),
        }
    }
    if misses.is_empty() {
        misses.push("the profile names no image".to_owned());
    }
    Err(misses.join("; "))
}

/// Why an image does not match.
fn miss(image: &HardwareImage, shown: &Shown, now: SystemTime) -> Option<String> {
    if image.until.is_some_and(|until| until <= now) {
        return Some(format!("`{}` has ended", image.name));
    }
    if image.values.is_empty() {
        return Some(format!("`{}` names no value", image.name));
    }
    let is_shown = |name: &str, value: &String| match shown.get(name) {
        Some(Value::Text(found)) => found == value,
        Some(Value::Set(found)) => found.contains(value),
        // Some verifiers show each PCR by itself.
        None if name == PCRS => value.split_once(':').is_some_and(|(number, digest)| {
            let held = shown.get(format!("pcr{number}").as_str());
            held == Some(&Value::Text(digest.to_owned()))
        }),
        Some(Value::Bool(_) | Value::Number(_)) | None => false,
    };
    let (name, value) = { image.values.iter() }.find(|(name, value)| !is_shown(name, value))?;
    let found = match shown.get(name.as_str()) {
        Some(Value::Text(found)) => found.clone(),
        Some(Value::Set(found)) => found.join(", "),
        Some(Value::Bool(_) | Value::Number(_)) | None => "nothing".to_owned(),
    };
    Some(format!(
        "`{}` wants {name} = {value}, found {found}",
        image.name
    ))
}

/// The first condition that the claims do not satisfy, and what was found instead.
pub(crate) fn unmet<'r>(
    mut conditions: impl Iterator<Item = &'r Condition>,
    claims: &Claims,
) -> Option<(&'r Condition, String)> {
    conditions
        .find(|condition| !condition.holds(claims.get(condition.claim)))
        .map(|condition| {
            let found = claims.get(condition.claim);
            let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            (condition, found)
        })
}

/// Adds the checks of a reference to those of a kind's verifier: of files, which may show several devices.
pub(crate) fn check(
    kind: EvidenceKind,
    reference: &HardwareReference,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    if definition(kind, "image").is_some() {
        match image(&reference.images, ledger.claims(), now) {
            Ok(name) => {
                ledger.require("image", "image", true, name);
                ledger.claim("image", name);
            }
            Err(misses) => {
                ledger.require("image", "image", false, misses);
            }
        }
    }
    for condition in &reference.conditions {
        let found = values(kind, condition.claim, ledger.claims());
        let holds = !found.is_empty() && { found.iter() }.all(|value| condition.holds(Some(value)));
        let words: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
        let words: Vec<String> = words.into_iter().collect();
        let words = match words.is_empty() {
            true => "nothing".to_owned(),
            false => words.join(", "),
        };
        let detail = format!("{}; found {words}", condition.describe());
        ledger.require(condition.claim, UNMET, holds, detail);
    }
}

/// The values of a claim: several where devices differ.
fn values(kind: EvidenceKind, claim: &str, shown: &Shown) -> Vec<ClaimValue> {
    let Some((definition, value)) = definition(kind, claim).zip(shown.get(claim)) else {
        return Vec::new();
    };
    match (definition.value, value) {
        (
            ClaimType::Text | ClaimType::Version | ClaimType::HexVersion | ClaimType::Time,
            Value::Set(many),
        ) => { many.iter() }
            .map(|text| convert(definition.value, &Value::Text(text.clone())))
            // One that can't be read is one that does not satisfy.
            .collect::<Option<_>>()
            .unwrap_or_default(),
        _ => convert(definition.value, value).into_iter().collect(),
    }
}

/// The name by which images state PCRs, as `<number>:<hex>`.
const PCRS: &str = "pcrs";

/// The reason of a claim that is not as a profile demands; the check has the claim's name.
pub(crate) const UNMET: &str = "claim_not_accepted";

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn named(values: &[(&str, &str)]) -> HardwareImage {
        HardwareImage {
            name: "llm".to_owned(),
            values: { values.iter() }
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            until: None,
        }
    }

    #[test]
    fn an_image_is_one_whose_every_value_was_shown_and_that_has_not_ended() {
        let shown = Shown::from([
            ("measurement", Value::Text("aa".to_owned())),
            (
                "pcrs",
                Value::Set(vec!["4:bb".to_owned(), "7:cc".to_owned()]),
            ),
            ("guest_svn", Value::Number(1)),
        ]);
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let check = |one: HardwareImage, expected: Result<&str, &str>| {
            let images = [one];
            let found = image(&images, &shown, now);
            match (found, expected) {
                (Ok(found), Ok(name)) => assert_eq!(found, name),
                (Err(found), Err(word)) => assert!(found.contains(word), "{found}"),
                (found, expected) => panic!("found {found:?}, expected {expected:?}"),
            }
        };
        let good = || named(&[("measurement", "aa"), ("pcrs", "4:bb"), ("pcrs", "7:cc")]);
        let until = |until| HardwareImage {
            until: Some(UNIX_EPOCH + Duration::from_secs(until)),
            ..good()
        };
        check(good(), Ok("llm"));
        check(until(101), Ok("llm"));
        check(until(100), Err("has ended"));
        check(named(&[]), Err("names no value"));
        check(named(&[("measurement", "ab")]), Err("found aa"));
        check(
            named(&[("measurement", "aa"), ("pcrs", "4:cc")]),
            Err("found 4:bb, 7:cc"),
        );
        check(named(&[("guest_svn", "1")]), Err("found nothing"));
        check(named(&[("host_data", "aa")]), Err("found nothing"));
        assert!(image(&[], &shown, now).is_err());
        // Verifiers that show each PCR by itself.
        let shown = Shown::from([("pcr4", Value::Text("bb".to_owned()))]);
        for (value, fits) in [
            ("4:bb", true),
            ("4:cc", false),
            ("5:bb", false),
            ("bb", false),
        ] {
            let images = [named(&[("pcrs", value)])];
            assert_eq!(image(&images, &shown, now).is_ok(), fits, "{value}");
        }
    }
}
