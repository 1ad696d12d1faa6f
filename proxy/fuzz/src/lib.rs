//! What each fuzz target with a corpus does with its bytes. An ordinary test replays the corpora through the same
//! functions (`tests/corpus.rs` of the sidecar), so that a crash that was found once stays fixed on stable.

use vouchsafe_proxy::attester::az_vtpm::HclParts;
use vouchsafe_proxy::attester::az_vtpm::imds::{certificates_of, quote_of};
use vouchsafe_proxy::attester::tsm::processor::processor_of;
use vouchsafe_proxy::attester::tsm::{Provider, report_data_of};
use vouchsafe_proxy::attester::{nitro, nvidia_gpu};
use vouchsafe_proxy::lane::control::message::{Message, Parsed};

/// A report or quote that the kernel gave.
pub fn guest_report(data: &[u8]) {
    for provider in [Provider::SevSnp, Provider::Tdx] {
        if let Some(found) = report_data_of(provider, data) {
            assert!(data.windows(64).any(|window| window == found));
        }
    }
    if let Some(processor) = processor_of(data) {
        let names = [processor.ppid, processor.platform_instance_id];
        assert!(names.into_iter().flatten().all(|name| name != [0; 16]));
    }
}

/// A report that NVIDIA's library gave.
pub fn gpu_report(data: &[u8]) {
    if let Some(nonce) = nvidia_gpu::nonce_of(data) {
        assert_eq!(data[4..36], *nonce);
    }
    if let Some(ueid) = nvidia_gpu::ueid_of(data) {
        assert!(ueid.bytes().all(|byte| byte.is_ascii_digit()));
    }
}

/// An answer of the enclave's module, and the document that it may be.
pub fn enclave_document(data: &[u8]) {
    if let Ok(document) = nitro::document_of(data) {
        assert!(document.len() < data.len());
        let _ = nitro::nonce_of(document);
    }
    if let Some(nonce) = nitro::nonce_of(data) {
        assert!(nonce.len() < data.len());
    }
    let _ = nitro::instance_of(data);
}

/// An answer of Azure's metadata service.
pub fn metadata_answer(data: &[u8]) {
    if let Ok(quote) = quote_of(data) {
        assert!(quote.len() < data.len());
    }
    if let Ok(certificates) = certificates_of(data) {
        assert!(certificates.len() <= data.len());
    }
}

/// A report of Azure's paravisor.
pub fn hcl_report(data: &[u8]) {
    if let Some(parts) = HclParts::of(data) {
        assert!(parts.td_report.is_none_or(|report| report.len() == 1024));
        let _ = parts.user_data();
    }
}

/// What comes on a control stream: what is read is written again as the same bytes.
pub fn control_message(data: &[u8]) {
    if let Ok(Parsed::Complete(message, length)) = Message::parse(data) {
        assert_eq!(
            message.encode().expect("what was read fits a frame"),
            data[..length]
        );
    }
}
