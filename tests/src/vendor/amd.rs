//! Processors with SEV-SNP, of the generation Milan.
//!
//! Source: AMD 56860 (SEV-SNP firmware ABI) table 23; AMD 57230 §3; AMD 56421 §4.1.8.1.

use std::time::SystemTime;

use rcgen::CustomExtension;

use super::authority::{Authority, Curve, Key, params, pem};
use crate::configfs::Made;

/// A maker of processors.
#[derive(Debug)]
pub struct Amd {
    root: Authority,
    issuer: Authority,
}

impl Amd {
    pub(super) fn new() -> Self {
        let root = Authority::root("ARK-Milan", Curve::P384);
        let issuer = root.below("SEV-Milan", None);
        Self { root, issuer }
    }

    pub(super) fn root(&self) -> &[u8] {
        self.root.der()
    }

    pub(super) fn revocation_list(&self, until: SystemTime) -> Vec<u8> {
        self.root.revocation_list(until)
    }

    /// A processor, whose number is this byte 64 times.
    pub fn chip(&self, number: u8) -> Chip {
        self.make(number, None)
    }

    /// One whose key's certificate is over at `until`.
    pub fn chip_until(&self, number: u8, until: SystemTime) -> Chip {
        self.make(number, Some(until))
    }

    fn make(&self, number: u8, until: Option<SystemTime>) -> Chip {
        let key = Key::new(Curve::P384);
        let mut params = params("SEV-VCEK");
        if let Some(until) = until {
            params.not_after = until.into();
        }
        // Versions of boot loader, TEE, firmware and microcode, and the processor's number.
        let extensions: [(&[u64], Vec<u8>); 5] = [
            (&[3, 1], vec![2, 1, 3]),
            (&[3, 2], vec![2, 1, 0]),
            (&[3, 3], vec![2, 1, 22]),
            (&[3, 8], vec![2, 2, 0, 210]),
            (&[4], vec![number; 64]),
        ];
        for (arcs, value) in extensions {
            let oid = [&[1, 3, 6, 1, 4, 1, 3704, 1], arcs].concat();
            let extension = CustomExtension::from_oid_content(&oid, value);
            params.custom_extensions.push(extension);
        }
        Chip {
            vcek: self.issuer.certify(&params, &key),
            issuer: self.issuer.der().to_vec(),
            number,
            key,
        }
    }
}

/// A processor.
#[derive(Clone, Debug)]
pub struct Chip {
    number: u8,
    key: Key,
    vcek: Vec<u8>,
    issuer: Vec<u8>,
}

/// What runs on it, and how.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Launch digest: this byte 48 times.
    pub measurement: u8,
    /// Whether the host may look in.
    pub debug: bool,
    /// Privilege level that asks.
    pub vmpl: u8,
    /// Whether the host hands out certificates.
    pub has_certificates: bool,
}

impl Guest {
    /// An honest one, with this launch digest.
    pub fn of(measurement: u8) -> Self {
        Self {
            measurement,
            debug: false,
            vmpl: 0,
            has_certificates: true,
        }
    }
}

impl Chip {
    /// What a profile or `Node` calls it.
    pub fn id(&self) -> String {
        format!("{:02x}", self.number).repeat(64)
    }

    /// A signed report.
    pub fn report(&self, guest: &Guest, report_data: &[u8]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0x00] = 3;
        report[0x0a] = 0x03 | (u8::from(guest.debug) << 3);
        report[0x30] = guest.vmpl;
        report[0x34] = 1;
        report[0x38..0x40].copy_from_slice(&[4, 1, 0, 0, 0, 0, 23, 220]);
        report[0x50..0x90].copy_from_slice(report_data);
        report[0x90..0xc0].fill(guest.measurement);
        report[0x160..0x180].fill(0xff);
        report[0x180..0x188].copy_from_slice(&[3, 0, 0, 0, 0, 0, 22, 210]);
        report[0x188..0x18b].copy_from_slice(&[0x19, 0x01, 0x01]);
        report[0x1a0..0x1e0].fill(self.number);
        report[0x1e0..0x1e8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        report[0x1f0..0x1f8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        let signature = self.key.sign(&report[..0x2a0]);
        for (at, half) in [(0x2a0, &signature[..48]), (0x2e8, &signature[48..])] {
            let little: Vec<u8> = half.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little);
        }
        report
    }

    /// What the kernel gives for report data.
    pub fn answer(&self, guest: &Guest, report_data: &[u8]) -> Made {
        Made {
            outblob: self.report(guest, report_data),
            auxblob: match guest.has_certificates {
                true => table(&[&self.vcek, &self.issuer]),
                false => Vec::new(),
            },
        }
    }

    /// Certificates of the key and of its authority, as a cloud's metadata service gives them.
    pub fn certificates(&self) -> [String; 2] {
        [pem(&[&self.vcek]), pem(&[&self.issuer])]
    }
}

/// The host's table: identifier, offset and length of each, then an entry of zeros, then the certificates.
fn table(certificates: &[&[u8]]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).expect("it is small").to_le_bytes();
    let mut offset = 24 * (certificates.len() + 1);
    let mut table = Vec::new();
    for der in certificates {
        table.extend([7; 16]);
        table.extend(number(offset));
        table.extend(number(der.len()));
        offset += der.len();
    }
    table.extend([0; 24]);
    table.extend(certificates.concat());
    table
}
