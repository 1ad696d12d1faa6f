//! Heads and trailers: what fields make together (RFC 9113 §8). What each may be by itself `hpack` has judged.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::hpack::field::Field;

/// The fields of one block as they come.
#[derive(Debug, Default)]
pub(crate) struct Head {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    status: Option<StatusCode>,
    fields: HeaderMap,
    length: Option<u64>,
    /// Something is there that must not be.
    malformed: bool,
}

/// The message is malformed (§8.1.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Malformed;

impl Head {
    /// With room for the fields of most requests, so that the map does not grow field by field.
    pub(crate) fn for_request() -> Self {
        Self {
            fields: HeaderMap::with_capacity(12),
            ..Self::default()
        }
    }

    /// Takes the next field.
    pub(crate) fn take(&mut self, field: Field) {
        // Pseudo-fields come first, and once (§8.3).
        let late = !self.fields.is_empty();
        let repeated = match field {
            Field::Regular(name, value) => {
                if name == http::header::CONTENT_LENGTH {
                    let length = parse_length(&value);
                    self.malformed |=
                        length.is_none() || self.length.is_some_and(|told| Some(told) != length);
                    self.length = length;
                }
                // As many fields as a map can hold are more than any limit of bytes lets through.
                self.malformed |= self.fields.try_append(name, value).is_err();
                return;
            }
            Field::Method(method) => self.method.replace(method).is_some(),
            Field::Scheme(scheme) => self.scheme.replace(scheme).is_some(),
            Field::Authority(authority) => self.authority.replace(authority).is_some(),
            Field::Path(path) => self.path.replace(path).is_some(),
            Field::Status(status) => self.status.replace(status).is_some(),
            // Extended CONNECT (RFC 8441) was not offered.
            Field::Protocol(_) => true,
        };
        self.malformed |= repeated || late;
    }

    /// The length of the body that the head tells.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The request that the fields make (§8.3.1).
    pub(crate) fn into_request(self) -> Result<Request<()>, Malformed> {
        let Self {
            method: Some(method),
            status: None,
            malformed: false,
            ..
        } = &self
        else {
            return Err(Malformed);
        };
        let mut uri = http::uri::Parts::default();
        if *method == Method::CONNECT {
            if self.scheme.is_some() || self.path.is_some() || self.authority.is_none() {
                return Err(Malformed);
            }
        } else {
            if self.scheme.is_none() || self.path.is_none() {
                return Err(Malformed);
            }
            // A URI can't have a scheme and no authority.
            uri.scheme = self.scheme.filter(|_| self.authority.is_some());
            uri.path_and_query = self.path;
        }
        uri.authority = self.authority;
        let mut request = Request::new(());
        *request.method_mut() = self.method.ok_or(Malformed)?;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Malformed)?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.fields;
        Ok(request)
    }

    /// The response that the fields make (§8.3.2).
    pub(crate) fn into_response(self) -> Result<Response<()>, Malformed> {
        let Some(status) = self.status else {
            return Err(Malformed);
        };
        // HTTP/2 has no upgrade (§8.6).
        if self.malformed || self.names_request() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.fields;
        Ok(response)
    }

    /// The trailers that the fields make (§8.1).
    pub(crate) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        if self.malformed || self.names_request() || self.status.is_some() {
            return Err(Malformed);
        }
        Ok(self.fields)
    }

    fn names_request(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
    }
}

/// Whether there is a field that belongs to one connection of HTTP/1.1, and therefore to none of HTTP/2 (§8.2.2).
pub(crate) fn has_forbidden(fields: &HeaderMap) -> bool {
    fields.keys().any(|name| {
        matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        )
    })
}

fn parse_length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(sum * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudo(name: &str, value: &'static str) -> Field {
        match name {
            ":method" => Field::Method(value.parse().unwrap()),
            ":scheme" => Field::Scheme(value.parse().unwrap()),
            ":authority" => Field::Authority(value.parse().unwrap()),
            ":path" => Field::Path(value.parse().unwrap()),
            ":status" => Field::Status(value.parse().unwrap()),
            ":protocol" => Field::Protocol(HeaderValue::from_static(value)),
            _ => Field::Regular(name.parse().unwrap(), HeaderValue::from_static(value)),
        }
    }

    fn head(fields: &[(&str, &'static str)]) -> Head {
        let mut head = Head::default();
        for (name, value) in fields {
            head.take(pseudo(name, value));
        }
        head
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a?b"),
        (":authority", "llm:80"),
    ];

    #[track_caller]
    fn request(fields: &[(&str, &'static str)], expected: Option<&str>) {
        let request = head(fields).into_request();
        assert_eq!(
            request.ok().map(|request| request.uri().to_string()),
            expected.map(str::to_owned)
        );
    }

    #[test]
    fn a_request_is_what_its_fields_make() {
        request(&GET, Some("http://llm:80/a?b"));
        request(&GET[..3], Some("/a?b"));
        request(
            &[(":method", "CONNECT"), (":authority", "llm:80")],
            Some("llm:80"),
        );
    }

    #[test]
    fn a_request_without_what_it_needs_is_malformed() {
        request(&GET[1..], None);
        request(&[GET[0], GET[2], GET[3]], None);
        request(&[GET[0], GET[1], GET[3]], None);
        request(&[(":method", "CONNECT")], None);
        request(
            &[
                (":method", "CONNECT"),
                (":authority", "a"),
                (":scheme", "http"),
            ],
            None,
        );
    }

    #[test]
    fn pseudo_fields_come_first_and_once_and_in_their_place() {
        for more in [
            (":path", "/"),
            (":status", "200"),
            (":protocol", "websocket"),
        ] {
            let mut fields = GET.to_vec();
            fields.push(more);
            request(&fields, None);
        }
        request(&[GET[0], GET[1], GET[2], ("a", "b"), GET[3]], None);
        assert!(head(&[(":status", "200")]).into_trailers().is_err());
        assert!(head(&[(":path", "/")]).into_trailers().is_err());
        assert!(head(&[("a", "b")]).into_trailers().is_ok());
        assert!(head(&[("a", "b")]).into_response().is_err());
        assert!(
            head(&[(":status", "200"), (":path", "/")])
                .into_response()
                .is_err()
        );
        assert!(head(&[(":status", "101")]).into_response().is_err());
        assert!(head(&[(":status", "200")]).into_response().is_ok());
    }

    #[test]
    fn fields_of_one_connection_are_not_sent() {
        for (name, forbidden) in [
            ("connection", true),
            ("keep-alive", true),
            ("proxy-connection", true),
            ("transfer-encoding", true),
            ("upgrade", true),
            ("te", false),
            ("connections", false),
        ] {
            let head = head(&[(name, "trailers")]);
            assert_eq!(has_forbidden(&head.fields), forbidden, "{name}");
        }
    }

    #[test]
    fn a_length_is_one_number() {
        for (values, expected) in [
            (&["0"][..], Some(0)),
            (&["17", "17"], Some(17)),
            (&["17", "18"], None),
            (&["+1"], None),
            (&["1,1"], None),
            (&[""], None),
            (&["18446744073709551616"], None),
        ] {
            let fields: Vec<_> = values.iter().map(|v| ("content-length", *v)).collect();
            let head = head(&fields);
            let length = head.length();
            let good = head.into_trailers().is_ok();
            assert_eq!(length.filter(|_| good), expected, "{values:?}");
        }
    }
}
