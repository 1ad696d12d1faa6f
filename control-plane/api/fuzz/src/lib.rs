//! What each fuzz target does with its bytes. Ordinary tests replay the corpora through the same functions
//! (`tests/corpus.rs` of the crate), so that a crash that was found once stays fixed on stable.

use prost::Message;
use vouchsafe_api::convert::attest::{AttestRequest, AttestResponse};
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{WatchRequest, WatchResponse};
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_api::v1;
use vouchsafe_attestation::result::InstanceId;

/// One message of an attestation, in either direction: what converts, converts back to what converts alike.
pub fn attest(data: &[u8]) {
    if let Ok(message) = v1::AttestRequest::decode(data)
        && let Ok(request) = AttestRequest::try_from(message)
    {
        let again = v1::AttestRequest::from(request.clone());
        assert_eq!(AttestRequest::try_from(again).ok(), Some(request));
    }
    if let Ok(message) = v1::AttestResponse::decode(data)
        && let Ok(response) = AttestResponse::try_from(message)
    {
        let again = v1::AttestResponse::from(response.clone());
        assert_eq!(AttestResponse::try_from(again).ok(), Some(response));
    }
}

/// One message of the mesh state, in either direction: what converts, converts back to what converts alike.
pub fn mesh_state(data: &[u8]) {
    if let Ok(message) = v1::WatchResponse::decode(data)
        && let Ok(response) = WatchResponse::try_from(message)
    {
        let again = v1::WatchResponse::from(response.clone());
        assert_eq!(WatchResponse::try_from(again).ok(), Some(response));
    }
    if let Ok(message) = v1::WatchRequest::decode(data)
        && let Ok(request) = WatchRequest::try_from(message)
    {
        let again = v1::WatchRequest::from(request.clone());
        assert_eq!(WatchRequest::try_from(again).ok(), Some(request));
    }
    if let Ok(trust) = InstanceTrust::decode(InstanceId([0; 16]), data) {
        let again = InstanceTrust::decode(trust.instance, &trust.encode());
        assert_eq!(again.ok(), Some(trust));
    }
    if let Ok(paced) = PacedRenewal::decode(data) {
        assert_eq!(PacedRenewal::decode(&paced.encode()), Ok(paced));
    }
}

/// A leaf of the record: what is read is written again as the same bytes.
pub fn record(data: &[u8]) {
    if let Ok(entry) = RecordEntry::decode(data) {
        assert_eq!(entry.encode(), data);
    }
}
