//! Every beginning of a connection: both ends come to an end of their own, and nobody waits for what will not come.

use super::frames::*;
use super::raw::*;

/// What a client says: heads in pieces, with padding, priority and indices, data, trailers, and what belongs to all.
fn of_a_client() -> Vec<u8> {
    let mut padded = vec![3, 0, 0, 0, 0, 15];
    padded.extend(block(&POST));
    padded.extend([0x40, 1, b'a', 1, b'b', 0, 0, 0]);
    let named = [&[0x82, 0x86, 0x84, 0xbe][..], b"\x01\x0bllm.example"].concat();
    [
        PREFACE.to_vec(),
        settings(&[(1, 4096), (3, 10), (4, 100_000), (5, 16_384), (9, 9)]),
        frame(SETTINGS, ACK, 0, ""),
        update(0, 1_000),
        frame(HEADERS, HEAD | PADDED | PRIORITIZED, 1, padded),
        frame(DATA, 0, 1, "question"),
        frame(HEADERS, END_STREAM, 3, &named[..1]),
        frame(CONTINUATION, 0, 3, &named[1..6]),
        frame(CONTINUATION, END_HEADERS, 3, &named[6..]),
        frame(DATA, PADDED, 1, [2, b'a', 0, 0]),
        frame(PRIORITY, 0, 5, [0, 0, 0, 1, 7]),
        frame(PING, 0, 0, [7; 8]),
        frame(HEADERS, WHOLE, 1, block(&[("checksum", "1")])),
        post(5),
        reset(5, CANCEL),
        frame(0xbe, 3, 0, "unknown"),
        frame(GOAWAY, 0, 0, [0; 10]),
    ]
    .concat()
}

/// What a server says to three requests.
fn of_a_server() -> Vec<u8> {
    let ok = block(&[(":status", "200"), ("content-length", "6")]);
    [
        settings(&[(3, 10), (4, 100_000)]),
        frame(SETTINGS, ACK, 0, ""),
        update(0, 1_000),
        frame(HEADERS, HEAD, 1, block(&[(":status", "103")])),
        frame(HEADERS, 0, 1, &ok[..5]),
        frame(CONTINUATION, END_HEADERS, 1, &ok[5..]),
        frame(DATA, PADDED, 1, b"\x02ans\0\0"),
        frame(HEADERS, HEAD, 3, [0x88]),
        frame(DATA, END_STREAM, 3, "whole"),
        frame(DATA, 0, 1, "wer"),
        update(1, 10),
        frame(HEADERS, WHOLE, 1, block(&[("checksum", "1")])),
        reset(5, REFUSED_STREAM),
        frame(PING, ACK, 0, [7; 8]),
        frame(GOAWAY, 0, 0, [0, 0, 0, 5, 0, 0, 0, 0]),
    ]
    .concat()
}

#[test]
fn every_beginning_of_a_clients_connection_ends() {
    let whole = of_a_client();
    for length in 0..=whole.len() {
        run(async {
            let mut peer = silent(Default::default(), Serve::Echo, 1 << 20);
            peer.send(&whole[..length]).await;
            let ended = peer.ended().await;
            assert!(
                ended.as_ref().is_none_or(|error| error.is_io()),
                "{ended:?} after {length}"
            );
        });
    }
}

#[test]
fn every_beginning_of_a_servers_connection_ends() {
    let whole = of_a_server();
    for length in 0..=whole.len() {
        run(async {
            let (mut send, mut peer) = calling().await;
            let calls = [0, 1, 2].map(|_| send.send_request(request("GET"), true).unwrap());
            let is_third = |frame: &Frame| frame.kind == HEADERS && frame.stream == 5;
            peer.until(is_third).await;
            peer.send(&whole[..length]).await;
            let ended = peer.ended().await;
            assert!(
                ended.as_ref().is_none_or(|error| error.is_io()),
                "{ended:?} after {length}"
            );
            for (response, _body) in calls {
                let read = match response.await {
                    Ok(response) => read_all(&mut response.into_body()).await.map(drop),
                    Err(error) => Err(error),
                };
                assert!(read.is_ok() || length < whole.len() || read.unwrap_err().is_reset());
            }
        });
    }
}
