//! Record protection after the handshake (RFC 8446 §5), and the few messages that may still come (§4.6, §6).
//!
//! # Why not rustls
//! It copies each byte three times on its way, into its buffer, out of it, and into the piece to be written, and allocates
//! for each record; for bulk that is a third of all work. Here a record is sealed from where its plaintext lies to where it
//! is sent from, and opened from where it was received to where it is wanted. What is left to do after a handshake is
//! little, and all of it is here: sequence numbers, padding, alerts, key updates, tickets to be ignored. The handshake
//! stays with rustls.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::tls::secrets::{Secret, Suite};

/// The keys of one direction.
#[derive(Debug)]
struct Keys {
    suite: &'static Suite,
    secret: Secret,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Of the next record.
    sequence: u64,
}

impl Keys {
    fn new(suite: &'static Suite, secret: Secret) -> Result<Self, Fault> {
        let mut key = Zeroizing::new([0; MAX_KEY_BYTES]);
        let (key, _) = key.split_at_mut(suite.aead.key_len());
        let mut iv = [0; NONCE_LEN];
        suite
            .expand_label(&secret, b"key", &[], key)
            .and_then(|()| suite.expand_label(&secret, b"iv", &[], &mut iv))
            .ok_or(Fault::Keys)?;
        let key = UnboundKey::new(suite.aead, key).map_err(|_| Fault::Keys)?;
        Ok(Self {
            suite,
            secret,
            key: LessSafeKey::new(key),
            iv,
            sequence: 0,
        })
    }

    /// Goes on to the next generation (§7.2).
    fn update(&mut self) -> Result<(), Fault> {
        let secret = self.suite.derive(&self.secret, b"traffic upd", &[]);
        *self = Self::new(self.suite, secret.ok_or(Fault::Keys)?)?;
        Ok(())
    }

    /// The nonce of the next record (§5.3); never the same twice, for the sequence number never is.
    fn nonce(&mut self) -> Result<Nonce, Fault> {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        let (_, last) = nonce.split_at_mut(NONCE_LEN - sequence.len());
        last.iter_mut()
            .zip(sequence)
            .for_each(|(byte, number)| *byte ^= number);
        self.sequence = self.sequence.checked_add(1).ok_or(Fault::Keys)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals what we send.
#[derive(Debug)]
pub(crate) struct Sealer {
    keys: Keys,
    /// Records of one generation of keys.
    limit: u64,
}

/// Where the content of a record lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// Elsewhere.
    At(&'a [u8]),
    /// So many bytes, already where the record's will be: [`HEADER_BYTES`] into the room for it.
    InPlace(usize),
}

impl Sealer {
    pub(crate) fn new(suite: &'static Suite, secret: Secret) -> Result<Self, Fault> {
        Ok(Self {
            keys: Keys::new(suite, secret)?,
            limit: RECORDS_OF_A_KEY,
        })
    }

    /// Whether the keys have been used as often as they may be, so that the next record must be a key update.
    pub(crate) fn is_worn(&self) -> bool {
        self.keys.sequence >= self.limit
    }

    /// As if the keys could be used so often only.
    #[cfg(test)]
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Seals a record of application data at the beginning of `out`, and returns its length.
    ///
    /// # Errors
    /// The content is more than [`MAX_CONTENT_BYTES`], or has no room with [`OVERHEAD_BYTES`] more.
    pub(crate) fn seal(&mut self, content: Content<'_>, out: &mut [u8]) -> Result<usize, Fault> {
        self.seal_as(APPLICATION_DATA, content, out)
    }

    /// Seals an alert.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub(crate) fn alert(&mut self, description: u8, out: &mut [u8]) -> Result<usize, Fault> {
        let level = if description == CLOSE_NOTIFY { 1 } else { 2 };
        self.seal_as(ALERT, Content::At(&[level, description]), out)
    }

    /// Seals a key update that asks for none in return, and goes on to the next keys.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub(crate) fn update(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let length = self.seal_as(HANDSHAKE, Content::At(&[KEY_UPDATE, 0, 0, 1, 0]), out)?;
        self.keys.update()?;
        Ok(length)
    }

