//! What is said on a control stream, as frames: bounded, each exactly one message, in order.
//!
//! ```text
//! length u16be (of what follows, 1..=65535) | kind u8 | body
//! ```
//! The opener of the stream, which is the TLS client of the connections that it speaks of, asks; the other end answers.
//! Alone of all, [`Message::Renewed`] comes unasked. Whoever breaks the order has broken the stream.

use rustls_pki_types::CertificateDer;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::connection_proof::{
    ConnectionId, ConnectionProof, ProofError, ProofPurpose,
};

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Opener: show your certificate, unless it is the one with this digest.
    Show([u8; 32]),
    /// The certificate is that one.
    Unchanged,
    /// My certificate, leaf first: to be proven for each connection that it takes over.
    Successor(Vec<CertificateDer<'static>>),
    /// The answering end has a new certificate.
    Renewed,
    /// Opener: challenge me about a connection.
    Ask(ProofPurpose, ConnectionId),
    /// Prove this, over this nonce; an empty list leaves the choice of connections to the prover.
    Challenge(ProofPurpose, Nonce, Vec<ConnectionId>),
    /// The proof for one connection. The leaf goes with strict ones; a successor's was shown.
    Proof(
        ConnectionId,
        Option<CertificateDer<'static>>,
        ConnectionProof,
    ),
    /// The proof holds.
    Accepted(ConnectionId),
    /// It does not, or the connection is unknown: why is not the other end's to know.
    Refused(ConnectionId),
    /// Opener: that was all.
    Done,
}

/// What the bytes read so far are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// A beginning; read more.
    Incomplete,
    /// A message of so many bytes.
    Complete(Box<Message>, usize),
}

impl Message {
    /// Longest encoding in bytes.
    pub const MAX_BYTES: usize = LENGTH_BYTES + u16::MAX as usize;
    /// Most connections in one challenge.
    pub const MAX_CONNECTIONS: usize = 1024;
    /// Most certificates in one chain: what a verifier takes.
    pub const MAX_CHAIN: usize = 8;

    /// The wire form.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut out = vec![0, 0];
        match self {
            Self::Show(known) => {
                out.push(kind::SHOW);
                out.extend(known);
            }
            Self::Unchanged => out.push(kind::UNCHANGED),
            Self::Successor(chain) => {
                out.push(kind::SUCCESSOR);
                if chain.is_empty() || chain.len() > Self::MAX_CHAIN {
                    return Err(MessageError::TooLarge);
                }
                for certificate in chain {
                    put_long(&mut out, certificate)?;
                }
            }
            Self::Renewed => out.push(kind::RENEWED),
            Self::Ask(purpose, connection) => {
                out.extend([kind::ASK, purpose_code(*purpose)]);
                out.extend(connection.0);
            }
            Self::Challenge(purpose, nonce, connections) => {
                if connections.len() > Self::MAX_CONNECTIONS {
                    return Err(MessageError::TooLarge);
                }
                out.extend([kind::CHALLENGE, purpose_code(*purpose)]);
                out.extend(nonce.0);
                connections.iter().for_each(|id| out.extend(id.0));
            }
            Self::Proof(connection, leaf, proof) => {
                out.push(kind::PROOF);
                out.extend(connection.0);
                put_long(&mut out, leaf.as_deref().unwrap_or_default())?;
                out.extend(proof.encode().ok_or(MessageError::TooLarge)?);
            }
            Self::Accepted(connection) => {
                out.push(kind::ACCEPTED);
                out.extend(connection.0);
            }
            Self::Refused(connection) => {
                out.push(kind::REFUSED);
                out.extend(connection.0);
            }
            Self::Done => out.push(kind::DONE),
        }
        let length = u16::try_from(out.len() - LENGTH_BYTES).map_err(|_| MessageError::TooLarge)?;
        if let Some(head) = out.first_chunk_mut::<LENGTH_BYTES>() {
            *head = length.to_be_bytes();
        }
        Ok(out)
    }

    /// Reads the first message of a stream.
    ///
    /// # Errors
    /// [`MessageError`] as soon as the frame is whole and no message.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, MessageError> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(Parsed::Incomplete);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return Err(MessageError::Malformed);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(Parsed::Incomplete);
        };
        let message = Self::parse_body(body)?;
        Ok(Parsed::Complete(Box::new(message), LENGTH_BYTES + length))
    }

    fn parse_body(body: &[u8]) -> Result<Self, MessageError> {
        let (kind, body) = body.split_first().ok_or(MessageError::Malformed)?;
        let mut body = Body(body);
        let message = match *kind {
            kind::SHOW => Self::Show(body.array()?),
            kind::UNCHANGED => Self::Unchanged,
            kind::SUCCESSOR => Self::Successor(body.chain()?),
            kind::RENEWED => Self::Renewed,
            kind::ASK => Self::Ask(body.purpose()?, body.id()?),
            kind::CHALLENGE => {
                let (purpose, nonce) = (body.purpose()?, Nonce(body.array()?));
                Self::Challenge(purpose, nonce, body.ids()?)
            }
            kind::PROOF => {
                let (connection, leaf) = (body.id()?, body.long()?);
                let leaf = (!leaf.is_empty()).then(|| CertificateDer::from(leaf.to_vec()));
                let proof = ConnectionProof::parse(std::mem::take(&mut body.0))?;
                Self::Proof(connection, leaf, proof)
            }
            kind::ACCEPTED => Self::Accepted(body.id()?),
            kind::REFUSED => Self::Refused(body.id()?),
            kind::DONE => Self::Done,
            other => return Err(MessageError::Kind(other)),
        };
        if body.0.is_empty() {
            Ok(message)
        } else {
            Err(MessageError::Malformed)
        }
    }
}

