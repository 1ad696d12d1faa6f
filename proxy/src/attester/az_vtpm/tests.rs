//! Shapes of reports and answers, and the metadata service behind a socket. The vTPM is emulated in the suite of the
//! whole system.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use http_body_util::BodyExt;
use hyper::StatusCode;
use tokio::net::TcpListener;

use super::imds::ImdsError;
use super::*;
use crate::plain_http::{self, Door};

fn report(kind: u8, runtime_data: &str) -> Vec<u8> {
    let mut report = vec![0; HEADER + HARDWARE_REPORT + 20];
    report[..4].copy_from_slice(b"HCLA");
    report[HEADER..HEADER + TD_REPORT].fill(9);
    let fields = HEADER + HARDWARE_REPORT;
    report[fields + 8] = kind;
    let length = u32::try_from(runtime_data.len()).unwrap();
    report[fields + 16..].copy_from_slice(&length.to_le_bytes());
    report.extend(runtime_data.as_bytes());
    report.extend([0; 100]);
    report
}

#[test]
fn the_report_says_what_attests_and_what_the_guest_wrote() {
    let snp = report(2, r#"{"keys": [], "user-data": "00ff"}"#);
    let parts = HclParts::of(&snp).unwrap();
    assert_eq!(parts.hardware, Hardware::SevSnp);
    assert_eq!(parts.td_report, None);
    assert_eq!(parts.user_data().as_deref(), Some("00ff"));
    let tdx = report(4, r#"{"keys": []}"#);
    let parts = HclParts::of(&tdx).unwrap();
    assert_eq!(parts.hardware, Hardware::Tdx);
    assert_eq!(parts.td_report, Some(&[9; TD_REPORT][..]));
    assert_eq!(parts.user_data(), None);
}

#[test]
fn what_is_no_report_of_the_paravisor_has_no_parts() {
    let whole = report(2, "{}");
    for length in 0..whole.len() - 100 {
        assert!(HclParts::of(&whole[..length]).is_none(), "{length}");
    }
    assert!(HclParts::of(&report(3, "{}")).is_none());
    assert!(HclParts::of(&[b"X", whole.as_slice()].concat()).is_none());
}

/// A service that answers everything so, and remembers what it was asked.
async fn serve(status: StatusCode, body: String) -> (Imds, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let handler = move |request: plain_http::Request| {
        let (seen, body) = (Arc::clone(&seen), body.clone());
        async move {
            let (head, content) = request.into_parts();
            let content = content.collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push(format!(
                "{} {} {} {}",
                head.method,
                head.uri,
                head.headers["metadata"].to_str().unwrap(),
                String::from_utf8_lossy(&content)
            ));
            plain_http::text(status, body)
        }
    };
    tokio::spawn(plain_http::serve(Door::Tcp(listener), handler));
    (Imds::new(address), asked)
}

#[tokio::test]
async fn the_metadata_service_quotes_a_local_report() {
    for encoded in [URL_SAFE.encode(b"the quote!"), "dGhlIHF1b3RlIQ".to_owned()] {
        let (imds, asked) = serve(StatusCode::OK, format!(r#"{{"quote": "{encoded}"}}"#)).await;
        assert_eq!(imds.td_quote(&[0xff; 3]).await.unwrap(), b"the quote!");
        assert_eq!(
            *asked.lock().unwrap(),
            [r#"POST /acc/tdquote true {"report":"____"}"#]
        );
    }
}

#[tokio::test]
async fn the_metadata_service_knows_the_processors_certificates() {
    let answer = r#"{"vcekCert": "A", "certificateChain": "B", "tcbm": "1"}"#;
    let (imds, asked) = serve(StatusCode::OK, answer.to_owned()).await;
    assert_eq!(imds.amd_certificates().await.unwrap(), b"A\nB");
    assert_eq!(
        *asked.lock().unwrap(),
        ["GET /metadata/THIM/amd/certification true "]
    );
}

#[tokio::test]
async fn what_the_metadata_service_refuses_or_babbles_is_an_error() {
    let (imds, _) = serve(StatusCode::BAD_REQUEST, String::new()).await;
    let refused = imds.td_quote(&[]).await.unwrap_err();
    assert!(refused.to_string().contains("400"), "{refused}");
    for babble in ["", "{}", r#"{"quote": "?"}"#, &"x".repeat(40_000)] {
        let (imds, _) = serve(StatusCode::OK, babble.to_owned()).await;
        let error = imds.td_quote(&[]).await.unwrap_err();
        assert!(matches!(error, ImdsError::Unreadable), "{error:?}");
    }
    let nobody = Imds::new("127.0.0.1:1".to_owned());
    let error = nobody.amd_certificates().await.unwrap_err();
    assert!(matches!(error, ImdsError::Unreachable { .. }), "{error:?}");
}
