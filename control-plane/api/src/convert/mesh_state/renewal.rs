//! Renewals ahead of time, at a pace: announced to all whom they mean, and each finds its own place.

use std::time::{Duration, SystemTime};

use prost::Message;
use vouchsafe_attestation::result::InstanceId;

use super::super::{ConvertError, time, unix_ms};
use crate::v1;

/// Certificates are to be renewed ahead of time, spread over a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacedRenewal {
    /// Those from before it are meant.
    pub start: SystemTime,
    /// How long all of them together may take; at most a day.
    pub over: Duration,
}

impl TryFrom<v1::PacedRenewal> for PacedRenewal {
    type Error = ConvertError;

    fn try_from(wire: v1::PacedRenewal) -> Result<Self, ConvertError> {
        let over = Duration::from_millis(wire.over_ms);
        if over > Self::MAX_OVER {
            return Err(ConvertError::Malformed {
                field: "over_ms",
                expected: "at most a day",
            });
        }
        Ok(Self {
            start: time("start_ms", wire.start_ms)?,
            over,
        })
    }
}

impl From<PacedRenewal> for v1::PacedRenewal {
    fn from(paced: PacedRenewal) -> Self {
        Self {
            start_ms: unix_ms(paced.start),
            over_ms: u64::try_from(paced.over.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl PacedRenewal {
    /// The content of its resource.
    pub fn encode(&self) -> Vec<u8> {
        v1::PacedRenewal::from(*self).encode_to_vec()
    }

    /// Reads the content of its resource.
    ///
    /// # Errors
    /// [`ConvertError`] when it is out of bounds.
    pub fn decode(content: &[u8]) -> Result<Self, ConvertError> {
        let wire = v1::PacedRenewal::decode(content).map_err(|_| ConvertError::Malformed {
            field: "content",
            expected: "a renewal ahead of time",
        })?;
        wire.try_into()
    }

    /// Longest pace: no certificate lives longer.
    pub const MAX_OVER: Duration = Duration::from_secs(24 * 3600);

    /// When an instance is to renew a certificate from before the start: its place follows from its number, which is
    /// random, so that all together spread evenly and each finds the same place whenever it looks.
    pub fn place(&self, instance: InstanceId) -> SystemTime {
        let [high, low, ..] = instance.0;
        self.start + self.over * u32::from(u16::from_be_bytes([high, low])) / (1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn places_of_a_paced_renewal_spread_over_all_of_it_and_stay() {
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let over = Duration::from_secs(600);
        let paced = PacedRenewal { start, over };
        assert_eq!(paced.place(InstanceId([0; 16])), start);
        let last = paced.place(InstanceId([0xff; 16]));
        assert!(last < start + over && last > start + over * 99 / 100);
        let mut quarters = [0; 4];
        for number in 0..=255 {
            let mut id = [0; 16];
            id[0] = number;
            let after = paced.place(InstanceId(id)).duration_since(start).unwrap();
            quarters[usize::try_from(after.as_secs() / 150).unwrap()] += 1;
        }
        assert_eq!(quarters, [64; 4]);
    }
}
