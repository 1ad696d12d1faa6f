//! Inclusion: whether all that one rule admits is admitted by another too.

use std::fmt;

use crate::access::{Allow, Demands, RequestMatch};
use vouchsafe_attestation::condition::Condition;

use crate::claim::Requirement;
use crate::policy::PathPattern;

/// One sort of request: the smallest part of an `allow`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ask<'r> {
    /// Bytes of a `tcp` port.
    Connection,
    /// Every request.
    Any,
    /// By method and path; `None`: any.
    Http {
        method: Option<&'r str>,
        path: Option<&'r PathPattern>,
    },
    /// By gRPC service and method; `None`: any.
    Grpc {
        service: &'r str,
        method: Option<&'r str>,
    },
}

impl<'r> Ask<'r> {
    /// The parts of an `allow`.
    pub(crate) fn all(allow: &'r Allow) -> Vec<Self> {
        match allow {
            Allow::Connections => vec![Self::Connection],
            Allow::Any => vec![Self::Any],
            Allow::Only(matches) => matches.iter().flat_map(Self::of).collect(),
        }
    }

    fn of(one: &'r RequestMatch) -> Vec<Self> {
        match one {
            RequestMatch::Http { methods, paths } => {
                let methods = each(methods);
                let paths = each(paths);
                let pairs = methods
                    .iter()
                    .flat_map(|method| paths.iter().map(move |path| (*method, *path)));
                pairs
                    .map(|(method, path)| Self::Http {
                        method: method.map(String::as_str),
                        path,
                    })
                    .collect()
            }
            RequestMatch::Grpc { service, methods } => each(methods)
                .into_iter()
                .map(|method| Self::Grpc {
                    service,
                    method: method.map(String::as_str),
                })
                .collect(),
        }
    }

    /// Whether every request of the other sort is of this sort too.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Connection, Self::Connection)
            | (Self::Any, Self::Any | Self::Http { .. } | Self::Grpc { .. }) => true,
            (
                Self::Http { method, path },
                Self::Http {
                    method: narrow_method,
                    path: narrow_path,
                },
            ) => {
                let path = match (path, narrow_path) {
                    (None, _) => true,
                    (Some(wide), Some(narrow)) => wide.covers(narrow),
                    (Some(_), None) => false,
                };
                path && is_any_or_same(method, narrow_method)
            }
            (
                Self::Http { method, path },
                Self::Grpc {
                    service,
                    method: called,
                },
            ) => {
                // A gRPC call is a POST to `/service/method`.
                let path = path.is_none_or(|wide| {
                    let asked =
                        PathPattern::parse(&format!("/{service}/{}", called.unwrap_or("*")));
                    asked.is_ok_and(|asked| wide.covers(&asked))
                });
                path && is_any_or_same(method, Some("POST"))
            }
            (
                Self::Grpc { service, method },
                Self::Grpc {
                    service: other,
                    method: called,
                },
            ) => service == other && is_any_or_same(method, called),
            (Self::Connection | Self::Any | Self::Http { .. } | Self::Grpc { .. }, _) => false,
        }
    }
}

/// The items of a list, or one `None` for "any".
fn each<T>(list: &Option<Vec<T>>) -> Vec<Option<&T>> {
    match list {
        None => vec![None],
        Some(items) => items.iter().map(Some).collect(),
    }
}

fn is_any_or_same(wide: Option<&str>, narrow: Option<&str>) -> bool {
    wide.is_none_or(|wide| narrow == Some(wide))
}

impl fmt::Display for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("connections"),
            Self::Any => f.write_str("all requests"),
            Self::Http { method, path } => {
                write!(f, "{} ", method.unwrap_or("any method"))?;
                match path {
                    Some(path) => write!(f, "{path}"),
                    None => f.write_str("any path"),
                }
            }
            Self::Grpc { service, method } => {
                write!(f, "gRPC {service}/{}", method.unwrap_or("*"))
            }
        }
    }
}

/// Whether every peer that satisfies `narrow` satisfies `wide` too.
pub(crate) fn demands_less(wide: &Demands, narrow: &Demands) -> bool {
    if wide.exporter_binding && !narrow.exporter_binding {
        return false;
    }
    if wide.danger_unattested {
        // It makes no other demands.
        return true;
    }
    let age = match (wide.attested_within, narrow.attested_within) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide >= narrow,
        (Some(_), None) => false,
    };
    let classes = wide.classes.is_empty()
        || (!narrow.classes.is_empty() && narrow.classes.is_subset(&wide.classes));
    let is_implied = |demand: &Requirement| {
        narrow
            .require
            .iter()
            .any(|other| other.kind == demand.kind && requires_less(demand, other))
    };
    !narrow.danger_unattested && age && classes && wide.require.iter().all(is_implied)
}

fn requires_less(wide: &Requirement, narrow: &Requirement) -> bool {
    wide.conditions.iter().all(|condition| {
        narrow
            .conditions
            .iter()
            .any(|other| other.claim == condition.claim && holds_more(condition, other))
    })
}

/// Alternatives stay together: of several devices each may satisfy another one.
fn holds_more(wide: &Condition, narrow: &Condition) -> bool {
    narrow.any_of.iter().all(|one| {
        wide.any_of
            .iter()
            .any(|other| one == other || one.implies(other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn a_grpc_call_is_a_post_to_its_path() {
        let call = Ask::Grpc {
            service: "a.B",
            method: Some("C"),
        };
        let every = Ask::Grpc {
            service: "a.B",
            method: None,
        };
        let (exact, one, open, other) = (
            path("/a.B/C"),
            path("/a.B/*"),
            path("/a.B/**"),
            path("/a.B/D"),
        );
        let http = |method, path| Ask::Http { method, path };
        assert!(http(Some("POST"), Some(&exact)).includes(&call));
        assert!(!http(Some("POST"), Some(&exact)).includes(&every));
        assert!(http(Some("POST"), Some(&one)).includes(&every));
        assert!(http(None, Some(&open)).includes(&every));
        assert!(!http(Some("GET"), None).includes(&call));
        assert!(!http(Some("POST"), Some(&other)).includes(&call));
        assert!(every.includes(&call) && !call.includes(&every));
        assert!(
            !every.includes(&http(Some("POST"), Some(&exact))),
            "a POST need not be gRPC"
        );
    }

    #[test]
    fn bytes_and_requests_never_include_each_other() {
        assert!(!Ask::Connection.includes(&Ask::Any));
        assert!(!Ask::Any.includes(&Ask::Connection));
        assert!(Ask::Connection.includes(&Ask::Connection));
    }
}
