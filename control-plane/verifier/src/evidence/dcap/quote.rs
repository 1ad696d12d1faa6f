//! Quotes: header, body, and the chain of signatures that ends in a PCK certificate.
//!
//! Source: Intel SGX ECDSA Quote Library API rev. 0.9 appendix A; Intel TDX DCAP Quoting Library API rev. 0.7 appendix A.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

/// A quote, parsed in place; nothing in it is verified.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    signed: &'a [u8],
    /// What is attested.
    pub body: Body<'a>,
    signature: &'a [u8],
    attestation_key: &'a [u8],
    /// The quoting enclave's own report.
    pub qe_report: EnclaveReport<'a>,
    qe_signature: &'a [u8],
    qe_authentication: &'a [u8],
    /// The PCK certificate's chain as PEM, leaf first.
    pub pck_chain: &'a [u8],
    /// What follows the quote: platforms pad with zeros.
    pub trailing: &'a [u8],
    /// Version of the format: 3 to 5.
    pub version: u16,
}

/// What is attested.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// An enclave.
    Sgx(EnclaveReport<'a>),
    /// A trust domain.
    Tdx(TdReport<'a>),
}

/// Why bytes are not a quote.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuoteError {
    /// The bytes end inside a field.
    #[error("`{0}` is cut short")]
    Truncated(&'static str),
    /// A field has a value that is not known.
    #[error("`{0}` is {1}, which is not known")]
    Unknown(&'static str, u64),
    /// Larger than any platform makes.
    #[error("{0} bytes are more than a quote has")]
    TooLarge(usize),
    /// Bytes are left within a structure.
    #[error("bytes are left in `{0}`")]
    Left(&'static str),
    /// Not made by Intel's quoting enclave.
    #[error("the quoting enclave is not Intel's")]
    Vendor,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], QuoteError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(QuoteError::Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(QuoteError::Truncated(field))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, QuoteError> {
        self.array(field).map(u16::from_le_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, QuoteError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn sized(&mut self, field: &'static str) -> Result<&'a [u8], QuoteError> {
        let size = usize::try_from(self.u32(field)?).map_err(|_| QuoteError::Truncated(field))?;
        self.take(size, field)
    }

    fn finish(self, field: &'static str) -> Result<(), QuoteError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(QuoteError::Left(field))
        }
    }
}

impl<'a> Quote<'a> {
    /// Reads a quote.
    ///
    /// # Errors
    /// [`QuoteError`] unless the bytes begin with one quote of version 3 to 5 that an ECDSA P-256 key signed and whose
    /// chain is inside.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_BYTES {
            return Err(QuoteError::TooLarge(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let version = reader.u16("version")?;
        let key_type = reader.u16("attestation key type")?;
        let tee = reader.u32("TEE type")?;
        reader.take(4, "reserved")?;
        let vendor = reader.take(16, "QE vendor")?;
        reader.take(20, "user data")?;
        if key_type != ECDSA_P256 {
            return Err(QuoteError::Unknown("attestation key type", key_type.into()));
        }
        if vendor != INTEL {
            return Err(QuoteError::Vendor);
        }
        let body = read_body(&mut reader, version, tee)?;
        let signed_bytes = bytes.len() - reader.0.len();
        let signature_data = reader.sized("signature data")?;
        let signed = bytes.get(..signed_bytes).unwrap_or_default();
        read_signature_data(signature_data, version, |parts| Self {
            signed,
            body,
            trailing: reader.0,
            version,
            ..parts
        })
    }

    /// Whether the attestation key signed header and body.
    pub(crate) fn is_signed(&self) -> bool {
        verifies(self.attestation_key, self.signed, self.signature)
    }

    /// Whether a PCK, as uncompressed point, signed the quoting enclave's report.
    pub(crate) fn is_qe_report_signed(&self, pck: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pck)
            .verify(self.qe_report.0, self.qe_signature)
            .is_ok()
    }

    /// Whether the quoting enclave vouches for the attestation key.
    pub(crate) fn is_key_bound(&self) -> bool {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.attestation_key);
        context.update(self.qe_authentication);
        let digest = context.finish();
        let bound = self.qe_report.report_data();
        let (head, tail) = bound.split_at(32);
        head == digest.as_ref() && tail.iter().all(|byte| *byte == 0)
    }
}

fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4], key].concat())
        .verify(message, signature)
        .is_ok()
}

