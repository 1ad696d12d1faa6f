//! From offer to verdict, and every way in which it must fail.

use vouchsafe_attestation::claims::{ClaimValue, Class};
use vouchsafe_tests::swtpm::Swtpm;

use crate::support::*;

#[tokio::test]
async fn honest_evidence_of_a_software_tpm_is_accepted_as_software() {
    let swtpm = Swtpm::start().unwrap();
    let appraised = Attempt::honest(&swtpm).await.judge().unwrap();
    assert_eq!(appraised.class(), Class::Software);
    let [device] = appraised.devices() else {
        panic!("one device expected")
    };
    assert_eq!(
        device.claims.get("image"),
        Some(&ClaimValue::Text("node-1".into()))
    );
    assert_eq!(
        device.claims.get("ek_certified"),
        Some(&ClaimValue::Bool(false))
    );
    assert_eq!(
        device.claims.get("event_log"),
        Some(&ClaimValue::Bool(false))
    );
    assert_eq!(device.claims.get("secure_boot"), None);
}
