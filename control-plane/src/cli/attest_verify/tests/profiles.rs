//! Every key of every section of a profile, turned by itself over real evidence.
//!
//! A section that names all that its evidence shows is made from the evidence's own claims. Then one key at a time is
//! changed: a claim to what was not found, a digest of the image to another, an option to the stricter word. Each must
//! refuse with its reason, by a check of its own, beside which stands the line of the changed key. A test compares the
//! keys that are turned here with the schema, so that a new key wants a row.

mod subjects;

use std::collections::{BTreeMap, BTreeSet};

use vouchsafe_attestation::claims::{ClaimDefinition, ClaimType, Texts, claims_of};
use vouchsafe_config::document;
use vouchsafe_verifier::judgement::Value;

use super::*;
use subjects::{SUBJECTS, Subject};

/// A section of a profile, one key per line.
#[derive(Clone)]
struct Section {
    images: Vec<BTreeMap<&'static str, String>>,
    pcrs: BTreeMap<u8, String>,
    keys: Vec<(String, String)>,
}

impl Subject {
    fn judge(&self, section: Option<&Section>, files: &[&str], at: &str) -> Judged {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile.yaml");
        let kind = self.kind.as_str();
        let files: Vec<_> = files.iter().map(|file| case(file)).collect();
        let mut words = format!("--kind {kind} --at {at} --no-binding {}", files.join(" "));
        if let Some(endorsements) = self.endorsements {
            words += &format!(" --endorsements {}", case(endorsements));
        }
        if let Some(section) = section {
            std::fs::write(&file, section.document(self.kind)).unwrap();
            words += &format!(" --profile-file {}", file.display());
        }
        match judged(&line(&words).unwrap(), false) {
            Ok(judged) => judged,
            Err(outcome) => panic!(
                "{}\n{:?}",
                outcome.error,
                section.map(|one| one.document(self.kind))
            ),
        }
    }

    /// The section by which its evidence is affirmed, from its own claims.
    fn section(&self) -> Section {
        let claims = self.judge(None, self.files, self.at).judgement.claims;
        self.section_of(&claims)
    }

    fn section_of(&self, claims: &BTreeMap<&'static str, Value>) -> Section {
        let text = |claim: &str| match &claims[claim] {
            Value::Text(text) => text.clone(),
            other => panic!("{claim}: {other:?}"),
        };
        let image =
            { self.image.iter() }.map(|(key, claim)| (*key, format!("\"{}\"", text(claim))));
        let pcr = |pcr: &u8| match self.kind {
            Kind::Nitro => match claims.get(format!("pcr{pcr}").as_str()) {
                Some(Value::Text(value)) => (*pcr, value.clone()),
                // In debug mode nothing is measured, and no image can match.
                _ => (*pcr, "00".repeat(48)),
            },
            _ => (*pcr, pcr_of(claims, *pcr)),
        };
        Section {
            images: vec![image.collect()],
            pcrs: self.pcrs.iter().map(pcr).collect(),
            keys: { self.more.split_once(": ").into_iter() }
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }
}

/// A value of the SHA-256 bank, as vTPMs (`<n>:<hex>`) and TPMs (`sha256:<n>:<hex>`) show it.
fn pcr_of(claims: &BTreeMap<&'static str, Value>, pcr: u8) -> String {
    let Value::Set(shown) = &claims["pcrs"] else {
        panic!("PCRs are a set");
    };
    let prefix = format!("{pcr}:");
    let plain = shown
        .iter()
        .map(|one| one.strip_prefix("sha256:").unwrap_or(one));
    let found = plain.filter_map(|one| one.strip_prefix(&prefix));
    found.map(str::to_owned).next().unwrap()
}

impl Section {
    fn document(&self, kind: Kind) -> String {
        let mut text = "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
                        metadata: {name: one, namespace: test}\nspec:\n  any_of:\n"
            .to_owned();
        // Beside a kind that can be no binding root stands one that can; only the first is judged.
        text += &format!("    - {}:\n", kind.as_str());
        if kind == Kind::NvidiaGpu {
            // An empty section is one without keys.
            if self.keys.is_empty() {
                text = text.trim_end().to_owned() + " {}\n";
            }
        } else {
            text += "        images:\n";
        }
        for image in self.images.iter().filter(|_| kind != Kind::NvidiaGpu) {
            text += "          - name: a\n";
            for (key, value) in image {
                text += &format!("            {key}: {value}\n");
            }
            if !self.pcrs.is_empty() {
                let bank = if kind == Kind::Nitro {
                    "sha384"
                } else {
                    "sha256"
                };
                text += &format!("            pcrs:\n              {bank}:\n");
                for (pcr, value) in &self.pcrs {
                    text += &format!("                \"{pcr}\": \"{value}\"\n");
                }
            }
        }
        for (key, value) in &self.keys {
            match key.split_once('.') {
                Some((family, key)) => {
                    text += &format!("        {family}:\n          {key}: {value}\n");
                }
                None => text += &format!("        {key}: {value}\n"),
            }
        }
        if kind == Kind::NvidiaGpu {
            text += &format!(
                "      sev_snp:\n        images: [{{name: a, sha384: \"{}\"}}]\n",
                "00".repeat(48)
            );
        }
        text
    }

