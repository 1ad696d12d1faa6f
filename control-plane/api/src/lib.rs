//! The wire protocol between sidecar, operator CLI and control plane.
//!
//! [`v1`] is generated from `proto/vouchsafe.proto`; conversion between wire and meaning, with its bounds, is in
//! [`convert`]. Nothing else of Vouchsafe reads raw messages of evidence or mesh state.

pub mod convert;

/// Messages and services, version 1.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the protocol file has its documentation"
)]
pub mod v1 {
    tonic::include_proto!("vouchsafe.v1");
}
