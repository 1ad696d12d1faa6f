//! SPIFFE IDs, parsed strictly.
//!
//! Source: SPIFFE-ID §2: scheme `spiffe`, a trust domain, and a path without empty, `.` or `..` segments.
//! Vouchsafe itself issues two shapes: `/ns/<namespace>/workload/<name>` and `/vouchsafe/control-plane`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::WorkloadName;
use crate::trust_domain::{ParseTrustDomainError, TrustDomain};

/// An identity: `spiffe://<trust domain>/<path>`, at most 2048 bytes, with a non-empty path.
///
/// An ID without a path names a trust domain, never a workload, so it can't be made.
/// Cheap to clone; equality is that of the text.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
    pub const MAX_BYTES: usize = 2048;

    /// The ID of a workload, as issuance makes it.
    pub fn for_workload(trust_domain: &TrustDomain, workload: &WorkloadName) -> Self {
        Self::from_parts(
            trust_domain,
            &format!("/ns/{}/workload/{}", workload.namespace, workload.name),
        )
    }

    /// The ID of the control plane, which issuance never produces for anything else.
    pub fn for_control_plane(trust_domain: &TrustDomain) -> Self {
        Self::from_parts(trust_domain, CONTROL_PLANE_PATH)
    }

    fn from_parts(trust_domain: &TrustDomain, path: &str) -> Self {
        Self {
            text: format!("{SCHEME}{trust_domain}{path}").into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The whole ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Who vouches for this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        let start = SCHEME.len() + self.trust_domain.as_str().len();
        self.text.get(start..).unwrap_or_default()
    }

    /// The workload this ID names, if it has the shape that Vouchsafe issues.
    pub fn workload(&self) -> Option<WorkloadName> {
        let rest = self.path().strip_prefix("/ns/")?;
        let (namespace, name) = rest.split_once("/workload/")?;
        Some(WorkloadName {
            namespace: namespace.parse().ok()?,
            name: name.parse().ok()?,
        })
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES {
            return Err(ParseSpiffeIdError::TooLong(text.len()));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or(ParseSpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(ParseSpiffeIdError::NoPath)?;
        let trust_domain = domain.parse()?;
        for segment in path.split('/') {
            check_segment(segment)?;
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }
}

fn check_segment(segment: &str) -> Result<(), ParseSpiffeIdError> {
    if matches!(segment, "" | "." | "..") {
        return Err(ParseSpiffeIdError::Segment(segment.to_owned()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(ParseSpiffeIdError::Character(found)),
        None => Ok(()),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseSpiffeIdError {
    /// Longer than [`SpiffeId::MAX_BYTES`].
    #[error("a SPIFFE ID has at most 2048 bytes, found {0}")]
    TooLong(usize),
    /// It does not start with `spiffe://`.
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    /// A trust domain alone names no workload.
    #[error("a SPIFFE ID has a path")]
    NoPath,
    /// The part before the path is not a trust domain.
    #[error(transparent)]
    TrustDomain(#[from] ParseTrustDomainError),
    /// An empty, `.` or `..` segment.
    #[error("a path segment can't be `{0}`")]
    Segment(String),
    /// A character that no segment may have; query, fragment and percent-encoding are among them.
    #[error("a path segment has only letters, digits, `.`, `-` and `_`, found `{0}`")]
    Character(char),
}

const SCHEME: &str = "spiffe://";
const CONTROL_PLANE_PATH: &str = "/vouchsafe/control-plane";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, error: ParseSpiffeIdError) {
        assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text}");
    }

    #[test]
    fn a_workload_id_has_its_parts() {
        let id: SpiffeId = "spiffe://factory.example/ns/inference/workload/llm"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain().as_str(), "factory.example");
        assert_eq!(id.path(), "/ns/inference/workload/llm");
        assert_eq!(id.workload().unwrap().to_string(), "inference/llm");
        assert_eq!(
            SpiffeId::for_workload(id.trust_domain(), &id.workload().unwrap()),
            id
        );
    }

    #[test]
    fn ids_that_need_a_reading_of_their_own_are_refused() {
        refused("https://a/b", ParseSpiffeIdError::Scheme);
        refused("SPIFFE://a/b", ParseSpiffeIdError::Scheme);
        refused("spiffe://a", ParseSpiffeIdError::NoPath);
        refused("spiffe://a/", ParseSpiffeIdError::Segment(String::new()));
        refused(
            "spiffe://a/b//c",
            ParseSpiffeIdError::Segment(String::new()),
        );
        refused(
            "spiffe://a/b/../c",
            ParseSpiffeIdError::Segment("..".into()),
        );
        refused("spiffe://a/b?c", ParseSpiffeIdError::Character('?'));
        refused("spiffe://a/%61", ParseSpiffeIdError::Character('%'));
        refused("spiffe:///b", ParseTrustDomainError::Empty.into());
    }

    #[test]
    fn other_paths_name_no_workload() {
        for text in [
            "spiffe://a/b",
            "spiffe://a/ns/x/sa/y",
            "spiffe://a/ns/x/workload/Y",
            "spiffe://a/ns/x/workload/y/z",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().workload(), None, "{text}");
        }
    }
}
