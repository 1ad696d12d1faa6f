//! What a boot log says in words: which loader, kernel and options were measured, and where.
//!
//! For people, and for making reference values of a machine that is trusted at that moment. What an event's digest does
//! not cover is marked, since firmware may write anything there; no check of evidence reads this.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06 §10.4; UEFI 2.10 §10.3 (device paths); Linux `efi_tcg2_tagged_event`;
//! GRUB `core/tpm.c`.

use super::event_log::{Event, EventLog};
use super::hash::HashAlgorithm;
use super::wire::Reader;

/// One event in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Measured {
    /// The PCR or measurement register.
    pub register: u32,
    /// What was measured.
    pub what: What,
    /// Its digest in the bank that was asked for.
    pub digest: Vec<u8>,
    /// Whether the digest is that of the words shown, so that they can be believed as far as the log replays.
    pub is_covered: bool,
}

/// What an event measures. Texts are printable and bounded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    /// End of what firmware measures into a register.
    Separator,
    /// Version of the firmware.
    FirmwareVersion(String),
    /// Firmware itself, or a table of it.
    Firmware(String),
    /// A variable of UEFI.
    Variable {
        /// Its name.
        name: String,
        /// Bytes of its value.
        size: usize,
    },
    /// The partition table of the disk that was booted.
    PartitionTable,
    /// A program that firmware started: boot loader or kernel. The digest is that of the program (Authenticode).
    Application(String),
    /// A driver that firmware started.
    Driver(String),
    /// Something firmware or loader did.
    Action(String),
    /// What a boot loader did or read: a command, a configuration file, a module, the kernel's command line.
    Loader(String),
    /// What a kernel's stub measured: options, initial RAM disk.
    Kernel(String),
    /// Another type of event.
    Other(u32),
}

impl What {
    /// The words.
    pub fn describe(&self) -> String {
        match self {
            Self::Separator => "separator".into(),
            Self::FirmwareVersion(text) => format!("firmware version {text}"),
            Self::Firmware(text) => format!("firmware {text}"),
            Self::Variable { name, size } => format!("variable {name} ({size} bytes)"),
            Self::PartitionTable => "partition table".into(),
            Self::Application(path) => format!("application {path}"),
            Self::Driver(path) => format!("driver {path}"),
            Self::Action(text) => format!("action: {text}"),
            Self::Loader(text) => format!("boot loader: {text}"),
            Self::Kernel(text) => format!("kernel: {text}"),
            Self::Other(kind) => format!("event of type 0x{kind:08x}"),
        }
    }
}

impl EventLog<'_> {
    /// All events that extend a register of the bank, in words.
    pub fn measured(&self, bank: HashAlgorithm) -> Vec<Measured> {
        self.events()
            .iter()
            .filter(|event| event.kind != EV_NO_ACTION)
            .filter_map(|event| {
                let digest = event.digest(bank)?.to_vec();
                let is_covered = covered(event, bank, &digest);
                Some(Measured {
                    register: event.pcr,
                    what: what(event),
                    digest,
                    is_covered,
                })
            })
            .collect()
    }
}

/// Whether the digest is of the data, or of what loaders digest instead: the text without its label and end.
fn covered(event: &Event<'_>, bank: HashAlgorithm, digest: &[u8]) -> bool {
    let whole = event.data;
    let text = whole.strip_suffix(b"\0").unwrap_or(whole);
    let unlabelled = LOADER_LABELS
        .iter()
        .find_map(|label| text.strip_prefix(label.as_bytes()))
        .unwrap_or(text);
    [whole, text, unlabelled]
        .iter()
        .any(|form| bank.digest(&[form]) == digest)
}

fn what(event: &Event<'_>) -> What {
    let data = event.data;
    match event.kind {
        EV_SEPARATOR => What::Separator,
        EV_S_CRTM_VERSION => What::FirmwareVersion(utf16(data)),
        EV_POST_CODE
        | EV_S_CRTM_CONTENTS
        | EV_PLATFORM_CONFIG_FLAGS
        | EV_TABLE_OF_DEVICES
        | EV_NONHOST_INFO => What::Firmware(text(data)),
        EV_EFI_FIRMWARE_BLOB => What::Firmware("image".into()),
        // A length, then a description, then addresses.
        EV_EFI_FIRMWARE_BLOB2 | EV_EFI_HANDOFF_TABLES2 => {
            let described = data
                .split_first()
                .and_then(|(length, rest)| rest.get(..usize::from(*length)));
            What::Firmware(text(described.unwrap_or_default()))
        }
        EV_EFI_HANDOFF_TABLES => What::Firmware("tables".into()),
        EV_EFI_VARIABLE_DRIVER_CONFIG
        | EV_EFI_VARIABLE_BOOT
        | EV_EFI_VARIABLE_BOOT2
        | EV_EFI_VARIABLE_AUTHORITY => variable(data).unwrap_or(What::Other(event.kind)),
        EV_EFI_GPT_EVENT => What::PartitionTable,
        EV_EFI_BOOT_SERVICES_APPLICATION => What::Application(loaded_image(data)),
        EV_EFI_BOOT_SERVICES_DRIVER | EV_EFI_RUNTIME_SERVICES_DRIVER => {
            What::Driver(loaded_image(data))
        }
        EV_EFI_ACTION | EV_ACTION | EV_OMIT_BOOT_DEVICE_EVENTS => What::Action(text(data)),
        EV_IPL | EV_COMPACT_HASH => What::Loader(loader(data)),
        EV_EVENT_TAG => What::Kernel(tagged(data)),
        other => What::Other(other),
    }
}

