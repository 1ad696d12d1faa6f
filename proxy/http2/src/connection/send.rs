//! What goes out: heads, data and trailers, cut into frames as soon as the windows allow.
//!
//! Data that may go goes into the output at once. What the stream's own window forbids waits with the stream. What only
//! the connection's window or a full output holds back waits in turn with that of other streams, a frame at a time each.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};

use super::{Core, Role};
use crate::error::{Cause, Error, Reason};
use crate::flow::{RecvWindow, SendWindow};
use crate::frame::{self, Header};
use crate::hpack::encoder::Encoder;
use crate::message::has_forbidden;
use crate::settings::DEFAULT_WINDOW;
use crate::stream::{End, Receiving, Sending, Stream};

impl Core {
    /// Opens a stream with a request, for the client.
    pub(crate) fn open(&mut self, request: &Request<()>, end: bool) -> Result<usize, Error> {
        if !self.may_open()? {
            return Err(Error::reset(Reason::REFUSED_STREAM, Cause::TooManyStreams));
        }
        let (uri, method) = (request.uri(), request.method());
        let is_connect = method == Method::CONNECT;
        if has_forbidden(request.headers()) || (is_connect && uri.authority().is_none()) {
            return Err(Error::misuse("the head is not one of HTTP/2"));
        }
        let id = self.next_own_id;
        self.next_own_id += 2;
        self.head_frames(id, end, |encoder, out| {
            encoder.request(method, uri, request.headers(), out);
        });
        let mut stream = self.new_stream(id);
        stream.is_head = method == Method::HEAD;
        stream.is_connect = is_connect;
        stream.sending = if end { Sending::Done } else { Sending::Body };
        self.active += 1;
        let key = self.streams.insert(stream);
        self.wake();
        Ok(key)
    }

    pub(super) fn new_stream(&self, id: u32) -> Stream {
        let size = self.config.stream_window;
        // Before the other end knows our settings it goes by the default.
        let left = if self.acknowledged {
            size
        } else {
            size.max(DEFAULT_WINDOW)
        };
        Stream::new(
            id,
            SendWindow::new(self.peer.stream_window),
            RecvWindow::new(size, left),
        )
    }

    /// Sends the head of a response, or an interim one, for the server.
    pub(crate) fn respond(
        &mut self,
        key: usize,
        response: &Response<()>,
        end: bool,
    ) -> Result<(), Error> {
        let stream = self.sendable(key)?;
        if stream.sending != Sending::Head {
            return Err(Error::misuse("the response was sent already"));
        }
        if has_forbidden(response.headers()) {
            return Err(Error::misuse("the head is not one of HTTP/2"));
        }
        let id = stream.id;
        if !response.status().is_informational() {
            stream.sending = if end { Sending::Done } else { Sending::Body };
        } else if end {
            return Err(Error::misuse("an interim response is not the end"));
        }
        self.head_frames(id, end, |encoder, out| {
            encoder.response(response.status(), response.headers(), out);
        });
        self.settle(key);
        self.wake();
        Ok(())
    }

    /// The stream, where something may still be sent on it.
    fn sendable(&mut self, key: usize) -> Result<&mut Stream, Error> {
        let stream = (self.streams.get_mut(key)).ok_or(Error::misuse("the stream is gone"))?;
        match &stream.failed {
            Some(error) => Err(error.clone()),
            None => Ok(stream),
        }
    }

    /// Sends data, or keeps it until it may be sent.
    pub(crate) fn send_data(&mut self, key: usize, data: Bytes, end: bool) -> Result<(), Error> {
        let limit = self.config.send_buffer;
        let stream = self.sendable(key)?;
        if stream.sending != Sending::Body {
            return Err(Error::misuse("data has no place here"));
        }
        if stream.pending.bytes() >= limit {
            return Err(Error::misuse("more than the send buffer holds"));
        }
        if !data.is_empty() {
            stream.pending.push(data);
        }
        if end {
            stream.end = Some(End::Data);
            stream.sending = Sending::Ending;
        }
        self.flush_stream(key);
        Ok(())
    }

    /// Sends trailers behind the data, and with them the end.
    pub(crate) fn send_trailers(&mut self, key: usize, trailers: HeaderMap) -> Result<(), Error> {
        let stream = self.sendable(key)?;
        if stream.sending != Sending::Body {
            return Err(Error::misuse("trailers have no place here"));
        }
        if has_forbidden(&trailers) {
            return Err(Error::misuse("the trailers are not those of HTTP/2"));
        }
        stream.end = Some(End::Trailers(trailers));
        stream.sending = Sending::Ending;
        self.flush_stream(key);
        Ok(())
    }

