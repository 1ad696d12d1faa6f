//! How many of something one holder has at once: an instance its places, an address its handshakes.
//!
//! A bound on all of them together is one that a single sidecar or a single address can use up; this keeps the rest free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vouchsafe_attestation::result::InstanceId;

/// Who holds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Holder {
    /// Who presents a certificate.
    Instance(InstanceId),
    /// Who presents none: an IPv4 address, or the /64 that an IPv6 host chooses its addresses from.
    Address(IpAddr),
}

impl Holder {
    /// A stranger at an address.
    pub fn stranger(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
            }
        })
    }
}

/// Counts what is held.
#[derive(Clone, Debug, Default)]
pub struct Holders(Arc<Mutex<HashMap<Holder, usize>>>);

/// One that is held, given back when dropped.
#[derive(Debug)]
pub struct Hold {
    holders: Holders,
    holder: Holder,
}

impl Holders {
    /// One more, if this holder has fewer than `most`.
    pub fn take(&self, holder: Holder, most: usize) -> Option<Hold> {
        let mut held = self.lock();
        let count = held.entry(holder).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Hold {
            holders: self.clone(),
            holder,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        // Every change is of a single number, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holders.lock();
        if let Some(count) = held.get_mut(&self.holder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_the_most_and_what_is_given_back_can_be_had_again() {
        let holders = Holders::default();
        let one = Holder::Instance(InstanceId([1; 16]));
        let first = holders.take(one, 2).unwrap();
        let second = holders.take(one, 2).unwrap();
        assert!(holders.take(one, 2).is_none());
        let other = holders.take(Holder::Instance(InstanceId([2; 16])), 2);
        assert!(other.is_some());
        drop(first);
        assert!(holders.take(one, 2).is_some());
        drop((second, other));
        assert!(holders.lock().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn a_host_has_one_place_however_many_addresses_it_has() {
        let of = |address: &str| Holder::stranger(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }
}
