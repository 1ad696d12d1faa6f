//! `TPMT_PUBLIC`: the public area of a key, its attributes and its name.
//!
//! Source: TPM 2.0 Part 2 §12.2.4; Part 1 §16 (names).

use super::hash::HashAlgorithm;
use super::wire::{ParseError, Reader};

/// What a key may do (TPMA_OBJECT, TPM 2.0 Part 2 §8.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// The key can't leave its TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// The key can't get another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made the private part.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// A signing key signs only what the TPM itself made; a decryption key only unwraps what the TPM protects.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// The key decrypts.
    pub const DECRYPT: Self = Self(1 << 17);
    /// The key signs.
    pub const SIGN: Self = Self(1 << 18);

    /// Both sets together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `wanted` are set.
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// An elliptic curve that is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Length of one coordinate in bytes.
    pub fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// How a signing key signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SigningScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(HashAlgorithm),
    /// RSASSA-PSS; the salt is as long as the digest.
    RsaPss(HashAlgorithm),
    /// ECDSA.
    Ecdsa(HashAlgorithm),
}

impl SigningScheme {
    /// The hash of the scheme, by which a quote's PCR digest is made too (TPM 2.0 Part 3 §18.4).
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Self::RsaSsa(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => hash,
        }
    }

    /// Reads `TPMI_ALG_SIG_SCHEME` and its hash; `None` for `TPM_ALG_NULL`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, ParseError> {
        let scheme = reader.u16("scheme")?;
        if scheme == ALG_NULL {
            return Ok(None);
        }
        let hash = HashAlgorithm::from_id(reader.u16("scheme hash")?, "scheme hash")?;
        match scheme {
            ALG_RSASSA => Ok(Some(Self::RsaSsa(hash))),
            ALG_RSAPSS => Ok(Some(Self::RsaPss(hash))),
            ALG_ECDSA => Ok(Some(Self::Ecdsa(hash))),
            _ => Err(ParseError::Unsupported("scheme")),
        }
    }
}

/// The key itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Key {
    /// RSA: modulus without leading zeros; the exponent.
    Rsa {
        /// Big-endian.
        modulus: Vec<u8>,
        /// 65537 where the TPM writes 0.
        exponent: u32,
    },
    /// A point, each coordinate padded to the curve's length.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Big-endian.
        x: Vec<u8>,
        /// Big-endian.
        y: Vec<u8>,
    },
}

impl Key {
    /// The point as SEC 1 writes it uncompressed; `None` for RSA.
    pub(crate) fn uncompressed_point(&self) -> Option<Vec<u8>> {
        match self {
            Self::Rsa { .. } => None,
            Self::Ecc { x, y, .. } => Some([&[4], x.as_slice(), y].concat()),
        }
    }
}

/// A parsed public area that keeps the bytes it was parsed from: names are digests of those.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicArea {
    raw: Vec<u8>,
    /// Hash of the name, and of everything else that is derived from the key as a parent.
    pub name_hash: HashAlgorithm,
    /// What it may do.
    pub attributes: Attributes,
    /// AES key bits (128 or 256, CFB mode) by which it protects others, if it does.
    pub protects_with_aes_bits: Option<u16>,
    /// How it signs, if that is fixed.
    pub scheme: Option<SigningScheme>,
    /// The key.
    pub key: Key,
}