    /// With a key in the place of what was said of it before.
    fn with(&self, key: &str, value: &str) -> Self {
        let mut section = self.clone();
        section.keys.retain(|(held, _)| held != key);
        section.keys.push((key.to_owned(), value.to_owned()));
        section
    }

    /// The line of a key, counted from 1: the last of its name, since images come first.
    fn line(&self, kind: Kind, key: &str) -> usize {
        let last = key.rsplit('.').next().unwrap();
        let starts = format!("{last}:");
        let text = self.document(kind);
        let lines: Vec<&str> = text.lines().collect();
        let is_key = |line: &&str| line.trim_start().starts_with(&starts);
        lines.iter().rposition(is_key).unwrap() + 1
    }
}

/// A comparison that the value satisfies, and one that it does not.
fn comparisons(claim: &ClaimDefinition, value: &Value) -> [String; 2] {
    let quoted = |text: &str| format!("\"{text}\"");
    let text = match value {
        Value::Bool(value) => return [value.to_string(), (!value).to_string()],
        Value::Number(value) => return [value.to_string(), format!("\">{value}\"")],
        Value::Text(text) => text,
        Value::Set(_) => panic!("several devices"),
    };
    let other = match (claim.value, claim.texts) {
        (ClaimType::Version | ClaimType::HexVersion, _) => format!(">{text}"),
        (ClaimType::Time, _) => ">=9999-01-01".to_owned(),
        (_, Texts::Words(words)) => (*words.iter().find(|word| *word != text).unwrap()).to_owned(),
        (_, Texts::Hex(_)) => {
            let first = if text.starts_with('0') { "1" } else { "0" };
            format!("{first}{}", &text[1..])
        }
        (_, Texts::HexNumber(_)) => {
            let number = u64::from_str_radix(&text[2..], 16).unwrap();
            format!("{:#x}", number ^ 1)
        }
        (_, Texts::Open) => format!("{text}-other"),
    };
    [quoted(text), quoted(&other)]
}

/// Any value of the claim's type.
fn anything(claim: &ClaimDefinition) -> String {
    match (claim.value, claim.texts) {
        (ClaimType::Bool, _) => "true".to_owned(),
        (ClaimType::Number, _) => "0".to_owned(),
        (ClaimType::Version | ClaimType::HexVersion, _) => "\">=0\"".to_owned(),
        (ClaimType::Time, _) => "\">=2000-01-01\"".to_owned(),
        (_, Texts::Words(words)) => format!("[{}]", words.join(", ")),
        (_, Texts::Hex(bytes)) => format!("\"{}\"", "00".repeat(bytes)),
        (_, Texts::HexNumber(_)) => "\"0x0\"".to_owned(),
        (_, Texts::Open) => "anything".to_owned(),
    }
}

/// What came of it: the reason, and the checks that did not pass.
fn found(judged: &Judged) -> (&'static str, BTreeSet<&str>) {
    let checks = judged.judgement.checks.iter();
    let noticed = checks.filter(|check| {
        !matches!(
            check.outcome,
            CheckOutcome::Passed | CheckOutcome::NotChecked
        )
    });
    let names = noticed.map(|check| check.name).collect();
    (judged.judgement.reason, names)
}

/// Asserts that the judgement is a refusal for this reason, by these checks only, the deciding line beside one of them.
fn expect(
    judged: &Judged,
    reason: &str,
    checks: &[&str],
    line: usize,
    what: &str,
    wrong: &mut Vec<String>,
) {
    let (found, noticed) = found(judged);
    let place = format!("profile.yaml:{line}");
    let is_named = { judged.judgement.checks.iter().zip(&judged.lines) }
        .any(|(check, line)| noticed.contains(check.name) && line.ends_with(&place));
    let is_only = noticed.iter().all(|name| checks.contains(name));
    if found != reason || !is_only || !is_named || judged.judgement.status == Status::Affirming {
        wrong.push(format!(
            "{what}: expected {reason} by {checks:?} at {place}, found {found} by {noticed:?} at {:?}",
            judged.lines.iter().filter(|line| !line.is_empty()).collect::<Vec<_>>()
        ));
    }
}

#[test]
fn every_claim_of_a_profile_decides_by_itself() {
    let mut wrong = Vec::new();
    for subject in SUBJECTS {
        let Some(kind) = subject
            .kind
            .evidence_kind()
            .filter(|kind| *kind != EvidenceKind::Tpm)
        else {
            continue;
        };
        let claims = subject
            .judge(None, subject.files, subject.at)
            .judgement
            .claims;
        let section = subject.section_of(&claims);
        let judge = |section: &Section| subject.judge(Some(section), subject.files, subject.at);
        assert_eq!(
            found(&judge(&section)),
            ("verified", BTreeSet::new()),
            "{kind}"
        );
        for claim in claims_of(kind)
            .iter()
            .filter(|claim| !NOT_COMPARED.contains(&claim.name))
        {
            let what = format!("{kind}.{}", claim.name);
            let (comparison, good) = match claims.get(claim.name) {
                // What the evidence does not say fails whatever is demanded of it.
                None => (anything(claim), None),
                Some(value) => {
                    let [good, bad] = comparisons(claim, value);
                    (bad, Some(good))
                }
            };
            if let Some(good) = good {
                let judged = judge(&section.with(claim.name, &good));
                if found(&judged).0 != "verified" {
                    wrong.push(format!("{what}: {good}: {:?}", found(&judged)));
                }
            }
            let turned = section.with(claim.name, &comparison);
            let rule = subject.rules.iter().find(|(key, ..)| *key == claim.name);
            let (reason, mut checks) = match rule {
                Some((_, reason, checks)) => (*reason, checks.to_vec()),
                None => ("claim_not_accepted", Vec::new()),
            };
            checks.push(claim.name);
            let line = turned.line(subject.kind, claim.name);
            expect(&judge(&turned), reason, &checks, line, &what, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_value_of_an_image_decides_by_itself() {
    let mut wrong = Vec::new();
    for subject in SUBJECTS
        .iter()
        .filter(|subject| subject.kind != Kind::NvidiaGpu)
    {
        let kind = subject.kind;
        let section = subject.section();
        let judge = |section: &Section| subject.judge(Some(section), subject.files, subject.at);
        let good = judge(&section);
        assert_eq!(found(&good).0, "verified", "{}", kind.as_str());
        assert_eq!(good.judgement.claims["image"], Value::Text("a".to_owned()));
        let changed = |value: &str| match value.split_at(1) {
            ("\"", rest) => format!("\"{}", other_digit(rest)),
            _ => other_digit(value),
        };
        let mut turns = Vec::new();
        for (key, _) in subject.image {
            let mut turned = section.clone();
            let value = turned.images[0].get_mut(key).unwrap();
            *value = changed(value);
            turns.push(((*key).to_owned(), turned));
        }
        for pcr in subject.pcrs {
            let mut turned = section.clone();
            let value = turned.pcrs.get_mut(pcr).unwrap();
            *value = changed(value);
            turns.push((format!("pcr {pcr}"), turned));
        }
        let mut ended = section.clone();
        ended.images[0].insert("until", subject.at.to_owned());
        turns.push(("until".to_owned(), ended));
        for (key, turned) in turns {
            let what = format!("{} image {key}", kind.as_str());
            let line = turned.line(kind, "images");
            expect(
                &judge(&turned),
                "image",
                &["image"],
                line,
                &what,
                &mut wrong,
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn other_digit(hex: &str) -> String {
    let first = if hex.starts_with('0') { "1" } else { "0" };
    format!("{first}{}", &hex[1..])
}

#[test]
fn every_other_key_of_a_profile_decides_by_itself() {
    let mut wrong = Vec::new();
    for subject in SUBJECTS {
        for turn in subject.options {
            let files = if turn.files.is_empty() {
                subject.files
            } else {
                turn.files
            };
            let at = if turn.at.is_empty() {
                subject.at
            } else {
                turn.at
            };
            let claims = subject.judge(None, files, at).judgement.claims;
            let section = subject.section_of(&claims);
            let turned = section.with(turn.key, turn.value);
            let what = format!("{}.{}: {}", subject.kind.as_str(), turn.key, turn.value);
            let before = subject.judge(Some(&section), files, at);
            let after = subject.judge(Some(&turned), files, at);
            let reasons = [&before, &after].map(|judged| found(judged).0);
            if reasons != turn.reasons {
                wrong.push(format!(
                    "{what}: expected {:?}, found {reasons:?}",
                    turn.reasons
                ));
            }
            // Where the key is what refuses, its line says so.
            if before.judgement.reason == "verified" && after.judgement.reason != "verified" {
                let place = format!("profile.yaml:{}", turned.line(subject.kind, turn.key));
                let noticed = found(&after).1;
                let is_named = { after.judgement.checks.iter().zip(&after.lines) }
                    .any(|(check, line)| noticed.contains(check.name) && line.ends_with(&place));
                if !is_named {
                    wrong.push(format!("{what}: {noticed:?} does not name {place}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_key_of_the_schema_is_left_out() {
    let schema = vouchsafe_config::schema::of(document::Kind::AttestationProfile);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let sections = &schema["properties"]["spec"]["properties"]["any_of"]["items"]["properties"];
    let keys = |schema: &serde_json::Value| -> BTreeSet<String> {
        schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    for subject in SUBJECTS {
        let section = &sections[subject.kind.as_str()];
        let mut turned: BTreeSet<String> = { subject.options.iter() }
            .map(|turn| turn.key.to_owned())
            .collect();
        if subject.kind != Kind::Tpm {
            let claims = claims_of(subject.kind.evidence_kind().unwrap()).iter();
            let families = claims.map(|claim| claim.name.split('.').next().unwrap().to_owned());
            turned.extend(families.filter(|name| !NOT_COMPARED.contains(&name.as_str())));
        }
        if subject.kind != Kind::NvidiaGpu {
            turned.insert("images".to_owned());
            let image = keys(&section["properties"]["images"]["items"]);
            let mut named: BTreeSet<String> = { subject.image.iter() }
                .map(|(key, _)| (*key).to_owned())
                .collect();
            named.extend(subject.pcrs.iter().map(|_| "pcrs".to_owned()));
            // `max_instances` counts certificates, of which files have none.
            named.extend(["name", "until", "max_instances"].map(str::to_owned));
            assert_eq!(image, named, "image of {}", subject.kind.as_str());
        }
        assert_eq!(keys(section), turned, "{}", subject.kind.as_str());
    }
}

/// Claims that a profile names elsewhere: by `images` and by `accepted_advisories`.
const NOT_COMPARED: [&str; 2] = ["image", "advisories"];
