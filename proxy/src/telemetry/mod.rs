//! What the sidecar says of itself: logs here, metrics and the access log beside.
//!
//! The process log is JSON on standard error, one line per event, so that it never mixes with an access log on standard
//! output. Its level can be changed while the sidecar runs.

pub mod access_log;
pub mod audits;
pub mod control;
pub mod metrics;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The log's level, changeable at run time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// Changes the level.
    ///
    /// # Errors
    /// [`LogLevelError`] for a word that is no level.
    pub fn set(&self, word: &str) -> Result<(), LogLevelError> {
        let level = parse_level(word).ok_or_else(|| LogLevelError(word.to_owned()))?;
        // Fails only where the subscriber is gone, and it lives as long as the process.
        let _gone = self.0.reload(level);
        Ok(())
    }
}

/// The word is no log level.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no log level: expected `error`, `warn`, `info`, `debug` or `trace`")]
pub struct LogLevelError(pub String);

/// Starts the process log at level `info`. Called once, by `main`.
pub fn start_log() -> LogLevel {
    let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    // A second start (several sidecars in one test process) keeps the first subscriber.
    let _already_started = tracing_subscriber::registry().with(lines).try_init();
    LogLevel(handle)
}

fn parse_level(word: &str) -> Option<LevelFilter> {
    match word {
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

/// An error with its causes, outermost first: `failed to connect: connection refused`.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// What the current thread logs, for tests.
#[cfg(test)]
pub(crate) mod capture {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::DefaultGuard;

    /// Captures until it is dropped.
    pub(crate) struct Log {
        lines: Lines,
        _guard: DefaultGuard,
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn start() -> Log {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        Log {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    impl Log {
        /// How many lines contain a text.
        pub(crate) fn count(&self, text: &str) -> usize {
            let bytes = self.lines.0.lock().unwrap();
            let all = String::from_utf8_lossy(&bytes);
            all.lines().filter(|line| line.contains(text)).count()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_five_words() {
        assert_eq!(parse_level("debug"), Some(LevelFilter::DEBUG));
        for word in ["", "DEBUG", "vouchsafe=trace", "off"] {
            assert_eq!(parse_level(word), None, "{word}");
        }
    }

    #[test]
    fn a_chain_shows_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Chain(&error).to_string(), "outer: inner");
    }
}
