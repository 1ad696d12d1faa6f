//! `nvidia_dossier` of `src/lib.rs`, driven by libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vouchsafe_verifier_fuzz::nvidia_dossier(data));
