#![no_main]
//! See `vouchsafe_proxy_fuzz::control_message`.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vouchsafe_proxy_fuzz::control_message(data));