impl PublicArea {
    /// Largest public area: RSA-4096 with a policy digest takes about 620 bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Reads a `TPMT_PUBLIC`, without a size before it.
    ///
    /// # Errors
    /// [`ParseError`] unless the bytes are exactly one RSA or ECC key of an accepted kind.
    pub fn parse(raw: &[u8]) -> Result<Self, ParseError> {
        if raw.len() > Self::MAX_BYTES {
            return Err(ParseError::TooLarge("public area"));
        }
        let mut reader = Reader::new(raw);
        let kind = reader.u16("type")?;
        let name_hash = HashAlgorithm::from_id(reader.u16("name algorithm")?, "name algorithm")?;
        let attributes = Attributes(reader.u32("attributes")?);
        reader.sized(MAX_DIGEST, "policy")?;
        let protects_with_aes_bits = symmetric(&mut reader)?;
        let scheme = SigningScheme::read(&mut reader)?;
        let key = match kind {
            ALG_RSA => rsa(&mut reader)?,
            ALG_ECC => ecc(&mut reader)?,
            _ => return Err(ParseError::Unsupported("type")),
        };
        reader.finish()?;
        Ok(Self {
            raw: raw.to_vec(),
            name_hash,
            attributes,
            protects_with_aes_bits,
            scheme,
            key,
        })
    }

    /// The bytes that were parsed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The name: algorithm of the hash, then the digest of the public area.
    pub fn name(&self) -> Vec<u8> {
        let mut name = self.name_hash.id().to_be_bytes().to_vec();
        name.extend(self.name_hash.digest(&[&self.raw]));
        name
    }

    /// The qualified name of this key as a child of a hierarchy or key with qualified name `parent`
    /// (TPM 2.0 Part 1 §16.5).
    pub(crate) fn qualified_name(&self, parent: &[u8]) -> Vec<u8> {
        let mut name = self.name_hash.id().to_be_bytes().to_vec();
        name.extend(self.name_hash.digest(&[parent, &self.name()]));
        name
    }
}

/// `TPMT_SYM_DEF_OBJECT`: AES in CFB mode, or nothing.
fn symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, ParseError> {
    match reader.u16("symmetric")? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let bits = reader.u16("symmetric key bits")?;
            let mode = reader.u16("symmetric mode")?;
            match (bits, mode) {
                (128 | 256, ALG_CFB) => Ok(Some(bits)),
                _ => Err(ParseError::Unsupported("symmetric")),
            }
        }
        _ => Err(ParseError::Unsupported("symmetric")),
    }
}

fn rsa(reader: &mut Reader<'_>) -> Result<Key, ParseError> {
    let bits = reader.u16("RSA key bits")?;
    let exponent = match reader.u32("RSA exponent")? {
        0 => DEFAULT_EXPONENT,
        DEFAULT_EXPONENT => DEFAULT_EXPONENT,
        _ => return Err(ParseError::Unsupported("RSA exponent")),
    };
    let modulus = reader.sized(MAX_MODULUS, "RSA modulus")?;
    let whole = modulus.len() * 8 == usize::from(bits);
    let top_bit = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
    if !matches!(bits, 2048 | 3072 | 4096) || !whole || !top_bit {
        return Err(ParseError::Unsupported("RSA modulus"));
    }
    Ok(Key::Rsa {
        modulus: modulus.to_vec(),
        exponent,
    })
}

fn ecc(reader: &mut Reader<'_>) -> Result<Key, ParseError> {
    let curve = match reader.u16("curve")? {
        3 => Curve::P256,
        4 => Curve::P384,
        _ => return Err(ParseError::Unsupported("curve")),
    };
    if reader.u16("kdf")? != ALG_NULL {
        return Err(ParseError::Unsupported("kdf"));
    }
    let x = coordinate(reader, curve, "x")?;
    let y = coordinate(reader, curve, "y")?;
    Ok(Key::Ecc { curve, x, y })
}

/// Some TPMs leave out leading zeros of a coordinate.
fn coordinate(
    reader: &mut Reader<'_>,
    curve: Curve,
    field: &'static str,
) -> Result<Vec<u8>, ParseError> {
    let length = curve.coordinate_len();
    let written = reader.sized(length, field)?;
    let mut padded = vec![0; length - written.len()];
    padded.extend_from_slice(written);
    Ok(padded)
}

/// SHA-512's, the largest in use.
const MAX_DIGEST: usize = 64;
/// RSA-4096.
const MAX_MODULUS: usize = 512;
const DEFAULT_EXPONENT: u32 = 65_537;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
pub(crate) const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
