//! `log_line` of `src/lib.rs`, driven by libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vouchsafe_control_plane_fuzz::log_line(data));
