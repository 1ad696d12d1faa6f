//! Hash algorithms of quotes, names and PCR banks.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, hmac};

use super::wire::ParseError;

/// A hash that may carry trust. SHA-1 is not among them, so it can't be accepted by mistake.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl HashAlgorithm {
    /// All that are accepted.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// The word in policy and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }

    /// Length of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// `TPM_ALG_ID` (TCG Algorithm Registry §6.10).
    pub fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
        }
    }

    pub(crate) fn from_id(id: u16, field: &'static str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.id() == id)
            .ok_or(ParseError::Unsupported(field))
    }

    /// Digest of the concatenation of `parts`.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        });
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().to_vec()
    }

    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let key = hmac::Key::new(
            match self {
                Self::Sha256 => hmac::HMAC_SHA256,
                Self::Sha384 => hmac::HMAC_SHA384,
            },
            key,
        );
        let mut context = hmac::Context::with_key(&key);
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().to_vec()
    }
}

impl FromStr for HashAlgorithm {
    type Err = UnknownHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.as_str() == text)
            .ok_or_else(|| UnknownHashError(text.to_owned()))
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no hash that is accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not an accepted hash: expected `sha256` or `sha384`")]
pub struct UnknownHashError(pub String);
