//! Real quotes and keys, and every way of changing them.

use proptest::prelude::*;

use super::attest::{ClockInfo, ParseQuoteError, Quote};
use super::event_log::{EventLog, SecureBoot};
use super::hash::HashAlgorithm;
use super::pcr::{PcrSelection, PcrSet, PcrValues};
use super::public::{Curve, Key, PublicArea, SigningScheme};
use super::signature::Signature;
use super::wire::{ParseError, Reader, put_sized};

/// Standard base64, for fixtures only.
pub(super) mod base64_lite {
    pub(in crate::evidence::tpm) fn decode(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut bits, mut held) = (0_u32, 0);
        for byte in text.bytes().filter(|byte| *byte != b'=') {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                other => panic!("not base64: {other}"),
            };
            bits = bits << 6 | u32::from(value);
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push(u8::try_from(bits >> held & 0xff).unwrap());
            }
        }
        out
    }
}

/// A quote with everything that its signature needs.
struct Real {
    ak: PublicArea,
    quote: Vec<u8>,
    signature: Vec<u8>,
    pcrs: PcrValues,
    event_log: Vec<u8>,
}

/// A protobuf field: number, then content or a varint.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Number(u64, u64),
}

fn protobuf(mut raw: &[u8]) -> Vec<Field<'_>> {
    fn varint(raw: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = raw.split_first().unwrap();
            *raw = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !raw.is_empty() {
        let key = varint(&mut raw);
        match key & 7 {
            0 => fields.push(Field::Number(key >> 3, varint(&mut raw))),
            2 => {
                let length = usize::try_from(varint(&mut raw)).unwrap();
                let (content, rest) = raw.split_at(length);
                raw = rest;
                fields.push(Field::Bytes(key >> 3, content));
            }
            other => panic!("wire type {other}"),
        }
    }
    fields
}

fn bytes_of<'a>(fields: &[Field<'a>], wanted: u64) -> Vec<&'a [u8]> {
    fields
        .iter()
        .filter_map(|field| match field {
            Field::Bytes(number, content) if *number == wanted => Some(*content),
            Field::Bytes(..) | Field::Number(..) => None,
        })
        .collect()
}

