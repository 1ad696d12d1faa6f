//! Both ends together.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use proptest::prelude::*;

use super::decoder::tests::sizes;
use super::decoder::{Decoded, Decoder};
use super::encoder::Encoder;
use super::field::Field;

/// A block of one message, or a change of the peer's setting.
#[derive(Clone, Debug)]
enum Step {
    Request(Method, Uri, HeaderMap),
    Response(StatusCode, HeaderMap),
    Trailers(HeaderMap),
    TableSize(u32),
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        3 => proptest::sample::select(vec![
            "content-type", "te", "user-agent", "x-request-id", "grpc-timeout", "cookie", "date",
            "accept-encoding", "x-a", "x-b",
        ])
        .prop_map(str::to_owned),
        1 => "[a-z][a-z0-9-]{0,30}",
    ];
    let value = prop_oneof![
        3 => proptest::sample::select(vec!["", "trailers", "application/grpc", "1", "gzip, deflate"])
            .prop_map(str::to_owned),
        1 => "[!-~]([ -~]{0,60}[!-~])?",
        1 => "[!-~]{1200}",
    ];
    let field = (name, value, proptest::bool::weighted(0.1));
    proptest::collection::vec(field, 0..12).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let forbidden = ["connection", "keep-alive", "proxy-connection", "upgrade"];
            if forbidden.contains(&&*name) || name == "transfer-encoding" {
                continue;
            }
            let value = if name == "te" { "trailers" } else { &value };
            let mut value = HeaderValue::from_str(value).unwrap();
            value.set_sensitive(sensitive);
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        map
    })
}

fn step() -> impl Strategy<Value = Step> {
    let method = proptest::sample::select(vec![Method::GET, Method::POST, Method::DELETE]);
    let uri = "http://[a-c]{1,3}(:80)?/[a-c/]{0,3}(\\?[a-c]{1,2})?";
    let uri = uri.prop_map(|uri| uri.parse::<Uri>().unwrap());
    let status = (100..=999_u16).prop_map(|status| StatusCode::from_u16(status).unwrap());
    prop_oneof![
        5 => (method, uri, fields()).prop_map(|(method, uri, fields)| Step::Request(method, uri, fields)),
        5 => (status, fields()).prop_map(|(status, fields)| Step::Response(status, fields)),
        2 => fields().prop_map(Step::Trailers),
        1 => prop_oneof![0..200_u32, 0..10_000_u32].prop_map(Step::TableSize),
    ]
}

/// What a step's block has to decode to. Names are grouped as the map gives them out.
fn expected(step: &Step) -> Vec<Field> {
    let (mut list, fields) = match step {
        Step::Request(method, uri, fields) => {
            let path = uri.path_and_query().unwrap().clone();
            let list = vec![
                Field::Method(method.clone()),
                Field::Scheme(uri.scheme().unwrap().clone()),
                Field::Path(path),
                Field::Authority(uri.authority().unwrap().clone()),
            ];
            (list, fields)
        }
        Step::Response(status, fields) => (vec![Field::Status(*status)], fields),
        Step::Trailers(fields) => (Vec::new(), fields),
        Step::TableSize(_) => unreachable!("it has no block"),
    };
    list.extend(
        fields
            .iter()
            .map(|(name, value)| Field::Regular(name.clone(), value.clone())),
    );
    list
}

fn encode(encoder: &mut Encoder, step: &Step) -> Vec<u8> {
    let mut out = Vec::new();
    match step {
        Step::Request(method, uri, fields) => encoder.request(method, uri, fields, &mut out),
        Step::Response(status, fields) => encoder.response(*status, fields, &mut out),
        Step::Trailers(fields) => encoder.fields(fields, &mut out),
        Step::TableSize(_) => unreachable!("it has no block"),
    }
    out
}

proptest! {
    #[test]
    fn what_one_end_writes_the_other_reads(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for step in steps {
            if let Step::TableSize(size) = step {
                encoder.set_peer_table_size(size);
                decoder.set_max_table(size as usize);
                continue;
            }
            let block = encode(&mut encoder, &step);
            let mut found = Vec::new();
            let decoded = decoder.decode(&block, usize::MAX, |field| found.push(field));
            prop_assert_eq!(decoded, Ok(Decoded::Complete));
            prop_assert_eq!(&found, &expected(&step));
            let secret = |field: &Field| matches!(field, Field::Regular(_, value) if value.is_sensitive());
            for (found, expected) in found.iter().zip(expected(&step)) {
                prop_assert!(secret(found) || !secret(&expected));
            }
            prop_assert_eq!(sizes(&decoder), encoder.sizes());
        }
    }

}

proptest! {
    // Each case decodes each beginning of some blocks.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn each_beginning_of_a_block_is_an_error_or_a_shorter_list(
        steps in proptest::collection::vec(step(), 1..6)
    ) {
        let (mut encoder, mut before) = (Encoder::default(), Vec::<Vec<u8>>::new());
        for step in steps {
            if matches!(step, Step::TableSize(_)) {
                continue;
            }
            let block = encode(&mut encoder, &step);
            for length in 0..block.len() {
                let mut decoder = Decoder::default();
                for block in &before {
                    let _ = decoder.decode(block, usize::MAX, drop).unwrap();
                }
                let mut found = Vec::new();
                let decoded = decoder.decode(&block[..length], usize::MAX, |field| found.push(field));
                prop_assert!(matches!(decoded, Ok(Decoded::Complete) | Err(_)));
                prop_assert!(found.len() < expected(&step).len());
                prop_assert!(expected(&step).starts_with(&found));
            }
            before.push(block);
        }
    }
}

proptest! {

    #[test]
    fn any_bytes_end_in_order(
        blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
        limit in 0..400_usize,
    ) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let mut size = 0;
            let decoded = decoder.decode(&block, limit, |field| size += length(&field));
            prop_assert!(size <= limit);
            let _ = sizes(&decoder);
            if decoded.is_err() {
                break;
            }
        }
    }
}

/// What a field counts in a list.
fn length(field: &Field) -> usize {
    32 + match field {
        Field::Method(method) => 7 + method.as_str().len(),
        Field::Scheme(scheme) => 7 + scheme.as_str().len(),
        Field::Authority(authority) => 10 + authority.as_str().len(),
        Field::Path(path) => 5 + path.as_str().len(),
        Field::Status(_) => 10,
        Field::Protocol(protocol) => 9 + protocol.len(),
        Field::Regular(name, value) => name.as_str().len() + value.len(),
    }
}
