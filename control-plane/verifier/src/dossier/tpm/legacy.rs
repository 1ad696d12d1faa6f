//! Quotes by keys that sign with SHA-1: verified to be told apart from forgeries, and refused all the same.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents};

use super::parts::{Ak, Quoted};
use crate::evidence::tpm::wire::{ParseError, Reader};

/// Whether a key whose scheme is RSASSA with SHA-1 made all signatures; `None` for any other key.
pub(super) fn verify(quoted: &Quoted) -> Option<bool> {
    let Some(Ak::Area(area)) = &quoted.ak else {
        return None;
    };
    let modulus = modulus(area).ok()?;
    let key = RsaPublicKeyComponents {
        n: modulus,
        e: [1, 0, 1].as_slice(),
    };
    let signed = quoted.quotes.iter().all(|quote| {
        let signature = quote.signature.as_deref().and_then(bare);
        signature.is_some_and(|signature| {
            let algorithm = &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
            key.verify(algorithm, &quote.message, signature).is_ok()
        })
    });
    Some(signed && !quoted.quotes.is_empty())
}

/// The modulus in a `TPMT_PUBLIC` of exactly such a key.
fn modulus(area: &[u8]) -> Result<&[u8], ParseError> {
    let mut reader = Reader::new(area);
    let kind = reader.u16("type")?;
    reader.bytes(6, "name algorithm and attributes")?;
    reader.sized(MAX_DIGEST, "policy")?;
    let symmetric = reader.u16("symmetric")?;
    let scheme = (reader.u16("scheme")?, reader.u16("scheme hash")?);
    reader.bytes(6, "key bits and exponent")?;
    let modulus = reader.sized(MAX_MODULUS, "modulus")?;
    reader.finish()?;
    if (kind, symmetric, scheme) == (ALG_RSA, ALG_NULL, (ALG_RSASSA, ALG_SHA1)) {
        Ok(modulus)
    } else {
        Err(ParseError::Unsupported("scheme"))
    }
}

fn bare(signature: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(signature);
    let scheme = (reader.u16("scheme").ok()?, reader.u16("scheme hash").ok()?);
    let bare = reader.sized(MAX_MODULUS, "signature").ok()?;
    reader.finish().ok()?;
    (scheme == (ALG_RSASSA, ALG_SHA1)).then_some(bare)
}

pub(super) const ALG_SHA1: u16 = 0x0004;
const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const MAX_DIGEST: usize = 64;
const MAX_MODULUS: usize = 512;
