//! The kernel's measurement list (IMA): which files a running system read, believed only as far as it replays to PCR 10.
//!
//! A list grows as long as a system runs, so it is judged in steps: a [`Checkpoint`] holds how many entries were judged
//! and what they replay to, and [`Checkpoint::advance`] takes the next ones up to the quoted value. What follows the
//! quoted value was measured after the quote and waits for the next one.
//!
//! Template hashes are recomputed for the bank that was quoted; the list's own, which are SHA-1, are never believed. A
//! *violation* (a file was written while it was measured, or measured while it was written) is extended as ones and names
//! a file about whose content nothing is known.
//!
//! Source: Linux `security/integrity/ima/{ima_fs,ima_template,ima_template_lib,ima_crypto}.c`; `Documentation/security/IMA-templates.rst`.

pub mod policy;

use super::hash::HashAlgorithm;
use super::wire::{ParseError, Reader};

/// The PCR that the kernel extends (`CONFIG_IMA_MEASURE_PCR_IDX`).
pub const PCR: u8 = 10;

/// Hash of a file's content, as an entry names it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FileHash {
    /// SHA-1: read, never a reason to allow anything.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl FileHash {
    const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The kernel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn named(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.as_str().as_bytes() == word)
    }
}

/// One measured file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The file's path as the kernel saw it, which need not be UTF-8.
    pub path: Vec<u8>,
    /// Hash of `digest`.
    pub hash: FileHash,
    /// Digest of the file's content; means nothing in a violation.
    pub digest: Vec<u8>,
    /// Whether the digest is of the content (`ima`), not of a Merkle tree over it (`verity`).
    pub is_content: bool,
    /// `security.ima` of the file, as the template has it; empty where the file has none.
    pub signature: Vec<u8>,
    /// Whether nothing is known of the content.
    pub is_violation: bool,
    /// What the template hash is made of.
    template: Vec<u8>,
}

impl Entry {
    /// The path for people: what is not printable is escaped.
    pub fn shown_path(&self) -> String {
        String::from_utf8_lossy(&self.path)
            .chars()
            .take(MAX_SHOWN)
            .flat_map(char::escape_debug)
            .collect()
    }

    /// Whether this is the digest of PCRs 0 to 9 with which every list begins.
    pub fn is_boot_aggregate(&self) -> bool {
        self.path == BOOT_AGGREGATE
    }

    /// What the kernel extends into a bank for it.
    fn extended(&self, bank: HashAlgorithm) -> Vec<u8> {
        if self.is_violation {
            vec![0xff; bank.digest_len()]
        } else {
            bank.digest(&[&self.template])
        }
    }
}

/// Reads a binary list (`binary_runtime_measurements`), little-endian as x86 and ARM write it.
///
/// # Errors
/// [`ParseError`] unless the bytes are a whole number of entries of known templates for PCR 10.
pub fn parse(raw: &[u8]) -> Result<Vec<Entry>, ParseError> {
    if raw.len() > MAX_LIST_BYTES {
        return Err(ParseError::TooLarge("measurement list"));
    }
    let mut reader = Reader::new(raw);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        entries.push(binary_entry(&mut reader)?);
    }
    Ok(entries)
}

fn binary_entry(reader: &mut Reader<'_>) -> Result<Entry, ParseError> {
    if reader.u32_le("PCR")? != u32::from(PCR) {
        return Err(ParseError::Unsupported("PCR"));
    }
    let listed = reader.bytes(LISTED_HASH_BYTES, "template hash")?;
    let name = long_sized(reader, MAX_TEMPLATE_NAME, "template name")?;
    let template = Template::named(name).ok_or(ParseError::Unsupported("template"))?;
    let fields = long_sized(reader, MAX_TEMPLATE_BYTES, "template data")?;
    let is_violation = listed.iter().all(|byte| *byte == 0);
    template.entry(fields, is_violation)
}

/// A 32-bit little-endian length, then that many bytes, at most `max`.
fn long_sized<'a>(
    reader: &mut Reader<'a>,
    max: usize,
    field: &'static str,
) -> Result<&'a [u8], ParseError> {
    match usize::try_from(reader.u32_le(field)?) {
        Ok(length) if length <= max => reader.bytes(length, field),
        _ => Err(ParseError::TooLarge(field)),
    }
}

