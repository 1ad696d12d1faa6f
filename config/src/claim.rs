//! Comparisons with claims: one form everywhere, a map whose leaves are a value, a list of alternatives, or a text
//! with `>=`, `<=`, `<`, `>`. Types come from the catalog, so numbers compare as numbers and versions as versions.

use vouchsafe_attestation::claims::{
    ClaimDefinition, ClaimType, ClaimValue, EvidenceKind, HexVersion, Texts, Time, Version,
    claims_of, definition,
};
use vouchsafe_attestation::condition::{Comparison, Condition, Operator};
use vouchsafe_attestation::result::AttestationResult;

use crate::problem::{Reporter, list, nearest};
use crate::shape::{Field, MapShape, Place, Shape, optional, parse_number, shorten, wrong_type};
use crate::yaml::{Entry, Node, Scalar, Value};

/// `require`: what one kind of device must have proven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement {
    /// The kind of device: at least one must be there, and each must satisfy all conditions that concern it.
    pub kind: EvidenceKind,
    /// Conditions, by claim.
    pub conditions: Vec<Condition>,
}

impl Requirement {
    /// Whether a result satisfies it; otherwise the claim that does not, or `None` where the device itself is missing.
    ///
    /// # Errors
    /// The name of the first claim that fails.
    pub fn check(&self, result: &AttestationResult) -> Result<(), Option<&'static str>> {
        if result.devices_of(self.kind).next().is_none() {
            return Err(None);
        }
        for condition in &self.conditions {
            let mut is_bound = false;
            for device in result.devices_of(self.kind) {
                if condition.concerns(&device.claims) {
                    is_bound = true;
                    if !condition.holds(device.claims.get(condition.claim)) {
                        return Err(Some(condition.claim));
                    }
                }
            }
            if !is_bound {
                return Err(Some(condition.claim));
            }
        }
        Ok(())
    }
}

/// `require`, by kind of device.
pub(crate) static REQUIRE: MapShape = MapShape {
    fields: &REQUIRE_FIELDS,
    exactly_one: &[],
};

static REQUIRE_FIELDS: [Field; 8] = [
    of_kind(EvidenceKind::Tpm, "tpm", "Claims of a TPM."),
    of_kind(EvidenceKind::SevSnp, "sev_snp", "Claims of AMD SEV-SNP."),
    of_kind(EvidenceKind::Tdx, "tdx", "Claims of Intel TDX."),
    of_kind(
        EvidenceKind::AzSnpVtpm,
        "az_snp_vtpm",
        "Claims of Azure's vTPM above AMD SEV-SNP.",
    ),
    of_kind(
        EvidenceKind::AzTdxVtpm,
        "az_tdx_vtpm",
        "Claims of Azure's vTPM above Intel TDX.",
    ),
    of_kind(
        EvidenceKind::NvidiaGpu,
        "nvidia_gpu",
        "Claims of NVIDIA GPUs: each must satisfy all of them.",
    ),
    of_kind(
        EvidenceKind::Nitro,
        "nitro",
        "Claims of AWS Nitro Enclaves.",
    ),
    of_kind(
        EvidenceKind::Simulated,
        "simulated",
        "Claims of a simulation.",
    ),
];

const fn of_kind(kind: EvidenceKind, key: &'static str, doc: &'static str) -> Field {
    optional(key, Shape::Claims(kind), "", doc)
}

/// Reports what is wrong with the claims of one kind.
pub(crate) fn conform(node: &Node, kind: EvidenceKind, place: &Place, reporter: &mut Reporter<'_>) {
    conform_family(node, kind, "", place, reporter);
}

/// A family's claims, whose names begin with `prefix`, stand in a map of their own.
fn conform_family(
    node: &Node,
    kind: EvidenceKind,
    prefix: &str,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    if !matches!(node.value, Value::Map(_)) {
        let allowed = format!("a map of {}", list(keys_below(kind, prefix)));
        return wrong_type(node, &allowed, place, reporter);
    }
    for entry in node.entries() {
        let inner = place.key(&entry.key, entry.key_span);
        if !conform_claim(entry, kind, prefix, &inner, reporter) {
            let message = format!("`{kind}` has no claim `{prefix}{}`", entry.key);
            let mut problem = reporter
                .at(entry.key_span, message)
                .path(inner.path)
                .allowed(list(keys_below(kind, prefix)));
            if let Some(meant) = nearest_claim(kind, prefix, &entry.key) {
                problem = problem.hint(format!("did you mean `{meant}`?"));
            }
            reporter.report(problem);
        }
    }
}

