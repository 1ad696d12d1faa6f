//! SEV-SNP from files: a report, bare, wrapped or written out as JSON, and certificates.

use std::time::SystemTime;

use serde::Deserialize;

use super::content::Contents;
use super::{Dossier, Expected, File, only, refuse_expectation, slices};
use crate::evidence::received::table;
use crate::evidence::sev_snp::report::Report;
use crate::evidence::sev_snp::{self, Rules, chain};
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

pub(super) fn judge(
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let report_data = expected.and_then(Expected::as_report_data);
    if expected.is_some() && report_data.is_none() {
        refuse_expectation("SEV-SNP has report data and no nonce", ledger);
        return;
    }
    let contents = dossier.opened();
    let cached = dossier.cached();
    let (reports, certificates) = gather(&contents);
    let endorsements = chain::Endorsements::new(
        [slices(&certificates), slices(&cached.certificates)].concat(),
        slices(&contents.crls),
        slices(&cached.crls),
        roots.amd(),
    );
    contents.report_unread(|bytes| reports.iter().any(|report| report == bytes), ledger);
    if reports.is_empty() {
        for crl in &endorsements.crls {
            chain::check_crl_alone(crl, now, ledger);
        }
    }
    if let Some(report) = only(reports, ledger) {
        let expected = report_data.into();
        sev_snp::judge(&report, &endorsements, expected, rules, now, ledger);
    }
}

/// The reports of files and the certificates that came with them, to know what else is needed; unverified.
pub(crate) fn reports(files: &[File<'_>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    gather(&Contents::of(files.iter().copied()))
}

fn gather(contents: &Contents) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut certificates = contents.certificates.clone();
    let written = contents.documents.iter();
    let written: Vec<_> = { written.filter_map(|(text, _)| Written::parse(text)) }
        .map(|written| written.attestation_report.to_bytes())
        .collect();
    if !written.is_empty() {
        return (written, certificates);
    }
    let found = contents.evidence(|bytes| bare(bytes).is_some_and(|(report, _)| is_report(report)));
    let reports = found.into_iter().map(|found| match bare(&found) {
        Some((report, table)) => {
            let held = table.into_iter().map(<[u8]>::to_vec);
            certificates.extend(held);
            report.to_vec()
        }
        None => found,
    });
    let mut reports: Vec<_> = reports.collect();
    // Tools that ask for an extended report write the same one twice.
    reports.dedup();
    (reports, certificates)
}

/// A report as the firmware hands it out, without what the kernel's interfaces put around it: a header and a page of
/// zeros, or the host's table of certificates behind it.
fn bare(bytes: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (bytes, is_answer) = match bytes.strip_prefix(ANSWER) {
        Some(rest) => (rest.get(32 - ANSWER.len()..)?, true),
        None => (bytes, false),
    };
    let (report, rest) = bytes.split_at_checked(Report::BYTES)?;
    if rest.is_empty() || is_answer && rest.iter().all(|byte| *byte == 0) {
        return Some((report, Vec::new()));
    }
    let table = table(rest);
    (!table.is_empty()).then_some((report, table))
}

fn is_report(bytes: &[u8]) -> bool {
    let head = bytes
        .first_chunk::<4>()
        .map(|head| u32::from_le_bytes(*head));
    bytes.len() == Report::BYTES && head.is_some_and(|version| (1..16).contains(&version))
}

/// Status 0 and the length of a report: how `SNP_GET_REPORT` answers (linux `sev-guest.h`).
const ANSWER: &[u8] = &[0, 0, 0, 0, 0xa0, 4, 0, 0];

/// A report written out as JSON, as the `sev` crate serialises it (Trustee's evidence).
///
/// The report is put together again at its fixed offsets, and the signature says whether that is what the chip signed.
#[derive(Deserialize)]
struct Written {
    attestation_report: WrittenReport,
}