/// Reads the list as text (`ascii_runtime_measurements`), as people keep it. It has all that the template hash is made of.
///
/// # Errors
/// As [`parse`], and if a line's own template hash is not that of what it says.
pub fn parse_text(text: &str) -> Result<Vec<Entry>, ParseError> {
    if text.len() > 2 * MAX_LIST_BYTES {
        return Err(ParseError::TooLarge("measurement list"));
    }
    let entries = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(text_entry)
        .collect::<Result<Vec<_>, _>>()?;
    if entries.is_empty() {
        return Err(ParseError::Truncated("measurement list"));
    }
    Ok(entries)
}

fn text_entry(line: &str) -> Result<Entry, ParseError> {
    let mut words = line.splitn(4, ' ').map(str::trim);
    let mut word = |field| words.next().ok_or(ParseError::Truncated(field));
    if word("PCR")?.parse() != Ok(PCR) {
        return Err(ParseError::Unsupported("PCR"));
    }
    let listed = hex::decode(word("template hash")?)
        .map_err(|_| ParseError::Unsupported("template hash"))?;
    let template = Template::named(word("template name")?.as_bytes())
        .filter(|template| !template.version_two)
        .ok_or(ParseError::Unsupported("template"))?;
    let rest = word("template data")?;
    let (digest, rest) = rest
        .split_once(' ')
        .ok_or(ParseError::Truncated("file name"))?;
    // A name may hold spaces, a signature can't.
    let (path, signature) = match (template.extra, rest.rsplit_once(' ')) {
        (1, Some((path, last))) => match hex::decode(last) {
            Ok(signature) => (path, signature),
            Err(_) => (rest, Vec::new()),
        },
        (0 | 1, _) => (rest, Vec::new()),
        _ => return Err(ParseError::Unsupported("template")),
    };
    let (hash, digest) = digest
        .split_once(':')
        .ok_or(ParseError::Truncated("digest"))?;
    let digest = hex::decode(digest).map_err(|_| ParseError::Unsupported("digest"))?;
    let mut fields = Vec::new();
    let named = [hash.as_bytes(), b":\0", &digest].concat();
    put_long_sized(&mut fields, &named);
    put_long_sized(&mut fields, &[path.as_bytes(), b"\0"].concat());
    if template.extra == 1 {
        put_long_sized(&mut fields, &signature);
    }
    let is_violation = listed.iter().all(|byte| *byte == 0);
    let entry = template.entry(&fields, is_violation)?;
    if is_violation || is_digest(&listed, &entry.template) {
        Ok(entry)
    } else {
        Err(ParseError::Unsupported("template hash"))
    }
}

/// Whether the text's own hash, whose algorithm only its length tells, fits. Nothing is believed for it.
fn is_digest(listed: &[u8], template: &[u8]) -> bool {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
    [&SHA1_FOR_LEGACY_USE_ONLY, &SHA256, &SHA384, &SHA512]
        .into_iter()
        .filter(|algorithm| algorithm.output_len() == listed.len())
        .any(|algorithm| digest(algorithm, template).as_ref() == listed)
}

fn put_long_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(size.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What stands in an entry: a digest, a name, then `extra` further fields of which the first is the signature.
#[derive(Clone, Copy, Debug)]
struct Template {
    name: &'static [u8],
    /// The digest says too what it is of: `ima:` or `verity:`.
    version_two: bool,
    extra: usize,
}

impl Template {
    fn named(name: &[u8]) -> Option<Self> {
        TEMPLATES.into_iter().find(|known| known.name == name)
    }

    fn entry(self, fields: &[u8], is_violation: bool) -> Result<Entry, ParseError> {
        let mut reader = Reader::new(fields);
        let digest = long_sized(&mut reader, MAX_DIGEST_FIELD, "digest")?;
        let name = long_sized(&mut reader, MAX_TEMPLATE_BYTES, "file name")?;
        let mut signature = Vec::new();
        for index in 0..self.extra {
            let field = long_sized(&mut reader, MAX_TEMPLATE_BYTES, "further field")?;
            if index == 0 {
                signature = field.to_vec();
            }
        }
        reader.finish()?;
        let (is_content, digest) = match self.version_two {
            false => (true, digest),
            true => match (
                digest.strip_prefix(b"ima:"),
                digest.strip_prefix(b"verity:"),
            ) {
                (Some(rest), _) => (true, rest),
                (None, Some(rest)) => (false, rest),
                (None, None) => return Err(ParseError::Unsupported("digest type")),
            },
        };
        let (hash, digest) = split_digest(digest)?;
        // What is not known has whatever length the writer liked.
        if !is_violation && digest.len() != hash.digest_len() {
            return Err(ParseError::Unsupported("digest"));
        }
        let path = name
            .strip_suffix(b"\0")
            .filter(|path| !path.contains(&0))
            .ok_or(ParseError::Unsupported("file name"))?;
        Ok(Entry {
            path: path.to_vec(),
            hash,
            digest: digest.to_vec(),
            is_content,
            signature,
            is_violation,
            template: fields.to_vec(),
        })
    }
}

/// `sha256:`, a NUL, the digest.
fn split_digest(field: &[u8]) -> Result<(FileHash, &[u8]), ParseError> {
    let colon = field
        .windows(2)
        .position(|two| two == b":\0")
        .ok_or(ParseError::Unsupported("digest"))?;
    let (word, digest) = field.split_at_checked(colon).unwrap_or_default();
    let hash = FileHash::named(word).ok_or(ParseError::Unsupported("digest algorithm"))?;
    Ok((hash, digest.get(2..).unwrap_or_default()))
}

/// How far a list was judged: after so many entries of this boot, the bank holds this value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The bank.
    pub bank: HashAlgorithm,
    /// Entries judged since the boot.
    pub count: u64,
    /// Value of PCR 10 after them.
    pub aggregate: Vec<u8>,
}