    /// Sends what a stream has, if it is its turn.
    fn flush_stream(&mut self, key: usize) {
        // An end alone needs no window, and overtakes nobody.
        let is_end = (self.streams.get(key)).is_some_and(|stream| stream.pending.is_empty());
        if is_end || self.ready.is_empty() {
            self.put(key, usize::MAX);
        }
        self.queue(key);
        self.wake();
    }

    /// Puts a stream in the queue, if it has something that its own window lets pass.
    pub(super) fn queue(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.queued
            && stream.can_send()
        {
            stream.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Whether more data may go into the output.
    fn has_room(&self) -> bool {
        self.out.len() < OUTPUT_BYTES
    }

    /// Puts what waits into the output, a frame of each stream in turn.
    pub(crate) fn put_ready(&mut self) {
        let mut turns = self.ready.len();
        while turns > 0 && self.has_room() && self.send_window.left() > 0 {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            turns -= 1;
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            stream.queued = false;
            let put = self.put(key, QUANTUM);
            self.queue(key);
            if put > 0 {
                turns = self.ready.len();
            }
        }
    }

    /// Puts at most about `most` bytes of a stream into the output, and its end if all went. Says how many bytes of data.
    fn put(&mut self, key: usize, most: usize) -> usize {
        let mut put = 0;
        let Some(stream) = self.streams.get_mut(key) else {
            return 0;
        };
        while put < most && self.out.len() < OUTPUT_BYTES {
            let left = (stream.send_window.left()).min(self.send_window.left());
            if left == 0 {
                break;
            }
            let Some(data) = stream.pending.take(left.min(self.peer.max_frame)) else {
                break;
            };
            put += data.len();
            stream.send_window.take(data.len());
            self.send_window.take(data.len());
            let end = stream.pending.is_empty() && matches!(stream.end, Some(End::Data));
            self.out.data(stream.id, data, end);
            if end {
                stream.end = None;
                stream.sending = Sending::Done;
            }
        }
        if put > 0 {
            stream.offer_room();
        }
        if !stream.pending.is_empty() || stream.sending == Sending::Body {
            return put;
        }
        self.put_end(key);
        put
    }

    /// Puts the end of a stream into the output, whose data has gone.
    fn put_end(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let id = stream.id;
        let end = stream.end.take();
        if end.is_some() {
            stream.sending = Sending::Done;
        }
        let unread = stream.handles == 0 && stream.receiving != Receiving::Done;
        match end {
            Some(End::Data) => self.out.data(id, Bytes::new(), true),
            Some(End::Trailers(trailers)) => {
                self.head_frames(id, true, |encoder, out| encoder.fields(&trailers, out));
            }
            None => {}
        }
        if unread && self.role == Role::Server {
            // The answer did not need the rest of the request (§8.1).
            self.reset(key, Reason::NO_ERROR, Cause::Wanted);
        }
        self.settle(key);
    }

    /// What may be sent on a stream now without being held: nothing where it must wait.
    pub(crate) fn room(&self, key: usize) -> usize {
        let Some(stream) = self.streams.get(key) else {
            return 0;
        };
        if stream.sending != Sending::Body {
            return 0;
        }
        // Where others wait, too, one frame stands in line with theirs.
        let most = if self.has_room() && self.send_window.left() > 0 && self.ready.is_empty() {
            self.config.send_buffer
        } else {
            QUANTUM
        };
        let window = stream.send_window.left();
        most.min(window).saturating_sub(stream.pending.bytes())
    }

    /// Appends HEADERS, and CONTINUATION where one frame does not hold them.
    fn head_frames(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let out = self.out.tail();
        let start = out.len();
        out.extend_from_slice(&[0; frame::HEADER_BYTES]);
        encode(&mut self.encoder, out);
        let from = start + frame::HEADER_BYTES;
        let length = out.len().saturating_sub(from);
        let end = if end { frame::END_STREAM } else { 0 };
        let most = self.peer.max_frame;
        let (first, flags) = if length <= most {
            (length, frame::END_HEADERS | end)
        } else {
            (most, end)
        };
        let header = Header::bytes(first, frame::HEADERS, flags, id);
        if let Some(place) = out.get_mut(start..from) {
            place.copy_from_slice(&header);
        }
        if length > most {
            let rest = out.split_off(from + most);
            let mut pieces = rest.chunks(most).peekable();
            while let Some(piece) = pieces.next() {
                let flags = if pieces.peek().is_none() {
                    frame::END_HEADERS
                } else {
                    0
                };
                let header = Header::bytes(piece.len(), frame::CONTINUATION, flags, id);
                out.extend_from_slice(&header);
                out.extend_from_slice(piece);
            }
        }
    }
}

/// Bytes in the output from which on data waits with its stream: four full TLS records, and one more in the making.
const OUTPUT_BYTES: usize = 80 * 1024;
/// What a stream sends when it is its turn, and what may wait of each where others wait too.
const QUANTUM: usize = 16 * 1024;
