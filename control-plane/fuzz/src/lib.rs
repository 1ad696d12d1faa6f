//! What each fuzz target does with its bytes. Ordinary tests replay the corpora through the same functions
//! (`tests/corpus.rs` of the crate), so that a crash that was found once stays fixed on stable.

use std::collections::BTreeSet;

use vouchsafe_config::reason::suggest::suggest;
use vouchsafe_config::slice::PolicySlice;
use vouchsafe_control_plane::cli::log_line::read_line;

/// A line of a sidecar's access log: whatever peers wrote into it, what is suggested because of it is one document, of
/// the name that it says, and is read.
pub fn log_line(data: &[u8]) {
    let Ok(line) = read_line(&String::from_utf8_lossy(data)) else {
        return;
    };
    let Some(seen) = line.seen() else {
        return;
    };
    let namespace = seen.door.workload.namespace.clone();
    let trust_domain = "factory.example".parse().expect("a trust domain");
    for suggested in suggest(&[(seen, 1)], &trust_domain, &BTreeSet::new()) {
        let name = { suggested.text.split_once("metadata: {name: ") }
            .and_then(|(_, rest)| rest.split_once(", "))
            .map(|(name, _)| format!("policy/AccessPolicy/{namespace}/{name}"));
        let name = name.expect("a document has a name");
        let changed = [(name.as_str(), suggested.text.as_str())];
        let read = PolicySlice::default().with(changed, std::iter::empty::<&str>());
        if let Err(problems) = read {
            panic!("{problems}\n{}", suggested.text);
        }
    }
}
