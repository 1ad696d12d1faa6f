#![no_main]
//! Whatever is taken for a preamble is written back as the very bytes that it was read from.

use libfuzzer_sys::fuzz_target;
use vouchsafe_proxy::lane::preamble::{Parsed, Preamble};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Parsed::Complete(preamble, length)) = Preamble::parse(bytes) {
        assert_eq!(preamble.encode(), &bytes[..length]);
    }
});
