#![no_main]
//! See `vouchsafe_proxy_fuzz::held_slice`.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vouchsafe_proxy_fuzz::held_slice(data));