#[derive(Deserialize)]
struct WrittenReport {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Vec<u8>,
    image_id: Vec<u8>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: WrittenTcb,
    plat_info: u64,
    key_info: u32,
    report_data: Vec<u8>,
    measurement: Vec<u8>,
    host_data: Vec<u8>,
    id_key_digest: Vec<u8>,
    author_key_digest: Vec<u8>,
    report_id: Vec<u8>,
    report_id_ma: Vec<u8>,
    reported_tcb: WrittenTcb,
    #[serde(default)]
    cpuid_fam_id: Option<u8>,
    #[serde(default)]
    cpuid_mod_id: Option<u8>,
    #[serde(default)]
    cpuid_step: Option<u8>,
    chip_id: Vec<u8>,
    committed_tcb: WrittenTcb,
    current: WrittenVersion,
    committed: WrittenVersion,
    launch_tcb: WrittenTcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: WrittenSignature,
}

#[derive(Deserialize)]
struct WrittenTcb {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Deserialize)]
struct WrittenVersion {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize)]
struct WrittenSignature {
    r: Vec<u8>,
    s: Vec<u8>,
}

impl Written {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_JSON_BYTES || bytes.first() != Some(&b'{') {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }
}

impl WrittenReport {
    /// Each field at its offset. A field of another length yields bytes of another length, which are no report.
    fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.put(0x00, &self.version.to_le_bytes());
        fields.put(0x04, &self.guest_svn.to_le_bytes());
        fields.put(0x08, &self.policy.to_le_bytes());
        fields.put_sized::<16>(0x10, &self.family_id);
        fields.put_sized::<16>(0x20, &self.image_id);
        fields.put(0x30, &self.vmpl.to_le_bytes());
        fields.put(0x34, &self.sig_algo.to_le_bytes());
        fields.put(0x38, &self.current_tcb.to_bytes());
        fields.put(0x40, &self.plat_info.to_le_bytes());
        fields.put(0x48, &self.key_info.to_le_bytes());
        fields.put_sized::<64>(0x50, &self.report_data);
        fields.put_sized::<48>(0x90, &self.measurement);
        fields.put_sized::<32>(0xc0, &self.host_data);
        fields.put_sized::<48>(0xe0, &self.id_key_digest);
        fields.put_sized::<48>(0x110, &self.author_key_digest);
        fields.put_sized::<32>(0x140, &self.report_id);
        fields.put_sized::<32>(0x160, &self.report_id_ma);
        fields.put(0x180, &self.reported_tcb.to_bytes());
        let cpuid = [self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step];
        fields.put(0x188, &cpuid.map(Option::unwrap_or_default));
        fields.put_sized::<64>(0x1a0, &self.chip_id);
        fields.put(0x1e0, &self.committed_tcb.to_bytes());
        fields.put(0x1e8, &self.current.to_bytes());
        fields.put(0x1ec, &self.committed.to_bytes());
        fields.put(0x1f0, &self.launch_tcb.to_bytes());
        fields.put(0x1f8, &self.launch_mit_vector.unwrap_or(0).to_le_bytes());
        fields.put(0x200, &self.current_mit_vector.unwrap_or(0).to_le_bytes());
        fields.put_sized::<72>(0x2a0, &self.signature.r);
        fields.put_sized::<72>(0x2e8, &self.signature.s);
        fields.finish()
    }
}

impl WrittenTcb {
    fn to_bytes(&self) -> [u8; 8] {
        match self.fmc {
            None => [
                self.bootloader,
                self.tee,
                0,
                0,
                0,
                0,
                self.snp,
                self.microcode,
            ],
            Some(fmc) => [
                fmc,
                self.bootloader,
                self.tee,
                self.snp,
                0,
                0,
                0,
                self.microcode,
            ],
        }
    }
}

impl WrittenVersion {
    fn to_bytes(&self) -> [u8; 3] {
        [self.build, self.minor, self.major]
    }
}

#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    is_malformed: bool,
}

impl Fields {
    /// Offsets ascend, so that what lies between is zero.
    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(value);
    }

    fn put_sized<const N: usize>(&mut self, at: usize, value: &[u8]) {
        self.is_malformed |= value.len() != N;
        self.put(at, value);
    }

    fn finish(mut self) -> Vec<u8> {
        if self.is_malformed {
            return Vec::new();
        }
        self.bytes.resize(Report::BYTES, 0);
        self.bytes
    }
}

/// A report with its chain takes about 40 KiB when every byte is written as a number.
const MAX_JSON_BYTES: usize = 256 * 1024;