    fn seal_as(&mut self, kind: u8, content: Content<'_>, out: &mut [u8]) -> Result<usize, Fault> {
        let length = match content {
            Content::At(content) => content.len(),
            Content::InPlace(length) => length,
        };
        let whole = length + OVERHEAD_BYTES;
        if length > MAX_CONTENT_BYTES || out.len() < whole {
            return Err(Fault::TooLong);
        }
        let protected = u16::try_from(whole - HEADER_BYTES).map_err(|_| Fault::TooLong)?;
        let [high, low] = protected.to_be_bytes();
        // What protected records claim to be, for boxes on the way that know TLS 1.2 alone (§5.2).
        let head = [APPLICATION_DATA, 3, 3, high, low];
        let (out, _) = out.split_at_mut(whole);
        let (header, out) = out.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&head);
        let (body, tail) = out.split_at_mut(length);
        let (nonce, head) = (self.keys.nonce()?, Aad::from(head));
        let key = &self.keys.key;
        match content {
            Content::At(content) => {
                key.seal_out_of_place_scatter(nonce, head, content, body, &[kind], tail)
            }
            Content::InPlace(_) => key.seal_in_place_scatter(nonce, head, body, &[kind], tail),
        }
        .map_err(|_| Fault::Keys)?;
        Ok(whole)
    }
}

/// Opens what the peer sends.
#[derive(Debug)]
pub(crate) struct Opener {
    keys: Keys,
    /// The peer is a server, which may send tickets.
    from_server: bool,
    /// The beginning of a handshake message, and how much of it there is.
    message: [u8; 5],
    held: usize,
    /// Bytes still to come of a message that is ignored.
    ignored: usize,
    /// Key updates since there was data.
    updates: u8,
    /// The peer asked for a key update.
    asked: bool,
}

/// What a record was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opened {
    /// So many bytes of application data.
    Data(usize),
    /// Nothing for the application.
    Nothing,
    /// The peer ends its direction.
    Closed,
}

impl Opener {
    pub(crate) fn new(
        suite: &'static Suite,
        secret: Secret,
        from_server: bool,
    ) -> Result<Self, Fault> {
        Ok(Self {
            keys: Keys::new(suite, secret)?,
            from_server,
            message: [0; 5],
            held: 0,
            ignored: 0,
            updates: 0,
            asked: false,
        })
    }

    /// Whether the peer asked for a key update since this was last asked.
    pub(crate) fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    /// With the same keys, from the beginning.
    #[cfg(test)]
    pub(crate) fn again(&self) -> Self {
        Self::new(self.keys.suite, self.keys.secret.clone(), self.from_server).unwrap()
    }

    /// Opens a whole record, as [`record_length`] found it, into `out`, which is [`room_for`] it long.
    ///
    /// # Errors
    /// [`Fault`]; the connection can't go on.
    pub(crate) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, Fault> {
        let (header, body) = record
            .split_at_checked(HEADER_BYTES)
            .ok_or(Fault::Malformed)?;
        let (sealed, tag) = body
            .split_at_checked(body.len().saturating_sub(TAG_BYTES))
            .ok_or(Fault::Malformed)?;
        let nonce = self.keys.nonce()?;
        self.keys
            .key
            .open_separate_gather(nonce, Aad::from(header), sealed, tag, out)
            .map_err(|_| Fault::Undecryptable)?;
        // The content ends with its type, after which there may be padding with zeros (§5.4).
        let end = out.iter().rposition(|&byte| byte != 0);
        let (content, kind) = end
            .and_then(|end| Some((out.get(..end)?, *out.get(end)?)))
            .ok_or(Fault::Untyped)?;
        if content.len() > MAX_CONTENT_BYTES {
            return Err(Fault::TooLong);
        }
        if kind != HANDSHAKE && (self.held > 0 || self.ignored > 0) {
            return Err(Fault::Interleaved);
        }
        match kind {
            APPLICATION_DATA => {
                if !content.is_empty() {
                    self.updates = 0;
                }
                Ok(Opened::Data(content.len()))
            }
            ALERT => match *content {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                // Close_notify follows (§6.1).
                [_, USER_CANCELED] => Ok(Opened::Nothing),
                [_, description] => Err(Fault::Alert(description)),
                _ => Err(Fault::Malformed),
            },
            HANDSHAKE if content.is_empty() => Err(Fault::Malformed),
            HANDSHAKE => self.messages(content).map(|()| Opened::Nothing),
            other => Err(Fault::Type(other)),
        }
    }

    /// Goes through handshake messages, which may be several in a record or one in several.
    fn messages(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        loop {
            let skipped = self.ignored.min(content.len());
            self.ignored -= skipped;
            content = content.get(skipped..).unwrap_or_default();
            // The five bytes of a key update are all that is ever looked at.
            while self.held < MESSAGE_HEADER_BYTES
                || self.message.first() == Some(&KEY_UPDATE) && self.held < self.message.len()
            {
                let Some((&byte, rest)) = content.split_first() else {
                    return Ok(());
                };
                if let Some(place) = self.message.get_mut(self.held) {
                    *place = byte;
                }
                self.held += 1;
                content = rest;
            }
            self.held = 0;
            match self.message {
                [KEY_UPDATE, 0, 0, 1, request] => {
                    // What follows is under the next keys, so nothing can follow in the same record (§5.1).
                    if !content.is_empty() {
                        return Err(Fault::Interleaved);
                    }
                    return self.updated(request);
                }
                [KEY_UPDATE, ..] => return Err(Fault::Malformed),
                // Nothing is ever resumed.
                [TICKET, 0, high, low, _] if self.from_server => {
                    self.ignored = usize::from(u16::from_be_bytes([high, low]));
                }
                [other, ..] => return Err(Fault::Message(other)),
            }
        }
    }

