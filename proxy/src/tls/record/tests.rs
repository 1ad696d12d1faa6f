use proptest::prelude::*;
use rustls::CipherSuite;

use super::*;

fn secret(byte: u8, length: usize) -> Secret {
    Secret::new(&vec![byte; length]).unwrap()
}

/// One direction of a connection, from a server if asked for.
fn direction(from_server: bool) -> (Sealer, Opener) {
    let suite = Suite::of(CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap();
    (
        Sealer::new(suite, secret(7, 32)).unwrap(),
        Opener::new(suite, secret(7, 32), from_server).unwrap(),
    )
}

fn sealed(sealer: &mut Sealer, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; content.len() + OVERHEAD_BYTES];
    let length = sealer
        .seal_as(kind, Content::At(content), &mut out)
        .unwrap();
    assert_eq!(length, out.len());
    out
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<Opened, Fault> {
    assert_eq!(record_length(record), Ok(Some(record.len())));
    opener.open(record, &mut vec![0; room_for(record.len())])
}

/// What comes of records with these types and contents, in order; of the last one.
fn outcome(from_server: bool, records: &[(u8, &[u8])]) -> Result<Opened, Fault> {
    let (mut sealer, mut opener) = direction(from_server);
    let mut outcome = Ok(Opened::Nothing);
    for (kind, content) in records {
        outcome = open(&mut opener, &sealed(&mut sealer, *kind, content));
    }
    outcome
}

#[test]
fn each_suite_opens_what_it_sealed_and_nothing_twice() {
    for (suite, length) in [
        (CipherSuite::TLS13_AES_128_GCM_SHA256, 32),
        (CipherSuite::TLS13_AES_256_GCM_SHA384, 48),
        (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, 32),
    ] {
        let suite = Suite::of(suite).unwrap();
        let mut sealer = Sealer::new(suite, secret(1, length)).unwrap();
        let mut opener = Opener::new(suite, secret(1, length), false).unwrap();
        for content in [&b""[..], b"x", &[9; MAX_CONTENT_BYTES]] {
            let record = sealed(&mut sealer, APPLICATION_DATA, content);
            let mut out = vec![0; room_for(record.len())];
            let opened = opener.open(&record, &mut out).unwrap();
            assert_eq!(opened, Opened::Data(content.len()));
            assert_eq!(&out[..content.len()], content);
            assert_eq!(
                opener.open(&record, &mut out),
                Err(Fault::Undecryptable),
                "replayed"
            );
            opener.keys.sequence -= 1;
        }
    }
}

#[test]
fn content_in_its_place_is_sealed_as_content_elsewhere_is() {
    let ((mut one, _), (mut other, _)) = (direction(false), direction(false));
    let record = sealed(&mut one, APPLICATION_DATA, b"same");
    let mut out = [0; 4 + OVERHEAD_BYTES];
    out[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(b"same");
    other.seal(Content::InPlace(4), &mut out).unwrap();
    assert_eq!(record, out);
}

/// Keys and the first record of RFC 8448 §3 (simple 1-RTT handshake), server to client.
#[test]
fn keys_and_records_are_those_of_rfc_8448() {
    let hex = |text: &str| hex::decode(text.replace(' ', "")).unwrap();
    let secret = Secret::new(&hex(
        "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
    ))
    .unwrap();
    let suite = Suite::of(CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap();
    let mut sealer = Sealer::new(suite, secret).unwrap();
    assert_eq!(
        sealer.keys.iv.to_vec(),
        hex("cf 78 2b 88 dd 83 54 9a ad f1 e9 84")
    );
    // The server's ticket took the first number.
    sealer.keys.sequence = 1;
    let content: Vec<u8> = (0..50).collect();
    let record = sealed(&mut sealer, APPLICATION_DATA, &content);
    let expected = "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 \
                    e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 \
                    0d d0 32 e1 67 c2 95 5d";
    assert_eq!(record, hex(expected));
}

#[test]
fn padding_is_no_content_and_nothing_else_is_refused() {
    let (mut sealer, mut opener) = direction(false);
    let mut padded = b"content\x17".to_vec();
    padded.extend([0; 100]);
    let record = sealed(&mut sealer, 0, &padded);
    assert_eq!(open(&mut opener, &record), Ok(Opened::Data(7)));
    assert_eq!(outcome(false, &[(0, &[0; 64])]), Err(Fault::Untyped));
    assert_eq!(outcome(false, &[(99, b"?")]), Err(Fault::Type(99)));
    assert_eq!(outcome(false, &[(20, &[1])]), Err(Fault::Type(20)));
}

#[test]
fn content_may_have_its_full_length_and_no_byte_more() {
    let (mut sealer, mut opener) = direction(false);
    let mut padded = vec![1; MAX_CONTENT_BYTES];
    let full = |content: &[u8], sealer: &mut Sealer| {
        let mut out = vec![0; content.len() + OVERHEAD_BYTES];
        let head = [APPLICATION_DATA, 3, 3, 0x41, 0];
        out[..HEADER_BYTES].copy_from_slice(&head);
        let (body, tail) = out[HEADER_BYTES..].split_at_mut(content.len());
        let nonce = sealer.keys.nonce().unwrap();
        let key = &sealer.keys.key;
        key.seal_out_of_place_scatter(nonce, Aad::from(head), content, body, &[0], tail)
            .unwrap();
        out
    };
    // With type and padding 239 bytes more, which is the longest record of all.
    padded.push(APPLICATION_DATA);
    padded.resize(MAX_PROTECTED_BYTES - TAG_BYTES - 1, 0);
    let record = full(&padded, &mut sealer);
    let opened = open(&mut opener, &record);
    assert_eq!(opened, Ok(Opened::Data(MAX_CONTENT_BYTES)));
    padded[MAX_CONTENT_BYTES] = 1;
    padded[MAX_CONTENT_BYTES + 1] = APPLICATION_DATA;
    let record = full(&padded, &mut sealer);
    assert_eq!(open(&mut opener, &record), Err(Fault::TooLong));
    let mut out = vec![0; MAX_CONTENT_BYTES + 100];
    let content = vec![1; MAX_CONTENT_BYTES + 1];
    let refused = sealer.seal(Content::At(&content), &mut out);
    assert_eq!(refused, Err(Fault::TooLong));
    let refused = sealer.seal(Content::At(b"no room"), &mut [0; 20]);
    assert_eq!(refused, Err(Fault::TooLong));
}

#[test]
fn alerts_end_the_connection_in_order_or_not() {
    let alert = |content: &[u8]| outcome(false, &[(ALERT, content)]);
    assert_eq!(alert(&[1, 0]), Ok(Opened::Closed));
    assert_eq!(alert(&[2, 0]), Ok(Opened::Closed));
    assert_eq!(alert(&[1, 90]), Ok(Opened::Nothing));
    assert_eq!(alert(&[2, 40]), Err(Fault::Alert(40)));
    // TLS 1.3 has no warnings.
    assert_eq!(alert(&[1, 40]), Err(Fault::Alert(40)));
    for content in [&[][..], &[1], &[1, 0, 0]] {
        assert_eq!(alert(content), Err(Fault::Malformed));
    }
}

#[test]
fn tickets_are_ignored_from_servers_however_they_are_cut() {
    let mut tickets = vec![TICKET, 0, 1, 4];
    tickets.extend([KEY_UPDATE; 260]);
    tickets.extend([TICKET, 0, 0, 0]);
    for cut in 1..tickets.len() {
        let (first, second) = tickets.split_at(cut);
        let records = [
            (HANDSHAKE, first),
            (HANDSHAKE, second),
            (APPLICATION_DATA, b"data"),
        ];
        assert_eq!(outcome(true, &records), Ok(Opened::Data(4)), "cut at {cut}");
    }
    let from_client = outcome(false, &[(HANDSHAKE, &tickets)]);
    assert_eq!(from_client, Err(Fault::Message(TICKET)));
    let enormous = outcome(true, &[(HANDSHAKE, &[TICKET, 1, 0, 0])]);
    assert_eq!(enormous, Err(Fault::Message(TICKET)));
}

#[test]
fn other_messages_of_a_handshake_are_refused_after_it() {
    // Client hello, end of early data, certificate request, finished, message hash.
    for kind in [1, 5, 13, 20, 254] {
        let refused = outcome(true, &[(HANDSHAKE, &[kind, 0, 0, 0])]);
        assert_eq!(refused, Err(Fault::Message(kind)));
    }
    assert_eq!(outcome(true, &[(HANDSHAKE, &[])]), Err(Fault::Malformed));
}

#[test]
fn a_message_is_not_interrupted() {
    for begun in [
        &[TICKET, 0][..],
        &[TICKET, 0, 0, 9, 1],
        &[KEY_UPDATE, 0, 0, 1],
    ] {
        for (kind, content) in [(APPLICATION_DATA, &b"data"[..]), (ALERT, &[1, 0])] {
            let refused = outcome(true, &[(HANDSHAKE, begun), (kind, content)]);
            assert_eq!(refused, Err(Fault::Interleaved));
        }
    }
}

#[test]
fn a_key_update_is_followed_and_answered_when_it_asks() {
    for request in [0, 1] {
        let message = [KEY_UPDATE, 0, 0, 1, request];
        for cut in 1..=message.len() {
            let (mut sealer, mut opener) = direction(false);
            let (first, second) = message.split_at(cut);
            let record = sealed(&mut sealer, HANDSHAKE, first);
            assert_eq!(open(&mut opener, &record), Ok(Opened::Nothing));
            if !second.is_empty() {
                let record = sealed(&mut sealer, HANDSHAKE, second);
                assert_eq!(open(&mut opener, &record), Ok(Opened::Nothing));
            }
            let old = sealed(&mut direction(false).0, APPLICATION_DATA, b"old");
            let refused = open(&mut opener, &old);
            assert_eq!(refused, Err(Fault::Undecryptable), "under the old key");
            opener.keys.sequence = 0;
            sealer.keys.update().unwrap();
            let record = sealed(&mut sealer, APPLICATION_DATA, b"new");
            assert_eq!(open(&mut opener, &record), Ok(Opened::Data(3)));
            assert_eq!(opener.take_asked(), request == 1);
            assert!(!opener.take_asked());
        }
    }
}

#[test]
fn a_key_update_that_is_none_is_refused() {
    let update = |content: &[u8]| outcome(false, &[(HANDSHAKE, content)]);
    assert_eq!(update(&[KEY_UPDATE, 0, 0, 1, 2]), Err(Fault::Illegal));
    assert_eq!(update(&[KEY_UPDATE, 0, 0, 2, 1]), Err(Fault::Malformed));
    // Under the old key may come nothing more.
    let followed = [KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE];
    assert_eq!(update(&followed), Err(Fault::Interleaved));
}

#[test]
fn updates_over_and_over_are_refused_unless_data_comes_between() {
    let (mut sealer, mut opener) = direction(false);
    let update = |opener: &mut Opener, sealer: &mut Sealer| {
        let mut out = [0; 64];
        let length = sealer.update(&mut out).unwrap();
        open(opener, &out[..length])
    };
    for _ in 0..2 {
        for _ in 0..MAX_UPDATES {
            let opened = update(&mut opener, &mut sealer);
            assert_eq!(opened, Ok(Opened::Nothing));
        }
        let record = sealed(&mut sealer, APPLICATION_DATA, b"data");
        assert_eq!(open(&mut opener, &record), Ok(Opened::Data(4)));
    }
    for _ in 0..MAX_UPDATES {
        update(&mut opener, &mut sealer).unwrap();
        // Nothing is no data.
        let record = sealed(&mut sealer, APPLICATION_DATA, b"");
        open(&mut opener, &record).unwrap();
    }
    assert_eq!(update(&mut opener, &mut sealer), Err(Fault::Updates));
}

#[test]
fn a_record_is_measured_by_its_header_alone() {
    let (mut sealer, _) = direction(false);
    let record = sealed(&mut sealer, APPLICATION_DATA, b"data");
    for end in 0..record.len() {
        let known = (end >= HEADER_BYTES).then_some(record.len());
        assert_eq!(record_length(&record[..end]), Ok(known));
    }
    assert_eq!(record_length(&[23, 9, 9, 0x41, 0]), Ok(Some(16_645)));
    assert_eq!(record_length(&[23, 3, 3, 0x41, 1]), Err(Fault::TooLong));
    assert_eq!(record_length(&[23, 3, 3, 0, 16]), Err(Fault::Malformed));
    assert_eq!(record_length(&[21, 3, 3, 0, 19]), Err(Fault::Type(21)));
}

proptest! {
    #[test]
    fn messages_mean_the_same_however_they_are_cut(
        messages in proptest::collection::vec(any_message(), 1..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
        from_server: bool,
    ) {
        let content: Vec<u8> = messages.concat();
        let (_, mut whole) = direction(from_server);
        let (_, mut parts) = direction(from_server);
        let expected = whole.messages(&content);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % content.len()).collect();
        cuts.sort_unstable();
        let mut outcome = Ok(());
        let mut begin = 0;
        for end in cuts.into_iter().chain([content.len()]) {
            outcome = outcome.and_then(|()| parts.messages(&content[begin..end]));
            begin = end;
        }
        // What follows a key update is refused in the same record, and is under other keys in the next.
        if expected != Err(Fault::Interleaved) {
            prop_assert_eq!(outcome, expected);
            prop_assert_eq!(
                (whole.held, whole.ignored, whole.asked),
                (parts.held, parts.ignored, parts.asked)
            );
        }
    }

    #[test]
    fn no_header_is_taken_for_a_record_that_is_too_large(header: [u8; 5]) {
        if let Ok(Some(length)) = record_length(&header) {
            prop_assert!(length <= MAX_RECORD_BYTES && room_for(length) > 0);
        }
    }
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..300_usize).prop_map(|length| {
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            [&[TICKET, 0, high, low][..], &vec![KEY_UPDATE; length]].concat()
        }),
        (0..3_u8).prop_map(|request| vec![KEY_UPDATE, 0, 0, 1, request]),
        proptest::collection::vec(any::<u8>(), 1..12),
    ]
}
