//! Evidence and endorsements, parsed and appraised.
//!
//! # The story
//! 1. A sidecar offers its devices. [`evidence::tpm::CheckedOffer::check`] reads the keys of a TPM, refuses an
//!    attestation key that could sign anything but the TPM's own statements, and judges the endorsement key's chain.
//! 2. [`evidence::tpm::CheckedOffer::challenge`] makes a credential that only this TPM, holding this attestation key,
//!    can open ([`evidence::tpm::credential`]).
//! 3. [`appraise::appraise`] takes the evidence set, what was challenged, the binding that the control plane computed
//!    from its own end of the connection, the profile's reference values and the time. It returns a
//!    [`verdict::Verdict`], which lists each check by name and holds an [`appraise::Appraised`] only if all passed.
//! 4. [`appraise::Appraised::into_result`] is the only way from evidence to an attestation result.
//!
//! Evidence outside an attestation, as files of vendors' tools, is judged by [`dossier`]: its [`judgement::Judgement`] is for
//! people and programs that look at evidence, and nothing turns it into a result either.
//!
//! Looking at evidence without a binding is [`evidence::inspect`], whose type nothing turns into a result.
//!
//! # Why
//! The crate is pure: no IO, no clock, no async, no policy defaults, so that a verdict can be computed again offline.
//! Parsers are our own: they are small, bounded, never panic, and keep the very bytes that were signed.
//! They know SHA-256 and SHA-384 only; SHA-1 exists for reading event logs and can never match a quote.
//! The one impurity is randomness inside `make_credential` (OAEP padding, ephemeral key), drawn by aws-lc itself:
//! a caller that could choose it could also get it wrong.
//!
//! Source: RFC 9334; TPM 2.0 Library Parts 1 and 2; TCG PC Client Platform Firmware Profile §10; DESIGN §5.

pub mod appraise;
pub mod corim;
pub mod der;
pub mod dossier;
pub mod endorsement;
pub mod evidence;
mod fit;
pub mod judgement;
pub mod ocsp;
pub mod reference_value;
pub mod vendor_roots;
pub mod verdict;