fn number_of(fields: &[Field<'_>], wanted: u64) -> u64 {
    fields
        .iter()
        .find_map(|field| match field {
            Field::Number(number, value) if *number == wanted => Some(*value),
            Field::Bytes(..) | Field::Number(..) => None,
        })
        .unwrap_or_default()
}

/// The SHA-256 quote of a Google machine, over the nonce 0x9009 (go-tpm-tools' `Attestation` message).
fn gce() -> Real {
    let whole = protobuf(include_bytes!(
        "../../../testdata/tpm/gce-cos85-nonce9009.pb"
    ));
    let quotes = bytes_of(&whole, 2);
    for quote in quotes {
        let quote = protobuf(quote);
        let pcrs = protobuf(bytes_of(&quote, 3)[0]);
        if number_of(&pcrs, 1) != 0x0b {
            continue;
        }
        let mut values = PcrValues::default();
        for entry in bytes_of(&pcrs, 2) {
            let entry = protobuf(entry);
            let pcr = u8::try_from(number_of(&entry, 1)).unwrap();
            let value = bytes_of(&entry, 2)[0].to_vec();
            values.insert(HashAlgorithm::Sha256, pcr, value).unwrap();
        }
        return Real {
            ak: PublicArea::parse(bytes_of(&whole, 1)[0]).unwrap(),
            quote: bytes_of(&quote, 1)[0].to_vec(),
            signature: bytes_of(&quote, 2)[0].to_vec(),
            pcrs: values,
            event_log: bytes_of(&whole, 3)[0].to_vec(),
        };
    }
    panic!("the message has a SHA-256 quote")
}

/// A quote of a software TPM; its evidence has the key as SubjectPublicKeyInfo, so the public area is written here.
fn trustee() -> Real {
    let evidence: serde_json::Value =
        serde_json::from_str(include_str!("../../../testdata/tpm/quote-rsa-trustee.json")).unwrap();
    let text = |value: &serde_json::Value| base64_lite::decode(value.as_str().unwrap());
    let quote = &evidence["tpm_quote"];
    let mut pcrs = PcrValues::default();
    for (pcr, value) in (0_u8..).zip(quote["pcrs"].as_array().unwrap()) {
        let value = hex::decode(value.as_str().unwrap()).unwrap();
        pcrs.insert(HashAlgorithm::Sha256, pcr, value).unwrap();
    }
    let spki = text(&evidence["ak_public"]);
    // 2048-bit modulus, then the exponent as INTEGER 65537.
    let modulus = &spki[spki.len() - 5 - 256..spki.len() - 5];
    let mut public = hex::decode("0001000b00050472000000100014000b080000000000").unwrap();
    put_sized(&mut public, modulus);
    Real {
        ak: PublicArea::parse(&public).unwrap(),
        quote: text(&quote["message"]),
        signature: text(&quote["signature"]),
        pcrs,
        event_log: Vec::new(),
    }
}

#[test]
fn real_quotes_verify_and_their_values_digest_to_what_was_quoted() {
    for (name, real) in [("gce", gce()), ("trustee", trustee())] {
        let quote = Quote::parse(&real.quote).unwrap();
        let signature = Signature::parse(&real.signature).unwrap();
        assert!(signature.verifies(&real.ak, &real.quote), "{name}");
        assert!(quote.selection.same_as(&real.pcrs.selection()), "{name}");
        let digest = real.pcrs.digest(&quote.selection, signature.scheme.hash());
        assert_eq!(digest.as_ref(), Some(&quote.pcr_digest), "{name}");
    }
    assert_eq!(Quote::parse(&gce().quote).unwrap().extra_data, [0x90, 0x09]);
}

#[test]
fn a_real_log_replays_to_the_values_of_a_real_quote() {
    let real = gce();
    let log = EventLog::parse(&real.event_log).unwrap();
    for pcr in 0..8 {
        let replayed = log.replay(HashAlgorithm::Sha256, pcr);
        assert_eq!(
            replayed.as_deref(),
            real.pcrs.get(HashAlgorithm::Sha256, pcr),
            "PCR {pcr}"
        );
    }
    assert_ne!(log.secure_boot(HashAlgorithm::Sha256), SecureBoot::Unknown);
}

#[test]
fn no_bit_of_a_real_quote_or_signature_can_be_changed() {
    for real in [gce(), trustee()] {
        let signature = Signature::parse(&real.signature).unwrap();
        for at in 0..real.quote.len() {
            let mut flipped = real.quote.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(!signature.verifies(&real.ak, &flipped), "byte {at}");
        }
        for at in 0..real.signature.len() {
            for bit in 0..8 {
                let mut flipped = real.signature.clone();
                flipped[at] ^= 1 << bit;
                let accepted = Signature::parse(&flipped)
                    .is_ok_and(|signature| signature.verifies(&real.ak, &real.quote));
                assert!(!accepted, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    for real in [gce(), trustee()] {
        let public = real.ak.as_bytes().to_vec();
        for end in 0..public.len() {
            assert!(PublicArea::parse(&public[..end]).is_err(), "{end}");
        }
        for end in 0..real.quote.len() {
            assert!(Quote::parse(&real.quote[..end]).is_err(), "{end}");
        }
        for end in 0..real.signature.len() {
            assert!(Signature::parse(&real.signature[..end]).is_err(), "{end}");
        }
        let longer = |bytes: &[u8]| [bytes, &[0]].concat();
        assert_eq!(
            PublicArea::parse(&longer(&public)),
            Err(ParseError::Trailing(1))
        );
        assert_eq!(
            Quote::parse(&longer(&real.quote)),
            Err(ParseQuoteError::Shape(ParseError::Trailing(1)))
        );
        assert_eq!(
            Signature::parse(&longer(&real.signature)),
            Err(ParseError::Trailing(1))
        );
    }
}

#[test]
fn every_flipped_bit_of_a_public_area_is_another_key_or_none() {
    let ak = gce().ak;
    for at in 0..ak.as_bytes().len() {
        for bit in 0..8 {
            let mut flipped = ak.as_bytes().to_vec();
            flipped[at] ^= 1 << bit;
            if let Ok(other) = PublicArea::parse(&flipped) {
                assert_ne!(other.name(), ak.name(), "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn a_quote_of_another_kind_or_maker_is_named() {
    let real = trustee();
    let mut other = real.quote.clone();
    other[0] ^= 1;
    assert_eq!(Quote::parse(&other), Err(ParseQuoteError::Magic));
    let mut certify = real.quote;
    certify[5] = 0x17;
    assert_eq!(Quote::parse(&certify), Err(ParseQuoteError::Type(0x8017)));
    let dump: serde_json::Value = serde_json::from_str(include_str!(
        "../../../testdata/tpm/windows-gcp-shielded.json"
    ))
    .unwrap();
    let creation = base64_lite::decode(dump["AK"]["CreateAttestation"].as_str().unwrap());
    assert_eq!(Quote::parse(&creation), Err(ParseQuoteError::Type(0x801a)));
}

#[test]
fn sha_1_is_refused_wherever_it_stands() {
    let dump: serde_json::Value = serde_json::from_str(include_str!(
        "../../../testdata/tpm/windows-gcp-shielded.json"
    ))
    .unwrap();
    let field = |value: &serde_json::Value| base64_lite::decode(value.as_str().unwrap());
    assert_eq!(
        PublicArea::parse(&field(&dump["AK"]["Public"])),
        Err(ParseError::Unsupported("scheme hash"))
    );
    assert_eq!(
        Quote::parse(&field(&dump["Quote"]["Quote"])),
        Err(ParseQuoteError::Shape(ParseError::Unsupported(
            "selection hash"
        )))
    );
    assert_eq!(
        Signature::parse(&field(&dump["Quote"]["Signature"])),
        Err(ParseError::Unsupported("scheme hash"))
    );
}

#[test]
fn a_quote_without_a_signature_parses_and_is_no_more_than_that() {
    let raw = include_bytes!("../../../testdata/tpm/quote.msg");
    let quote = Quote::parse(raw).unwrap();
    assert_eq!(quote.extra_data, [0x12, 0x34, 0x56, 0x78]);
    assert_eq!(quote.selection.to_string(), "sha256:0,1,2");
}

#[test]
fn rsa_keys_are_whole_and_of_known_sizes() {
    let good = trustee().ak.as_bytes().to_vec();
    // type 2, name 2, attributes 4, policy 2, symmetric 2, scheme 4, then bits, exponent, size.
    let mut bits = good.clone();
    bits[16] = 0x04;
    assert_eq!(
        PublicArea::parse(&bits),
        Err(ParseError::Unsupported("RSA modulus"))
    );
    let mut exponent = good.clone();
    exponent[21] = 3;
    assert_eq!(
        PublicArea::parse(&exponent),
        Err(ParseError::Unsupported("RSA exponent"))
    );
    let mut short = good;
    short[24] = 0x7f;
    assert_eq!(
        PublicArea::parse(&short),
        Err(ParseError::Unsupported("RSA modulus"))
    );
}

#[test]
fn a_bank_is_selected_once_and_nothing_is_longer_than_any_of_its_kind() {
    let bank = [0, 0x0b, 3, 1, 0, 0];
    let read = |banks: &[[u8; 6]]| {
        let count = u32::try_from(banks.len()).unwrap().to_be_bytes();
        let raw = [count.as_slice(), &banks.concat()].concat();
        PcrSelection::read(&mut Reader::new(&raw)).map(|_| ())
    };
    assert_eq!(read(&[bank]), Ok(()));
    let twice = ParseError::Unsupported("selection hash");
    assert_eq!(read(&[bank, [0, 0x0b, 3, 2, 0, 0]]), Err(twice));
    let quote = Quote::parse(&[0; Quote::MAX_BYTES + 1]).unwrap_err();
    assert_eq!(quote, ParseError::TooLarge("quote").into());
    let area = PublicArea::parse(&[0; PublicArea::MAX_BYTES + 1]).unwrap_err();
    assert_eq!(area, ParseError::TooLarge("public area"));
}

#[test]
fn values_have_the_length_of_their_bank_and_stand_once() {
    let mut values = PcrValues::default();
    let bank = HashAlgorithm::Sha384;
    assert!(values.insert(bank, 0, vec![0; 48]).is_ok());
    assert!(values.insert(bank, 0, vec![0; 48]).is_err());
    assert!(values.insert(bank, 1, vec![0; 32]).is_err());
    assert!(values.insert(bank, 24, vec![0; 48]).is_err());
    assert_eq!(values.get(bank, 0), Some([0; 48].as_slice()));
}

/// `TPMS_ATTEST` of a quote.
fn write_quote(quote: &Quote) -> Vec<u8> {
    let mut out = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18];
    put_sized(&mut out, &quote.qualified_signer);
    put_sized(&mut out, &quote.extra_data);
    out.extend(quote.clock.clock.to_be_bytes());
    out.extend(quote.clock.reset_count.to_be_bytes());
    out.extend(quote.clock.restart_count.to_be_bytes());
    out.push(quote.clock.safe.into());
    out.extend(quote.firmware.to_be_bytes());
    let banks: Vec<_> = quote.selection.banks().collect();
    out.extend(u32::try_from(banks.len()).unwrap().to_be_bytes());
    for (hash, set) in banks {
        let bits = set.iter().fold(0_u32, |bits, pcr| bits | 1 << pcr);
        out.extend(hash.id().to_be_bytes());
        out.push(3);
        out.extend(&bits.to_le_bytes()[..3]);
    }
    put_sized(&mut out, &quote.pcr_digest);
    out
}

fn write_ecc(
    attributes: u32,
    curve: Curve,
    scheme: Option<HashAlgorithm>,
    x: &[u8],
    y: &[u8],
) -> Vec<u8> {
    let mut out = vec![0, 0x23, 0, 0x0b];
    out.extend(attributes.to_be_bytes());
    put_sized(&mut out, &[]);
    out.extend([0, 0x10]);
    match scheme {
        None => out.extend([0, 0x10]),
        Some(hash) => {
            out.extend([0, 0x18]);
            out.extend(hash.id().to_be_bytes());
        }
    }
    out.extend(match curve {
        Curve::P256 => [0, 3],
        Curve::P384 => [0, 4],
    });
    out.extend([0, 0x10]);
    put_sized(&mut out, x);
    put_sized(&mut out, y);
    out
}

fn selections() -> impl Strategy<Value = PcrSelection> {
    let set = || prop::collection::vec(0..24_u8, 0..24).prop_map(|pcrs| PcrSet::new(pcrs).unwrap());
    (prop::option::of(set()), prop::option::of(set())).prop_map(|(sha256, sha384)| {
        let mut selection = PcrSelection::default();
        for (hash, set) in [
            (HashAlgorithm::Sha256, sha256),
            (HashAlgorithm::Sha384, sha384),
        ] {
            if let Some(set) = set {
                selection.add(hash, set);
            }
        }
        selection
    })
}

fn quotes() -> impl Strategy<Value = Quote> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..=66);
    let clock = (any::<u64>(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(clock, reset_count, restart_count, safe)| ClockInfo {
            clock,
            reset_count,
            restart_count,
            safe,
        },
    );
    (bytes(), bytes(), clock, any::<u64>(), selections(), bytes()).prop_map(
        |(qualified_signer, extra_data, clock, firmware, selection, pcr_digest)| Quote {
            qualified_signer,
            extra_data,
            clock,
            firmware,
            selection,
            pcr_digest,
        },
    )
}

proptest! {
    #[test]
    fn a_quote_that_is_written_is_read(quote in quotes()) {
        prop_assert_eq!(Quote::parse(&write_quote(&quote)), Ok(quote));
    }

    #[test]
    fn a_key_that_is_written_is_read(
        attributes in any::<u32>(),
        wide in any::<bool>(),
        scheme in prop::option::of(prop::sample::select(HashAlgorithm::ALL.to_vec())),
        x in prop::collection::vec(any::<u8>(), 0..=48),
        y in prop::collection::vec(any::<u8>(), 0..=48),
    ) {
        let curve = if wide { Curve::P384 } else { Curve::P256 };
        let length = curve.coordinate_len();
        let parsed = PublicArea::parse(&write_ecc(attributes, curve, scheme, &x, &y));
        if x.len() > length || y.len() > length {
            prop_assert!(parsed.is_err());
        } else {
            let pad = |bytes: &[u8]| [&vec![0; length - bytes.len()], bytes].concat();
            let parsed = parsed.unwrap();
            prop_assert_eq!(parsed.attributes.0, attributes);
            prop_assert_eq!(parsed.scheme, scheme.map(SigningScheme::Ecdsa));
            prop_assert_eq!(parsed.key, Key::Ecc { curve, x: pad(&x), y: pad(&y) });
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PublicArea::parse(&raw);
        let _ = Quote::parse(&raw);
        if let Ok(signature) = Signature::parse(&raw) {
            let _ = signature.verifies(&gce().ak, &raw);
        }
    }
}
