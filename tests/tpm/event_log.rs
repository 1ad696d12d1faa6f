//! A boot log of a real machine, measured again into a software TPM: what firmware would have left there.

use std::io::Write;

use vouchsafe_attestation::claims::ClaimValue;
use vouchsafe_config::proxy;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm::{Sha256, Sha384};

use crate::support::*;

/// Secure Boot was on; both banks were measured.
const LOG: &[u8] =
    include_bytes!("../../control-plane/verifier/testdata/tpm/eventlog-rhel8-uefi.bin");

/// A TPM that booted as the log says.
fn boot() -> Swtpm {
    let swtpm = Swtpm::start().unwrap();
    let log = EventLog::parse(LOG).unwrap();
    const EV_NO_ACTION: u32 = 3;
    for event in log.events() {
        if event.kind != EV_NO_ACTION {
            let pcr = u8::try_from(event.pcr).unwrap();
            swtpm
                .measure(
                    pcr,
                    event.digest(Sha256).unwrap(),
                    event.digest(Sha384).unwrap(),
                )
                .unwrap();
        }
    }
    swtpm
}

async fn attest(swtpm: &Swtpm, log: &[u8]) -> Attempt {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(log).unwrap();
    let config = proxy::Tpm {
        event_log: Some(file.path().to_owned()),
        ..config(swtpm)
    };
    Attempt::with(&mut open(config).await).await
}

fn demand_secure_boot(attempt: &mut Attempt, demanded: bool) {
    let tpm = attempt.reference.any_of[0].tpm.as_mut().unwrap();
    tpm.secure_boot = Some(demanded);
}

#[tokio::test]
async fn a_log_that_replays_proves_secure_boot_and_any_other_is_refused() {
    let swtpm = boot();
    let mut attempt = attest(&swtpm, LOG).await;
    let appraised = attempt.judge().unwrap();
    let claims = &appraised.devices()[0].claims;
    assert_eq!(claims.get("event_log"), Some(&ClaimValue::Bool(true)));
    assert_eq!(claims.get("secure_boot"), Some(&ClaimValue::Bool(true)));
    demand_secure_boot(&mut attempt, true);
    attempt.judge().unwrap();
    demand_secure_boot(&mut attempt, false);
    attempt.refused("secure_boot");

    // One digest changed, cut inside an event, and cut between two.
    let first = EventLog::parse(LOG).unwrap().events()[0].clone();
    let digest = first.digest(Sha256).unwrap();
    let at = LOG.windows(32).position(|window| window == digest).unwrap();
    let mut changed = LOG.to_vec();
    changed[at] ^= 1;
    attempt.evidence.event_log = changed;
    attempt.refused("event_log_replay");
    attempt.evidence.event_log = LOG[..at].to_vec();
    attempt.refused("event_log");
    let after_header = (0..at)
        .rev()
        .find(|end| EventLog::parse(&LOG[..*end]).is_ok())
        .unwrap();
    attempt.evidence.event_log = LOG[..after_header].to_vec();
    attempt.refused("event_log_replay");
}

#[tokio::test]
async fn without_a_log_nothing_is_known_of_secure_boot() {
    let swtpm = boot();
    let mut attempt = Attempt::honest(&swtpm).await;
    demand_secure_boot(&mut attempt, true);
    attempt.refused("secure_boot");
    demand_secure_boot(&mut attempt, false);
    attempt.refused("secure_boot");
}

#[tokio::test]
async fn a_log_of_another_boot_is_refused() {
    let swtpm = boot();
    swtpm.extend(4, [1; 16]).unwrap();
    attest(&swtpm, LOG).await.refused("event_log_replay");
    // What the system extends above PCR 7 is not in the firmware's log.
    let swtpm = boot();
    swtpm.extend(10, [1; 16]).unwrap();
    attest(&swtpm, LOG).await.judge().unwrap();
}
