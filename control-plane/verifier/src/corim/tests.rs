//! Manifests as tools write them, and manifests with one thing wrong.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;

use super::*;

fn head(major: u8, argument: usize) -> Vec<u8> {
    let argument = u32::try_from(argument).unwrap();
    let [_, _, high, low] = argument.to_be_bytes();
    match argument {
        0..=23 => vec![major << 5 | low],
        24..=255 => vec![major << 5 | 24, low],
        _ => vec![major << 5 | 25, high, low],
    }
}

fn number(value: usize) -> Vec<u8> {
    head(0, value)
}

fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len()), value.to_vec()].concat()
}

fn text(value: &str) -> Vec<u8> {
    [head(3, value.len()), value.into()].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len()), items.concat()].concat()
}

fn map(pairs: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let inner = pairs
        .iter()
        .map(|(key, value)| [number(*key), value.clone()].concat());
    [head(5, pairs.len()), inner.collect::<Vec<_>>().concat()].concat()
}

fn tag(number: usize, inner: &[u8]) -> Vec<u8> {
    [head(6, number), inner.to_vec()].concat()
}

fn digest(hash: usize, value: &[u8]) -> Vec<u8> {
    array(&[number(hash), bytes(value)])
}

fn measurement(key: Option<Vec<u8>>, values: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut pairs = vec![(1, map(values))];
    if let Some(key) = key {
        pairs.insert(0, (0, key));
    }
    map(&pairs)
}

fn environment(vendor: &str, model: &str) -> Vec<u8> {
    let class = map(&[
        (0, tag(111, &bytes(&[0x2b, 6]))),
        (1, text(vendor)),
        (2, text(model)),
    ]);
    map(&[(0, class)])
}

fn manifest(triples: &[Vec<u8>]) -> Vec<u8> {
    let module = map(&[
        (1, map(&[(0, text("llm-11")), (1, number(0))])),
        (4, map(&[(0, array(triples))])),
    ]);
    map(&[
        (0, text("factory")),
        (1, array(&[tag(506, &bytes(&module))])),
    ])
}

/// One measurement of a guest, and registers of a TPM.
fn example() -> Vec<u8> {
    let guest = measurement(
        Some(number(641)),
        &[
            (0, map(&[(0, text("1.1"))])),
            (2, array(&[digest(7, &[7; 48])])),
            (11, text("ovmf")),
        ],
    );
    let register = array(&[
        digest(1, &[4; 32]),
        digest(7, &[5; 48]),
        digest(10, &[6; 32]),
    ]);
    let registers = map(&[(4, register)]);
    let tpm = measurement(None, &[(14, registers)]);
    manifest(&[
        array(&[environment("AMD", "Genoa"), array(&[guest])]),
        array(&[environment("ACME", "board"), tpm]),
    ])
}

#[track_caller]
fn check(corim: &Corim) {
    assert_eq!(corim.id, "factory");
    let [guest, tpm] = corim.references.as_slice() else {
        panic!("{corim:#?}");
    };
    assert_eq!(
        (guest.tag.as_str(), guest.vendor.as_deref()),
        ("llm-11", Some("AMD"))
    );
    assert_eq!(guest.model.as_deref(), Some("Genoa"));
    assert_eq!(
        (&guest.key, guest.name.as_deref()),
        (&Key::Number(641), Some("ovmf"))
    );
    assert_eq!(guest.version.as_deref(), Some("1.1"));
    assert_eq!(
        guest.digests,
        [Digest {
            hash: Hash::Sha384,
            value: vec![7; 48]
        }]
    );
    assert_eq!(tpm.key, Key::Number(4));
    let hashes: Vec<_> = tpm.digests.iter().map(|digest| digest.hash).collect();
    // A hash that is not known can't be compared with.
    assert_eq!(hashes, [Hash::Sha256, Hash::Sha384]);
}

#[test]
fn reference_triples_of_unsigned_manifests_are_read() {
    let plain = tag(501, &example());
    check(&Corim::parse(&plain, None).unwrap());
    check(&Corim::parse(&tag(500, &plain), None).unwrap());
    assert_eq!(
        Corim::parse(&plain, None).unwrap().signature,
        Signature::Absent
    );
    assert_eq!(Corim::parse(&plain, Some(&[])), Err(CorimError::Unsigned));
}

