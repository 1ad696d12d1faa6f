//! Answers of the sidecar itself: a status, one word why, and nothing else.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use vouchsafe_http2::server::SendResponse;

use crate::http1::head::HeadError;
use crate::reason::{self, Reason, Why};
use crate::telemetry::access_log::RequestId;

/// Field that says why the sidecar answered itself.
pub(crate) const REASON_FIELD: &str = "vouchsafe-reason";

/// Field that says by which id the access log has it.
pub(crate) const ID_FIELD: &str = "vouchsafe-request-id";

/// A request that is not passed on, or has got no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: Reason,
}

impl Refusal {
    /// Policy said no.
    pub(crate) fn denied(reason: Reason) -> Self {
        Self {
            status: 403,
            reason,
        }
    }

    /// The sidecar had to end it: policy has taken back what it allowed, or the connection below is over.
    pub(crate) fn cut(why: &Why) -> Self {
        match why.reason {
            reason::LEASE_ENDED | reason::DRAIN | reason::IDLE => Self::unavailable(why.reason),
            denied => Self::denied(denied),
        }
    }

    /// Nobody serves it now.
    pub(crate) fn unavailable(reason: Reason) -> Self {
        Self {
            status: 503,
            reason,
        }
    }

    /// Whoever serves it did not answer as it should.
    pub(crate) fn bad_gateway(reason: Reason) -> Self {
        Self {
            status: 502,
            reason,
        }
    }

    /// The request itself is no good.
    pub(crate) fn bad_request(reason: Reason) -> Self {
        Self {
            status: 400,
            reason,
        }
    }

    /// `PERMISSION_DENIED`, `INVALID_ARGUMENT` or `UNAVAILABLE`, as gRPC says it.
    fn grpc_status(self) -> &'static str {
        match self.status {
            403 => "7",
            400..=499 => "3",
            _ => "14",
        }
    }

    /// Writes the answer for an HTTP/1 client.
    pub(crate) fn encode_http1(
        self,
        id: RequestId,
        out: &mut BytesMut,
        keep_alive: bool,
        to_head: bool,
    ) {
        let known = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let word = self.reason.as_str();
        let connection = if keep_alive {
            ""
        } else {
            "connection: close\r\n"
        };
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{REASON_FIELD}: {word}\r\n{connection}{ID_FIELD}: ",
            known.as_u16(),
            known.canonical_reason().unwrap_or(""),
            word.len() + 1,
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&id.to_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        if !to_head {
            out.extend_from_slice(word.as_bytes());
            out.extend_from_slice(b"\n");
        }
    }

    /// Sends the answer to an HTTP/2 client; to gRPC as trailers only, since it does not look at the status.
    pub(crate) fn send_http2(
        self,
        id: RequestId,
        respond: &mut SendResponse,
        is_grpc: bool,
        to_head: bool,
    ) {
        let word = self.reason.as_str();
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(REASON_FIELD, HeaderValue::from_static(word));
        // Digits and hyphens are always a value.
        if let Ok(id) = HeaderValue::from_bytes(&id.to_bytes()) {
            headers.insert(ID_FIELD, id);
        }
        let content_type = if is_grpc {
            "application/grpc"
        } else {
            "text/plain"
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if is_grpc {
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_status()));
            headers.insert("grpc-message", HeaderValue::from_static(word));
        } else {
            *response.status_mut() =
                StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        }
        let bodyless = is_grpc || to_head;
        // The client may be gone already.
        if let Ok(mut body) = respond.send_response(response, bodyless)
            && !bodyless
        {
            let _ = body.send_data(Bytes::from_static(word.as_bytes()), true);
        }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        Self {
            status: error.status(),
            reason: Reason::new(error.reason()),
        }
    }
}

/// The head was not complete in time.
pub(crate) const HEAD_TIMEOUT: Refusal = Refusal {
    status: 408,
    reason: reason::HEAD_TIMEOUT,
};
/// The path can be read in two ways.
pub(crate) const AMBIGUOUS_PATH: Refusal = Refusal {
    status: 400,
    reason: reason::PATH,
};
