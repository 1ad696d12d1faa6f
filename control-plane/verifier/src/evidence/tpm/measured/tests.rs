//! What logs of real machines say in words.

use super::*;

fn words(raw: &[u8], bank: HashAlgorithm) -> Vec<(u32, String, bool)> {
    let log = EventLog::parse_padded(raw).unwrap();
    let measured = log.measured(bank);
    measured
        .into_iter()
        .map(|one| (one.register, one.what.describe(), one.is_covered))
        .collect()
}

#[test]
fn loader_kernel_and_options_of_an_ubuntu_machine_are_named() {
    let raw = include_bytes!("../../../../testdata/tpm/eventlog-ubuntu-2404-amd-sevsnp.bin");
    let found = words(raw, HashAlgorithm::Sha256);
    let has = |register, text: &str, covered| {
        assert!(
            found
                .iter()
                .any(|(at, words, is)| *at == register && words.contains(text) && *is == covered),
            "{register} {text} {covered}: {found:#?}"
        );
    };
    has(0, "firmware version GCE Virtual Firmware v2", true);
    has(7, "variable SecureBoot (1 bytes)", true);
    // The digest is of the program, which the log does not hold.
    has(4, "application \\EFI\\ubuntu\\", false);
    has(5, "action: Exit Boot Services Invocation", true);
    has(8, "boot loader: grub_cmd: set prefix=", true);
    has(9, "boot loader: (hd0,gpt15)/EFI/ubuntu/grub.cfg", false);
    has(9, "kernel: LOADED_IMAGE::LoadOptions", false);
}

#[test]
fn registers_of_a_confidential_vm_are_named_as_well() {
    let raw = include_bytes!("../../../../testdata/ccel/trustee-grub/ccel.bin");
    let found = words(raw, HashAlgorithm::Sha384);
    assert!(
        found
            .iter()
            .any(|(at, words, _)| *at == 3 && words == "kernel: Linux initrd")
    );
    assert!(found.iter().any(|(at, words, covered)| {
        *at == 1 && words == "variable SecureBoot (1 bytes)" && *covered
    }));
    // Without digests of the bank there is nothing to say.
    assert!(words(raw, HashAlgorithm::Sha256).is_empty());
}

#[test]
fn words_stand_on_one_line_whatever_firmware_wrote() {
    assert_eq!(text(b"a\nb: c\x1b[2J\0rest"), "a?b: c?[2J");
    assert_eq!(utf16(&[b'a', 0, 0x28, 0x20, b'b', 0]), "a?b");
    assert_eq!(text(&[b'x'; 5000]).len(), MAX_TEXT);
    assert_eq!(loaded_image(&[0; 40]), "from a device without a file path");
    // A node that is longer than its path, and one that is shorter than its head.
    let node = |length: u8| [&[0; 32][..], &[4, 4, length, 0, b'a', 0]].concat();
    assert_eq!(
        loaded_image(&node(200)),
        "from a device without a file path"
    );
    assert_eq!(loaded_image(&node(0)), "from a device without a file path");
    assert_eq!(loaded_image(&node(6)), "a");
}
