//! Real logs, and logs with one thing wrong.

use proptest::prelude::*;

use super::*;

macro_rules! log {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../../../testdata/tpm/eventlog-", $name, ".bin")).as_slice(),
        )
    };
}

/// Crypto-agile logs of real machines, and what they say of Secure Boot.
fn agile() -> [((&'static str, &'static [u8]), SecureBoot); 6] {
    [
        (log!("arch-linux-workstation"), SecureBoot::Disabled),
        (log!("cos-101-amd-sev"), SecureBoot::Enabled),
        (log!("eventlogwithsp800155"), SecureBoot::Enabled),
        (log!("gdc-host"), SecureBoot::Disabled),
        (log!("rhel8-uefi"), SecureBoot::Enabled),
        (log!("ubuntu-2404-amd-sevsnp"), SecureBoot::Disabled),
    ]
}

#[test]
fn logs_of_real_machines_are_read_and_replayed() {
    for ((name, raw), secure_boot) in agile() {
        let log = EventLog::parse(raw).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(log.events().len() > 10, "{name}");
        let bank = HashAlgorithm::Sha256;
        for pcr in 0..8 {
            let value = log.replay(bank, pcr).unwrap();
            assert_ne!(value, vec![0; 32], "{name}: PCR {pcr} was extended");
        }
        assert_eq!(log.secure_boot(bank), secure_boot, "{name}");
    }
}

#[test]
fn a_legacy_log_is_read_but_replays_to_no_trusted_bank() {
    let (name, raw) = log!("ebs-missing");
    let log = EventLog::parse(raw).unwrap();
    assert!(log.events().len() > 10, "{name}");
    for hash in HashAlgorithm::ALL {
        assert_eq!(log.replay(hash, 0), None);
        assert_eq!(log.secure_boot(hash), SecureBoot::Unknown);
    }
    assert!(log.replay_by_id(ALG_SHA1, 0).is_some());
}

#[test]
fn a_log_without_its_header_is_refused() {
    assert_eq!(
        EventLog::parse(log!("neg-short").1),
        Err(ParseError::Unsupported("header"))
    );
    assert!(EventLog::parse(&[]).is_err());
}

/// Where each event begins, by reading one more event until none is left.
fn borders(raw: &[u8]) -> Vec<usize> {
    (0..=raw.len())
        .filter(|end| EventLog::parse(&raw[..*end]).is_ok())
        .collect()
}

#[test]
fn a_log_that_is_cut_reads_as_a_prefix_or_not_at_all() {
    let (_, raw) = log!("arch-linux-workstation");
    let whole = EventLog::parse(raw).unwrap();
    let borders = borders(raw);
    // One border after the header, and one after each event.
    assert_eq!(borders.len(), whole.events().len() + 1);
    for (count, end) in borders.into_iter().enumerate() {
        let cut = EventLog::parse(&raw[..end]).unwrap();
        assert_eq!(cut.events(), &whole.events()[..count]);
    }
    for ((name, raw), _) in agile() {
        // Larger logs by a sample of places, so that the sweep stays quick.
        for end in (0..raw.len()).step_by(97) {
            if let Ok(cut) = EventLog::parse(&raw[..end]) {
                let whole = EventLog::parse(raw).unwrap();
                assert!(whole.events().starts_with(cut.events()), "{name} at {end}");
            }
        }
    }
}

#[test]
fn a_changed_log_replays_to_other_values_or_changes_no_digest() {
    let (_, raw) = log!("arch-linux-workstation");
    let honest = EventLog::parse(raw).unwrap();
    let bank = HashAlgorithm::Sha256;
    let values = |log: &EventLog<'_>| (0..8).map(|pcr| log.replay(bank, pcr)).collect::<Vec<_>>();
    let digests = |log: &EventLog<'_>| {
        let of = |event: &Event<'_>| {
            (
                event.pcr,
                event.kind,
                event.digest(bank).map(<[u8]>::to_vec),
            )
        };
        log.events().iter().map(of).collect::<Vec<_>>()
    };
    for at in 0..raw.len() {
        let mut flipped = raw.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let Ok(log) = EventLog::parse(&flipped) else {
            continue;
        };
        if values(&log) == values(&honest) {
            // Only data, digests of other banks, PCRs above 7 or the kind of an event that is extended all the same.
            let measured = |log: &EventLog<'_>| {
                digests(log)
                    .into_iter()
                    .filter(|(pcr, kind, _)| *pcr < 8 && *kind != EV_NO_ACTION)
                    .map(|(pcr, _, digest)| (pcr, digest))
                    .collect::<Vec<_>>()
            };
            assert_eq!(measured(&log), measured(&honest), "byte {at}");
            // What is believed of the data is covered by its digest.
            let believed = log.secure_boot(bank);
            assert!(
                [honest.secure_boot(bank), SecureBoot::Unknown].contains(&believed),
                "byte {at}: {believed:?}"
            );
        }
    }
}

