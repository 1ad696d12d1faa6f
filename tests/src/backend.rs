//! Small applications behind a sidecar that record what reached them.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as an application saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The request line, for example `POST /v1/chat/completions HTTP/1.1`.
    pub line: String,
    /// Header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// All values of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What an application of [`Backend`] answers.
pub type Answer = dyn Fn(&Request) -> Vec<u8> + Send + Sync;

/// An application on loopback that counts every byte and keeps every request.
///
/// Its threads end with the process; its listener with it.
#[derive(Clone, Debug)]
pub struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    bytes: Vec<u8>,
    requests: Vec<Request>,
}

impl Backend {
    /// An HTTP/1.1 application that answers 200 with `body` and keeps connections alive.
    pub fn http(body: &'static str) -> Self {
        Self::answering(move |_| response(200, body))
    }

    /// An HTTP/1.1 application that answers with the bytes that `answer` makes.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer: Arc<Answer> = Arc::new(answer);
        Self::start(move |stream, seen| serve_http(stream, seen, &answer))
    }

    /// A TCP application that greets first, sends back what it reads, and says goodbye after the half-close.
    pub fn echo(greeting: &'static [u8], goodbye: &'static [u8]) -> Self {
        Self::start(move |mut stream, seen| {
            stream.write_all(greeting)?;
            let mut buffer = [0; 16_384];
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                seen.lock()
                    .expect("no panic holds it")
                    .bytes
                    .extend(&buffer[..count]);
                stream.write_all(&buffer[..count])?;
            }
            stream.write_all(goodbye)?;
            stream.shutdown(Shutdown::Write)
        })
    }

    /// An application of the test's own making, which serves each connection on a thread.
    pub fn serving(
        serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |stream, _| serve(stream))
    }

    fn start(
        serve: impl Fn(TcpStream, &Mutex<Seen>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let backend = Self {
            address,
            seen: Arc::clone(&seen),
        };
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                seen.lock().expect("no panic holds it").connections += 1;
                let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                // A caller that hangs up is not the application's fault; the test looks at what was recorded.
                thread::spawn(move || serve(stream, &seen));
            }
        });
        backend
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> usize {
        self.seen.lock().expect("no panic holds it").connections
    }

    /// All bytes that reached it, of all connections.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.lock().expect("no panic holds it").bytes.clone()
    }

    /// All requests that reached it whole.
    pub fn requests(&self) -> Vec<Request> {
        self.seen
            .lock()
            .expect("no panic holds it")
            .requests
            .clone()
    }
}

/// An HTTP/1.1 response with a length.
pub fn response(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Status\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn serve_http(stream: TcpStream, seen: &Mutex<Seen>, answer: &Arc<Answer>) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(Recording { stream, seen });
    while let Some(request) = read_request(&mut reader)? {
        seen.lock()
            .expect("no panic holds it")
            .requests
            .push(request.clone());
        writer.write_all(&answer(&request))?;
    }
    Ok(())
}

/// Every byte is recorded as it arrives, whole request or not.
struct Recording<'a> {
    stream: TcpStream,
    seen: &'a Mutex<Seen>,
}

impl std::io::Read for Recording<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.seen
            .lock()
            .expect("no panic holds it")
            .bytes
            .extend(&buffer[..count]);
        Ok(count)
    }
}

fn read_request(reader: &mut impl std::io::BufRead) -> std::io::Result<Option<Request>> {
    let mut request = Request {
        line: read_line(reader)?,
        ..Request::default()
    };
    if request.line.is_empty() {
        return Ok(None);
    }
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request
            .headers
            .push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = request
        .header("content-length")
        .first()
        .and_then(|text| text.parse().ok());
    if request
        .header("transfer-encoding")
        .iter()
        .any(|coding| coding.contains("chunked"))
    {
        loop {
            let line = read_line(reader)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk)?;
            request.body.extend(chunk);
            if size == 0 {
                while !read_line(reader)?.is_empty() {}
                break;
            }
            read_line(reader)?;
        }
    } else {
        request.body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

fn read_line(reader: &mut impl std::io::BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