fn signed() -> (Vec<u8>, Vec<u8>) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap();
    assert_eq!(key.public_key().as_ref().len(), 65);
    let protected = [head(5, 1), number(1), vec![0x26]].concat();
    let payload = tag(501, &example());
    let message = array(&[
        text("Signature1"),
        bytes(&protected),
        bytes(&[]),
        bytes(&payload),
    ]);
    let signature = key.sign(&SystemRandom::new(), &message).unwrap();
    let envelope = array(&[
        bytes(&protected),
        map(&[]),
        bytes(&payload),
        bytes(signature.as_ref()),
    ]);
    use rcgen::PublicKeyData;
    (tag(18, &envelope), pair.subject_public_key_info())
}

#[test]
fn signed_manifests_are_verified_against_the_key_that_is_named() {
    let (raw, key) = signed();
    let verified = Corim::parse(&raw, Some(&key)).unwrap();
    assert_eq!(verified.signature, Signature::Verified);
    check(&verified);
    let unchecked = Corim::parse(&raw, None).unwrap();
    assert_eq!(unchecked.signature, Signature::NotChecked);
    assert_eq!(
        Corim::parse(&raw, Some(&signed().1)),
        Err(CorimError::Signature)
    );
    assert_eq!(Corim::parse(&raw, Some(b"key")), Err(CorimError::Key));
    // As earlier drafts wrap it.
    check(&Corim::parse(&tag(500, &tag(502, &raw)), Some(&key)).unwrap());
    for at in 0..raw.len() {
        let mut flipped = raw.clone();
        flipped[at] ^= 1;
        assert!(Corim::parse(&flipped, Some(&key)).is_err(), "byte {at}");
        assert!(Corim::parse(&raw[..at], None).is_err(), "cut at {at}");
    }
}

#[test]
fn what_is_no_manifest_is_refused_by_name() {
    let parse = |raw: &[u8]| Corim::parse(&tag(501, raw), None);
    let shape = |what| Err(CorimError::Shape(what));
    assert_eq!(parse(&map(&[])), shape("no identifier"));
    assert_eq!(parse(&map(&[(0, text("a"))])), shape("no modules"));
    assert_eq!(
        Corim::parse(&map(&[]), None),
        shape("no tag of a manifest stands first")
    );
    let one = |values: &[(usize, Vec<u8>)]| {
        manifest(&[array(&[
            environment("a", "b"),
            array(&[measurement(None, values)]),
        ])])
    };
    let short = one(&[(2, array(&[digest(7, &[7; 32])]))]);
    assert_eq!(
        parse(&short),
        shape("a digest is not as long as its algorithm says")
    );
    let odd = one(&[(2, array(&[array(&[number(7)])]))]);
    assert_eq!(parse(&odd), shape("a digest has an algorithm and a value"));
    let single = manifest(&[array(&[environment("a", "b")])]);
    assert_eq!(parse(&single), shape("a reference triple has two parts"));
    let none = manifest(&[array(&[environment("a", "b"), array(&[map(&[])])])]);
    assert_eq!(parse(&none), shape("a measurement without values"));
    // Deeper than any manifest, and longer than the bytes.
    assert!(parse(&[0x81; 100]).is_err());
    assert!(parse(&[0x9a, 0xff, 0xff, 0xff, 0xff]).is_err());
    let mut longer = tag(501, &example());
    longer.push(0);
    assert_eq!(
        Corim::parse(&longer, None),
        Err(CorimError::Cbor(CborError::Trailing(1)))
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Corim::parse(&raw, None);
        let _ = Corim::parse(&tag(501, &raw), Some(&raw));
    }

    #[test]
    fn no_changed_manifest_makes_the_reader_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut raw = tag(501, &example());
        let at = at.index(raw.len());
        raw[at] = byte;
        let _ = Corim::parse(&raw, None);
    }
}