#[test]
fn sizes_beyond_the_log_allocate_nothing() {
    // One legacy event that says it has 4 GiB of data.
    let mut event = vec![0; 28];
    event.extend([0xff; 4]);
    assert_eq!(EventLog::parse(&event), Err(ParseError::Truncated("event")));
    let huge = vec![0; EventLog::MAX_BYTES + 1];
    assert_eq!(
        EventLog::parse(&huge),
        Err(ParseError::TooLarge("event log"))
    );
}

/// Writes a crypto-agile log with SHA-256 only.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        let mut header = SPEC_ID_EVENT03.to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        header.extend([1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
        let mut out = vec![0, 0, 0, 0, 3, 0, 0, 0];
        out.extend([0; 20]);
        out.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        out.extend(header);
        Self(out)
    }

    fn event(mut self, pcr: u32, kind: u32, digest: &[u8], data: &[u8]) -> Self {
        self.0.extend(pcr.to_le_bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend([1, 0, 0, 0, 0x0b, 0]);
        self.0.extend(digest);
        self.0
            .extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.0.extend(data);
        self
    }

    /// An event whose digest is that of its data.
    fn honest(self, pcr: u32, kind: u32, data: &[u8]) -> Self {
        let digest = HashAlgorithm::Sha256.digest(&[data]);
        self.event(pcr, kind, &digest, data)
    }

    #[track_caller]
    fn secure_boot(&self) -> SecureBoot {
        let log = EventLog::parse(&self.0).unwrap();
        log.secure_boot(HashAlgorithm::Sha256)
    }
}

fn variable(value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = "SecureBoot"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut out = EFI_GLOBAL_VARIABLE.to_vec();
    out.extend(10_u64.to_le_bytes());
    out.extend(u64::try_from(value.len()).unwrap().to_le_bytes());
    out.extend(name);
    out.extend(value);
    out
}

#[test]
fn secure_boot_is_believed_only_once_covered_and_before_the_separator() {
    let on = variable(&[1]);
    let config = EV_EFI_VARIABLE_DRIVER_CONFIG;
    let separator = [0; 4];
    let log = Writer::new;
    let honest = log()
        .honest(7, config, &on)
        .honest(7, EV_SEPARATOR, &separator);
    assert_eq!(honest.secure_boot(), SecureBoot::Enabled);
    let off = log()
        .honest(7, config, &variable(&[0]))
        .honest(7, EV_SEPARATOR, &separator);
    assert_eq!(off.secure_boot(), SecureBoot::Disabled);
    for (what, log) in [
        (
            "digest of something else",
            log()
                .event(7, config, &[7; 32], &on)
                .honest(7, EV_SEPARATOR, &separator),
        ),
        (
            "after the separator",
            log()
                .honest(7, EV_SEPARATOR, &separator)
                .honest(7, config, &on),
        ),
        ("no separator", log().honest(7, config, &on)),
        (
            "twice",
            log()
                .honest(7, config, &variable(&[0]))
                .honest(7, config, &on)
                .honest(7, EV_SEPARATOR, &separator),
        ),
        (
            "another PCR",
            log()
                .honest(6, config, &on)
                .honest(7, EV_SEPARATOR, &separator),
        ),
        (
            "another value",
            log()
                .honest(7, config, &variable(&[2]))
                .honest(7, EV_SEPARATOR, &separator),
        ),
        (
            "another length",
            log()
                .honest(7, config, &variable(&[1, 1]))
                .honest(7, EV_SEPARATOR, &separator),
        ),
    ] {
        assert_eq!(log.secure_boot(), SecureBoot::Unknown, "{what}");
    }
}