fn read_body<'a>(reader: &mut Reader<'a>, version: u16, tee: u32) -> Result<Body<'a>, QuoteError> {
    match (version, tee) {
        (3 | 4, TEE_SGX) => enclave(reader),
        (4, TEE_TDX) => td(reader, TdReport::BYTES),
        (5, TEE_SGX | TEE_TDX) => {
            let kind = reader.u16("body type")?;
            let size = reader.u32("body size")?;
            match (kind, size, tee) {
                (1, 384, TEE_SGX) => enclave(reader),
                (2, 584, TEE_TDX) => td(reader, TdReport::BYTES),
                (3, 648, TEE_TDX) => td(reader, TdReport::BYTES_1_5),
                _ => Err(QuoteError::Unknown("body type", kind.into())),
            }
        }
        (3..=5, _) => Err(QuoteError::Unknown("TEE type", tee.into())),
        _ => Err(QuoteError::Unknown("version", version.into())),
    }
}

fn enclave<'a>(reader: &mut Reader<'a>) -> Result<Body<'a>, QuoteError> {
    let bytes = reader.take(EnclaveReport::BYTES, "enclave report")?;
    Ok(Body::Sgx(EnclaveReport(bytes)))
}

fn td<'a>(reader: &mut Reader<'a>, size: usize) -> Result<Body<'a>, QuoteError> {
    Ok(Body::Tdx(TdReport(reader.take(size, "TD report")?)))
}

fn read_signature_data<'a>(
    bytes: &'a [u8],
    version: u16,
    finish: impl FnOnce(Quote<'a>) -> Quote<'a>,
) -> Result<Quote<'a>, QuoteError> {
    let mut outer = Reader(bytes);
    let signature = outer.take(64, "signature")?;
    let attestation_key = outer.take(64, "attestation key")?;
    let mut inner = if version == 3 {
        outer
    } else {
        certification(&mut outer, QE_REPORT)?;
        let certified = Reader(outer.sized("certification data")?);
        outer.finish("signature data")?;
        certified
    };
    let qe_report = EnclaveReport(inner.take(EnclaveReport::BYTES, "QE report")?);
    let qe_signature = inner.take(64, "QE report signature")?;
    let length = inner.u16("QE authentication data")?;
    let qe_authentication = inner.take(length.into(), "QE authentication data")?;
    certification(&mut inner, PCK_CHAIN)?;
    let pck_chain = inner.sized("PCK chain")?;
    inner.finish("certification data")?;
    Ok(finish(Quote {
        signed: &[],
        body: Body::Sgx(qe_report),
        signature,
        attestation_key,
        qe_report,
        qe_signature,
        qe_authentication,
        pck_chain,
        trailing: &[],
        version,
    }))
}

fn certification(reader: &mut Reader<'_>, expected: u16) -> Result<(), QuoteError> {
    match reader.u16("certification data type")? {
        found if found == expected => Ok(()),
        found => Err(QuoteError::Unknown("certification data type", found.into())),
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    // Both reports have their length by construction, and every offset is a constant inside it.
    bytes
        .get(at..at + N)
        .and_then(|field| field.try_into().ok())
        .unwrap_or([0; N])
}

/// The report of an enclave.
#[derive(Clone, Copy, Debug)]
pub struct EnclaveReport<'a>(&'a [u8]);