/// Reports what is wrong with one claim, or one family of claims; `false` where the key is neither.
pub(crate) fn conform_claim(
    entry: &Entry,
    kind: EvidenceKind,
    prefix: &str,
    place: &Place,
    reporter: &mut Reporter<'_>,
) -> bool {
    if let Some(claim) = named(kind, prefix, &entry.key) {
        conform_value(&entry.value, claim, place, reporter);
        return true;
    }
    let is_family = keys_below(kind, prefix).any(|key| key == entry.key);
    if is_family {
        let inner = format!("{prefix}{}.", entry.key);
        conform_family(&entry.value, kind, &inner, place, reporter);
    }
    is_family
}

/// The claim that stands under a key of one name part.
fn named(kind: EvidenceKind, prefix: &str, key: &str) -> Option<&'static ClaimDefinition> {
    let whole = !key.contains('.');
    definition(kind, &format!("{prefix}{key}")).filter(|_| whole)
}

/// What may stand below a prefix: claims, and families of claims once each.
pub(crate) fn keys_below(
    kind: EvidenceKind,
    prefix: &str,
) -> impl Iterator<Item = &'static str> + Clone {
    let mut keys: Vec<&'static str> = claims_of(kind)
        .iter()
        .filter_map(|claim| claim.name.strip_prefix(prefix))
        .map(|rest| rest.split_once('.').map_or(rest, |(family, _)| family))
        .collect();
    keys.dedup();
    keys.into_iter()
}

/// What was probably meant, as it is written from here on: a key of this place, or a claim of a family.
pub(crate) fn nearest_claim(kind: EvidenceKind, prefix: &str, key: &str) -> Option<String> {
    if let Some(meant) = nearest(key, keys_below(kind, prefix)) {
        return Some(meant.to_owned());
    }
    let inside = claims_of(kind)
        .iter()
        .filter_map(|claim| claim.name.strip_prefix(prefix)?.split_once('.'));
    if let Some((family, claim)) = key.split_once('.') {
        let known = inside.clone().any(|(f, c)| (f, c) == (family, claim));
        return known.then(|| format!("{family}: {{{claim}: …}}"));
    }
    let meant = nearest(key, inside.clone().map(|(_, claim)| claim))?;
    inside
        .filter(|(_, claim)| *claim == meant)
        .map(|(family, claim)| format!("{family}: {{{claim}: …}}"))
        .next()
}

fn conform_value(node: &Node, claim: &ClaimDefinition, place: &Place, reporter: &mut Reporter<'_>) {
    match &node.value {
        Value::List(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                conform_one(item, claim, &place.index(index, item), reporter);
            }
        }
        Value::Broken => {}
        Value::List(_) | Value::Null | Value::Scalar(_) | Value::Map(_) => {
            conform_one(node, claim, place, reporter);
        }
    }
}

fn conform_one(node: &Node, claim: &ClaimDefinition, place: &Place, reporter: &mut Reporter<'_>) {
    if comparison(node, claim).is_some() {
        return;
    }
    let allowed = allowed_of(claim);
    // A word of a closed list is close to some other; for the rest the type says what is wrong.
    let (Texts::Words(words), Some(found)) = (claim.texts, node.text()) else {
        return wrong_type(node, &allowed, place, reporter);
    };
    let mut problem = reporter
        .at(
            node.span,
            format!("`{}` is never `{}`", claim.name, shorten(found)),
        )
        .path(place.path.clone())
        .allowed(allowed);
    if let Some(meant) = nearest(found, words.iter().copied()) {
        problem = problem.hint(format!("did you mean `{meant}`?"));
    }
    reporter.report(problem);
}

/// What may be compared with a claim of this type, for messages and the schema.
pub(crate) fn allowed(claim: ClaimType) -> &'static str {
    match claim {
        ClaimType::Bool => "`true` or `false`",
        ClaimType::Number => "a number, a comparison in quotes (`\">=3\"`), or a list of them",
        ClaimType::Text => "a text, or a list of them",
        ClaimType::Version => {
            "a version, a comparison (`\">=570.86\"`), or a list of them; a version in quotes"
        }
        ClaimType::HexVersion => {
            "a hexadecimal version, a comparison (`\">=96.00.9F.00.01\"`), or a list of them; in quotes"
        }
        ClaimType::Time => {
            "a day (`2024-03-13`), a point in time in UTC, a comparison (`\">=2024-03-13\"`), or a list of them"
        }
        ClaimType::Set => "a text that the set must contain, or a list of them",
    }
}

