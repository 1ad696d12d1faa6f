//! CoRIM: reference values as vendors and build systems publish them.
//!
//! Only reference triples are read, from unsigned manifests and from signed ones: *this environment has one of these
//! measurements*. Endorsed values, keys and policies of a manifest are not applied by themselves; what is here becomes a
//! profile that a person reads before it counts. A signature is verified only against a key that the caller names.
//!
//! Source: draft-ietf-rats-corim-08 §4 (manifest), §5 (module identifiers); RFC 9052 §4.2 (COSE_Sign1); RFC 9393.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::evidence::cbor::{CborError, Item, Reader, put_bytes};
use crate::evidence::x509;

/// A manifest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Corim {
    /// Its name; a UUID in hex.
    pub id: String,
    /// Whether it came in an envelope, and what is known of that.
    pub signature: Signature,
    /// What environments measure, in the order of the manifest.
    pub references: Vec<Reference>,
}

/// What is known of a manifest's signature.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Signature {
    /// It has none.
    #[default]
    Absent,
    /// It has one that nobody checked: no key was named.
    NotChecked,
    /// It is by the key that was named.
    Verified,
}

/// One measurement of one environment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reference {
    /// Name of the module in the manifest.
    pub tag: String,
    /// Whose environment.
    pub vendor: Option<String>,
    /// Which of the vendor's.
    pub model: Option<String>,
    /// Which measurement of the environment.
    pub key: Key,
    /// Name that the measurement gives itself.
    pub name: Option<String>,
    /// Version that the measurement gives itself.
    pub version: Option<String>,
    /// Accepted digests.
    pub digests: Vec<Digest>,
}

/// Which measurement of an environment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Key {
    /// The only one.
    #[default]
    None,
    /// By number: a PCR, a register, an index.
    Number(u64),
    /// By name, or identifier in hex.
    Name(String),
}

/// A digest with its algorithm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Digest {
    /// Which.
    pub hash: Hash,
    /// As many bytes as its hash has.
    pub value: Vec<u8>,
}

/// Hashes of reference values.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// By its number in IANA's registry of named information hashes, its number in COSE, or its name; `None` for hashes
    /// that carry no trust or are not known.
    fn read(item: &Item<'_>) -> Option<(Self, usize)> {
        let hash = match item {
            Item::Unsigned(1) | Item::Negative(15) | Item::Text("sha-256" | "sha256") => {
                Self::Sha256
            }
            Item::Unsigned(7) | Item::Negative(42) | Item::Text("sha-384" | "sha384") => {
                Self::Sha384
            }
            Item::Unsigned(8) | Item::Negative(43) | Item::Text("sha-512" | "sha512") => {
                Self::Sha512
            }
            _ => return None,
        };
        let length = match hash {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        };
        Some((hash, length))
    }
}

