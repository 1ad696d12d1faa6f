//! The fields of HTTP/2 heads and trailers: what they say to a proxy, and which of them pass. Those of HTTP/1.1 heads are
//! read where they are parsed ([`crate::http1::fields`]).
//!
//! Fields are looked at once, and handed on in the map that they came in: most requests lose one field or none.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http1::fields::is_reserved;

/// What one look at the fields of an HTTP/2 request found.
#[derive(Default)]
pub(super) struct Seen<'a> {
    /// The first `host`.
    pub(super) host: Option<&'a [u8]>,
    pub(super) hosts: u32,
    pub(super) lengths: u32,
    /// What the first `content-length` says; the engine has compared it with what comes, and refuses what is no number.
    pub(super) told_length: Option<u64>,
    /// A field that some servers take for one that frames the body.
    pub(super) has_framing_twin: bool,
    pub(super) is_grpc: bool,
    pub(super) expects_continue: bool,
    /// Whether [`filter_request`] would change anything: mostly not, between an application and its sidecar.
    pub(super) ends_some: bool,
}

impl<'a> Seen<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        let mut typed = false;
        let mut has_te = false;
        for (name, value) in headers {
            match name.as_str() {
                "host" => {
                    seen.ends_some = true;
                    seen.hosts += 1;
                    seen.host = seen.host.or(Some(value.as_bytes()));
                }
                "content-length" => {
                    seen.ends_some = true;
                    if seen.lengths == 0 {
                        seen.told_length = parse_length(value);
                    }
                    seen.lengths += 1;
                }
                // The first counts.
                "content-type" if !std::mem::replace(&mut typed, true) => {
                    seen.is_grpc = says_grpc(value.as_bytes());
                }
                "expect" => {
                    seen.ends_some = true;
                    seen.expects_continue = true;
                }
                "content_length" | "transfer_encoding" => seen.has_framing_twin = true,
                // Once, and so it passes.
                "te" if value == "trailers" && !std::mem::replace(&mut has_te, true) => {}
                other => seen.ends_some |= is_hop(name) || is_reserved(other.as_bytes()),
            }
        }
        seen
    }
}

/// What a `content-length` says.
pub(super) fn parse_length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// Whether a `content-type` says gRPC.
pub(super) fn says_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Drops the fields of a request that end here.
pub(super) fn filter_request(headers: &mut HeaderMap) {
    // Of `te` only `trailers` may pass between versions (RFC 9113 §8.2.2).
    let takes_trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    let keeps_te = takes_trailers && headers.get_all(header::TE).iter().count() == 1;
    remove(headers, |name| {
        let passes = keeps_te && name == header::TE;
        !passes && (is_hop(name) || is_reserved(name.as_str().as_bytes()))
    });
    if takes_trailers && !keeps_te {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Drops the fields of a response that end here; `trusted`: not those that only a sidecar may write.
pub(super) fn filter_response(headers: &mut HeaderMap, trusted: bool) {
    remove(headers, |name| {
        is_hop(name) || (!trusted && is_reserved(name.as_str().as_bytes()))
    });
}

/// Removes fields by their names.
fn remove(headers: &mut HeaderMap, ends: impl Fn(&HeaderName) -> bool) {
    // Few fields end here, and without any nothing is allocated.
    let names: Vec<HeaderName> = headers.keys().filter(|name| ends(name)).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

/// Drops from trailers what may not stand there (RFC 9110 §6.5.1), and what only a sidecar may say.
pub(crate) fn clean_trailers(mut trailers: HeaderMap) -> HeaderMap {
    remove(&mut trailers, |name| {
        is_hop(name)
            || is_reserved(name.as_str().as_bytes())
            || NOT_IN_TRAILERS.contains(&name.as_str())
    });
    trailers
}

/// Fields that speak of one connection, or are written anew.
pub(super) fn is_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What would change a message that has begun (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [&str; 4] = ["authorization", "content-type", "cookie", "set-cookie"];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[track_caller]
    fn check(
        filter: impl Fn(&mut HeaderMap),
        before: &[(&'static str, &'static str)],
        after: &[(&'static str, &'static str)],
    ) {
        let mut found = map(before);
        filter(&mut found);
        assert_eq!(found, map(after));
    }

    #[test]
    fn one_look_shows_whether_fields_end_here() {
        let names = [
            "accept",
            "connection",
            "content-length",
            "content-type",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "vouchsafe-port",
            "x-forwarded-client-cert",
            "x-forwarded-for",
        ];
        let once = names.map(|name| vec![(name, "5")]);
        let values = [vec!["trailers"], vec!["gzip"], vec!["trailers"; 2]];
        let tes = values.map(|values| values.into_iter().map(|value| ("te", value)).collect());
        for fields in once.iter().chain(&tes) {
            let before = map(fields);
            let mut after = before.clone();
            filter_request(&mut after);
            assert_eq!(Seen::of(&before).ends_some, after != before, "{fields:?}");
        }
    }

    #[test]
    fn a_request_loses_what_ends_here_and_nothing_else() {
        check(
            filter_request,
            &[
                ("accept", "a"),
                ("accept", "b"),
                ("te", "trailers"),
                ("vouchsafe-port", "http:80"),
                ("x-forwarded-client-cert", "By=me"),
                ("x-forwarded-for", "::1"),
                ("keep-alive", "1"),
                ("host", "a"),
            ],
            &[
                ("accept", "a"),
                ("accept", "b"),
                ("te", "trailers"),
                ("x-forwarded-for", "::1"),
            ],
        );
    }

    #[test]
    fn only_trailers_pass_of_te() {
        check(filter_request, &[("te", "gzip")], &[]);
        check(
            filter_request,
            &[("te", "trailers"), ("te", "gzip")],
            &[("te", "trailers")],
        );
        check(filter_request, &[("te", "gzip"), ("te", "trailers")], &[]);
        check(|map| filter_response(map, true), &[("te", "trailers")], &[]);
    }

    #[test]
    fn only_a_sidecar_may_answer_with_reserved_fields() {
        let fields = [("vouchsafe-reason", "no_rule"), ("server", "a")];
        check(|map| filter_response(map, true), &fields, &fields);
        check(
            |map| filter_response(map, false),
            &fields,
            &[("server", "a")],
        );
    }

    #[test]
    fn trailers_keep_all_values_of_what_may_stand_there() {
        let trailers = clean_trailers(map(&[
            ("grpc-status", "0"),
            ("checksum", "a"),
            ("checksum", "b"),
            ("authorization", "me"),
            ("content-length", "5"),
            ("vouchsafe-peer", "me"),
        ]));
        let kept = [("grpc-status", "0"), ("checksum", "a"), ("checksum", "b")];
        assert_eq!(trailers, map(&kept));
    }

    #[test]
    fn of_fields_that_come_twice_the_first_counts_and_both_are_seen() {
        let fields = map(&[
            ("content-type", "application/grpc+proto"),
            ("content-type", "text/plain"),
            ("host", "a"),
            ("host", "b"),
            ("content-length", "5"),
            ("content-length", "6"),
        ]);
        let seen = Seen::of(&fields);
        assert!(seen.is_grpc && !seen.expects_continue && !seen.has_framing_twin);
        assert_eq!((seen.host, seen.hosts), (Some(&b"a"[..]), 2));
        assert_eq!((seen.told_length, seen.lengths), (Some(5), 2));
        let others = map(&[("expect", "100-continue"), ("transfer_encoding", "chunked")]);
        let seen = Seen::of(&others);
        assert!(seen.expects_continue && seen.has_framing_twin);
    }
}
