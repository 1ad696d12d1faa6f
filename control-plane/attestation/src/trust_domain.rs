//! Trust domains: the name of a root of trust.
//!
//! Source: SPIFFE-ID §2.1.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The trust domain part of a SPIFFE ID: 1 to 255 of `a-z`, `0-9`, `.`, `-`, `_`.
///
/// Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Longest trust domain in bytes (SPIFFE-ID §2.1).
    pub const MAX_BYTES: usize = 255;

    /// The trust domain as text, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = ParseTrustDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseTrustDomainError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(ParseTrustDomainError::TooLong(text.len()));
        }
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        match text.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(ParseTrustDomainError::Character(found)),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a trust domain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseTrustDomainError {
    /// Nothing was written.
    #[error("a trust domain can't be empty")]
    Empty,
    /// Longer than [`TrustDomain::MAX_BYTES`].
    #[error("a trust domain has at most 255 characters, found {0}")]
    TooLong(usize),
    /// A character outside the allowed set; upper case is one.
    #[error("a trust domain has only `a-z`, `0-9`, `.`, `-` and `_`, found `{0}`")]
    Character(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_ports_and_userinfo_are_refused() {
        assert!("factory.example".parse::<TrustDomain>().is_ok());
        for (text, found) in [
            ("Factory", 'F'),
            ("a:443", ':'),
            ("u@a", '@'),
            ("a/b", '/'),
            ("é", 'é'),
        ] {
            assert_eq!(
                text.parse::<TrustDomain>(),
                Err(ParseTrustDomainError::Character(found)),
                "{text}"
            );
        }
    }
}
