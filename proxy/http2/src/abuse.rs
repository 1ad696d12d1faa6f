//! Ends connections that keep us busy without asking for anything.
//!
//! PING, SETTINGS, WINDOW_UPDATE, PRIORITY, unknown frames, resets and empty DATA are answered or read at once, and may come
//! without end (the floods of CVE-2019-9512 to -9518). Each costs credit. Credit comes back with time, with useful frames
//! and with what we send, because an honest receiver answers our DATA with WINDOW_UPDATE. SETTINGS have a credit of their
//! own that only time brings back: each may change the window of every stream and wake who waits for it, and what that
//! makes us send must not pay for the next (CVE-2019-9511).

use std::time::Instant;

use crate::frame::{self, Header};

/// The credit of one connection; pure.
#[derive(Debug)]
pub(crate) struct Budget {
    credit: u32,
    /// Useful frames and sent bytes since the last refill.
    useful: u32,
    sent_bytes: usize,
    refilled: Instant,
    settings: u32,
    settings_refilled: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            credit: MAX_CREDIT,
            useful: 0,
            sent_bytes: 0,
            refilled: now,
            settings: MAX_SETTINGS,
            settings_refilled: now,
        }
    }

    /// Counts what was sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }

    /// Accounts for one frame; `false` when the budget is spent.
    pub(crate) fn pay(&mut self, header: Header, now: impl FnOnce() -> Instant) -> bool {
        let useful = match header.kind {
            // DATA that is empty and ends nothing is the flood of CVE-2019-9518.
            // What is padded shows only later whether it holds more than padding.
            frame::DATA => {
                let is_plain = header.length > 0 && !header.has(frame::PADDED);
                is_plain || header.has(frame::END_STREAM)
            }
            // They have bounds of their own; an honest reset is paid for by the HEADERS of its stream.
            frame::HEADERS | frame::CONTINUATION => true,
            _ => false,
        };
        if useful {
            self.was_useful();
            return true;
        }
        if header.kind == frame::SETTINGS && !header.has(frame::ACK) {
            return self.pay_settings(now());
        }
        self.credit = self.credit.saturating_sub(1);
        self.credit > 0 || self.refill(now())
    }

    fn pay_settings(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.settings_refilled).as_millis();
        let more = u32::try_from(elapsed / MS_PER_SETTINGS).unwrap_or(MAX_SETTINGS);
        if more > 0 {
            self.settings = self.settings.saturating_add(more).min(MAX_SETTINGS);
            self.settings_refilled = now;
        }
        match self.settings.checked_sub(1) {
            Some(left) => {
                self.settings = left;
                true
            }
            None => false,
        }
    }

    /// A frame was useful after all.
    pub(crate) fn was_useful(&mut self) {
        self.useful = self.useful.saturating_add(1);
    }

    fn refill(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.refilled).as_millis();
        let by_time = u32::try_from(elapsed).unwrap_or(u32::MAX) / MS_PER_CREDIT;
        let by_sending = u32::try_from(self.sent_bytes / SENT_BYTES_PER_CREDIT).unwrap_or(u32::MAX);
        self.credit = by_time
            .saturating_add(by_sending)
            .saturating_add(self.useful.saturating_mul(CREDIT_PER_USEFUL))
            .min(MAX_CREDIT);
        self.useful = 0;
        self.sent_bytes = 0;
        self.refilled = now;
        self.credit > 0
    }
}

/// A burst that no honest peer reaches at once: 256 streams, each with settings, window updates and priorities.
const MAX_CREDIT: u32 = 1_000;
/// Honest ends send a handful, and those that measure their network one now and then.
const MAX_SETTINGS: u32 = 100;
const MS_PER_SETTINGS: u128 = 100;
/// 500 frames a second cost nothing worth defending.
const MS_PER_CREDIT: u32 = 2;
/// The most talkative clients send two window updates and a PING per DATA frame that they receive or send.
const CREDIT_PER_USEFUL: u32 = 4;
/// More than the 17 bytes of a PING's answer, so that a flood does not pay for itself.
const SENT_BYTES_PER_CREDIT: usize = 24;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn header(kind: u8, length: usize) -> Header {
        Header {
            length,
            kind,
            flags: 0,
            stream: 1,
        }
    }

    /// How many of `count` frames pass at one instant.
    fn passed(kind: u8, length: usize, count: usize) -> usize {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        (0..count)
            .take_while(|_| budget.pay(header(kind, length), || start))
            .count()
    }

    #[test]
    fn floods_end() {
        for (name, kind, length) in [
            ("PING", frame::PING, 8),
            ("SETTINGS", frame::SETTINGS, 0),
            ("WINDOW_UPDATE", frame::WINDOW_UPDATE, 4),
            ("PRIORITY", frame::PRIORITY, 5),
            ("RST_STREAM", frame::RST_STREAM, 4),
            ("unknown", 0xbe, 3),
            ("empty DATA", frame::DATA, 0),
        ] {
            let passed = passed(kind, length, 20_000);
            assert!(passed <= 1_000, "{name}: {passed} frames passed");
        }
    }

    #[test]
    fn data_and_headers_cost_nothing() {
        assert_eq!(passed(frame::DATA, 5, 20_000), 20_000);
        assert_eq!(passed(frame::HEADERS, 4, 20_000), 20_000);
    }

    #[test]
    fn a_reset_of_every_stream_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..20_000 {
            assert!(budget.pay(header(frame::HEADERS, 4), || start));
            assert!(budget.pay(header(frame::RST_STREAM, 4), || start));
        }
    }

    #[test]
    fn a_receiver_that_updates_its_window_for_all_we_send_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..100_000 {
            budget.sent(9 + 64);
            assert!(budget.pay(header(frame::WINDOW_UPDATE, 4), || start));
            assert!(budget.pay(header(frame::WINDOW_UPDATE, 4), || start));
        }
    }

    #[test]
    fn a_slow_stream_of_pings_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for second in 0..100_u64 {
            for _ in 0..400 {
                let now = start + Duration::from_secs(second);
                assert!(budget.pay(header(frame::PING, 8), || now), "{second}");
            }
        }
    }

    #[test]
    fn settings_are_paid_by_nothing_but_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut pay = |at: u64| {
            budget.sent(1 << 20);
            assert!(budget.pay(header(frame::HEADERS, 4), || start));
            let now = start + Duration::from_millis(at);
            budget.pay(header(frame::SETTINGS, 6), || now)
        };
        assert_eq!((0..20_000).take_while(|_| pay(0)).count(), 100);
        assert!(!pay(99));
        assert!(pay(100) && !pay(100));
        assert!((2..1_000).all(|n| pay(n * 100)));
    }

    #[test]
    fn answers_to_a_ping_flood_do_not_pay_for_it() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let survived = (0..20_000).all(|_| {
            budget.sent(17);
            budget.pay(header(frame::PING, 8), || start)
        });
        assert!(!survived);
    }
}