/// What is still to be read of a frame.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(MessageError::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn id(&mut self) -> Result<ConnectionId, MessageError> {
        self.array().map(ConnectionId)
    }

    fn ids(&mut self) -> Result<Vec<ConnectionId>, MessageError> {
        let (ids, rest) = self.0.as_chunks::<16>();
        if !rest.is_empty() || ids.len() > Message::MAX_CONNECTIONS {
            return Err(MessageError::Malformed);
        }
        self.0 = rest;
        Ok(ids.iter().copied().map(ConnectionId).collect())
    }

    fn purpose(&mut self) -> Result<ProofPurpose, MessageError> {
        let [code] = self.array()?;
        let mut all = ProofPurpose::ALL.into_iter();
        all.find(|purpose| purpose_code(*purpose) == code)
            .ok_or(MessageError::Malformed)
    }

    fn long(&mut self) -> Result<&'a [u8], MessageError> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let (long, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(MessageError::Malformed)?;
        self.0 = rest;
        Ok(long)
    }

    fn chain(&mut self) -> Result<Vec<CertificateDer<'static>>, MessageError> {
        let mut chain = Vec::new();
        while !self.0.is_empty() {
            let certificate = self.long()?;
            if certificate.is_empty() || chain.len() == Message::MAX_CHAIN {
                return Err(MessageError::Malformed);
            }
            chain.push(CertificateDer::from(certificate.to_vec()));
        }
        if chain.is_empty() {
            return Err(MessageError::Malformed);
        }
        Ok(chain)
    }
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), MessageError> {
    let length = u16::try_from(bytes.len()).map_err(|_| MessageError::TooLarge)?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

fn purpose_code(purpose: ProofPurpose) -> u8 {
    match purpose {
        ProofPurpose::Extend => 1,
        ProofPurpose::StrictInitial => 2,
        ProofPurpose::StrictRepeat => 3,
    }
}

/// Why bytes are no message, or a message has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A kind that this build does not know.
    #[error("{0} is no kind of message")]
    Kind(u8),
    /// Not what its kind must be.
    #[error("the message is malformed")]
    Malformed,
    /// Its proof is none.
    #[error("the message's proof can't be read")]
    Proof(#[from] ProofError),
    /// More than a frame has room for: a chain of more than 64 KiB.
    #[error("the message is larger than a frame")]
    TooLarge,
}

mod kind {
    pub(super) const SHOW: u8 = 1;
    pub(super) const UNCHANGED: u8 = 2;
    pub(super) const SUCCESSOR: u8 = 3;
    pub(super) const RENEWED: u8 = 4;
    pub(super) const ASK: u8 = 5;
    pub(super) const CHALLENGE: u8 = 6;
    pub(super) const PROOF: u8 = 7;
    pub(super) const ACCEPTED: u8 = 8;
    pub(super) const REFUSED: u8 = 9;
    pub(super) const DONE: u8 = 10;
}

const LENGTH_BYTES: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = ConnectionId> {
        any::<[u8; 16]>().prop_map(ConnectionId)
    }

    fn certificate() -> impl Strategy<Value = CertificateDer<'static>> {
        prop::collection::vec(any::<u8>(), 1..2_000).prop_map(CertificateDer::from)
    }

    fn purpose() -> impl Strategy<Value = ProofPurpose> {
        prop::sample::select(ProofPurpose::ALL.to_vec())
    }

    fn proof() -> impl Strategy<Value = ConnectionProof> {
        let signature = prop::collection::vec(any::<u8>(), 1..=512);
        (any::<u16>(), any::<u64>(), signature).prop_map(|(scheme, counter, signature)| {
            ConnectionProof {
                scheme,
                counter,
                signature,
            }
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let ids = prop::collection::vec(id(), 0..40);
        prop_oneof![
            any::<[u8; 32]>().prop_map(Message::Show),
            Just(Message::Unchanged),
            prop::collection::vec(certificate(), 1..=Message::MAX_CHAIN)
                .prop_map(Message::Successor),
            Just(Message::Renewed),
            (purpose(), id()).prop_map(|(purpose, id)| Message::Ask(purpose, id)),
            (purpose(), any::<[u8; 32]>(), ids)
                .prop_map(|(purpose, nonce, ids)| Message::Challenge(purpose, Nonce(nonce), ids)),
            (id(), prop::option::of(certificate()), proof())
                .prop_map(|(id, leaf, proof)| Message::Proof(id, leaf, proof)),
            id().prop_map(Message::Accepted),
            id().prop_map(Message::Refused),
            Just(Message::Done),
        ]
    }

    #[test]
    fn what_has_no_room_in_a_frame_is_not_written() {
        let certificate = CertificateDer::from(vec![0; 40_000]);
        let chain = |certificates| Message::Successor(vec![certificate.clone(); certificates]);
        assert!(chain(1).encode().is_ok());
        assert!(chain(2).encode().is_err());
        assert!(Message::Successor(Vec::new()).encode().is_err());
        let short = CertificateDer::from(vec![1]);
        assert!(Message::Successor(vec![short; 9]).encode().is_err());
        let ids = |ids| {
            let purpose = ProofPurpose::Extend;
            Message::Challenge(purpose, Nonce([0; 32]), vec![ConnectionId([7; 16]); ids])
        };
        let longest = ids(Message::MAX_CONNECTIONS).encode().unwrap();
        assert!(longest.len() <= Message::MAX_BYTES);
        assert!(ids(Message::MAX_CONNECTIONS + 1).encode().is_err());
    }

    #[test]
    fn each_broken_field_is_refused() {
        let refused = |bytes: &[u8]| assert!(Message::parse(bytes).is_err(), "{bytes:?}");
        // No kind at all, an unknown one, too much, too little.
        refused(&[0, 0]);
        refused(&[0, 1, 0]);
        refused(&[0, 1, 11]);
        refused(&[0, 2, kind::DONE, 0]);
        refused(&[0, 2, kind::SHOW, 0]);
        refused(&[0, 1, kind::SUCCESSOR]);
        refused(&[0, 3, kind::SUCCESSOR, 0, 0]);
        refused(&[0, 4, kind::SUCCESSOR, 0, 2, 1]);
        let of = |message: Message, at: usize, value: u8| {
            let mut bytes = message.encode().unwrap();
            bytes[at] = value;
            refused(&bytes);
        };
        of(
            Message::Ask(ProofPurpose::Extend, ConnectionId([0; 16])),
            3,
            4,
        );
        of(
            Message::Challenge(ProofPurpose::Extend, Nonce([0; 32]), Vec::new()),
            3,
            0,
        );
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_and_every_prefix_is_incomplete(message in message(), rest: Vec<u8>) {
            let bytes = message.encode().unwrap();
            let whole = Parsed::Complete(Box::new(message), bytes.len());
            prop_assert_eq!(Message::parse(&[&*bytes, &*rest].concat()).unwrap(), whole);
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
                prop_assert_eq!(Message::parse(&bytes[..end]).unwrap(), Parsed::Incomplete);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Parsed::Complete(message, length)) = Message::parse(&bytes) {
                prop_assert_eq!(message.encode().unwrap(), &bytes[..length]);
            }
        }
    }
}
