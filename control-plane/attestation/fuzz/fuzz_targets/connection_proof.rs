//! `connection_proof` of `src/lib.rs`, driven by libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vouchsafe_attestation_fuzz::connection_proof(data));
