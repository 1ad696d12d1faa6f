//! The TPM 2.0 commands that an attester needs, and no others.
//!
//! Source: TPM 2.0 Part 3; structures in Part 2. All integers are big-endian.

use std::time::Duration;

use super::transport::Transport;
use super::wire::{Command, MAX_COUNT, Reader, Response, encode, put_sized};
use crate::attester::CollectError;

/// A TPM that takes commands.
#[derive(Debug)]
pub(in crate::attester) struct Tpm {
    transport: Transport,
    address: String,
}

/// Handle of an object, session, hierarchy or NV index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::attester) struct Handle(pub(in crate::attester) u32);

impl Handle {
    pub(in crate::attester) const ENDORSEMENT: Self = Self(0x4000_000b);
    const OWNER: Self = Self(0x4000_0001);
    const NULL: Self = Self(0x4000_0007);
    const PASSWORD: Self = Self(0x4000_0009);
}

/// A quote, as the TPM made it.
#[derive(Clone, Debug)]
pub(in crate::attester) struct Quote {
    pub(in crate::attester) attest: Vec<u8>,
    pub(in crate::attester) signature: Vec<u8>,
}

impl Tpm {
    pub(in crate::attester) fn new(
        transport: Transport,
        address: String,
    ) -> Result<Self, CollectError> {
        let mut tpm = Self { transport, address };
        if tpm.transport.is_unmanaged() {
            tpm.start_up()?;
            tpm.flush_leftovers()?;
        }
        Ok(tpm)
    }

    /// A software TPM may not have been started by its owner; one that was says so.
    fn start_up(&mut self) -> Result<(), CollectError> {
        let clear = 0_u16.to_be_bytes();
        match self.run(STARTUP, &[], &[], &clear) {
            Ok(_)
            | Err(CollectError::Refused {
                code: RC_INITIALIZE,
                ..
            }) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Without a resource manager, what a killed client left loaded takes one of three slots for ever.
    fn flush_leftovers(&mut self) -> Result<(), CollectError> {
        for range in [TRANSIENT_OBJECTS, LOADED_SESSIONS] {
            for handle in self.handles(range)? {
                self.flush(handle)?;
            }
        }
        Ok(())
    }

    fn handles(&mut self, first: u32) -> Result<Vec<Handle>, CollectError> {
        let parameters = [CAP_HANDLES, first, MAX_COUNT].map(u32::to_be_bytes);
        let response = self.run(GET_CAPABILITY, &[], &[], parameters.as_flattened())?;
        let mut reader = Reader::new(GET_CAPABILITY, &response.parameters);
        reader.take(5)?;
        let count = reader.u32()?;
        (0..count.min(MAX_COUNT))
            .map(|_| reader.u32().map(Handle))
            .collect()
    }

    /// Makes the primary key of the endorsement hierarchy that `template` (`TPMT_PUBLIC`) determines, and hands it to
    /// `body`; it is flushed afterwards whatever happens.
    pub(in crate::attester) fn with_primary<T>(
        &mut self,
        template: &[u8],
        body: impl FnOnce(&mut Self, Handle, &[u8]) -> Result<T, CollectError>,
    ) -> Result<T, CollectError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &[0, 0, 0, 0]); // no authorization value, no data
        put_sized(&mut parameters, template);
        put_sized(&mut parameters, &[]); // outside information
        parameters.extend(0_u32.to_be_bytes()); // creation PCRs
        let response = self.run(
            CREATE_PRIMARY,
            &[Handle::ENDORSEMENT],
            &[Handle::PASSWORD],
            &parameters,
        )?;
        let handle = response.handle(CREATE_PRIMARY)?;
        let mut reader = Reader::new(CREATE_PRIMARY, &response.parameters);
        let result = reader.sized().and_then(|public| body(self, handle, public));
        let flushed = self.flush(handle);
        let value = result?;
        flushed.map(|()| value)
    }

