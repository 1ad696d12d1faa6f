//! Requests and answers as bytes, and a module behind a socket.

use std::os::unix::net::UnixListener;

use super::*;

fn text(text: &str) -> Vec<u8> {
    let mut out = vec![0x60 | u8::try_from(text.len()).unwrap()];
    out.extend(text.as_bytes());
    out
}

fn bytes(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x59], length.as_slice(), content].concat()
}

/// A document whose payload has a nonce among other things.
fn document(nonce: &[u8]) -> Vec<u8> {
    let payload = [
        vec![0xa4],
        text("pcrs"),
        vec![0xa1, 0x00],
        bytes(&[1; 48]),
        text("cabundle"),
        vec![0x82],
        bytes(b"a"),
        bytes(b"b"),
        text("nonce"),
        bytes(nonce),
        text("user_data"),
        vec![0xf6],
    ]
    .concat();
    [
        vec![0x84],
        bytes(&[0xa1]),
        vec![0xa0],
        bytes(&payload),
        bytes(&[2; 96]),
    ]
    .concat()
}

fn response(document: &[u8]) -> Vec<u8> {
    [
        vec![0xa1],
        text("Attestation"),
        vec![0xa1],
        text("document"),
        bytes(document),
    ]
    .concat()
}

/// Answers one request, and returns it.
fn serve(socket: UnixListener, answer: Vec<u8>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut client, _) = socket.accept().unwrap();
        let mut request = Vec::new();
        client.read_to_end(&mut request).unwrap();
        client.write_all(&answer).unwrap();
        request
    })
}

async fn ask(answer: Vec<u8>) -> (Vec<u8>, Result<Vec<u8>, NitroError>) {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("nsm");
    let served = serve(UnixListener::bind(&device).unwrap(), answer);
    let attester = NitroAttester::open(&Nitro { device }).unwrap();
    let outcome = attester.document(&[7; 32]).await;
    (served.join().unwrap(), outcome)
}

#[tokio::test]
async fn the_module_is_asked_for_our_nonce_and_its_document_is_passed_on() {
    let document = document(&[7; 32]);
    let (request, outcome) = ask(response(&document)).await;
    assert_eq!(outcome.unwrap(), document);
    let mut asked = Reader::new(&request);
    assert_eq!(asked.map(), Ok(1));
    assert_eq!(asked.text(), Ok("Attestation"));
    assert_eq!(asked.map(), Ok(3));
    assert_eq!(
        (asked.text(), asked.bytes()),
        (Ok("nonce"), Ok(&[7; 32][..]))
    );
    assert_eq!((asked.text(), asked.skip()), (Ok("user_data"), Ok(())));
    assert_eq!((asked.text(), asked.skip()), (Ok("public_key"), Ok(())));
    assert!(asked.is_at_end());
}

#[tokio::test]
async fn a_document_over_another_nonce_does_not_leave() {
    let (_, outcome) = ask(response(&document(&[8; 32]))).await;
    assert!(matches!(outcome, Err(NitroError::OtherNonce)));
    let (_, outcome) = ask(response(&document(&[7; 31]))).await;
    assert!(matches!(outcome, Err(NitroError::OtherNonce)));
}

#[tokio::test]
async fn a_refusal_of_the_module_is_said() {
    let refusal = [vec![0xa1], text("Error"), text("InvalidOperation")].concat();
    let (_, outcome) = ask(refusal).await;
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("InvalidOperation"), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let (_, outcome) = ask(vec![0; nsm::MAX_RESPONSE + 1]).await;
    assert!(matches!(outcome, Err(NitroError::Device { .. })));
}

#[test]
fn a_machine_that_is_no_enclave_is_told_so() {
    let device = PathBuf::from("/nonexistent/nsm");
    let error = NitroAttester::open(&Nitro { device }).unwrap_err();
    assert!(error.to_string().contains("only an enclave"), "{error}");
}

#[test]
fn every_answer_that_is_cut_short_or_goes_on_is_refused() {
    let whole = response(&document(&[7; 32]));
    assert!(document_of(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(document_of(&whole[..length]).is_err(), "{length}");
    }
    assert!(document_of(&[whole.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn a_document_of_another_shape_has_no_nonce() {
    let whole = document(&[7; 32]);
    assert_eq!(nonce_of(&whole), Some(&[7; 32][..]));
    let tagged = [&[0xd2], whole.as_slice()].concat();
    assert_eq!(nonce_of(&tagged), Some(&[7; 32][..]));
    let payload_end = whole.len() - 99;
    for length in 0..payload_end {
        assert_eq!(nonce_of(&whole[..length]), None, "{length}");
    }
    // Deeper than any document.
    let deep = [vec![0x84], bytes(&[]), vec![0x81; 5_000]].concat();
    assert_eq!(nonce_of(&deep), None);
}
