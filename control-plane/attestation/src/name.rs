//! Names that operators give to documents: DNS labels, as Kubernetes has them (RFC 1123 §2.1).
//!
//! They are path segments of SPIFFE IDs, keys of maps and words of logs, so they are checked once, here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A document's name or namespace: 1 to 63 of `a-z`, `0-9` and `-`, neither starting nor ending with `-`.
///
/// Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name in bytes (RFC 1123 §2.1, the length of a DNS label).
    pub const MAX_BYTES: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseNameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(ParseNameError::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some(found) = text.chars().find(|c| !allowed(*c)) {
            return Err(ParseNameError::Character(found));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(ParseNameError::Hyphen);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseNameError {
    /// Nothing was written.
    #[error("a name can't be empty")]
    Empty,
    /// Longer than [`Name::MAX_BYTES`].
    #[error("a name has at most 63 characters, found {0}")]
    TooLong(usize),
    /// A character outside the allowed set.
    #[error("a name has only `a-z`, `0-9` and `-`, found `{0}`")]
    Character(char),
    /// A hyphen at either end.
    #[error("a name can't start or end with `-`")]
    Hyphen,
}

/// A workload's full name: `namespace/name`, as policy writes it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkloadName {
    /// The namespace, a team's own.
    pub namespace: Name,
    /// The name within it.
    pub name: Name,
}

impl FromStr for WorkloadName {
    type Err = ParseWorkloadNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or(ParseWorkloadNameError::Shape)?;
        Ok(Self {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a text is not a workload's full name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseWorkloadNameError {
    /// Not `namespace/name`.
    #[error("expected `<namespace>/<name>`")]
    Shape,
    /// One of the two parts is not a name.
    #[error(transparent)]
    Name(#[from] ParseNameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert!("llm-7".parse::<Name>().is_ok());
        assert_eq!("".parse::<Name>(), Err(ParseNameError::Empty));
        assert_eq!("LLM".parse::<Name>(), Err(ParseNameError::Character('L')));
        assert_eq!("-a".parse::<Name>(), Err(ParseNameError::Hyphen));
        assert_eq!(
            "a".repeat(64).parse::<Name>(),
            Err(ParseNameError::TooLong(64))
        );
    }

    #[test]
    fn a_workload_name_has_two_parts() {
        assert_eq!(
            "inference/llm".parse::<WorkloadName>().unwrap().to_string(),
            "inference/llm"
        );
        assert_eq!(
            "llm".parse::<WorkloadName>(),
            Err(ParseWorkloadNameError::Shape)
        );
        assert!("a/b/c".parse::<WorkloadName>().is_err());
    }
}
