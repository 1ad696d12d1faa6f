#![no_main]
//! See `vouchsafe_http2_fuzz::server_connection`.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vouchsafe_http2_fuzz::server_connection(data));