    /// Public area of a persistent key; `None` where there is none.
    pub(in crate::attester) fn read_public(
        &mut self,
        handle: Handle,
    ) -> Result<Option<Vec<u8>>, CollectError> {
        match self.run(READ_PUBLIC, &[handle], &[], &[]) {
            Ok(response) => {
                let mut reader = Reader::new(READ_PUBLIC, &response.parameters);
                reader.sized().map(|public| Some(public.to_vec()))
            }
            Err(CollectError::Refused { code, .. }) if is_absent(code) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Content of an NV index; `None` where there is no such index.
    pub(in crate::attester) fn read_nv(
        &mut self,
        index: Handle,
    ) -> Result<Option<Vec<u8>>, CollectError> {
        let public = match self.run(NV_READ_PUBLIC, &[index], &[], &[]) {
            Ok(response) => response.parameters,
            Err(CollectError::Refused { code, .. }) if is_absent(code) => return Ok(None),
            Err(other) => return Err(other),
        };
        let mut reader = Reader::new(NV_READ_PUBLIC, &public);
        let mut area = Reader::new(NV_READ_PUBLIC, reader.sized()?);
        area.take(10)?; // index, name algorithm, attributes
        area.sized()?; // policy
        let size = area.u16()?;
        let mut content = Vec::new();
        while content.len() < usize::from(size) {
            let left = usize::from(size) - content.len();
            let wanted = u16::try_from(left.min(NV_CHUNK)).unwrap_or_default();
            let offset = u16::try_from(content.len()).unwrap_or_default();
            let chunk = self.read_nv_chunk(index, wanted, offset)?;
            if chunk.is_empty() {
                return Err(CollectError::Malformed(NV_READ.1));
            }
            content.extend_from_slice(&chunk);
        }
        Ok(Some(content))
    }

    /// Writes an NV index of this very size, with the owner's authorization; makes it where it does not exist.
    pub(in crate::attester) fn write_nv(
        &mut self,
        index: Handle,
        content: &[u8],
    ) -> Result<(), CollectError> {
        match self.run(NV_READ_PUBLIC, &[index], &[], &[]) {
            Ok(_) => {}
            Err(CollectError::Refused { code, .. }) if is_absent(code) => {
                self.define_nv(index, content.len())?;
            }
            Err(other) => return Err(other),
        }
        let mut parameters = Vec::new();
        put_sized(&mut parameters, content);
        parameters.extend(0_u16.to_be_bytes()); // offset
        self.run(
            NV_WRITE,
            &[Handle::OWNER, index],
            &[Handle::PASSWORD],
            &parameters,
        )
        .map(|_| ())
    }

    fn define_nv(&mut self, index: Handle, size: usize) -> Result<(), CollectError> {
        let mut public = index.0.to_be_bytes().to_vec();
        public.extend(ALG_SHA256.to_be_bytes());
        public.extend(NV_ATTRIBUTES.to_be_bytes());
        put_sized(&mut public, &[]); // policy
        public.extend(u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes());
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &[]); // authorization value
        put_sized(&mut parameters, &public);
        self.run(
            NV_DEFINE_SPACE,
            &[Handle::OWNER],
            &[Handle::PASSWORD],
            &parameters,
        )
        .map(|_| ())
    }

    /// Certificates are readable with the index's own empty authorization, or with the owner's.
    fn read_nv_chunk(
        &mut self,
        index: Handle,
        size: u16,
        offset: u16,
    ) -> Result<Vec<u8>, CollectError> {
        let parameters = [size, offset].map(u16::to_be_bytes);
        let parameters = parameters.as_flattened();
        let own = self.run(NV_READ, &[index, index], &[Handle::PASSWORD], parameters);
        let response = match own {
            Err(CollectError::Refused { .. }) => self.run(
                NV_READ,
                &[Handle::OWNER, index],
                &[Handle::PASSWORD],
                parameters,
            )?,
            other => other?,
        };
        Reader::new(NV_READ, &response.parameters)
            .sized()
            .map(<[u8]>::to_vec)
    }

    /// Opens a credential that was made for the endorsement key `ek` and the name of `ak`.
    ///
    /// The endorsement key is used under the policy of its template: knowledge of the endorsement hierarchy's
    /// authorization, which is empty (TCG EK Credential Profile §B.3.3, policy A).
    pub(in crate::attester) fn activate_credential(
        &mut self,
        ak: Handle,
        ek: Handle,
        blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, CollectError> {
        let session = self.start_policy_session()?;
        let parameters = [blob, encrypted_secret].concat();
        let result = self.policy_secret(session).and_then(|()| {
            self.run(
                ACTIVATE_CREDENTIAL,
                &[ak, ek],
                &[Handle::PASSWORD, session],
                &parameters,
            )
        });
        // A session ends with the command that it authorizes, unless that command failed.
        if result.is_err() {
            self.flush(session)?;
        }
        Reader::new(ACTIVATE_CREDENTIAL, &result?.parameters)
            .sized()
            .map(<[u8]>::to_vec)
    }

    fn start_policy_session(&mut self) -> Result<Handle, CollectError> {
        let mut parameters = Vec::new();
        // The session authorizes by policy alone and encrypts nothing, so its nonce protects nothing.
        put_sized(&mut parameters, &[0; 16]);
        put_sized(&mut parameters, &[]); // salt
        parameters.push(SESSION_POLICY);
        parameters.extend(ALG_NULL.to_be_bytes());
        parameters.extend(ALG_SHA256.to_be_bytes());
        self.run(
            START_AUTH_SESSION,
            &[Handle::NULL, Handle::NULL],
            &[],
            &parameters,
        )?
        .handle(START_AUTH_SESSION)
    }

    fn policy_secret(&mut self, session: Handle) -> Result<(), CollectError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &[]); // nonce
        put_sized(&mut parameters, &[]); // command digest
        put_sized(&mut parameters, &[]); // policy reference
        parameters.extend(0_i32.to_be_bytes()); // no expiration
        self.run(
            POLICY_SECRET,
            &[Handle::ENDORSEMENT, session],
            &[Handle::PASSWORD],
            &parameters,
        )
        .map(|_| ())
    }