impl EnclaveReport<'_> {
    const BYTES: usize = 384;

    /// Extended features that an exception reports.
    pub fn miscselect(&self) -> u32 {
        u32::from_le_bytes(field(self.0, 16))
    }

    /// Flags, then the features of XFRM.
    pub fn attributes(&self) -> [u8; 16] {
        field(self.0, 48)
    }

    /// The lower half of the attributes, as bits.
    pub fn flags(&self) -> u64 {
        u64::from_le_bytes(field(self.0, 48))
    }

    /// The host may read the enclave.
    pub fn is_debug(&self) -> bool {
        self.attributes().first().is_none_or(|flags| flags & 2 != 0)
    }

    /// Digest of the enclave.
    pub fn mrenclave(&self) -> [u8; 32] {
        field(self.0, 64)
    }

    /// Digest of the key that signed the enclave.
    pub fn mrsigner(&self) -> [u8; 32] {
        field(self.0, 128)
    }

    /// Product, among those of one signer.
    pub fn product_id(&self) -> u16 {
        u16::from_le_bytes(field(self.0, 256))
    }

    /// Security version, as the signer counts.
    pub fn security_version(&self) -> u16 {
        u16::from_le_bytes(field(self.0, 258))
    }

    /// What the enclave put in.
    pub fn report_data(&self) -> [u8; 64] {
        field(self.0, 320)
    }
}

/// The report of a trust domain.
#[derive(Clone, Copy, Debug)]
pub struct TdReport<'a>(&'a [u8]);

impl TdReport<'_> {
    const BYTES: usize = 584;
    const BYTES_1_5: usize = 648;

    /// Versions of the TDX module and its loader.
    pub fn tee_tcb_svn(&self) -> [u8; 16] {
        field(self.0, 0)
    }

    /// Digest of the TDX module.
    pub fn mrseam(&self) -> [u8; 48] {
        field(self.0, 16)
    }

    /// Who signed the TDX module; zero is Intel.
    pub fn mrsignerseam(&self) -> [u8; 48] {
        field(self.0, 64)
    }

    /// Attributes of the TDX module.
    pub fn seam_attributes(&self) -> [u8; 8] {
        field(self.0, 112)
    }

    /// Attributes of the trust domain.
    pub fn attributes(&self) -> u64 {
        u64::from_le_bytes(field(self.0, 120))
    }

    /// Features of the processor that the trust domain may use.
    pub fn xfam(&self) -> u64 {
        u64::from_le_bytes(field(self.0, 128))
    }

    /// Digest of the trust domain as it was built.
    pub fn mrtd(&self) -> [u8; 48] {
        field(self.0, 136)
    }

    /// Configuration that the host put in at launch.
    pub fn mrconfigid(&self) -> [u8; 48] {
        field(self.0, 184)
    }

    /// Owner that the host put in at launch.
    pub fn mrowner(&self) -> [u8; 48] {
        field(self.0, 232)
    }

    /// Configuration by the owner that the host put in at launch.
    pub fn mrownerconfig(&self) -> [u8; 48] {
        field(self.0, 280)
    }

    /// Runtime registers, in order.
    pub fn rtmrs(&self) -> [[u8; 48]; 4] {
        [328, 376, 424, 472].map(|at| field(self.0, at))
    }

    /// What the trust domain put in.
    pub fn report_data(&self) -> [u8; 64] {
        field(self.0, 520)
    }

    /// Versions of the TDX module that runs now and its loader; the module may be newer than the one that built the
    /// trust domain. Before TDX 1.5 modules were not updated under trust domains.
    pub fn tee_tcb_svn_now(&self) -> Option<[u8; 16]> {
        (self.0.len() == Self::BYTES_1_5).then(|| field(self.0, 584))
    }

    /// Digest of the service trust domains that are bound to this one; before TDX 1.5 there are none.
    pub fn mrservicetd(&self) -> [u8; 48] {
        if self.0.len() == Self::BYTES_1_5 {
            field(self.0, 600)
        } else {
            [0; 48]
        }
    }
}

/// The kernel's own bound for configfs-tsm is 32 KiB.
const MAX_BYTES: usize = 64 * 1024;
const ECDSA_P256: u16 = 2;
const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;
const QE_REPORT: u16 = 6;
const PCK_CHAIN: u16 = 5;
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