/// What may be compared with this claim, for messages and the schema.
pub(crate) fn allowed_of(claim: &ClaimDefinition) -> String {
    match claim.texts {
        Texts::Open => allowed(claim.value).to_owned(),
        texts => format!("{}, or a list of them", texts_allowed(texts)),
    }
}

/// Which texts a claim can be, in words; nothing where any will do.
pub(crate) fn texts_allowed(texts: Texts) -> String {
    match texts {
        Texts::Open => String::new(),
        Texts::Words(words) => list(words.iter().copied()),
        Texts::Hex(bytes) => format!("{bytes} bytes: {} hexadecimal digits", bytes * 2),
        Texts::HexNumber(_) => "a hexadecimal number (`0x30000`)".to_owned(),
    }
}

fn comparison(node: &Node, claim: &ClaimDefinition) -> Option<Comparison> {
    let Value::Scalar(Scalar { text, plain }) = &node.value else {
        return None;
    };
    let equal = |value| Comparison {
        operator: Operator::Equal,
        value,
    };
    match claim.value {
        ClaimType::Bool => node.as_bool().map(|value| equal(ClaimValue::Bool(value))),
        ClaimType::Text | ClaimType::Set => {
            let ambiguous = *plain && text.parse::<bool>().is_ok();
            let operator = [">", "<", "="].iter().any(|sign| text.starts_with(sign));
            let text = claim.texts.canonical(text)?;
            (!ambiguous && !operator && !text.is_empty()).then(|| equal(ClaimValue::Text(text)))
        }
        ClaimType::Number => {
            let (operator, rest) = operator(text);
            let quoted_number = !plain && operator == Operator::Equal;
            let number = parse_number(rest).filter(|_| !quoted_number)?;
            let value = ClaimValue::Number(number);
            Some(Comparison { operator, value })
        }
        ClaimType::Version => {
            let (operator, rest) = operator(text);
            // `570.10` without quotes is the number 570.1 to other readers.
            let float = *plain && operator == Operator::Equal && rest.matches('.').count() == 1;
            let version: Version = rest.parse().ok().filter(|_| !float)?;
            let value = ClaimValue::Version(version);
            Some(Comparison { operator, value })
        }
        ClaimType::HexVersion => {
            let (operator, rest) = operator(text);
            let number = *plain && operator == Operator::Equal && rest.matches('.').count() < 2;
            let version: HexVersion = rest.parse().ok().filter(|_| !number)?;
            let value = ClaimValue::HexVersion(version);
            Some(Comparison { operator, value })
        }
        ClaimType::Time => {
            let (operator, rest) = operator(text);
            let time: Time = rest.parse().ok()?;
            let value = ClaimValue::Time(time);
            Some(Comparison { operator, value })
        }
    }
}

fn operator(text: &str) -> (Operator, &str) {
    for operator in [
        Operator::AtLeast,
        Operator::AtMost,
        Operator::MoreThan,
        Operator::LessThan,
    ] {
        if let Some(rest) = text.strip_prefix(operator.as_str()) {
            return (operator, rest.trim_start_matches(' '));
        }
    }
    (Operator::Equal, text)
}

/// Reads `require`; parts that do not conform are left out.
pub(crate) fn read(node: Option<&Node>) -> Vec<Requirement> {
    let entries = node.map_or(&[][..], Node::entries);
    entries
        .iter()
        .filter_map(|entry| {
            let kind: EvidenceKind = entry.key.parse().ok()?;
            let mut conditions = Vec::new();
            read_family(&entry.value, kind, "", &mut conditions);
            Some(Requirement { kind, conditions })
        })
        .collect()
}

/// Reads the conditions below a prefix, at any depth.
pub(crate) fn read_family(
    node: &Node,
    kind: EvidenceKind,
    prefix: &str,
    conditions: &mut Vec<Condition>,
) {
    for entry in node.entries() {
        match named(kind, prefix, &entry.key) {
            Some(claim) => {
                let alternatives = match &entry.value.value {
                    Value::List(items) => items.as_slice(),
                    Value::Null | Value::Scalar(_) | Value::Map(_) | Value::Broken => {
                        std::slice::from_ref(&entry.value)
                    }
                };
                conditions.push(Condition {
                    claim: claim.name,
                    any_of: alternatives
                        .iter()
                        .filter_map(|node| comparison(node, claim))
                        .collect(),
                });
            }
            None if keys_below(kind, prefix).any(|key| key == entry.key) => {
                let inner = format!("{prefix}{}.", entry.key);
                read_family(&entry.value, kind, &inner, conditions);
            }
            // Reported by `conform`.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
