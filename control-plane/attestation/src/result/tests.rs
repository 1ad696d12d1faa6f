//! The form is one and bounded, and what real machines show fits into it.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::wire::{WireClaim, WireDevice};
use super::*;
use crate::claims::{ClaimDefinition, ClaimType, ClaimValue, Time, claims_of};

fn result() -> AttestationResult {
    let mut claims = Claims::default();
    claims
        .set(
            EvidenceKind::Tpm,
            "image",
            ClaimValue::Text("node-1".into()),
        )
        .unwrap();
    claims
        .set(EvidenceKind::Tpm, "reset_count", ClaimValue::Number(7))
        .unwrap();
    AttestationResult {
        class: Class::Software,
        root: EvidenceKind::Tpm,
        instance: InstanceId([7; 16]),
        evidence_time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        policy_revision: Revision {
            epoch: 1,
            sequence: 42,
        },
        ear_sha256: [9; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Tpm,
            index: 0,
            claims,
        }],
        inclusion_promise: None,
    }
}

#[test]
fn a_result_survives_the_certificate() {
    let with_promise = AttestationResult {
        inclusion_promise: Some(vec![1, 2, 3]),
        ..result()
    };
    for result in [result(), with_promise] {
        assert_eq!(
            AttestationResult::decode(&result.encode().unwrap()).unwrap(),
            result
        );
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    let der = result().encode().unwrap();
    for end in 0..der.len() {
        assert!(AttestationResult::decode(&der[..end]).is_err(), "{end}");
    }
    assert!(AttestationResult::decode(&[der, vec![0]].concat()).is_err());
}

#[test]
fn no_byte_can_be_changed_without_changing_the_result() {
    let (whole, der) = (result(), result().encode().unwrap());
    for at in 0..der.len() {
        for bit in 0..8 {
            let mut flipped = der.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(other) = AttestationResult::decode(&flipped) {
                assert_ne!(other, whole, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn another_version_and_an_oversize_form_are_named() {
    let mut der = result().encode().unwrap();
    let version_at = der
        .windows(3)
        .position(|window| window == [2, 1, 1])
        .unwrap()
        + 2;
    der[version_at] = 2;
    assert!(matches!(
        AttestationResult::decode(&der),
        Err(DecodeResultError::Version(2))
    ));
    assert!(matches!(
        AttestationResult::decode(&vec![0; 16385]),
        Err(DecodeResultError::TooLarge(16385))
    ));
}

/// One device of NVIDIA's, as large as its verifier makes it.
fn nvidia(index: u32, is_switch: bool) -> DeviceResult {
    let mut device = longest(EvidenceKind::NvidiaGpu, index, &|name| {
        let of_gpus_only = ["driver", "firmware_id", "devtools", "confidential_compute"];
        !(is_switch && of_gpus_only.contains(&name))
    });
    let what = if is_switch { "switch" } else { "gpu" };
    let mut set = |name, value: String| {
        let kind = EvidenceKind::NvidiaGpu;
        device
            .claims
            .set(kind, name, ClaimValue::Text(value))
            .unwrap();
    };
    set("device", what.to_owned());
    set("chip_id", format!("{index:040x}"));
    set("ueid", format!("{index:049}"));
    if is_switch {
        set("hardware_model", "LS_10 A01 FSP BROM".to_owned());
        set("architecture", "ls10".to_owned());
    }
    device
}

/// A device with each claim of its kind, as long as its verifier writes it.
fn longest(kind: EvidenceKind, index: u32, has: &dyn Fn(&str) -> bool) -> DeviceResult {
    let mut claims = Claims::default();
    for definition in claims_of(kind).iter().filter(|one| has(one.name)) {
        let value = match definition.value {
            ClaimType::Bool => ClaimValue::Bool(false),
            ClaimType::Number => ClaimValue::Number(u64::MAX),
            ClaimType::Text => ClaimValue::Text("x".repeat(longest_text(kind, definition.name))),
            ClaimType::Version => ClaimValue::Version("9999.999.999".parse().unwrap()),
            ClaimType::HexVersion => ClaimValue::HexVersion("96.00.9F.00.01".parse().unwrap()),
            ClaimType::Time => ClaimValue::Time(Time::new(UNIX_EPOCH).unwrap()),
            ClaimType::Set => {
                ClaimValue::Set((0..8).map(|n| format!("INTEL-SA-0000{n}")).collect())
            }
        };
        claims.set(kind, definition.name, value).unwrap();
    }
    DeviceResult {
        kind,
        index,
        claims,
    }
}

/// What verifiers write at most: names of images are the operator's, numbers of vendors have a fixed size.
fn longest_text(kind: EvidenceKind, name: &str) -> usize {
    let is_amd = matches!(kind, EvidenceKind::SevSnp | EvidenceKind::AzSnpVtpm);
    match name {
        "image" => 63,
        "chip_id" if is_amd => 128,
        "machine" => 128,
        "measurement" | "id_key_digest" | "author_key_digest" | "mrtd" | "mrseam"
        | "mrconfigid" | "mrowner" | "mrownerconfig" | "mrservicetd" | "rtmr0" | "rtmr1"
        | "rtmr2" | "rtmr3" | "firmware_id" | "pcr0" | "pcr1" | "pcr2" | "pcr3" | "pcr4"
        | "pcr8" => 96,
        "host_data" | "ek_sha256" | "pcr_digest" => 64,
        "ueid" => 49,
        "module_id" | "instance_id" => 48,
        "chip_id" => 40,
        "vm_unique_id" => 36,
        "family_id" | "image_id" | "ppid" | "platform_instance_id" | "tee_tcb_svn" => 32,
        "csp_id" | "tcb_status" | "board" => 32,
        "policy" | "xfam" | "td_attributes" | "hardware_model" | "mode" => 18,
        "product" | "signing_key" | "fmspc" | "architecture" | "device" => 12,
        other => panic!("how long does the verifier of `{kind}` write `{other}`?"),
    }
}

/// A machine of eight GPUs and four switches. What it costs is paid in each handshake, so it has a bound of its own.
#[test]
fn the_largest_machine_fits_with_room() {
    let whole = |root| {
        let gpus = (0..8).map(|index| nvidia(index, false));
        let switches = (8..12).map(|index| nvidia(index, true));
        let root_device = longest(root, 0, &|_| true);
        AttestationResult {
            class: Class::Hardware,
            root,
            devices: gpus.chain(switches).chain([root_device]).collect(),
            inclusion_promise: Some(vec![7; 128]),
            ..result()
        }
    };
    for root in EvidenceKind::ALL {
        let result = whole(root);
        let der = result.encode().unwrap();
        let alone = |devices: &[DeviceResult]| {
            let devices = devices.to_vec();
            let one = AttestationResult {
                devices,
                ..whole(root)
            };
            one.encode().unwrap().len()
        };
        let bare = alone(&[longest(root, 0, &|_| false)]);
        let singly = { result.devices.iter() }
            .map(|device| alone(std::slice::from_ref(device)) - bare)
            .sum::<usize>();
        let (found, singly) = (der.len(), bare + singly);
        assert!(
            found < 6 * 1024 && found * 5 < singly * 3,
            "{root}: {found} bytes; {singly} if each device were written by itself"
        );
        assert_eq!(AttestationResult::decode(&der).unwrap(), result);
    }
}

#[test]
fn every_bit_of_a_set_counts() {
    let whole = AttestationResult {
        devices: vec![nvidia(0, false), nvidia(1, false), nvidia(2, true)],
        ..result()
    };
    let der = whole.encode().unwrap();
    for at in 0..der.len() {
        assert!(AttestationResult::decode(&der[..at]).is_err(), "{at}");
        for bit in 0..8 {
            let mut flipped = der.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(other) = AttestationResult::decode(&flipped) {
                assert_ne!(other, whole, "byte {at} bit {bit}");
            }
        }
    }
}

fn claim(name: &str, value: &str) -> WireClaim {
    WireClaim {
        name: name.to_owned(),
        values: vec![value.to_owned()],
    }
}

fn device(kind: &str, claims: Vec<WireClaim>, without: &[&str]) -> WireDevice {
    WireDevice {
        kind: kind.to_owned(),
        index: 0,
        claims,
        without: without.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn decoded(devices: Vec<WireDevice>) -> Result<AttestationResult, DecodeResultError> {
    let mut wire = Wire::from_result(&result()).unwrap();
    wire.devices = devices;
    AttestationResult::decode(&wire.to_der().unwrap())
}

#[track_caller]
fn refused(field: &str, devices: Vec<WireDevice>) {
    match decoded(devices) {
        Err(DecodeResultError::Field(found)) => assert_eq!(found, field),
        other => panic!("expected `{field}`, found {other:?}"),
    }
}

fn gpu() -> WireDevice {
    let claims = vec![
        claim("board", "b"),
        claim("mode", "m"),
        claim("zz", "later"),
    ];
    device("nvidia_gpu", claims, &[])
}

#[test]
fn a_device_has_the_claims_of_the_one_before_it_but_for_what_it_says() {
    let next = device(
        "nvidia_gpu",
        vec![claim("board", "c"), claim("ueid", "7")],
        &["mode", "zz"],
    );
    let found = decoded(vec![gpu(), next, device("nvidia_gpu", vec![], &[])]).unwrap();
    let claims = |at: usize| -> Vec<(&str, String)> {
        { found.devices[at].claims.iter() }
            .map(|(name, value)| (name, value.to_string()))
            .collect()
    };
    assert_eq!(
        claims(0),
        [("board", "b".to_owned()), ("mode", "m".to_owned())]
    );
    assert_eq!(
        claims(1),
        [("board", "c".to_owned()), ("ueid", "7".to_owned())]
    );
    assert_eq!(claims(2), claims(1));
    // Another kind begins anew.
    let between = device("tpm", vec![claim("image", "i")], &[]);
    let found = decoded(vec![gpu(), between, gpu()]).unwrap();
    assert_eq!(found.devices[0], found.devices[2]);
}

#[test]
fn every_other_way_to_write_a_set_is_refused() {
    let next = |claims, without| vec![gpu(), device("nvidia_gpu", claims, without)];
    // What holds already.
    refused("claims", next(vec![claim("board", "b")], &[]));
    refused("claims", next(vec![claim("zz", "later")], &[]));
    // Taken away and given again.
    refused("without", next(vec![claim("board", "c")], &["board"]));
    refused("without", next(vec![claim("board", "b")], &["board"]));
    // What the device before has not.
    refused("without", next(vec![], &["ueid"]));
    refused("without", vec![device("tpm", vec![], &["image"])]);
    refused("without", vec![gpu(), device("tpm", vec![], &["board"])]);
    // Twice, or in another order.
    refused("without", next(vec![], &["board", "board"]));
    refused("without", next(vec![], &["mode", "board"]));
    let twice = vec![claim("ueid", "1"), claim("ueid", "2")];
    refused("claims", next(twice, &[]));
    let unsorted = vec![claim("ueid", "1"), claim("board", "c")];
    refused("claims", next(unsorted, &[]));
}

#[test]
fn a_few_bytes_do_not_unfold_into_many() {
    let long = |bytes| device("nvidia_gpu", vec![claim("board", &"b".repeat(bytes))], &[]);
    let many = |bytes, count| {
        let rest = (1..count).map(|_| device("nvidia_gpu", vec![], &[]));
        std::iter::once(long(bytes)).chain(rest).collect::<Vec<_>>()
    };
    assert!(decoded(many(2043, 32)).is_ok());
    refused("claims", many(2044, 32));
    let mut result = decoded(many(2043, 32)).unwrap();
    assert!(result.encode().is_ok());
    let board = ClaimValue::Text("b".repeat(2044));
    let first = &mut result.devices[0];
    first.claims.set(first.kind, "board", board).unwrap();
    assert!(matches!(
        result.encode(),
        Err(EncodeResultError::TooMuchClaimed(65537))
    ));
    // And no device gathers more claims than it could have by itself.
    let names = |from: usize| -> Vec<WireClaim> {
        (from..from + 40)
            .map(|number| claim(&format!("later{number:02}"), "x"))
            .collect()
    };
    let gathered = vec![
        device("nvidia_gpu", names(0), &[]),
        device("nvidia_gpu", names(40), &[]),
    ];
    refused("claims", gathered);
}

fn claim_values(definition: ClaimDefinition) -> BoxedStrategy<ClaimValue> {
    match definition.value {
        ClaimType::Bool => any::<bool>().prop_map(ClaimValue::Bool).boxed(),
        ClaimType::Number => any::<u64>().prop_map(ClaimValue::Number).boxed(),
        ClaimType::Text => "\\PC{0,24}".prop_map(ClaimValue::Text).boxed(),
        ClaimType::Version => "[0-9]{1,9}(\\.[0-9]{1,9}){0,5}"
            .prop_map(|text| ClaimValue::Version(text.parse().unwrap()))
            .boxed(),
        ClaimType::HexVersion => "[0-9A-F]{1,9}(\\.[0-9A-F]{1,9}){0,5}"
            .prop_map(|text| ClaimValue::HexVersion(text.parse().unwrap()))
            .boxed(),
        ClaimType::Time => (0..253_402_300_800_u64)
            .prop_map(|seconds| Time::new(UNIX_EPOCH + Duration::from_secs(seconds)))
            .prop_map(|time| ClaimValue::Time(time.unwrap()))
            .boxed(),
        ClaimType::Set => prop::collection::btree_set("[a-z]{1,8}", 0..4)
            .prop_map(ClaimValue::Set)
            .boxed(),
    }
}

fn devices() -> impl Strategy<Value = DeviceResult> {
    prop::sample::select(EvidenceKind::ALL.to_vec()).prop_flat_map(|kind| {
        let claim = prop::sample::select(claims_of(kind).to_vec()).prop_flat_map(|definition| {
            claim_values(definition).prop_map(move |value| (definition, value))
        });
        let claims = prop::collection::vec(claim, 0..8);
        (any::<u32>(), claims).prop_map(move |(index, values)| {
            let mut claims = Claims::default();
            for (definition, value) in values {
                claims.set(kind, definition.name, value).unwrap();
            }
            DeviceResult {
                kind,
                index,
                claims,
            }
        })
    })
}

proptest! {
    #[test]
    fn any_result_survives_the_certificate(
        devices in prop::collection::vec(devices(), 1..6),
        class in prop::sample::select(Class::ALL.to_vec()),
        instance in any::<[u8; 16]>(),
        seconds in 0..10_000_000_000_u64,
        (epoch, sequence) in any::<(u64, u64)>(),
        promise in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
    ) {
        let result = AttestationResult {
            class,
            instance: InstanceId(instance),
            evidence_time: UNIX_EPOCH + Duration::from_secs(seconds),
            policy_revision: Revision { epoch, sequence },
            devices,
            inclusion_promise: promise,
            ..result()
        };
        let der = result.encode().unwrap();
        prop_assert_eq!(AttestationResult::decode(&der).unwrap(), result);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(der in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = AttestationResult::decode(&der);
    }
}
