//! Waiting for what happens elsewhere: polls with a deadline, and says what was waited for when it does not come.

use std::time::{Duration, Instant};

/// Longest wait for anything that should simply happen; generous, because test machines are slow and shared.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Calls `probe` until it gives a value.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
