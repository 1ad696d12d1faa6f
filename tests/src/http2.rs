//! An HTTP/2 client that shows every frame: what a peer of another make sees on the wire.
//!
//! Source: RFC 9113; field lines are literals that no table keeps (RFC 7541 §6.2.2).

use std::io::{Read, Write};

/// A connection over any stream of bytes.
#[derive(Debug)]
pub struct Http2<S> {
    stream: S,
    next: u32,
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type: [`DATA`], [`GOAWAY`] and so on.
    pub kind: u8,
    /// The stream that it belongs to; 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
    flags: u8,
}

/// Type of frames with a piece of a body.
pub const DATA: u8 = 0;
/// Type of frames with a head.
pub const HEADERS: u8 = 1;
/// Type of frames that say that no more streams are taken on.
pub const GOAWAY: u8 = 7;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frame {
    /// Whether it is the last of its stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

impl<S: Read + Write> Http2<S> {
    /// Greets as a client does.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn over(mut stream: S) -> std::io::Result<Self> {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut connection = Self { stream, next: 1 };
        connection.send(SETTINGS, 0, 0, &[])?;
        Ok(connection)
    }

    /// Asks for a path; returns the number of the stream.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn get(&mut self, path: &str) -> std::io::Result<u32> {
        let number = self.next;
        self.next += 2;
        // `:method: GET` and `:scheme: https` of the static table; names of `:authority` and `:path` by their place in it.
        let mut head = vec![0x82, 0x87];
        for (name, value) in [(1, "server"), (4, path)] {
            let length = u8::try_from(value.len()).expect("it is short");
            head.extend([name, length]);
            head.extend(value.as_bytes());
        }
        self.send(HEADERS, END_STREAM | END_HEADERS, number, &head)?;
        Ok(number)
    }

    /// The next frame; settings and pings are answered. `None` when the connection has ended, however it did.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.stream.read_exact(&mut payload).ok()?;
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let answer = if kind == PING {
                payload.as_slice()
            } else {
                &[]
            };
            // The other end may be gone; what it sent before counts.
            let _ = self.send(kind, ACK, 0, answer);
        }
        Some(Frame {
            kind,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            payload,
            flags,
        })
    }

    /// The next frame of a type.
    ///
    /// # Panics
    /// When the connection ends before.
    #[track_caller]
    pub fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).expect("it is short");
        let [_, high, middle, low] = length.to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame)?;
        self.stream.flush()
    }
}