    /// Reads one batch of PCR values of a bank: a bitmap of what was read, and the values, ascending.
    pub(in crate::attester) fn read_pcrs(
        &mut self,
        hash: u16,
        pcrs: u32,
    ) -> Result<(u32, Vec<Vec<u8>>), CollectError> {
        let response = self.run(PCR_READ, &[], &[], &selection_list(&[(hash, pcrs)]))?;
        let mut reader = Reader::new(PCR_READ, &response.parameters);
        reader.u32()?; // update counter
        let mut read = 0;
        for _ in 0..reader.count()? {
            reader.u16()?; // hash
            let length = reader.u8()?;
            let bitmap = reader.take(length.min(3).into())?;
            reader.take(length.saturating_sub(3).into())?;
            let bits = bitmap.iter().rev();
            read |= bits.fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        }
        let values: Vec<_> = (0..reader.count()?)
            .map(|_| reader.sized().map(<[u8]>::to_vec))
            .collect::<Result<_, _>>()?;
        if usize::try_from(read.count_ones()) != Ok(values.len()) {
            return Err(CollectError::Malformed(PCR_READ.1));
        }
        Ok((read, values))
    }

    /// Quotes PCRs over `extra_data`, by the scheme of `ak`.
    pub(in crate::attester) fn quote(
        &mut self,
        ak: Handle,
        extra_data: &[u8],
        selection: &[(u16, u32)],
    ) -> Result<Quote, CollectError> {
        let mut parameters = Vec::new();
        put_sized(&mut parameters, extra_data);
        parameters.extend(ALG_NULL.to_be_bytes());
        parameters.extend(selection_list(selection));
        let response = self.run(QUOTE, &[ak], &[Handle::PASSWORD], &parameters)?;
        let mut reader = Reader::new(QUOTE, &response.parameters);
        Ok(Quote {
            attest: reader.sized()?.to_vec(),
            signature: reader.rest().to_vec(),
        })
    }

