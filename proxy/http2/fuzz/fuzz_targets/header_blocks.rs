#![no_main]
//! See `vouchsafe_http2_fuzz::header_blocks`.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vouchsafe_http2_fuzz::header_blocks(data));
