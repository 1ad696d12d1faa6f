//! Commands and responses as bytes (TPM 2.0 Part 1 §18): a header, handles, authorizations, parameters.

use super::command::Handle;
use crate::attester::CollectError;

/// Code and name of a command.
pub(in crate::attester) type Command = (u32, &'static str);

pub(in crate::attester) fn encode(
    code: u32,
    handles: &[Handle],
    sessions: &[Handle],
    parameters: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    for handle in handles {
        body.extend(handle.0.to_be_bytes());
    }
    if !sessions.is_empty() {
        let mut authorizations = Vec::new();
        for session in sessions {
            authorizations.extend(session.0.to_be_bytes());
            // No nonce, no attributes (a policy session ends with the command), empty authorization value.
            authorizations.extend([0, 0, 0, 0, 0]);
        }
        body.extend(length_u32(&authorizations));
        body.extend(authorizations);
    }
    body.extend_from_slice(parameters);
    let tag = if sessions.is_empty() {
        NO_SESSIONS
    } else {
        SESSIONS
    };
    let mut command = tag.to_be_bytes().to_vec();
    let size = u32::try_from(body.len() + HEADER).unwrap_or(u32::MAX);
    command.extend(size.to_be_bytes());
    command.extend(code.to_be_bytes());
    command.extend(body);
    command
}

/// A response, split into its handle and its parameters.
pub(in crate::attester) struct Response {
    pub(in crate::attester) code: u32,
    handle: Option<Handle>,
    pub(in crate::attester) parameters: Vec<u8>,
}

impl Response {
    pub(in crate::attester) fn parse(command: Command, raw: &[u8]) -> Result<Self, CollectError> {
        let mut reader = Reader::new(command, raw);
        let tag = reader.u16()?;
        let size = reader.u32()?;
        let code = reader.u32()?;
        if usize::try_from(size) != Ok(raw.len()) {
            return Err(CollectError::Malformed(command.1));
        }
        let returns_handle = RETURN_A_HANDLE.contains(&command.0);
        let handle = match code {
            0 if returns_handle => Some(Handle(reader.u32()?)),
            _ => None,
        };
        let parameters = match (code, tag) {
            (0, SESSIONS) => {
                let length = reader.u32()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                reader.take(length)?
            }
            _ => reader.rest(),
        };
        Ok(Self {
            code,
            handle,
            parameters: parameters.to_vec(),
        })
    }

    pub(in crate::attester) fn handle(&self, command: Command) -> Result<Handle, CollectError> {
        self.handle.ok_or(CollectError::Malformed(command.1))
    }
}

/// Reads what a TPM answered.
pub(in crate::attester) struct Reader<'a> {
    bytes: &'a [u8],
    command: &'static str,
}

impl<'a> Reader<'a> {
    pub(in crate::attester) fn new(command: Command, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            command: command.1,
        }
    }

    pub(in crate::attester) fn take(&mut self, length: usize) -> Result<&'a [u8], CollectError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(CollectError::Malformed(self.command))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CollectError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or(CollectError::Malformed(self.command))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(in crate::attester) fn u8(&mut self) -> Result<u8, CollectError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(in crate::attester) fn u16(&mut self) -> Result<u16, CollectError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(in crate::attester) fn u32(&mut self) -> Result<u32, CollectError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A count of a list; a response of 4 KiB holds no longer one.
    pub(in crate::attester) fn count(&mut self) -> Result<u32, CollectError> {
        match self.u32()? {
            count if count <= MAX_COUNT => Ok(count),
            _ => Err(CollectError::Malformed(self.command)),
        }
    }

    pub(in crate::attester) fn sized(&mut self) -> Result<&'a [u8], CollectError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(in crate::attester) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

/// Appends a `TPM2B`. Nothing that we send comes near 64 KiB.
pub(in crate::attester) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(size.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn length_u32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

const HEADER: usize = 10;
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// Codes of `TPM2_CreatePrimary` and `TPM2_StartAuthSession`.
const RETURN_A_HANDLE: [u32; 2] = [0x131, 0x176];
/// Longest list that is read: more than any TPM holds loaded, or reads at once.
pub(in crate::attester) const MAX_COUNT: u32 = 64;
