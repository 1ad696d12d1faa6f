//! One bounded HTTP request to a service.
//!
//! A connection per request: endorsements are asked for rarely, and a pool would be one more thing that can hang. TLS is
//! verified with the certificates that the system trusts, or those of a file. It protects what is asked and who answers;
//! what is answered is signed by its vendor and verified afterwards.
//!
//! # Why
//! TLS 1.2 is offered here, and nowhere else in the mesh: AMD's service speaks nothing newer. The system's certificates
//! are read from its PEM file, so that no copy of a root store must be kept up to date with our releases.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Ask;
use crate::telemetry::Chain;

/// What was answered with status 200.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address can't be read.
    #[error("`{0}` is not the address of a service")]
    Address(String),
    /// No TCP connection.
    #[error("failed to connect to `{host}`")]
    Connect {
        /// To whom.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS session.
    #[error("failed to set up TLS with `{host}`")]
    Tls {
        /// With whom.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing to verify TLS with.
    #[error("no certificates to verify services with: set `endorsements.ca_file`")]
    Roots(#[source] RootsError),
    /// It took too long.
    #[error("`{0}` did not answer in time")]
    Timeout(String),
    /// The service has no such object.
    #[error("the service has no such object (status {0})")]
    NotFound(StatusCode),
    /// The service wants a pause.
    #[error("the service wants a pause of {0:?}")]
    RateLimited(Duration),
    /// The service can't do its part.
    #[error("the service answered with status {0}")]
    Status(StatusCode),
    /// The connection broke.
    #[error("the answer of `{host}` broke off: {why}")]
    Broken {
        /// Whose.
        host: String,
        /// Why.
        why: String,
    },
    /// Larger than read.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Why the system's certificates can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RootsError {
    /// No file.
    #[error("none of the usual files exists")]
    None,
    /// The file can't be read.
    #[error("failed to read `{path}`: {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No certificate in it.
    #[error("`{0}` holds no certificate")]
    Empty(PathBuf),
    /// TLS can't be set up with them.
    #[error("failed to set TLS up")]
    Tls(#[source] rustls::Error),
}

impl FetchError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } | Self::Roots(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::NotFound(_) => "not_found",
            Self::RateLimited(_) => "rate_limited",
            Self::Status(_) => "status",
            Self::Broken { .. } => "broken_off",
            Self::TooLarge(_) => "answer_too_large",
        }
    }

    /// Whether the same question may be answered a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout(_) | Self::Broken { .. } => true,
            Self::Status(status) => status.is_server_error(),
            Self::RateLimited(_) => true,
            Self::Address(_)
            | Self::Tls { .. }
            | Self::Roots(_)
            | Self::NotFound(_)
            | Self::TooLarge(_) => false,
        }
    }
}

/// How long the steps of a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// TCP and TLS.
    pub(crate) connect: Duration,
    /// All of it.
    pub(crate) whole: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            whole: Duration::from_secs(15),
        }
    }
}

/// Asks services.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    tls: Result<Arc<ClientConfig>, RootsError>,
    deadlines: Deadlines,
}

impl HttpClient {
    /// Reads the certificates once. Without any, services over TLS can't be asked, and each request says so.
    pub(crate) fn new(ca_file: Option<&Path>, deadlines: Deadlines) -> Self {
        Self {
            tls: roots(ca_file).and_then(tls_config),
            deadlines,
        }
    }