    fn updated(&mut self, request: u8) -> Result<(), Fault> {
        self.asked |= match request {
            0 => false,
            1 => true,
            _ => return Err(Fault::Illegal),
        };
        self.updates += 1;
        if self.updates > MAX_UPDATES {
            return Err(Fault::Updates);
        }
        self.keys.update()
    }
}

/// The length of the record that begins here; nothing while its header is not whole.
///
/// # Errors
/// No such record may come after a handshake.
pub(crate) fn record_length(received: &[u8]) -> Result<Option<usize>, Fault> {
    // The version is ignored (§5.1).
    let Some(&[kind, _, _, high, low]) = received.first_chunk() else {
        return Ok(None);
    };
    if kind != APPLICATION_DATA {
        return Err(Fault::Type(kind));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_PROTECTED_BYTES {
        return Err(Fault::TooLong);
    }
    // The type and the tag.
    if length <= TAG_BYTES {
        return Err(Fault::Malformed);
    }
    Ok(Some(HEADER_BYTES + length))
}

/// How much room a record of a length needs to be opened.
pub(crate) fn room_for(record_length: usize) -> usize {
    record_length.saturating_sub(HEADER_BYTES + TAG_BYTES)
}

/// What is wrong with what the peer sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Fault {
    /// Nothing of this type may come.
    #[error("a record is of type {0}")]
    Type(u8),
    /// More than a record may hold.
    #[error("a record is too long")]
    TooLong,
    /// Not sealed under the key and number that it must be.
    #[error("a record can't be opened")]
    Undecryptable,
    /// Nothing but padding.
    #[error("a record says not what it is")]
    Untyped,
    /// Not what its type must look like.
    #[error("a record or message is malformed")]
    Malformed,
    /// In the middle of a message, or behind a key update.
    #[error("a message is interrupted by another record or followed under old keys")]
    Interleaved,
    /// Not one of those that may follow a handshake.
    #[error("a handshake message of type {0} came after the handshake")]
    Message(u8),
    /// A value that is none.
    #[error("a key update has a value that is none")]
    Illegal,
    /// So many that they only cost us work.
    #[error("the peer updates its keys over and over")]
    Updates,
    /// The peer gave up.
    #[error("the peer ended the connection with alert {0}")]
    Alert(u8),
    /// Never, unless the cryptographic library fails.
    #[error("a key could not be derived or used")]
    Keys,
}

impl Fault {
    /// What the peer is told; nothing where it told us.
    pub(crate) fn alert(self) -> Option<u8> {
        match self {
            Self::Type(_)
            | Self::Untyped
            | Self::Interleaved
            | Self::Message(_)
            | Self::Updates => Some(10), // unexpected_message
            Self::Undecryptable => Some(20), // bad_record_mac
            Self::TooLong => Some(22),       // record_overflow
            Self::Illegal => Some(47),       // illegal_parameter
            Self::Malformed => Some(50),     // decode_error
            Self::Keys => Some(80),          // internal_error
            Self::Alert(_) => None,
        }
    }
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// The alert that is an end and no error.
pub(crate) const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Type, version and length.
pub(crate) const HEADER_BYTES: usize = 5;
/// Type and length.
const MESSAGE_HEADER_BYTES: usize = 4;
/// Of every suite that we have.
const TAG_BYTES: usize = 16;
/// What a record has beside its content: header, type, tag.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// Most content of a record (§5.1).
pub(crate) const MAX_CONTENT_BYTES: usize = 1 << 14;
/// Most that follows a header (§5.2).
const MAX_PROTECTED_BYTES: usize = (1 << 14) + 256;
/// A whole record of the largest kind.
pub(crate) const MAX_RECORD_BYTES: usize = HEADER_BYTES + MAX_PROTECTED_BYTES;
const MAX_KEY_BYTES: usize = 32;
/// A third of what AES-GCM may be used for with one key (§5.5: 2^24.5 full records): 128 GiB.
const RECORDS_OF_A_KEY: u64 = 1 << 23;
/// Key updates without data between them, as many as rustls bears.
const MAX_UPDATES: u8 = 32;

#[cfg(test)]
mod tests;
