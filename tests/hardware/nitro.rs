//! Enclaves, through a socket that serves documents of real ones.
//!
//! Real documents answer nonces of 256 bytes or none, where ours have 32: so none of them is the answer to us.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use vouchsafe_config::proxy::Nitro;
use vouchsafe_proxy::attester::nitro::{NitroAttester, NitroError, document_of, nonce_of};

use crate::support::vector;

fn response(document: &[u8]) -> Vec<u8> {
    let length = u16::try_from(document.len()).unwrap().to_be_bytes();
    let head = b"\xa1\x6bAttestation\xa1\x68document\x59";
    [head, length.as_slice(), document].concat()
}

#[test]
fn nonces_of_real_documents_are_found() {
    for (case, length) in [
        ("prod-evervault", Some(256)),
        ("debug-evervault", None),
        ("prod-dstack-1", None),
    ] {
        let document = vector(&format!("nitro/{case}/doc.cose"));
        assert_eq!(nonce_of(&document).map(<[u8]>::len), length, "{case}");
        assert_eq!(document_of(&response(&document)).unwrap(), document);
    }
}

#[tokio::test]
async fn a_real_document_for_somebody_else_does_not_leave() {
    for case in ["prod-evervault", "prod-dstack-1"] {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("nsm");
        let listener = UnixListener::bind(&device).unwrap();
        let answer = response(&vector(&format!("nitro/{case}/doc.cose")));
        let module = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.read_to_end(&mut Vec::new()).unwrap();
            client.write_all(&answer).unwrap();
        });
        let attester = NitroAttester::open(&Nitro { device }).unwrap();
        let error = attester.document(&[7; 32]).await.unwrap_err();
        assert!(
            matches!(error, NitroError::OtherNonce | NitroError::Malformed),
            "{case}: {error}"
        );
        module.join().unwrap();
    }
}
