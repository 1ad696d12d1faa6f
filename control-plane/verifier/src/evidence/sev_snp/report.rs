//! The attestation report, read at fixed offsets from the bytes that were signed.
//!
//! The bytes are kept and verified as they came: a parser that writes its structure anew would accept changes of what
//! it does not model.
//!
//! Source: AMD 56860 (SEV-SNP Firmware ABI) rev. 1.58, table 23.

use super::Product;

/// A report: bytes that have the right length, version and encoding. Nothing in it is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report(Box<[u8; Self::BYTES]>);

/// Which key signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SigningKey {
    /// Derived from the chip's own secrets.
    Vcek,
    /// Derived from a seed that AMD gave a cloud provider.
    Vlek,
    /// No key, or one that is not specified.
    None,
}

impl Report {
    /// Length, always.
    pub const BYTES: usize = 0x4a0;
    /// What the signature covers.
    pub const SIGNED_BYTES: usize = 0x2a0;

    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError`] unless the bytes are exactly one report of version 2 to 5 whose signature is encoded in the one
    /// way there is.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let bytes: &[u8; Self::BYTES] = bytes
            .try_into()
            .map_err(|_| ReportError::Length(bytes.len()))?;
        let report = Self(Box::new(*bytes));
        match report.version() {
            2..=5 => {}
            version => return Err(ReportError::Version(version)),
        }
        let algorithm = report.u32(0x34);
        if algorithm != ECDSA_P384_SHA384 {
            return Err(ReportError::Algorithm(algorithm));
        }
        // What is not signed and not signature is zero, or one report would have many encodings.
        let padding = [report.range(0x2d0, 0x2e8), report.range(0x318, Self::BYTES)];
        if padding.concat().iter().any(|byte| *byte != 0) {
            return Err(ReportError::Padding);
        }
        Ok(report)
    }

    fn range(&self, from: usize, to: usize) -> &[u8] {
        // Every caller names constants below `BYTES`.
        self.0.get(from..to).unwrap_or_default()
    }

    fn array<const N: usize>(&self, from: usize) -> [u8; N] {
        self.range(from, from + N).try_into().unwrap_or([0; N])
    }

    fn u32(&self, from: usize) -> u32 {
        u32::from_le_bytes(self.array(from))
    }

    fn u64(&self, from: usize) -> u64 {
        u64::from_le_bytes(self.array(from))
    }

    /// All bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// What was signed.
    pub fn signed(&self) -> &[u8] {
        self.range(0, Self::SIGNED_BYTES)
    }

    /// The signature as `r || s`, big-endian, 48 bytes each; the report has it little-endian.
    pub fn signature(&self) -> [u8; 96] {
        let mut signature = [0; 96];
        let (r, s) = signature.split_at_mut(48);
        r.copy_from_slice(&self.array::<48>(0x2a0));
        s.copy_from_slice(&self.array::<48>(0x2e8));
        r.reverse();
        s.reverse();
        signature
    }

    /// Version of the layout: 2 to 5.
    pub fn version(&self) -> u32 {
        self.u32(0)
    }

    /// The guest's security version.
    pub fn guest_svn(&self) -> u32 {
        self.u32(0x04)
    }

    /// The policy under which the guest was launched.
    pub fn policy(&self) -> GuestPolicy {
        GuestPolicy(self.u64(0x08))
    }

    /// Family of the guest, set at launch.
    pub fn family_id(&self) -> [u8; 16] {
        self.array(0x10)
    }

    /// Image of the guest, set at launch.
    pub fn image_id(&self) -> [u8; 16] {
        self.array(0x20)
    }

    /// Privilege level that asked for the report: 0 is the most privileged.
    pub fn vmpl(&self) -> u32 {
        self.u32(0x30)
    }

    /// Properties of the platform, as bits.
    pub fn platform_info(&self) -> u64 {
        self.u64(0x40)
    }

    /// Whether the platform checked memory for aliases (CVE-2024-21944, BadRAM).
    pub fn is_alias_check_complete(&self) -> bool {
        self.platform_info() & 1 << 5 != 0
    }

    /// Whether the platform encrypts all memory, beside what guests encrypt.
    pub fn is_memory_encrypted(&self) -> bool {
        self.platform_info() & 1 << 1 != 0
    }

    /// Whether memory corrects errors.
    pub fn is_ecc_enabled(&self) -> bool {
        self.platform_info() & 1 << 2 != 0
    }

    /// Whether the platform's power meter is off, by which a host could listen.
    pub fn is_power_meter_disabled(&self) -> bool {
        self.platform_info() & 1 << 3 != 0
    }

    /// Whether the host can't even read the ciphertext of guests' memory.
    pub fn is_ciphertext_hidden(&self) -> bool {
        self.platform_info() & 1 << 4 != 0
    }

    /// Whether simultaneous multithreading is on.
    pub fn is_smt_enabled(&self) -> bool {
        self.platform_info() & 1 != 0
    }

    /// Whether an author key signed the identity block.
    pub fn has_author_key(&self) -> bool {
        self.u32(0x48) & 1 != 0
    }

    /// Whether the host masked the chip's key, so that nothing is signed.
    pub fn is_chip_key_masked(&self) -> bool {
        self.u32(0x48) & 2 != 0
    }

    /// Which key signed.
    pub fn signing_key(&self) -> SigningKey {
        match self.u32(0x48) >> 2 & 7 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            _ => SigningKey::None,
        }
    }

    /// What the guest put in.
    pub fn report_data(&self) -> [u8; 64] {
        self.array(0x50)
    }

    /// Digest of the launched guest.
    pub fn measurement(&self) -> [u8; 48] {
        self.array(0x90)
    }

    /// What the host put in at launch.
    pub fn host_data(&self) -> [u8; 32] {
        self.array(0xc0)
    }

    /// Digest of the key that signed the identity block.
    pub fn id_key_digest(&self) -> [u8; 48] {
        self.array(0xe0)
    }

    /// Digest of the key that signed the identity key.
    pub fn author_key_digest(&self) -> [u8; 48] {
        self.array(0x110)
    }

    /// Names this guest, for its life.
    pub fn report_id(&self) -> [u8; 32] {
        self.array(0x140)
    }

    /// Names the guest's migration agent; all ones without one.
    pub fn report_id_of_migration_agent(&self) -> [u8; 32] {
        self.array(0x160)
    }

    /// Family, model and stepping; reports of version 2 have none.
    pub fn cpuid(&self) -> Option<(u8, u8, u8)> {
        let [family, model, stepping] = self.array(0x188);
        (self.version() >= 3).then_some((family, model, stepping))
    }

    /// Names the chip; zero when masked or where a VLEK signed. Turin uses the first eight bytes.
    pub fn chip_id(&self) -> [u8; 64] {
        self.array(0x1a0)
    }

    /// The versions from which the signing key was derived.
    pub fn reported_tcb(&self, product: Product) -> Tcb {
        Tcb::read(self.array(0x180), product)
    }

    /// The versions that run now.
    pub fn current_tcb(&self, product: Product) -> Tcb {
        Tcb::read(self.array(0x38), product)
    }

    /// The versions below which the platform can't be rolled back.
    pub fn committed_tcb(&self, product: Product) -> Tcb {
        Tcb::read(self.array(0x1e0), product)
    }

    /// The versions that ran when the guest was launched.
    pub fn launch_tcb(&self, product: Product) -> Tcb {
        Tcb::read(self.array(0x1f0), product)
    }

    /// The firmware that runs: major, minor and build.
    pub fn current_firmware(&self) -> (u8, u8, u8) {
        let [build, minor, major] = self.array(0x1e8);
        (major, minor, build)
    }

    /// The firmware that is committed: major, minor and build.
    pub fn committed_firmware(&self) -> (u8, u8, u8) {
        let [build, minor, major] = self.array(0x1ec);
        (major, minor, build)
    }

    /// Names of fields whose reserved bits are not as AMD demands.
    ///
    /// Version 4 may already use the place of the mitigations, and a TCB's layout is the product's.
    pub fn reserved_in_use(&self, product: Product) -> Vec<&'static str> {
        let end = match self.version() {
            2 | 3 => 0x1f8,
            _ => 0x208,
        };
        let cpuid = if self.version() >= 3 { 0x18b } else { 0x188 };
        let ranges = [
            ("0x4c", 0x4c, 0x50),
            ("0x188", cpuid, 0x1a0),
            ("0x1eb", 0x1eb, 0x1ec),
            ("0x1ef", 0x1ef, 0x1f0),
            ("0x1f8", end, Self::SIGNED_BYTES),
        ];
        let mut wrong: Vec<_> = ranges
            .into_iter()
            .filter(|(_, from, to)| self.range(*from, *to).iter().any(|byte| *byte != 0))
            .map(|(name, ..)| name)
            .collect();
        let tcbs = [
            ("current_tcb", 0x38),
            ("reported_tcb", 0x180),
            ("committed_tcb", 0x1e0),
            ("launch_tcb", 0x1f0),
        ];
        let between = match product {
            Product::Milan | Product::Genoa => (2, 6),
            Product::Turin => (4, 7),
        };
        wrong.extend(tcbs.into_iter().filter_map(|(name, at)| {
            let reserved = self.range(at + between.0, at + between.1);
            reserved.iter().any(|byte| *byte != 0).then_some(name)
        }));
        if self.u32(0x48) >> 5 != 0 {
            wrong.push("key_info");
        }
        if self.policy().0 & 1 << 17 == 0 {
            wrong.push("policy bit 17");
        }
        wrong
    }

    /// Bits of guest policy and platform info whose meaning is not known here.
    pub fn unknown_bits(&self) -> (u64, u64) {
        (
            self.policy().0 & !KNOWN_POLICY,
            self.platform_info() & !KNOWN_PLATFORM,
        )
    }

    /// Mitigations at launch and now, as bits; from version 5 on.
    pub fn mitigations(&self) -> Option<(u64, u64)> {
        (self.version() >= 5).then(|| (self.u64(0x1f8), self.u64(0x200)))
    }
}

/// The policy of a guest (AMD 56860 table 10). Bits that we don't know are shown, never judged: later firmware adds
/// restrictions there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuestPolicy(pub u64);

impl GuestPolicy {
    /// The oldest firmware interface that the guest accepts: major and minor.
    pub fn least_abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Memory behind CXL is allowed.
    pub fn allows_cxl(self) -> bool {
        self.0 & 1 << 21 != 0
    }

    /// Simultaneous multithreading is allowed.
    pub fn allows_smt(self) -> bool {
        self.0 & 1 << 16 != 0
    }

    /// A migration agent may take the guest elsewhere.
    pub fn allows_migration(self) -> bool {
        self.0 & 1 << 18 != 0
    }

    /// The host may read and write the guest.
    pub fn allows_debug(self) -> bool {
        self.0 & 1 << 19 != 0
    }

    /// The guest runs on one socket only.
    pub fn is_single_socket(self) -> bool {
        self.0 & 1 << 20 != 0
    }
}

/// Security versions of a platform's firmware.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcb {
    /// Firmware of the management controller; Turin only.
    pub fmc: Option<u8>,
    /// Boot loader of the security processor.
    pub bootloader: u8,
    /// Its operating system.
    pub tee: u8,
    /// SEV-SNP firmware.
    pub snp: u8,
    /// Microcode of the cores.
    pub microcode: u8,
}

impl Tcb {
    fn read(bytes: [u8; 8], product: Product) -> Self {
        let [b0, b1, b2, b3, _, _, b6, b7] = bytes;
        match product {
            Product::Milan | Product::Genoa => Self {
                fmc: None,
                bootloader: b0,
                tee: b1,
                snp: b6,
                microcode: b7,
            },
            Product::Turin => Self {
                fmc: Some(b0),
                bootloader: b1,
                tee: b2,
                snp: b3,
                microcode: b7,
            },
        }
    }

    /// Whether every part is at least as new.
    pub fn is_at_least(&self, floor: &Self) -> bool {
        self.fmc.unwrap_or(0) >= floor.fmc.unwrap_or(0)
            && self.bootloader >= floor.bootloader
            && self.tee >= floor.tee
            && self.snp >= floor.snp
            && self.microcode >= floor.microcode
    }
}

impl std::fmt::Display for Tcb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc} ")?;
        }
        write!(
            f,
            "bootloader {} tee {} snp {} microcode {}",
            self.bootloader, self.tee, self.snp, self.microcode
        )
    }
}

/// Why bytes are not a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// Another length.
    #[error("a report has 1184 bytes, found {0}")]
    Length(usize),
    /// A layout that we don't know.
    #[error("report version {0} is not among 2 to 5")]
    Version(u32),
    /// Not ECDSA over P-384 with SHA-384.
    #[error("signature algorithm {0} is not 1, ECDSA P-384 with SHA-384")]
    Algorithm(u32),
    /// Bytes that no signature covers are not zero.
    #[error("bytes outside report and signature are not zero")]
    Padding,
}

const ECDSA_P384_SHA384: u32 = 1;
/// ABI, SMT, the bit that is always one, migration, debug, single socket, CXL, AES-256, RAPL, ciphertext hiding, page swap.
const KNOWN_POLICY: u64 = 0x03ff_ffff;
/// SMT, TSME, ECC, RAPL, ciphertext hiding, alias check, and two of Turin's IO.
const KNOWN_PLATFORM: u64 = 0xff;