/// Why bytes are no manifest that can be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CorimError {
    /// Not CBOR in its shortest form.
    #[error("failed to read CBOR")]
    Cbor(#[from] CborError),
    /// Not of the shape of a manifest.
    #[error("not a manifest: {0}")]
    Shape(&'static str),
    /// A key was named, and the manifest is not signed by it.
    #[error("the manifest is not signed by the given key")]
    Signature,
    /// A key was named, and the manifest has no signature.
    #[error("the manifest is not signed, and a key was given to check it by")]
    Unsigned,
    /// The key is no public key or certificate.
    #[error("the given key is neither a public key nor a certificate in DER")]
    Key,
}

impl Corim {
    /// Largest manifest: one for all of a vendor's firmware has some MiB.
    pub const MAX_BYTES: usize = 8 * 1024 * 1024;

    /// Reads a manifest. With `key` (a certificate or `SubjectPublicKeyInfo` in DER) it must be signed by that key.
    ///
    /// # Errors
    /// [`CorimError`].
    pub fn parse(raw: &[u8], key: Option<&[u8]>) -> Result<Self, CorimError> {
        if raw.len() > Self::MAX_BYTES {
            return Err(CorimError::Shape("larger than any manifest"));
        }
        let whole = read_whole(raw)?;
        // Earlier drafts wrap the choice between signed and unsigned once more.
        let choice = match &whole {
            Item::Tag(TAG_CHOICE, inner) => inner,
            other => other,
        };
        match (choice, key) {
            (Item::Tag(TAG_SIGNED | TAG_SIGN1, envelope), _) => {
                let envelope = match envelope.as_ref() {
                    Item::Tag(TAG_SIGN1, inner) => inner,
                    other => other,
                };
                Self::signed(envelope, key)
            }
            (_, Some(_)) => Err(CorimError::Unsigned),
            (Item::Tag(TAG_UNSIGNED, manifest), None) => {
                Self::manifest(manifest, Signature::Absent)
            }
            _ => Err(CorimError::Shape("no tag of a manifest stands first")),
        }
    }

    fn signed(envelope: &Item<'_>, key: Option<&[u8]>) -> Result<Self, CorimError> {
        let [
            Item::Bytes(protected),
            Item::Map(_),
            Item::Bytes(payload),
            Item::Bytes(signature),
        ] = envelope.items()
        else {
            return Err(CorimError::Shape("no signed envelope"));
        };
        let state = match key {
            None => Signature::NotChecked,
            Some(key) => {
                verify(protected, payload, signature, key)?;
                Signature::Verified
            }
        };
        let manifest = read_whole(payload)?;
        match &manifest {
            Item::Tag(TAG_UNSIGNED, manifest) => Self::manifest(manifest, state),
            manifest @ Item::Map(_) => Self::manifest(manifest, state),
            _ => Err(CorimError::Shape("the envelope holds no manifest")),
        }
    }

    fn manifest(manifest: &Item<'_>, signature: Signature) -> Result<Self, CorimError> {
        let id = manifest.at(0).ok_or(CorimError::Shape("no identifier"))?;
        let tags = manifest.at(1).ok_or(CorimError::Shape("no modules"))?;
        let mut corim = Self {
            id: identifier(id),
            signature,
            references: Vec::new(),
        };
        for tag in tags.items() {
            // Software identities and trust lists stand beside; only module identifiers have reference triples.
            if let Item::Tag(TAG_MODULE, encoded) = tag {
                let bytes = encoded
                    .as_bytes()
                    .ok_or(CorimError::Shape("a module is no byte string"))?;
                corim.add_module(&read_whole(bytes)?)?;
            }
        }
        Ok(corim)
    }

    fn add_module(&mut self, module: &Item<'_>) -> Result<(), CorimError> {
        let identity = module
            .at(1)
            .and_then(|identity| identity.at(0))
            .ok_or(CorimError::Shape("a module without identity"))?;
        let tag = identifier(identity);
        let triples = module
            .at(4)
            .ok_or(CorimError::Shape("a module without triples"))?;
        let references = triples.at(0).map(Item::items).unwrap_or_default();
        for triple in references {
            let [environment, measurements] = triple.items() else {
                return Err(CorimError::Shape("a reference triple has two parts"));
            };
            let class = environment.at(0);
            let named = |key| class?.at(key)?.as_text().map(str::to_owned);
            // Earlier drafts have one measurement where later ones have a list.
            let measurements = match measurements {
                one @ Item::Map(_) => std::slice::from_ref(one),
                many => many.items(),
            };
            for measurement in measurements {
                let found = Reference {
                    tag: tag.clone(),
                    vendor: named(1),
                    model: named(2),
                    ..Reference::default()
                };
                self.add_measurement(found, measurement)?;
            }
        }
        Ok(())
    }

    fn add_measurement(
        &mut self,
        mut found: Reference,
        measurement: &Item<'_>,
    ) -> Result<(), CorimError> {
        let values = measurement
            .at(1)
            .ok_or(CorimError::Shape("a measurement without values"))?;
        found.key = measurement.at(0).map_or(Key::None, key);
        found.name = values.at(11).and_then(Item::as_text).map(str::to_owned);
        let version = values.at(0).and_then(|version| version.at(0));
        found.version = version.and_then(Item::as_text).map(str::to_owned);
        if let Some(digests) = values.at(2) {
            let digests = read_digests(digests)?;
            self.add(Reference {
                digests,
                ..found.clone()
            })?;
        }
        if let Some(Item::Map(registers)) = values.at(14) {
            for (register, digests) in registers {
                self.add(Reference {
                    key: key(register),
                    digests: read_digests(digests)?,
                    ..found.clone()
                })?;
            }
        }
        Ok(())
    }

    fn add(&mut self, reference: Reference) -> Result<(), CorimError> {
        if self.references.len() == MAX_REFERENCES {
            return Err(CorimError::Shape("more measurements than are read"));
        }
        self.references.push(reference);
        Ok(())
    }
}

/// Exactly one item.
fn read_whole(raw: &[u8]) -> Result<Item<'_>, CorimError> {
    let mut reader = Reader::new(raw);
    let item = reader.item(MAX_DEPTH, &mut { MAX_ITEMS })?;
    reader.finish()?;
    Ok(item)
}

