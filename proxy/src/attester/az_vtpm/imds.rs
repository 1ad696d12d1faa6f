//! Azure's metadata service: what turns a local report into a remote quote, and the certificates of the processor.
//!
//! One request per connection, plain HTTP to a link-local address of the host. Nothing it says is trusted: quote and
//! certificates are verified by the control plane.
//!
//! Source: Microsoft, *Azure Instance Metadata Service*; *Trusted Hardware Identity Management*.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The service, by `host:port`.
#[derive(Clone, Debug)]
pub struct Imds {
    address: String,
}

#[derive(Serialize)]
struct QuoteRequest {
    report: String,
}

#[derive(Deserialize)]
struct QuoteResponse {
    quote: String,
}

#[derive(Deserialize)]
struct Certification {
    #[serde(rename = "vcekCert")]
    vcek: String,
    #[serde(rename = "certificateChain")]
    chain: String,
}

impl Imds {
    /// The service at an address.
    pub fn new(address: String) -> Self {
        Self { address }
    }

    /// A quote of the trust domain, for its local report.
    ///
    /// # Errors
    /// [`ImdsError`].
    pub async fn td_quote(&self, report: &[u8]) -> Result<Vec<u8>, ImdsError> {
        let body = serde_json::to_vec(&QuoteRequest {
            report: URL_SAFE_NO_PAD.encode(report),
        })
        .map_err(|_| ImdsError::Unreadable)?;
        quote_of(&self.ask(Method::POST, TD_QUOTE, body).await?)
    }

    /// PEM certificates of the processor and its maker, leaf first.
    ///
    /// # Errors
    /// [`ImdsError`].
    pub async fn amd_certificates(&self) -> Result<Vec<u8>, ImdsError> {
        certificates_of(&self.ask(Method::GET, AMD_CERTIFICATION, Vec::new()).await?)
    }

    async fn ask(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<Bytes, ImdsError> {
        tokio::time::timeout(DEADLINE, self.exchange(method, path, body))
            .await
            .map_err(|_| ImdsError::Unreachable {
                address: self.address.clone(),
                source: io::ErrorKind::TimedOut.into(),
            })?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<Bytes, ImdsError> {
        let socket =
            TcpStream::connect(&self.address)
                .await
                .map_err(|source| ImdsError::Unreachable {
                    address: self.address.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(ImdsError::Http)?;
        // Drives the connection, and ends with this function.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            // The service answers nobody who does not say that it means to ask it.
            .header("metadata", "true")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| ImdsError::Unreadable)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(ImdsError::Http)?;
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(ImdsError::Refused { path, status });
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|_| ImdsError::Unreadable)
    }
}

/// The quote in an answer.
///
/// # Errors
/// [`ImdsError::Unreadable`].
pub fn quote_of(answer: &[u8]) -> Result<Vec<u8>, ImdsError> {
    let response: QuoteResponse =
        serde_json::from_slice(answer).map_err(|_| ImdsError::Unreadable)?;
    URL_SAFE_NO_PAD
        .decode(response.quote.trim_end_matches('='))
        .map_err(|_| ImdsError::Unreadable)
}

/// The certificates in an answer.
///
/// # Errors
/// [`ImdsError::Unreadable`].
pub fn certificates_of(answer: &[u8]) -> Result<Vec<u8>, ImdsError> {
    let Certification { vcek, chain } =
        serde_json::from_slice(answer).map_err(|_| ImdsError::Unreadable)?;
    Ok([vcek.as_bytes(), b"\n", chain.as_bytes()].concat())
}

/// Why the service gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ImdsError {
    /// It can't be reached.
    #[error("failed to reach Azure's metadata service at `{address}`")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It broke off.
    #[error("Azure's metadata service broke off")]
    Http(#[source] hyper::Error),
    /// It refused.
    #[error("Azure's metadata service answered `{path}` with {status}")]
    Refused {
        /// What was asked for.
        path: &'static str,
        /// What it said.
        status: StatusCode,
    },
    /// Its answer is of another shape, or too long.
    #[error("the answer of Azure's metadata service can't be read")]
    Unreadable,
}

const TD_QUOTE: &str = "/acc/tdquote";
const AMD_CERTIFICATION: &str = "/metadata/THIM/amd/certification";
/// A quote has 5 to 10 KiB, three certificates as much.
const MAX_ANSWER: usize = 32 * 1024;
/// It is on the same machine; a quote takes it a second at worst.
const DEADLINE: Duration = Duration::from_secs(10);
