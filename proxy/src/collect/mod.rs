//! `vouchsafe-proxy collect`: what this machine can prove, as files that `vouchsafe attest verify` and
//! `vouchsafe attest reference` read.
//!
//! A bundle is a folder: `bundle.json` says what was collected, over which nonce, and what was not and why; beside it is a
//! folder per kind of evidence, whose files are in the forms that others write and read too. Nothing here is an
//! attestation: a bundle is bound to a nonce alone, and nothing turns it into a certificate.
//!
//! # Why
//! Devices are spoken to by the sidecar's attesters, which the operator's command line can't import (DESIGN §3), and which
//! are installed where the devices are. So this is a command of the sidecar's binary; `vouchsafe attest collect` runs it.

pub mod bundle;
mod devices;

use std::io::Write as _;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Runtime;
use vouchsafe_config::attester::{
    DEFAULT_CCEL, DEFAULT_EVENT_LOG, DEFAULT_IMA_LOG, DEFAULT_IMDS, DEFAULT_NSM,
    DEFAULT_TPM_DEVICE, DEFAULT_TSM, Tpm, TpmTransport, Tsm,
};

use crate::attester::CollectError;
use crate::attester::nitro::NitroError;
use crate::attester::nvidia_gpu::GpuError;
use crate::attester::tpm::TpmAttester;
use crate::attester::tsm::processor::processor_of;
use crate::attester::tsm::{Provider, TsmAttester, TsmError};
use bundle::{Bundle, Piece, WriteBundleError};

/// What to collect, and where to put it.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Folder to make for the bundle; must not exist yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the evidence is bound to: 32 bytes in hex; drawn here and written into the bundle, unless given.
    #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
    nonce: Option<Nonce>,
    /// The TPM: a device, the Unix socket of a software TPM, or its `address:port`; /dev/tpmrm0 where it exists.
    #[arg(long, value_name = "TPM")]
    tpm: Option<String>,
    /// Where the kernel takes requests for reports of a confidential guest, where it is not the usual place.
    #[arg(long, value_name = "DIR")]
    tsm: Option<PathBuf>,
    /// NVIDIA's management library, where the system does not find it by itself.
    #[arg(long, value_name = "FILE")]
    nvidia_library: Option<PathBuf>,
    /// The security module of an enclave, or a Unix socket that speaks for it; /dev/nsm where it exists.
    #[arg(long, value_name = "DEVICE")]
    nitro: Option<PathBuf>,
    /// Azure's metadata service, which is asked where the TPM is that of a confidential VM there.
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_IMDS)]
    imds: String,
    /// Certificates of the TPM's endorsement key (PEM, leaf first), where they are not in the TPM.
    #[arg(long, value_name = "FILE")]
    ek_chain: Option<PathBuf>,
    /// The firmware's event log, where it is not the kernel's.
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// The kernel's list of measured files, where it is not at its usual place.
    #[arg(long, value_name = "FILE")]
    ima_log: Option<PathBuf>,
    /// Prints a `Node` document of this name, which pins the hardware that was found; to be reviewed.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Namespace of the `Node`.
    #[arg(long, default_value = "default", requires = "node")]
    namespace: String,
}

/// What evidence is bound to.
#[derive(Clone, Copy, Debug)]
struct Nonce([u8; 32]);

