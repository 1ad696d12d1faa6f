//! What an X.509-SVID of ours says, before anything signs it. Pure.
//!
//! Every field is decided here from policy and evidence; nothing of the certificate request but its key is used.
//!
//! Source: SPIFFE X509-SVID §2–§5; DESIGN §5.4.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::spiffe_id::SpiffeId;

/// How far before now a certificate's validity starts.
///
/// Sidecars' clocks differ by up to a few seconds; without this a fresh certificate is "not yet valid" for its first
/// peers. It stays far below the shortest lifetime, because it lengthens the window in which a stolen key is useful.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The shortest certificate worth issuing: it must be usable and replaceable before it ends.
pub const MIN_LIFETIME: Duration = Duration::from_secs(2);

/// A leaf to be signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SvidTemplate {
    /// Who: from policy.
    pub id: SpiffeId,
    /// DER of the SubjectPublicKeyInfo that proved possession and is bound to the evidence.
    pub spki: Vec<u8>,
    /// 16 random bytes of which the first two bits are 0 and 1, so that every serial has the same length.
    pub serial: [u8; 16],
    /// [`BACKDATE`] before issuance, whole seconds.
    pub not_before: SystemTime,
    /// End, whole seconds.
    pub not_after: SystemTime,
    /// DER of the attestation result.
    pub result: Vec<u8>,
}

/// Makes random bytes a serial number.
pub fn serial(mut random: [u8; 16]) -> [u8; 16] {
    let [first, ..] = &mut random;
    *first = *first & 0x3f | 0x40;
    random
}

/// Start and end of a certificate issued at `now`: the earliest of all ends counts, cut to whole seconds.
///
/// `None` when less than [`MIN_LIFETIME`] would be left.
pub fn validity(
    now: SystemTime,
    lifetime: Duration,
    ends: &[SystemTime],
) -> Option<(SystemTime, SystemTime)> {
    let end = ends.iter().copied().fold(now + lifetime, SystemTime::min);
    let end = whole_seconds(end);
    if end < now + MIN_LIFETIME {
        return None;
    }
    Some((whole_seconds(now - BACKDATE), end))
}

/// X.509 has whole seconds; cutting can only shorten.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_earliest_end_counts() {
        let hour = Duration::from_secs(3600);
        let now = at(10_000) + Duration::from_millis(700);
        assert_eq!(validity(now, hour, &[]), Some((at(9_990), at(13_600))));
        assert_eq!(
            validity(now, hour, &[at(20_000), at(11_000)]),
            Some((at(9_990), at(11_000)))
        );
    }

    #[test]
    fn a_certificate_that_would_end_at_once_is_not_issued() {
        let hour = Duration::from_secs(3600);
        assert_eq!(validity(at(10_000), hour, &[at(10_001)]), None);
        assert_eq!(validity(at(10_000), hour, &[at(9_000)]), None);
    }

    #[test]
    fn every_serial_is_positive_and_sixteen_bytes_long() {
        assert_eq!(serial([0; 16])[0], 0x40);
        assert_eq!(serial([0xff; 16])[0], 0x7f);
    }
}