/// Digests of accepted hashes; others are left out, since nothing could be compared with them.
fn read_digests(digests: &Item<'_>) -> Result<Vec<Digest>, CorimError> {
    let mut read = Vec::new();
    for digest in digests.items() {
        let [hash, value] = digest.items() else {
            return Err(CorimError::Shape("a digest has an algorithm and a value"));
        };
        let value = value
            .as_bytes()
            .ok_or(CorimError::Shape("a digest is no byte string"))?;
        if let Some((hash, length)) = Hash::read(hash) {
            if value.len() != length {
                return Err(CorimError::Shape(
                    "a digest is not as long as its algorithm says",
                ));
            }
            read.push(Digest {
                hash,
                value: value.to_vec(),
            });
        }
    }
    Ok(read)
}

fn key(item: &Item<'_>) -> Key {
    match item.untagged() {
        Item::Unsigned(number) => Key::Number(*number),
        other => Key::Name(identifier(other)),
    }
}

/// A name, or an identifier in hex.
fn identifier(item: &Item<'_>) -> String {
    match item.untagged() {
        Item::Text(text) => (*text).to_owned(),
        Item::Bytes(bytes) => hex::encode(bytes),
        Item::Unsigned(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The envelope's signature by a key that the caller names (RFC 9052 §4.4).
fn verify(
    protected: &[u8],
    payload: &[u8],
    signature: &[u8],
    key: &[u8],
) -> Result<(), CorimError> {
    let header = read_whole(protected)?;
    let Some(Item::Negative(algorithm)) = header.at(1) else {
        return Err(CorimError::Shape("the envelope names no algorithm"));
    };
    let algorithm: &'static dyn VerificationAlgorithm = match algorithm {
        6 => &ECDSA_P256_SHA256_FIXED,
        7 => &ED25519,
        34 => &ECDSA_P384_SHA384_FIXED,
        36 => &RSA_PSS_2048_8192_SHA256,
        37 => &RSA_PSS_2048_8192_SHA384,
        _ => {
            return Err(CorimError::Shape(
                "the envelope's algorithm is not accepted",
            ));
        }
    };
    let public = match (x509::parse(key), SubjectPublicKeyInfo::from_der(key)) {
        (Ok(certificate), _) => certificate.public_key().subject_public_key.data.to_vec(),
        (Err(_), Ok(([], info))) => info.subject_public_key.data.to_vec(),
        (Err(_), _) => return Err(CorimError::Key),
    };
    let mut message = vec![0x84, 0x6a];
    message.extend(b"Signature1");
    put_bytes(&mut message, protected);
    put_bytes(&mut message, &[]);
    put_bytes(&mut message, payload);
    UnparsedPublicKey::new(algorithm, &public)
        .verify(&message, signature)
        .map_err(|_| CorimError::Signature)
}

/// `tagged-corim-type-choice` of earlier drafts.
const TAG_CHOICE: u64 = 500;
const TAG_UNSIGNED: u64 = 501;
/// `signed-corim` of earlier drafts, around COSE_Sign1.
const TAG_SIGNED: u64 = 502;
/// COSE_Sign1.
const TAG_SIGN1: u64 = 18;
/// `concise-mid-tag`.
const TAG_MODULE: u64 = 506;
/// A measurement is ten levels deep.
const MAX_DEPTH: u8 = 24;
/// 8 MiB of one-byte items would take 500 MiB as a tree; real manifests have some thousand.
const MAX_ITEMS: u32 = 200_000;
/// A vendor's whole product line.
const MAX_REFERENCES: usize = 20_000;

#[cfg(test)]
mod tests;
