//! Reports of real devices, bit by bit: what was signed can't be changed unnoticed, and nothing makes the reader panic.

use std::path::Path;

use super::*;

/// Bytes whose bits are all flipped: request and head of the response, and the signature. Of every third byte between,
/// one is; all 83,000 bits of these reports were flipped once, which takes minutes.
const HEAD: usize = 64;
const SIGNATURE: usize = 96;

fn vector(case: &str, name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nvidia");
    std::fs::read(folder.join(case).join(name)).unwrap()
}

#[track_caller]
fn check(case: &str) {
    let whole = vector(case, "report.bin");
    let chain = x509::certificates(&vector(case, "chain.pem")).unwrap();
    let leaf = x509::parse(&chain[0]).unwrap();
    let is_good =
        |bytes: &[u8]| Report::parse(bytes).is_ok_and(|report| is_signed_by(&report, &leaf));
    assert!(is_good(&whole), "{case}");
    for length in 0..whole.len() {
        assert!(Report::parse(&whole[..length]).is_err(), "{case}: {length}");
    }
    let mut flipped = whole.clone();
    for index in 0..whole.len() {
        let is_dense = index < HEAD || index + SIGNATURE >= whole.len();
        for bit in 0..8 {
            if is_dense || (index % 3 == 0 && bit == index % 8) {
                flipped[index] ^= 1 << bit;
                assert!(!is_good(&flipped), "{case}: bit {bit} of byte {index}");
                flipped[index] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn no_bit_of_a_hopper_can_be_flipped() {
    check("hopper-550.90.07-full");
}

#[test]
fn no_bit_of_a_blackwell_can_be_flipped() {
    check("blackwell-575.32");
}

#[test]
fn no_bit_of_a_switch_can_be_flipped() {
    check("switch-ls10");
}
