//! A flow of bytes from the application beside one sidecar to an echoing application beside another.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::sidecar::Sidecar;

/// A live flow.
#[derive(Debug)]
pub struct Flow(TcpStream);

impl Flow {
    /// Opens one through the first outbound listener; `None` unless bytes pass both ways.
    pub fn open(sidecar: &Sidecar) -> Option<Self> {
        let stream = TcpStream::connect(sidecar.outbound(0)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut flow = Self(stream);
        flow.echoes().then_some(flow)
    }

    /// Whether bytes pass both ways.
    pub fn echoes(&mut self) -> bool {
        let mut back = [0; 4];
        let passed = self.0.write_all(b"ping").is_ok() && self.0.read_exact(&mut back).is_ok();
        passed && back == *b"ping"
    }

    /// Waits for its end, while nothing is sent; whether it came.
    pub fn ends(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
