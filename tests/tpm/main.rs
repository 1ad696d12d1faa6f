//! Evidence of real software TPMs: the sidecar's attester against the verifier, over a real `swtpm`.
//!
//! Each check has a test that changes just its input and demands exactly its reason.

mod attestation;
mod collect;
mod endorsement;
mod event_log;
mod hostile;
mod ima;
mod rerun;
mod support;
