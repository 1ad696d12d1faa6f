//! Flow control: what either end may still send (RFC 9113 §5.2 and §6.9).

use crate::settings::MAX_WINDOW;

/// What the other end may send us.
#[derive(Debug)]
pub(crate) struct RecvWindow {
    size: u32,
    left: u32,
    /// Received, and not yet given back by whoever reads.
    held: u32,
    /// Given back, and not yet announced.
    owed: u32,
}

impl RecvWindow {
    /// A window of `size` bytes, of which `left` may come before the other end knows that.
    pub(crate) fn new(size: u32, left: u32) -> Self {
        Self {
            size,
            left,
            held: 0,
            owed: 0,
        }
    }

    /// Takes in `bytes`; `false` where they are more than was allowed.
    pub(crate) fn receive(&mut self, bytes: u32) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else {
            return false;
        };
        self.left = left;
        self.held += bytes;
        true
    }

    /// Gives back what was consumed, and says by how much the window is to be raised, where it is worth a frame: half a
    /// window. `None`: that much was not held.
    pub(crate) fn release(&mut self, bytes: u32) -> Option<u32> {
        self.held = self.held.checked_sub(bytes)?;
        self.owed += bytes;
        if self.owed < self.size.div_ceil(2) {
            return Some(0);
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }

    /// Received, and not yet given back.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }
}

/// What we may send; negative after the other end has made its windows smaller (§6.9.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// What may be sent now, in bytes.
    pub(crate) fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Takes what is sent: never more than [`Self::left`].
    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Raises or lowers the window; `false` where it passes 2^31-1.
    pub(crate) fn change(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= i64::from(MAX_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_given_back_by_halves_and_only_for_what_was_consumed() {
        let mut window = RecvWindow::new(100, 100);
        assert!(window.receive(80));
        assert!(!window.receive(21));
        assert_eq!(window.release(49), Some(0));
        assert_eq!(window.release(1), Some(50));
        assert_eq!(window.held(), 30);
        assert_eq!(window.release(31), None);
        assert!(window.receive(70));
        assert!(!window.receive(1));
    }

    #[test]
    fn a_send_window_may_fall_below_nothing_and_never_passes_its_maximum() {
        let mut window = SendWindow::new(10);
        window.take(10);
        assert!(window.change(-5));
        assert_eq!(window.left(), 0);
        assert!(window.change(6));
        assert_eq!(window.left(), 1);
        assert!(window.change(i64::from(MAX_WINDOW) - 1));
        assert!(!window.change(1));
    }
}
