//! The vocabulary that both sides of Vouchsafe share.
//!
//! The control plane turns evidence into an [`result::AttestationResult`] and puts its summary into an X.509-SVID;
//! every sidecar turns a presented chain back into a [`peer::Peer`] and decides with it.
//! What both must agree on, bit for bit, is here and nowhere else:
//!
//! | Module | Holds | Source |
//! |---|---|---|
//! | [`trust_domain`], [`spiffe_id`] | names | SPIFFE-ID |
//! | [`binding`] | what evidence signs over | DESIGN §5.3 |
//! | [`claims`] | what policy may read, with types | `claims::CATALOG` |
//! | [`result`] | the attestation result and its DER form | RFC 9334, X.690 |
//! | [`svid`] | the profile of a leaf certificate | SPIFFE X509-SVID |
//! | [`trust_bundle`] | which authorities may speak for which trust domain | SPIFFE Trust Domain and Bundle |
//! | [`peer`] | chain → [`peer::Peer`], the only constructor of one | promise 2 |
//! | [`standing`] | whether an instance is to be trusted between its attestations | DESIGN §7 |
//! | [`connection_proof`] | what an end of a live connection signs to prove its key again | RFC 8446 §7.5, promise 4 |
//! | [`revision`], [`merkle`] | versions of the mesh state and proofs that a resource belongs to one | RFC 6962 |
//!
//! # Why
//! The crate is pure: no IO, no clock, no async, and no types of rustls beyond `rustls-pki-types`.
//! So it can be fuzzed, run under miri, and linked into a verifier of any kind.

pub mod binding;
pub mod claims;
pub mod condition;
pub mod connection_proof;
pub mod merkle;
pub mod name;
pub mod peer;
pub mod result;
pub mod revision;
pub mod spiffe_id;
pub mod standing;
pub mod svid;
pub mod trust_bundle;
pub mod trust_domain;
