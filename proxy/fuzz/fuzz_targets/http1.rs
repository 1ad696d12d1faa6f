#![no_main]
//! Heads and bodies of HTTP/1.1 never panic, and never depend on how the bytes were cut.

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use vouchsafe_proxy::http1::body::{BodyDecoder, Decoded, Framing};
use vouchsafe_proxy::http1::head::{RequestHead, ResponseHead};

const LIMIT: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let whole = RequestHead::parse(&mut BytesMut::from(bytes), &mut 0, LIMIT);
    let (mut buf, mut scanned) = (BytesMut::new(), 0);
    let mut pieces = Ok(None);
    for byte in bytes {
        buf.extend_from_slice(&[*byte]);
        pieces = RequestHead::parse(&mut buf, &mut scanned, LIMIT);
        if !matches!(pieces, Ok(None)) {
            break;
        }
    }
    assert_eq!(matches!(whole, Ok(Some(_))), matches!(pieces, Ok(Some(_))));
    let _ = ResponseHead::parse(&mut BytesMut::from(bytes), &mut 0, LIMIT, false);
    assert_eq!(decode(bytes, bytes.len().max(1)), decode(bytes, 1));
});

fn decode(bytes: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut buf, mut body) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf).ok()? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::End(_) => return Some(body),
                Decoded::NeedMore => break,
            }
        }
    }
    None
}