/// `UEFI_VARIABLE_DATA`.
fn variable(data: &[u8]) -> Option<What> {
    let mut reader = Reader::new(data);
    reader.bytes(16, "GUID").ok()?;
    let name = usize::try_from(reader.u64_le("name length").ok()?).ok()?;
    let size = usize::try_from(reader.u64_le("data length").ok()?).ok()?;
    let name = reader.bytes(name.checked_mul(2)?, "name").ok()?;
    Some(What::Variable {
        name: utf16(name),
        size,
    })
}

/// The file path in `UEFI_IMAGE_LOAD_EVENT`, or the number of bytes of a device path without one.
fn loaded_image(data: &[u8]) -> String {
    let mut path = data.get(IMAGE_LOAD_HEADER..).unwrap_or_default();
    let mut found = String::new();
    // A node: type, subtype, length of all; (4, 4) is a file path.
    while let [kind, subtype, low, high, ..] = path {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let Some((node, rest)) = path.split_at_checked(length.max(4)) else {
            break;
        };
        if [*kind, *subtype] == FILE_PATH_NODE {
            found.push_str(&utf16(node.get(4..).unwrap_or_default()));
        }
        path = rest;
    }
    if found.is_empty() {
        "from a device without a file path".into()
    } else {
        found
    }
}

/// `TCG_PCClientTaggedEvent`: an identifier and a text.
fn tagged(data: &[u8]) -> String {
    text(data.get(8..).unwrap_or_default())
}

/// systemd-stub writes UTF-16, GRUB and shim ASCII.
fn loader(data: &[u8]) -> String {
    let wide = data.len() >= 4
        && data
            .iter()
            .skip(1)
            .step_by(2)
            .take(2)
            .all(|byte| *byte == 0);
    if wide { utf16(data) } else { text(data) }
}

fn utf16(data: &[u8]) -> String {
    let units = data.chunks_exact(2).map(|pair| {
        pair.iter()
            .rev()
            .fold(0, |unit, byte| unit << 8 | u16::from(*byte))
    });
    printable(
        char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|c| c.unwrap_or('\u{fffd}')),
    )
}

fn text(data: &[u8]) -> String {
    let end = data
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(data.len());
    printable(String::from_utf8_lossy(data.get(..end).unwrap_or_default()).chars())
}

/// Without control characters, so that it can stand in a comment of one line.
fn printable(chars: impl Iterator<Item = char>) -> String {
    chars
        .take(MAX_TEXT)
        .map(|c| {
            if c.is_control() || !c.is_ascii() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Digested without these words before them.
const LOADER_LABELS: [&str; 4] = [
    "grub_cmd: ",
    "kernel_cmdline: ",
    "module_cmdline: ",
    "grub_kernel_cmdline ",
];
/// Command lines reach 2 KiB, and a person reads less.
const MAX_TEXT: usize = 200;
/// Where in memory, how long, linked where, length of the device path: four 64-bit numbers.
const IMAGE_LOAD_HEADER: usize = 32;
const FILE_PATH_NODE: [u8; 2] = [4, 4];

const EV_POST_CODE: u32 = 0x01;
const EV_NO_ACTION: u32 = 0x03;
const EV_SEPARATOR: u32 = 0x04;
const EV_ACTION: u32 = 0x05;
const EV_EVENT_TAG: u32 = 0x06;
const EV_S_CRTM_CONTENTS: u32 = 0x07;
const EV_S_CRTM_VERSION: u32 = 0x08;
const EV_PLATFORM_CONFIG_FLAGS: u32 = 0x0a;
const EV_TABLE_OF_DEVICES: u32 = 0x0b;
const EV_COMPACT_HASH: u32 = 0x0c;
const EV_IPL: u32 = 0x0d;
const EV_NONHOST_INFO: u32 = 0x11;
const EV_OMIT_BOOT_DEVICE_EVENTS: u32 = 0x12;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
const EV_EFI_RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
const EV_EFI_GPT_EVENT: u32 = 0x8000_0006;
const EV_EFI_ACTION: u32 = 0x8000_0007;
const EV_EFI_FIRMWARE_BLOB: u32 = 0x8000_0008;
const EV_EFI_HANDOFF_TABLES: u32 = 0x8000_0009;
const EV_EFI_FIRMWARE_BLOB2: u32 = 0x8000_000a;
const EV_EFI_HANDOFF_TABLES2: u32 = 0x8000_000b;
const EV_EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

#[cfg(test)]
mod tests;
