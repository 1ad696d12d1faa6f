//! The processor that a quote of TDX names: what `collect` proposes for a `Node`.
//!
//! The names stand in the certificate of the processor's key, which the quote brings along. Nothing is verified here: what
//! is pinned by them is proven by evidence that the verifier judges, and a `Node` with wrong names admits nobody.
//!
//! Source: Intel TDX DCAP quoting library API §A.3 and §A.4 (quote); Intel SGX PCK certificate profile rev. 1.5 §1.3.5.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::QUOTE_HEADER;
use crate::attester::der::{
    OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, element, expect, to_be_signed,
};

/// Names of a processor, as Intel certifies them. Zeros are none: that is how a name is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Processor {
    /// The processor: `ppid` of the evidence's claims.
    pub ppid: Option<[u8; 16]>,
    /// The machine, where it has several processors: `platform_instance_id` of the claims.
    pub platform_instance_id: Option<[u8; 16]>,
}

/// Reads the names from the certificate inside a quote; `None` where the quote has none that can be read.
pub fn processor_of(quote: &[u8]) -> Option<Processor> {
    let leaf = CertificateDer::from_pem_slice(pck_chain(quote)?).ok()?;
    let names = extension(&leaf)?;
    let shown = |name: [u8; 16]| (name != [0; 16]).then_some(name);
    Some(Processor {
        ppid: name(names, PPID).and_then(shown),
        platform_instance_id: name(names, PLATFORM_INSTANCE_ID).and_then(shown),
    })
}

/// The chain of the processor's certificate in a quote of version 4 or 5, as PEM, leaf first.
fn pck_chain(quote: &[u8]) -> Option<&[u8]> {
    let body = quote.get(QUOTE_HEADER..)?;
    let rest = match quote.first_chunk()? {
        [4, 0] => body.get(TD_REPORT..)?,
        // Version 5 puts the type and size of the body before it.
        [5, 0] => typed(body)?.2,
        _ => return None,
    };
    let (signature, _) = sized(rest)?;
    let (QE_REPORT, certified, _) = typed(signature.get(SIGNATURE_AND_KEY..)?)? else {
        return None;
    };
    let rest = certified.get(QE_REPORT_AND_SIGNATURE..)?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    match typed(rest.get(usize::from(u16::from_le_bytes(*length))..)?)? {
        (PCK_CHAIN, chain, _) => Some(chain),
        _ => None,
    }
}

/// A type, content with its length before it, and what follows.
fn typed(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first_chunk::<2>()?;
    let (content, rest) = sized(rest)?;
    Some((u16::from_le_bytes(*kind), content, rest))
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// The content of Intel's extension in a certificate: a list of pairs of name and value.
fn extension(certificate: &[u8]) -> Option<&[u8]> {
    let mut parts = to_be_signed(certificate)?;
    let extensions = loop {
        let (tag, content, rest) = element(parts)?;
        if tag == EXTENSIONS {
            break content;
        }
        parts = rest;
    };
    let (extensions, _) = expect(extensions, SEQUENCE)?;
    let value = value(extensions, INTEL)?;
    let (octets, _) = expect(value, OCTET_STRING)?;
    expect(octets, SEQUENCE).map(|(pairs, _)| pairs)
}

fn name(pairs: &[u8], number: u8) -> Option<[u8; 16]> {
    let value = value(pairs, &[INTEL, &[number]].concat())?;
    let (name, _) = expect(value, OCTET_STRING)?;
    name.try_into().ok()
}

/// What stands beside a name in a list of pairs.
fn value<'a>(mut pairs: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    while !pairs.is_empty() {
        let (pair, rest) = expect(pairs, SEQUENCE)?;
        let (found, value) = expect(pair, OBJECT_IDENTIFIER)?;
        if found == wanted {
            return Some(value);
        }
        pairs = rest;
    }
    None
}

/// `1.2.840.113741.1.13.1`, below which each part has a number of its own.
const INTEL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
const PPID: u8 = 1;
const PLATFORM_INSTANCE_ID: u8 = 6;
/// The tag `[3]` of a certificate's extensions (RFC 5280 §4.1).
const EXTENSIONS: u8 = 0xa3;
/// The body of a quote of version 4.
const TD_REPORT: usize = 584;
/// Of the quote, and the key that made it.
const SIGNATURE_AND_KEY: usize = 128;
const QE_REPORT_AND_SIGNATURE: usize = 384 + 64;
/// Types of certification data.
const QE_REPORT: u16 = 6;
const PCK_CHAIN: u16 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: u8, content: &[u8]) -> Vec<u8> {
        let der = |tag: u8, content: &[u8]| {
            [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
        };
        let oid = der(OBJECT_IDENTIFIER, &[INTEL, &[number]].concat());
        der(SEQUENCE, &[oid, der(OCTET_STRING, content)].concat())
    }

    /// A quote whose certificate has these pairs.
    fn quote(version: u8, pairs: &[Vec<u8>]) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        let pairs = pairs.concat();
        let content = [
            &[SEQUENCE, 0x81, u8::try_from(pairs.len()).unwrap()],
            pairs.as_slice(),
        ];
        let oid = [1, 2, 840, 113_741, 1, 13, 1];
        let extension = rcgen::CustomExtension::from_oid_content(&oid, content.concat());
        params.custom_extensions.push(extension);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let put = |kind: u16, content: &[u8]| {
            let length = u32::try_from(content.len()).unwrap().to_le_bytes();
            [&kind.to_le_bytes(), length.as_slice(), content].concat()
        };
        let authentication = [&32_u16.to_le_bytes(), [9; 32].as_slice()].concat();
        let enclave = [
            vec![0; QE_REPORT_AND_SIGNATURE],
            authentication,
            put(PCK_CHAIN, pem.as_bytes()),
        ];
        let signature = [
            vec![0; SIGNATURE_AND_KEY],
            put(QE_REPORT, &enclave.concat()),
        ]
        .concat();
        let mut header = vec![0; QUOTE_HEADER];
        header[0] = version;
        let body = match version {
            5 => put(3, &[0; 648]),
            _ => vec![0; TD_REPORT],
        };
        let length = u32::try_from(signature.len()).unwrap().to_le_bytes();
        [header, body, length.to_vec(), signature, vec![0; 70]].concat()
    }

    #[test]
    fn a_processor_is_named_in_both_forms_of_quotes_and_zeros_are_no_name() {
        let (five, six) = (pair(1, &[5; 16]), pair(6, &[6; 16]));
        let both = Processor {
            ppid: Some([5; 16]),
            platform_instance_id: Some([6; 16]),
        };
        let one = Processor {
            platform_instance_id: None,
            ..both
        };
        for version in [4, 5] {
            let found = |pairs: &[Vec<u8>]| processor_of(&quote(version, pairs));
            assert_eq!(found(&[five.clone(), six.clone()]), Some(both));
            assert_eq!(found(&[pair(3, &[0; 2]), five.clone()]), Some(one));
            assert_eq!(found(&[five.clone(), pair(6, &[0; 16])]), Some(one));
            let none = Processor { ppid: None, ..one };
            assert_eq!(found(&[pair(1, &[5; 15])]), Some(none));
        }
        assert_eq!(processor_of(&quote(3, &[five])), None);
    }

    #[test]
    fn a_quote_that_ends_anywhere_names_no_other_processor() {
        let whole = quote(4, &[pair(1, &[5; 16])]);
        let named = processor_of(&whole);
        assert!(named.is_some());
        for end in 0..whole.len() {
            let found = processor_of(&whole[..end]);
            assert!(found.is_none() || found == named, "{end}");
        }
    }
}
