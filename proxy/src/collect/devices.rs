//! Evidence for a bundle from GPUs, an enclave's module and Azure's vTPM.
//!
//! A machine may lack each of them. What was named on the command line must be there; what was only looked for is said to
//! be lacking, and why.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use vouchsafe_api::convert::attest::{PcrHash, PcrSelection};
use vouchsafe_config::attester::{AzVtpm, Nitro, NvidiaGpu, Tpm};
use vouchsafe_device::nvml::NvmlError;

use super::bundle::Piece;
use crate::attester::CollectError;
use crate::attester::az_vtpm::{AzVtpmAttester, AzVtpmError, Collected, Hardware, HclParts};
use crate::attester::nitro::{NitroAttester, NitroError, instance_of};
use crate::attester::nvidia_gpu::{GpuAttester, GpuError, ueid_of};

/// All GPUs over one nonce, as NVIDIA's own tools write them.
///
/// # Errors
/// [`GpuError`].
pub(super) async fn gpus(library: Option<PathBuf>, nonce: &[u8; 32]) -> Result<Piece, GpuError> {
    let attester = GpuAttester::open(&NvidiaGpu { library }).await?;
    let mut written = Vec::new();
    let mut ueids = Vec::new();
    for index in 0..attester.machine().count {
        let said = attester.report(index, nonce).await?;
        written.push(json!({
            "arch": said.architecture.to_ascii_uppercase(),
            "nonce": hex::encode(nonce),
            "evidence": STANDARD.encode(&said.report),
            "certificate": STANDARD.encode(&said.certificate_chain),
        }));
        ueids.extend(ueid_of(&said.certificate_chain).map(|ueid| format!("\"{ueid}\"")));
    }
    let mut piece = Piece::new("nvidia_gpu");
    piece.expect("expect_nonce", hex::encode(nonce));
    // Fewer than there are would pin another machine.
    if ueids.len() == written.len() {
        piece.pin("gpu_ueids", format!("[{}]", ueids.join(", ")));
    }
    let written = serde_json::Value::Array(written);
    piece.file("evidence.json", format!("{written:#}\n").into_bytes());
    Ok(piece)
}

/// Whether the machine has no GPUs that could attest, rather than ones that fail.
pub(super) fn has_none(error: &GpuError) -> bool {
    matches!(
        error,
        GpuError::Nvml(NvmlError::Library { .. }) | GpuError::Count(0) | GpuError::ModeOff
    )
}

/// The enclave's document.
///
/// # Errors
/// [`NitroError`].
pub(super) async fn enclave(device: PathBuf, nonce: &[u8; 32]) -> Result<Piece, NitroError> {
    let document = NitroAttester::open(&Nitro { device })?
        .document(nonce)
        .await?;
    let mut piece = Piece::new("nitro");
    piece.expect("expect_nonce", hex::encode(nonce));
    if let Some(instance) = instance_of(&document) {
        piece.pin("nitro_instance_id", instance.to_owned());
    }
    piece.file("document.cbor", document);
    Ok(piece)
}

/// What Azure's vTPM quotes, with the hardware's report; `None` where the TPM is another one.
///
/// # Errors
/// [`CollectError`].
pub(super) async fn azure(
    tpm: &Tpm,
    imds: &str,
    nonce: &[u8; 32],
    user_data: &[u8; 64],
) -> Result<Option<Piece>, CollectError> {
    let config = AzVtpm {
        tpm: tpm.clone(),
        imds: imds.to_owned(),
    };
    let attester = match AzVtpmAttester::open(&config).await {
        Ok(attester) => attester,
        Err(CollectError::AzVtpm(AzVtpmError::NoReport)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let all = [PcrSelection {
        hash: PcrHash::Sha256,
        pcrs: (0..24).collect(),
    }];
    let said = attester.collect(nonce, user_data, &all).await?;
    let mut piece = Piece::new(match attester.hardware() {
        Hardware::SevSnp => "az_snp_vtpm",
        Hardware::Tdx => "az_tdx_vtpm",
    });
    piece.expect("expect_nonce", hex::encode(nonce));
    if let Some(chip_id) = chip_id(&said.hcl_report) {
        piece.pin("snp_chip_id", chip_id);
    }
    piece.file("evidence.json", written(&said).into_bytes());
    match attester.hardware() {
        Hardware::SevSnp => piece.file("certificates.pem", said.hardware),
        Hardware::Tdx => {
            super::pin_processor(&mut piece, &said.hardware);
            piece.file("quote.bin", said.hardware);
        }
    }
    piece.file("eventlog.bin", said.event_log);
    Ok(Some(piece))
}

/// Report and quote in one object, as other verifiers of Azure's machines take them.
fn written(said: &Collected) -> String {
    let values = said.pcrs.iter().flat_map(|bank| &bank.values);
    let pcrs: Vec<String> = values.map(|(_, value)| hex::encode(value)).collect();
    let written = json!({
        "hcl_report": URL_SAFE_NO_PAD.encode(&said.hcl_report),
        "tpm_quote": {
            "message": hex::encode(&said.quote),
            "signature": hex::encode(&said.signature),
            "pcrs": pcrs,
        },
    });
    format!("{written:#}\n")
}

/// Of the processor below the paravisor, where that shows it.
fn chip_id(hcl_report: &[u8]) -> Option<String> {
    let parts = HclParts::of(hcl_report)?;
    let report = hcl_report.get(HCL_HEADER..)?;
    let chip_id = match parts.hardware {
        Hardware::SevSnp => report.get(super::SNP_CHIP_ID)?,
        Hardware::Tdx => return None,
    };
    let is_shown = chip_id.iter().any(|byte| *byte != 0);
    is_shown.then(|| hex::encode(chip_id))
}

/// Before the hardware's own report.
const HCL_HEADER: usize = 32;
