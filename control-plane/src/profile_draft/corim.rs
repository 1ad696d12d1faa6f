//! What a manifest says a machine must show.

use std::collections::BTreeMap;

use vouchsafe_verifier::corim::{Corim, Digest, Hash, Key, Reference, Signature};
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;

use super::{Asked, DraftError, Section, comment, quoted, tpm};

/// Whether the bytes begin with one of a manifest's tags, or an envelope that may hold one.
pub(super) fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [0xd9, 0x01, 0xf4..=0xf6, ..] | [0xd2, 0x84, ..])
        && Corim::parse(bytes, None).is_ok()
}

pub(super) fn sections(
    name: &str,
    bytes: &[u8],
    asked: &Asked,
) -> Result<Vec<Section>, DraftError> {
    let corim =
        Corim::parse(bytes, asked.corim_key.as_deref()).map_err(|source| DraftError::Corim {
            file: name.to_owned(),
            source,
        })?;
    let head = format!(
        "# manifest {}: {}",
        quoted(&comment(&corim.id)),
        match corim.signature {
            Signature::Absent => "not signed",
            Signature::NotChecked =>
                "signed, and not checked: name the signer's key by --corim-key",
            Signature::Verified => "signed by the key that was given",
        }
    );
    let mut found = vec![
        guests(&corim, &head),
        registers(&corim, &head, asked),
        enclaves(&corim, &head),
    ];
    found.retain(|section| !section.lines.is_empty());
    if found.is_empty() {
        return Err(DraftError::NoValue {
            kind: "CoRIM",
            why: format!(
                "{} reference values, none of a kind that profiles name: SHA-384 digests of AMD's or Intel's guests, \
                 and PCRs by number",
                corim.references.len()
            ),
        });
    }
    Ok(found)
}

fn is_of(reference: &Reference, words: &[&str]) -> bool {
    let said = [&reference.vendor, &reference.model, &reference.name];
    said.into_iter().flatten().any(|text| {
        let text = text.to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    })
}

fn digests(reference: &Reference, hash: Hash) -> impl Iterator<Item = &Digest> {
    reference
        .digests
        .iter()
        .filter(move |digest| digest.hash == hash)
}

/// Where a value comes from, as a comment.
fn source(reference: &Reference) -> String {
    let said = [
        &reference.vendor,
        &reference.model,
        &reference.name,
        &reference.version,
    ];
    let said: Vec<_> = said.into_iter().flatten().map(String::as_str).collect();
    let key = match &reference.key {
        Key::None => String::new(),
        Key::Number(number) => format!(", measurement {number}"),
        Key::Name(name) => format!(", measurement {name}"),
    };
    comment(&format!(
        "module {}: {}{key}",
        reference.tag,
        said.join(" ")
    ))
}

/// Launch digests of AMD's guests. Their profile numbers them 641; manifests by hand often give no number.
fn guests(corim: &Corim, head: &str) -> Section {
    let mut lines = Vec::new();
    let launch = |reference: &&Reference| {
        let number = matches!(reference.key, Key::None | Key::Name(_) | Key::Number(641));
        number && is_of(reference, &["amd", "sev"])
    };
    for reference in corim.references.iter().filter(launch) {
        for digest in digests(reference, Hash::Sha384) {
            lines.push(format!(
                "  - name: {}",
                quoted(&image(reference, lines.len() / 3))
            ));
            lines.push(format!("    # {}", source(reference)));
            lines.push(format!("    sha384: {}", hex::encode(&digest.value)));
        }
    }
    section("sev_snp", head, lines)
}

/// PCR 0, 1, 2, 8 of Nitro Enclaves, by number.
fn enclaves(corim: &Corim, head: &str) -> Section {
    let mut lines = Vec::new();
    let mut values = BTreeMap::new();
    for reference in corim
        .references
        .iter()
        .filter(|one| is_of(one, &["nitro", "aws"]))
    {
        if let (Key::Number(pcr @ 0..=15), Some(digest)) =
            (&reference.key, digests(reference, Hash::Sha384).next())
        {
            values.entry(*pcr).or_insert((digest, reference));
        }
    }
    if let Some((_, first)) = values.values().next() {
        lines.push(format!("  - name: {}", quoted(&image(first, 0))));
        lines.push("    pcrs:".into());
        lines.push("      sha384:".into());
    }
    for (pcr, (digest, reference)) in values {
        lines.push(format!("        # {}", source(reference)));
        lines.push(format!("        \"{pcr}\": {}", hex::encode(&digest.value)));
    }
    section("nitro", head, lines)
}

/// Registers of anything else are a TPM's PCRs.
fn registers(corim: &Corim, head: &str, asked: &Asked) -> Section {
    let mut banks: BTreeMap<HashAlgorithm, BTreeMap<u8, String>> = BTreeMap::new();
    let others = ["amd", "sev", "intel", "tdx", "nitro", "aws", "nvidia"];
    for reference in corim.references.iter().filter(|one| !is_of(one, &others)) {
        let Key::Number(pcr @ 0..=23) = reference.key else {
            continue;
        };
        let Ok(pcr) = u8::try_from(pcr) else {
            continue;
        };
        for digest in &reference.digests {
            let bank = match digest.hash {
                Hash::Sha256 => HashAlgorithm::Sha256,
                Hash::Sha384 => HashAlgorithm::Sha384,
                Hash::Sha512 => continue,
            };
            let value = hex::encode(&digest.value);
            banks.entry(bank).or_default().entry(pcr).or_insert(value);
        }
    }
    let nothing = |_| Vec::new();
    let image = tpm::image(&banks, "of the manifest", &nothing, asked).unwrap_or_default();
    section(
        "tpm",
        head,
        image.into_iter().map(|line| format!("  {line}")).collect(),
    )
}

fn section(kind: &'static str, head: &str, images: Vec<String>) -> Section {
    let mut lines = Vec::new();
    if !images.is_empty() {
        lines.push(head.to_owned());
        lines.push("images:".into());
        lines.extend(images);
    }
    Section { kind, lines }
}

/// A name for an image: two modules of a manifest may be called the same.
fn image(reference: &Reference, number: usize) -> String {
    let name = comment(reference.name.as_deref().unwrap_or(&reference.tag));
    if number == 0 {
        name
    } else {
        format!("{name}-{}", number + 1)
    }
}
