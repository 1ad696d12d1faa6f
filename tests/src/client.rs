//! A small HTTP/1.1 client over plain sockets: what an application or a scraper would send, byte by byte.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A response, read to its end.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Status code; 0 when the connection ended without a response.
    pub status: u16,
    /// The head, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks put together.
    pub body: String,
}

impl Response {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Sends a GET and reads the response to its end.
///
/// # Errors
/// When nothing listens, or the connection breaks.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Response> {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"),
    )
}

/// Sends a POST with a body and reads the response to its end.
///
/// # Errors
/// When nothing listens, or the connection breaks.
pub fn post(address: SocketAddr, path: &str, body: &str) -> std::io::Result<Response> {
    let length = body.len();
    send(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ),
    )
}

/// Sends bytes as they are and reads until the other end closes.
///
/// # Errors
/// When nothing listens, or the connection breaks before a byte came.
pub fn send(address: SocketAddr, request: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    read(stream)
}

/// Sends a GET over a Unix socket: the sidecar's admin.
///
/// # Errors
/// When nothing listens, or the connection breaks.
pub fn get_unix(socket: &Path, path: &str) -> std::io::Result<Response> {
    unix(socket, "GET", path)
}

/// Sends a POST without a body over a Unix socket.
///
/// # Errors
/// When nothing listens, or the connection breaks.
pub fn post_unix(socket: &Path, path: &str) -> std::io::Result<Response> {
    unix(socket, "POST", path)
}

fn unix(socket: &Path, method: &str, path: &str) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    read(stream)
}

/// Silence after which a test has failed rather than waits on.
const TIMEOUT: Duration = Duration::from_secs(30);

fn read(mut stream: impl std::io::Read) -> std::io::Result<Response> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes)
        && bytes.is_empty()
    {
        return Err(error);
    }
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Response {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Response::default();
    };
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Response {
        status: status.unwrap_or(0),
        headers,
        body,
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}