    /// Asks once and reads at most `max_bytes`.
    pub(crate) async fn fetch(&self, ask: &Ask, max_bytes: usize) -> Result<Answer, FetchError> {
        let target = Target::parse(&ask.url)?;
        let work = self.exchange(&target, ask, max_bytes);
        match timeout(self.deadlines.whole, work).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout(target.host)),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        ask: &Ask,
        max_bytes: usize,
    ) -> Result<Answer, FetchError> {
        let connect = async {
            let address = (target.host.as_str(), target.port);
            let tcp = TcpStream::connect(address).await.map_err(|source| {
                let host = target.host.clone();
                FetchError::Connect { host, source }
            })?;
            match target.is_tls {
                false => Ok(Stream::Plain(tcp)),
                true => self.handshake(target, tcp).await,
            }
        };
        let stream = timeout(self.deadlines.connect, connect)
            .await
            .map_err(|_| FetchError::Timeout(target.host.clone()))??;
        match stream {
            Stream::Plain(stream) => talk(stream, target, ask, max_bytes).await,
            Stream::Tls(stream) => talk(*stream, target, ask, max_bytes).await,
        }
    }

    async fn handshake(&self, target: &Target, tcp: TcpStream) -> Result<Stream, FetchError> {
        let failed = |source| FetchError::Tls {
            host: target.host.clone(),
            source,
        };
        let config = self
            .tls
            .as_ref()
            .map_err(|e| FetchError::Roots(e.clone()))?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| FetchError::Address(target.host.clone()))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, tcp).await.map_err(failed)?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// The connection's task ends with the request.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn talk<S>(
    stream: S,
    target: &Target,
    ask: &Ask,
    max_bytes: usize,
) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source: hyper::Error| FetchError::Broken {
        host: target.host.clone(),
        why: Chain(&source).to_string(),
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let _driver = Driver(tokio::spawn(async move {
        // What ends it early is seen by the request.
        drop(connection.await);
    }));
    let response = sender.send_request(request(target, ask)?).await;
    let (head, body) = response.map_err(broken)?.into_parts();
    check_status(head.status, &head.headers)?;
    let body = collect(body, target, max_bytes).await?;
    Ok(Answer {
        headers: head.headers,
        body,
    })
}

fn request(target: &Target, ask: &Ask) -> Result<Request<Full<Bytes>>, FetchError> {
    let bad = |_| FetchError::Address(ask.url.clone());
    let host = HeaderValue::from_str(&target.authority).map_err(|_| bad(()))?;
    let mut request = Request::new(Full::new(ask.body.clone().unwrap_or_default()));
    *request.uri_mut() = target.path.parse::<Uri>().map_err(|_| bad(()))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    if ask.body.is_some() {
        let media = HeaderValue::from_static("application/ocsp-request");
        headers.insert(header::CONTENT_TYPE, media);
        *request.method_mut() = Method::POST;
    }
    Ok(request)
}

/// Redirects are not followed: a service is what the operator named.
fn check_status(status: StatusCode, headers: &HeaderMap) -> Result<(), FetchError> {
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::TOO_MANY_REQUESTS => Err(FetchError::RateLimited(
            retry_after(headers).unwrap_or(DEFAULT_PAUSE),
        )),
        StatusCode::SERVICE_UNAVAILABLE => match retry_after(headers) {
            Some(pause) => Err(FetchError::RateLimited(pause)),
            None => Err(FetchError::Status(status)),
        },
        // AMD says 400 of a chip that it does not know, Intel 404 of a platform.
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::GONE => {
            Err(FetchError::NotFound(status))
        }
        _ => Err(FetchError::Status(status)),
    }
}

/// Seconds; the other form, a date, needs a clock that both agree on, and no vendor sends it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

async fn collect(body: Incoming, target: &Target, max_bytes: usize) -> Result<Bytes, FetchError> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(max_bytes)),
        Err(error) => Err(FetchError::Broken {
            host: target.host.clone(),
            why: error.to_string(),
        }),
    }
}

/// An address, taken apart.
#[derive(Debug)]
struct Target {
    is_tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host();
        let host = host.strip_prefix('[').unwrap_or(host);
        Ok(Self {
            is_tls,
            host: host.strip_suffix(']').unwrap_or(host).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path_and_query().ok_or_else(bad)?.to_string(),
        })
    }
}

fn tls_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, RootsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(RootsError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let path = match ca_file {
        Some(path) => path,
        None => SYSTEM_ROOTS
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or(RootsError::None)?,
    };
    let text = std::fs::read(path).map_err(|error| RootsError::Read {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let mut store = RootCertStore::empty();
    let found = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    // The system's file may hold certificates of a form that can't be an anchor; those that can are enough.
    let (added, _) = store.add_parsable_certificates(found);
    match added {
        0 => Err(RootsError::Empty(path.to_owned())),
        _ => Ok(store),
    }
}

/// Where distributions keep the certificates that they trust: Debian and Ubuntu, Fedora and RHEL, SUSE, Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Intel's chains of issuers come in a header, percent-encoded, with about 4 KiB.
const MAX_HEAD: usize = 64 * 1024;
/// AMD admits one request in ten seconds.
const DEFAULT_PAUSE: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("vouchsafe/", env!("CARGO_PKG_VERSION"));