    fn flush(&mut self, handle: Handle) -> Result<(), CollectError> {
        self.run(FLUSH_CONTEXT, &[handle], &[], &[]).map(|_| ())
    }

    /// Runs a command; `sessions` authorize its first handles in order.
    fn run(
        &mut self,
        command: Command,
        handles: &[Handle],
        sessions: &[Handle],
        parameters: &[u8],
    ) -> Result<Response, CollectError> {
        let request = encode(command.0, handles, sessions, parameters);
        for attempt in 0.. {
            let raw =
                self.transport
                    .transact(&request)
                    .map_err(|source| CollectError::Transport {
                        address: self.address.clone(),
                        source,
                    })?;
            let response = Response::parse(command, &raw)?;
            match response.code {
                0 => return Ok(response),
                RC_RETRY | RC_YIELDED | RC_TESTING if attempt < MAX_ATTEMPTS => {
                    // The specification asks for the very same command again, after a while.
                    std::thread::sleep(RETRY_AFTER);
                }
                code => {
                    return Err(CollectError::Refused {
                        command: command.1,
                        code,
                    });
                }
            }
        }
        Err(CollectError::Malformed(command.1))
    }
}

/// `TPML_PCR_SELECTION` of hash identifiers with bitmaps of PCRs 0 to 23.
fn selection_list(selection: &[(u16, u32)]) -> Vec<u8> {
    let count = u32::try_from(selection.len()).unwrap_or(u32::MAX);
    let mut out = count.to_be_bytes().to_vec();
    for (hash, pcrs) in selection {
        let [first, second, third, _] = pcrs.to_le_bytes();
        out.extend(hash.to_be_bytes());
        out.extend([3, first, second, third]);
    }
    out
}

/// Whether a refusal says that there is no such object or index: `TPM_RC_HANDLE` for any handle.
fn is_absent(code: u32) -> bool {
    code & 0xbf == 0x8b
}

const NV_DEFINE_SPACE: Command = (0x12a, "TPM2_NV_DefineSpace");
const NV_WRITE: Command = (0x137, "TPM2_NV_Write");
const NV_READ: Command = (0x14e, "TPM2_NV_Read");
const CREATE_PRIMARY: Command = (0x131, "TPM2_CreatePrimary");
const STARTUP: Command = (0x144, "TPM2_Startup");
const ACTIVATE_CREDENTIAL: Command = (0x147, "TPM2_ActivateCredential");
const POLICY_SECRET: Command = (0x151, "TPM2_PolicySecret");
const QUOTE: Command = (0x158, "TPM2_Quote");
const FLUSH_CONTEXT: Command = (0x165, "TPM2_FlushContext");
const NV_READ_PUBLIC: Command = (0x169, "TPM2_NV_ReadPublic");
const READ_PUBLIC: Command = (0x173, "TPM2_ReadPublic");
const START_AUTH_SESSION: Command = (0x176, "TPM2_StartAuthSession");
const GET_CAPABILITY: Command = (0x17a, "TPM2_GetCapability");
const PCR_READ: Command = (0x17e, "TPM2_PCR_Read");

const CAP_HANDLES: u32 = 1;
const TRANSIENT_OBJECTS: u32 = 0x8000_0000;
const LOADED_SESSIONS: u32 = 0x0200_0000;
/// Below `TPM_PT_NV_BUFFER_MAX` of every TPM in use (512 to 2048).
const NV_CHUNK: usize = 512;
/// `OWNERWRITE | OWNERREAD | NO_DA`.
const NV_ATTRIBUTES: u32 = 0x0202_0002;
const SESSION_POLICY: u8 = 1;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;

const RC_INITIALIZE: u32 = 0x100;
const RC_RETRY: u32 = 0x922;
const RC_YIELDED: u32 = 0x908;
const RC_TESTING: u32 = 0x90a;
/// With [`RETRY_AFTER`], two seconds of a TPM that tests itself.
const MAX_ATTEMPTS: u32 = 40;
const RETRY_AFTER: Duration = Duration::from_millis(50);