#[test]
fn startup_locality_begins_pcr_0_once_and_before_anything_else() {
    let locality = |value: u8| [STARTUP_LOCALITY, &[value]].concat();
    let measured = |log: &Writer| {
        let log = EventLog::parse(&log.0).ok()?;
        log.replay(HashAlgorithm::Sha256, 0)
    };
    let plain = Writer::new().honest(0, 8, b"crtm");
    let third = Writer::new()
        .event(0, EV_NO_ACTION, &[0; 32], &locality(3))
        .honest(0, 8, b"crtm");
    assert!(measured(&plain).is_some());
    assert_ne!(measured(&plain), measured(&third));
    let late = Writer::new()
        .honest(0, 8, b"crtm")
        .event(0, EV_NO_ACTION, &[0; 32], &locality(3));
    assert_eq!(measured(&late), None);
    let twice = Writer::new()
        .event(0, EV_NO_ACTION, &[0; 32], &locality(3))
        .event(0, EV_NO_ACTION, &[0; 32], &locality(3));
    assert_eq!(measured(&twice), None);
    let odd = Writer::new().event(0, EV_NO_ACTION, &[0; 32], &locality(9));
    assert_eq!(measured(&odd), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        events in prop::collection::vec(
            (0..24_u32, 4..20_u32, any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..40)),
            0..20,
        )
    ) {
        let mut writer = Writer::new();
        for (pcr, kind, digest, data) in &events {
            writer = writer.event(*pcr, *kind, digest, data);
        }
        let log = EventLog::parse(&writer.0).unwrap();
        let read: Vec<_> = log
            .events()
            .iter()
            .map(|event| {
                let digest: [u8; 32] = event.digest(HashAlgorithm::Sha256).unwrap().try_into().unwrap();
                (event.pcr, event.kind, digest, event.data.to_vec())
            })
            .collect();
        prop_assert_eq!(read, events);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(log) = EventLog::parse(&raw) {
            let _ = log.replay(HashAlgorithm::Sha256, 0);
            let _ = log.secure_boot(HashAlgorithm::Sha256);
        }
    }
}

const COS: &[u8] = include_bytes!("../../../../testdata/ccel/cos-113-tdx/ccel.bin");
const GRUB: &[u8] = include_bytes!("../../../../testdata/ccel/trustee-grub/ccel.bin");

#[test]
fn logs_of_confidential_vms_end_where_their_padding_begins() {
    for (raw, secure_boot) in [(COS, SecureBoot::Disabled), (GRUB, SecureBoot::Enabled)] {
        assert!(EventLog::parse(raw).is_err());
        let log = EventLog::parse_padded(raw).unwrap();
        assert!(log.is_ccel());
        assert_eq!(log.ccel_secure_boot(), secure_boot);
        for index in 0..3 {
            assert_ne!(log.rtmr(index), Some(vec![0; 48]), "RTMR{index}");
        }
        assert_eq!(log.rtmr(3), Some(vec![0; 48]));
        // Padding of any other sort is no padding.
        let odd = [raw, &[0xfe]].concat();
        assert!(EventLog::parse_padded(&odd).is_err());
        let inside = [raw, &[0; 12], &[0xff; 4]].concat();
        assert!(EventLog::parse_padded(&inside).is_err());
        assert_eq!(EventLog::parse_padded(&raw[..raw.len() - 64]), Ok(log));
    }
    for ((name, raw), _) in agile() {
        assert!(!EventLog::parse(raw).unwrap().is_ccel(), "{name}");
    }
}

#[test]
fn a_confidential_vms_log_has_the_events_that_another_parser_found() {
    let expected: serde_json::Value = serde_json::from_str(include_str!(
        "../../../../testdata/ccel/trustee-grub/expected.json"
    ))
    .unwrap();
    let log = EventLog::parse_padded(GRUB).unwrap();
    let expected: Vec<_> = expected["uefi_event_logs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type_name"] != "EV_NO_ACTION")
        .map(|event| {
            let digest = event["digests"][0]["digest"].as_str().unwrap();
            (event["index"].as_u64().unwrap(), digest.to_owned())
        })
        .collect();
    let found: Vec<_> = log
        .events()
        .iter()
        .filter(|event| event.kind != EV_NO_ACTION)
        .map(|event| {
            let digest = event.digest(HashAlgorithm::Sha384).unwrap();
            (u64::from(event.pcr), hex::encode(digest))
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_windows_log_replays_to_the_pcrs_of_its_machine() {
    use base64_lite::decode;
    let dump: serde_json::Value = serde_json::from_str(include_str!(
        "../../../../testdata/tpm/windows-gcp-shielded.json"
    ))
    .unwrap();
    let raw = decode(dump["Log"]["Raw"].as_str().unwrap());
    let log = EventLog::parse(&raw).unwrap();
    let mut compared = 0;
    for pcr in dump["Log"]["PCRs"].as_array().unwrap() {
        let index = u8::try_from(pcr["Index"].as_u64().unwrap()).unwrap();
        if index < 8 {
            let quoted = decode(pcr["Digest"].as_str().unwrap());
            assert_eq!(
                log.replay_by_id(ALG_SHA1, index),
                Some(quoted),
                "PCR {index}"
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
}

use super::super::tests::base64_lite;