impl Checkpoint {
    /// Before the first entry of a boot.
    pub fn start(bank: HashAlgorithm) -> Self {
        Self {
            bank,
            count: 0,
            aggregate: vec![0; bank.digest_len()],
        }
    }

    /// Replays the entries that follow this checkpoint until PCR 10 has its quoted value. Gives the checkpoint there, and
    /// the entries that lead to it; those beyond were measured after the quote.
    ///
    /// # Errors
    /// [`AdvanceError`] if no prefix of the entries leads to the quoted value.
    pub fn advance(
        &self,
        mut entries: Vec<Entry>,
        quoted_pcr10: &[u8],
    ) -> Result<(Self, Vec<Entry>), AdvanceError> {
        let mut value = self.aggregate.clone();
        let mut taken = 0;
        for entry in &entries {
            // A value that was reached once is never reached again, so the first place is the only one.
            if value == quoted_pcr10 {
                break;
            }
            value = self.bank.digest(&[&value, &entry.extended(self.bank)]);
            taken += 1;
        }
        if value != quoted_pcr10 {
            return Err(AdvanceError {
                entries: entries.len(),
                after: self.count,
            });
        }
        entries.truncate(taken);
        let checkpoint = Self {
            bank: self.bank,
            count: self.count.saturating_add(u64::try_from(taken).unwrap_or(0)),
            aggregate: value,
        };
        Ok((checkpoint, entries))
    }

    /// The value after all entries, wherever it leads: for people who have a list and no quote.
    pub fn replay(&self, entries: &[Entry]) -> Vec<u8> {
        entries.iter().fold(self.aggregate.clone(), |value, entry| {
            self.bank.digest(&[&value, &entry.extended(self.bank)])
        })
    }
}

/// The list does not lead to the quoted value: an entry was changed, left out or put in, or it is of another boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{entries} entries after entry {after} do not replay to the quoted PCR 10")]
pub struct AdvanceError {
    /// Entries given.
    pub entries: usize,
    /// Entries judged before.
    pub after: u64,
}

/// The kernel's templates that name a digest and a file; `ima`, which knows SHA-1 alone, is not among them.
const TEMPLATES: [Template; 6] = [
    Template {
        name: b"ima-ng",
        version_two: false,
        extra: 0,
    },
    Template {
        name: b"ima-sig",
        version_two: false,
        extra: 1,
    },
    Template {
        name: b"ima-ngv2",
        version_two: true,
        extra: 0,
    },
    Template {
        name: b"ima-sigv2",
        version_two: true,
        extra: 1,
    },
    Template {
        name: b"ima-buf",
        version_two: false,
        extra: 1,
    },
    Template {
        name: b"ima-modsig",
        version_two: false,
        extra: 3,
    },
];

const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";
/// The list names SHA-1 template hashes whatever banks are extended.
const LISTED_HASH_BYTES: usize = 20;
/// `ima-modsig` has ten bytes; custom formats are refused.
const MAX_TEMPLATE_NAME: usize = 16;
/// A path of 4 KiB and a signature or certificate of some KiB.
const MAX_TEMPLATE_BYTES: usize = 64 * 1024;
/// `verity:sha512:` and a digest.
const MAX_DIGEST_FIELD: usize = 128;
/// A system that measures everything writes a few MiB a day.
pub const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// Of a path, for people.
const MAX_SHOWN: usize = 512;

#[cfg(test)]
mod tests;
