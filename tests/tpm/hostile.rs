//! TPMs that lie, stall or go away, and TCP in between.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use vouchsafe_config::proxy;
use vouchsafe_proxy::attester::{Attester, CollectError};
use vouchsafe_tests::swtpm::Swtpm;

use crate::support::*;

fn transport(transport: proxy::TpmTransport) -> proxy::Tpm {
    proxy::Tpm {
        transport,
        ek_chain: None,
        event_log: None,
        ima_log: None,
    }
}

/// Answers the first connection's commands with these responses, then closes.
fn liar(folder: &Path, responses: Vec<Vec<u8>>) -> PathBuf {
    let path = folder.join("liar.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut command = [0; 4096];
        for response in responses {
            if client.read(&mut command).unwrap_or(0) == 0 || client.write_all(&response).is_err() {
                return;
            }
        }
    });
    path
}

async fn opened(responses: Vec<Vec<u8>>) -> Result<Attester, CollectError> {
    let folder = tempfile::tempdir().unwrap();
    let socket = liar(folder.path(), responses);
    let config = transport(proxy::TpmTransport::SwtpmUnix(socket));
    Attester::open(&proxy::Attester::Tpm(config)).await
}

/// `TPM_RC_INITIALIZE`: a TPM that was started already.
const STARTED: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 0];

#[tokio::test]
async fn answers_that_no_tpm_gives_are_errors() {
    let success = |body: &[u8]| {
        let mut response = vec![0x80, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        response.extend(body);
        response[5] = u8::try_from(response.len()).unwrap();
        response
    };
    for (what, responses) in [
        ("nothing", vec![]),
        ("half a header", vec![vec![0x80, 0x01, 0]]),
        (
            "a length of 4 GiB",
            vec![vec![0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]],
        ),
        (
            "a length below the header's",
            vec![vec![0x80, 0x01, 0, 0, 0, 9, 0, 0, 0, 0]],
        ),
        ("a refusal", vec![vec![0x80, 0x01, 0, 0, 0, 10, 0, 0, 1, 1]]),
        ("no capability", vec![STARTED.to_vec(), success(&[])]),
        (
            "fewer handles than it says",
            vec![
                STARTED.to_vec(),
                success(&[0, 0, 0, 0, 1, 0, 0, 0, 9, 0x80, 0, 0, 0]),
            ],
        ),
        (
            "more handles than any TPM has",
            vec![
                STARTED.to_vec(),
                success(&[0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            ],
        ),
    ] {
        let error = opened(responses).await.expect_err(what);
        assert!(
            matches!(
                error,
                CollectError::Transport { .. }
                    | CollectError::Malformed(_)
                    | CollectError::Refused { .. }
            ),
            "{what}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_tpm_behind_tcp_is_the_same_tpm() {
    let swtpm = Swtpm::start().unwrap();
    let direct = open(config(&swtpm)).await.names(TPM);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = swtpm.socket();
    // One connection for opening, one for collecting.
    let forwarder = std::thread::spawn(move || {
        for _ in 0..2 {
            let (client, _) = listener.accept().unwrap();
            forward(client, UnixStream::connect(&socket).unwrap());
        }
    });
    let mut attester = open(transport(proxy::TpmTransport::SwtpmTcp(address))).await;
    assert_eq!(attester.names(TPM), direct);
    Attempt::with(&mut attester).await.judge().unwrap();
    forwarder.join().unwrap();
}

/// Carries commands and responses until the client closes.
fn forward(mut client: TcpStream, mut tpm: UnixStream) {
    let mut buffer = [0; 4096];
    loop {
        let length = client.read(&mut buffer).unwrap();
        if length == 0 {
            return;
        }
        tpm.write_all(&buffer[..length]).unwrap();
        let length = tpm.read(&mut buffer).unwrap();
        client.write_all(&buffer[..length]).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let swtpm = Swtpm::start().unwrap();
    let missing = || Some(PathBuf::from("/nonexistent/file"));
    let chain = proxy::Tpm {
        ek_chain: missing(),
        ..config(&swtpm)
    };
    let error = Attester::open(&proxy::Attester::Tpm(chain))
        .await
        .unwrap_err();
    assert!(matches!(error, CollectError::File { .. }), "{error:?}");
    let log = proxy::Tpm {
        event_log: missing(),
        ..config(&swtpm)
    };
    let mut attester = open(log).await;
    let (credential, _challenged) = challenge(&offer(&mut attester).await, selection());
    let names = attester.names(TPM);
    let base = View::honest().base(&names.ek, &names.ak);
    let error = attester
        .collect(&base, &message(&credential, &selection()))
        .await
        .unwrap_err();
    assert!(matches!(error, CollectError::File { .. }), "{error:?}");
    // The keys that were loaded meanwhile are not left behind.
    for _ in 0..4 {
        Attempt::honest(&swtpm).await.judge().unwrap();
    }
}