fn parse_nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    let bytes = bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| format!("a nonce has 32 bytes, found {}", bytes.len()))?;
    Ok(Nonce(bytes))
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CollectBundleError {
    /// No randomness.
    #[error("failed to draw a nonce")]
    Nonce,
    /// The machine has nothing to prove with, as far as it was looked for.
    #[error("nothing was found to collect: {0}")]
    Nothing(String),
    /// A device that was named, or is there, fails.
    #[error("failed to collect evidence of the TPM")]
    Tpm(#[source] CollectError),
    /// The kernel's interface for reports is there, and fails.
    #[error("failed to collect a report of the confidential guest")]
    Tsm(#[source] TsmError),
    /// GPUs are there, and fail.
    #[error("failed to collect reports of the GPUs")]
    NvidiaGpu(#[source] GpuError),
    /// The enclave's module is there, and fails.
    #[error("failed to collect the enclave's document")]
    Nitro(#[source] NitroError),
    /// No thread for waiting.
    #[error("failed to start a runtime")]
    Runtime(#[source] std::io::Error),
    /// The files can't be written.
    #[error(transparent)]
    Write(#[from] WriteBundleError),
    /// Standard output is closed.
    #[error("failed to print what was collected")]
    Print(#[source] std::io::Error),
}

/// Collects, writes the bundle, and prints where it is, or the `Node`. Blocks: a chip may need a minute for its keys.
///
/// # Errors
/// [`CollectBundleError`].
pub fn run(arguments: &Arguments) -> Result<(), CollectBundleError> {
    let nonce = match arguments.nonce {
        Some(nonce) => nonce,
        None => fresh_nonce()?,
    };
    let bundle = collect(arguments, nonce)?;
    bundle.write(&arguments.out)?;
    let text = match &arguments.node {
        Some(node) => bundle.node(node, &arguments.namespace),
        None => bundle.summary(&arguments.out),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(CollectBundleError::Print)
}

fn fresh_nonce() -> Result<Nonce, CollectBundleError> {
    let mut nonce = [0; 32];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| CollectBundleError::Nonce)?;
    Ok(Nonce(nonce))
}

fn collect(arguments: &Arguments, nonce: Nonce) -> Result<Bundle, CollectBundleError> {
    let mut bundle = Bundle::new(nonce.0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CollectBundleError::Runtime)?;
    match tpm_config(arguments) {
        Some(config) => {
            let user_data = report_data(nonce);
            let azure = devices::azure(&config, &arguments.imds, &nonce.0, &user_data);
            let azure = runtime.block_on(azure).map_err(CollectBundleError::Tpm)?;
            // The vTPM of a confidential VM has no endorsement key that anybody vouches for: its hardware does.
            let piece = match azure {
                Some(piece) => piece,
                None => collect_tpm(&config, arguments, nonce).map_err(CollectBundleError::Tpm)?,
            };
            bundle.add(piece);
        }
        None => bundle.lack("tpm", format!("`{DEFAULT_TPM_DEVICE}` does not exist")),
    }
    let tsm = arguments.tsm.clone().or_else(|| existing(DEFAULT_TSM));
    match tsm {
        Some(path) => collect_guest(&path, nonce, &runtime, &mut bundle)?,
        None => bundle.lack("sev_snp or tdx", format!("`{DEFAULT_TSM}` does not exist")),
    }
    let library = arguments.nvidia_library.clone();
    match runtime.block_on(devices::gpus(library.clone(), &nonce.0)) {
        Ok(piece) => bundle.add(piece),
        Err(error) if library.is_none() && devices::has_none(&error) => {
            bundle.lack("nvidia_gpu", error.to_string());
        }
        Err(error) => return Err(CollectBundleError::NvidiaGpu(error)),
    }
    let module = arguments.nitro.clone().or_else(|| existing(DEFAULT_NSM));
    match module {
        Some(device) => {
            let document = runtime.block_on(devices::enclave(device, &nonce.0));
            bundle.add(document.map_err(CollectBundleError::Nitro)?);
        }
        None => bundle.lack("nitro", format!("`{DEFAULT_NSM}` does not exist")),
    }
    if bundle.is_empty() {
        return Err(CollectBundleError::Nothing(bundle.lacking()));
    }
    Ok(bundle)
}

/// The digest of the nonce, which fills 64 bytes without padding.
fn report_data(nonce: Nonce) -> [u8; 64] {
    let mut report_data = [0; 64];
    report_data.copy_from_slice(digest(&SHA512, &nonce.0).as_ref());
    report_data
}

/// The TPM that was named, or the usual device where it exists.
fn tpm_config(arguments: &Arguments) -> Option<Tpm> {
    let transport = match &arguments.tpm {
        Some(named) => transport(named),
        None => {
            let device = Path::new(DEFAULT_TPM_DEVICE);
            device
                .exists()
                .then(|| TpmTransport::Device(device.to_owned()))?
        }
    };
    let kernels = || match transport {
        TpmTransport::Device(_) => existing(DEFAULT_EVENT_LOG),
        TpmTransport::SwtpmUnix(_) | TpmTransport::SwtpmTcp(_) => None,
    };
    Some(Tpm {
        event_log: arguments.event_log.clone().or_else(kernels),
        ek_chain: arguments.ek_chain.clone(),
        ima_log: arguments.ima_log.clone(),
        transport,
    })
}

fn transport(named: &str) -> TpmTransport {
    let path = Path::new(named);
    let is_socket = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    match named.parse() {
        Ok(address) => TpmTransport::SwtpmTcp(address),
        Err(_) if is_socket => TpmTransport::SwtpmUnix(path.to_owned()),
        Err(_) => TpmTransport::Device(path.to_owned()),
    }
}

fn existing(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.exists().then(|| path.to_owned())
}

fn collect_tpm(config: &Tpm, arguments: &Arguments, nonce: Nonce) -> Result<Piece, CollectError> {
    let attester = TpmAttester::open(config)?;
    // The kernel's list is of this machine's TPM, not of a software TPM that runs on it.
    let kernels = || match config.transport {
        TpmTransport::Device(_) => existing(DEFAULT_IMA_LOG),
        TpmTransport::SwtpmUnix(_) | TpmTransport::SwtpmTcp(_) => None,
    };
    let ima = arguments.ima_log.clone().or_else(kernels);
    let found = attester.snapshot(&nonce.0, ima.as_deref())?;
    let mut piece = Piece::new("tpm");
    let ek_sha256 = hex::encode(digest(&SHA256, &found.ek_public));
    piece.expect("expect_nonce", hex::encode(nonce.0));
    piece.pin("tpm_ek_sha256", ek_sha256);
    piece.file("quote.msg", found.quote);
    piece.file("quote.sig", found.signature);
    let values = found.pcrs.into_iter().flat_map(|bank| bank.values);
    piece.file("quote.pcrs", values.flat_map(|(_, value)| value).collect());
    piece.file("ak.pub", found.ak_public);
    piece.file("ek.pub", found.ek_public);
    for (index, certificate) in found.ek_chain.into_iter().enumerate() {
        piece.file(&format!("ek-certificate-{index}.der"), certificate);
    }
    piece.file("eventlog.bin", found.event_log);
    piece.file("ima.bin", found.ima_log);
    Ok(piece)
}

/// A report over the digest of the nonce.
fn collect_guest(
    path: &Path,
    nonce: Nonce,
    runtime: &Runtime,
    bundle: &mut Bundle,
) -> Result<(), CollectBundleError> {
    let report_data = report_data(nonce);
    let mut why = String::new();
    for provider in [Provider::SevSnp, Provider::Tdx] {
        let config = Tsm {
            path: path.to_owned(),
            privilege_level: None,
            event_log: match provider {
                Provider::SevSnp => None,
                Provider::Tdx => existing(DEFAULT_CCEL),
            },
        };
        let found = runtime.block_on(async {
            let attester = TsmAttester::open(provider, &config).await?;
            attester.report(&report_data).await
        });
        match found {
            Ok(report) => {
                let mut piece = match provider {
                    Provider::SevSnp => guest_of_amd(report.report, &report.certificates),
                    Provider::Tdx => guest_of_intel(report.report, report.event_log),
                };
                piece.expect("expect_report_data", hex::encode(report_data));
                bundle.add(piece);
                return Ok(());
            }
            Err(TsmError::OtherProvider { found, .. }) => why = format!("provider is {found:?}"),
            Err(error) => return Err(CollectBundleError::Tsm(error)),
        }
    }
    bundle.lack("sev_snp or tdx", why);
    Ok(())
}

fn guest_of_amd(report: Vec<u8>, table: &[u8]) -> Piece {
    let mut piece = Piece::new("sev_snp");
    // A chip that hides itself shows zeros, which pin nothing.
    if let Some(chip_id) = report.get(SNP_CHIP_ID)
        && chip_id.iter().any(|byte| *byte != 0)
    {
        piece.pin("snp_chip_id", hex::encode(chip_id));
    }
    piece.file("report.bin", report);
    for (index, certificate) in certificates(table).into_iter().enumerate() {
        piece.file(&format!("certificate-{index}.der"), certificate.to_vec());
    }
    piece
}

fn guest_of_intel(quote: Vec<u8>, event_log: Vec<u8>) -> Piece {
    let mut piece = Piece::new("tdx");
    pin_processor(&mut piece, &quote);
    piece.file("quote.bin", quote);
    piece.file("ccel.bin", event_log);
    piece
}

/// Pins what a quote of TDX calls its processor and its machine; neither where it names none.
fn pin_processor(piece: &mut Piece, quote: &[u8]) {
    let Some(processor) = processor_of(quote) else {
        return;
    };
    for (key, name) in [
        ("tdx_ppid", processor.ppid),
        ("tdx_platform_instance_id", processor.platform_instance_id),
    ] {
        if let Some(name) = name {
            piece.pin(key, hex::encode(name));
        }
    }
}

/// The host's table: an identifier, offset and length each, up to an entry of zeros (AMD GHCB specification §4.1.8.1).
fn certificates(table: &[u8]) -> Vec<&[u8]> {
    let number = |bytes: &[u8]| {
        let bytes = bytes.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let entries = table.chunks_exact(TABLE_ENTRY).take(MAX_CERTIFICATES);
    let entries = entries.take_while(|entry| entry.iter().any(|byte| *byte != 0));
    let found = entries.filter_map(|entry| {
        let offset = number(entry.get(16..)?)?;
        let length = number(entry.get(20..)?)?;
        table.get(offset..offset.checked_add(length)?)
    });
    found.collect()
}

/// Of a report of SEV-SNP (AMD 56860 table 23).
const SNP_CHIP_ID: std::ops::Range<usize> = 0x1a0..0x1e0;
const TABLE_ENTRY: usize = 24;
/// VEK, ASK, ARK, a revocation list, and room.
const MAX_CERTIFICATES: usize = 8;

#[cfg(test)]
mod tests;
