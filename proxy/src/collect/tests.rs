//! What becomes of devices' answers; devices themselves are met in the workspace's tests.

use super::*;

#[test]
fn a_table_of_certificates_is_taken_apart_and_never_read_beyond_its_end() {
    let entry = |offset: u32, length: u32| {
        let mut entry = vec![7; 16];
        entry.extend(offset.to_le_bytes());
        entry.extend(length.to_le_bytes());
        entry
    };
    let mut table = [entry(72, 2), entry(74, 3), vec![0; 24]].concat();
    table.extend(*b"abcde");
    assert_eq!(certificates(&table), [b"ab".as_slice(), b"cde"]);
    assert_eq!(
        certificates(&[entry(40, 25), vec![0; 24]].concat()),
        [&[] as &[u8]; 0]
    );
    assert!(certificates(&entry(u32::MAX, u32::MAX)).is_empty());
    assert!(certificates(&[]).is_empty());
}

#[test]
fn a_chip_that_hides_itself_pins_nothing() {
    let node = |report: Vec<u8>| {
        let mut bundle = Bundle::new([0; 32]);
        bundle.add(guest_of_amd(report, &[]));
        bundle.node("gpu-07", "inference")
    };
    assert!(node(vec![0; 1184]).contains("hardware: {}"));
    let shown = format!("snp_chip_id: {}", "05".repeat(64));
    assert!(node(vec![5; 1184]).contains(&shown));
}

#[test]
fn a_quote_that_names_no_processor_pins_nothing() {
    let mut bundle = Bundle::new([0; 32]);
    bundle.add(guest_of_intel(vec![4; 700], Vec::new()));
    let node = bundle.node("tdx-01", "inference");
    assert!(node.contains("hardware: {}"), "{node}");
}

#[test]
fn what_names_a_tpm_is_told_apart() {
    let address = "127.0.0.1:2321";
    assert!(matches!(transport(address), TpmTransport::SwtpmTcp(_)));
    assert!(matches!(transport("/dev/tpmrm1"), TpmTransport::Device(_)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpm.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let found = transport(path.to_str().unwrap());
    assert!(matches!(found, TpmTransport::SwtpmUnix(_)));
}

#[test]
fn a_nonce_has_32_bytes() {
    assert!(parse_nonce(&"ab".repeat(32)).is_ok());
    for wrong in ["", "ab", "zz", &"ab".repeat(33)] {
        assert!(parse_nonce(wrong).is_err(), "{wrong}");
    }
}
