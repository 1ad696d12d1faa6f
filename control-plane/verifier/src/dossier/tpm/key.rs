//! Public keys as certificates and tools write them.
//!
//! Source: RFC 5280 §4.1.2.7; RFC 5480 §2.

use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::evidence::tpm::public::{Curve, Key};

/// A key of an accepted kind from its `SubjectPublicKeyInfo`.
pub(super) fn key_of(bare: &[u8]) -> Option<Key> {
    let Ok(([], info)) = SubjectPublicKeyInfo::from_der(bare) else {
        return None;
    };
    key_of_info(&info)
}

pub(super) fn key_of_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Key> {
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let modulus = trim(key.modulus);
            let bits_fit = matches!(modulus.len(), 256 | 384 | 512)
                && modulus.first().is_some_and(|byte| byte & 0x80 != 0);
            (bits_fit && trim(key.exponent) == [1, 0, 1]).then(|| Key::Rsa {
                modulus: modulus.to_vec(),
                exponent: 65_537,
            })
        }
        PublicKey::EC(point) => {
            let named = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curve = match named.to_id_string().as_str() {
                "1.2.840.10045.3.1.7" => Curve::P256,
                "1.3.132.0.34" => Curve::P384,
                _ => return None,
            };
            let (tag, coordinates) = point.data().split_first()?;
            let (x, y) = coordinates.split_at_checked(curve.coordinate_len())?;
            (*tag == 4 && x.len() == y.len()).then(|| Key::Ecc {
                curve,
                x: x.to_vec(),
                y: y.to_vec(),
            })
        }
        _ => None,
    }
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}
