//! Checks between documents.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::document::Raw;
use crate::problem::Problem;
use crate::set::Lost;

pub(crate) fn duplicates(raws: &[Raw], found: &mut Vec<Problem>) {
    let mut seen = HashMap::new();
    for raw in raws {
        let Some(name) = raw.tree.root.find(&["metadata", "name"]) else {
            continue;
        };
        let Some(head_name) = &raw.head.name else {
            continue;
        };
        let key = (raw.kind, raw.head.namespace.clone(), head_name.clone());
        let Some(first) = seen.insert(key, raw) else {
            continue;
        };
        let message = format!("{} `{head_name}` is written twice", raw.kind.as_str());
        let hint = format!("the first is at {}:{}", first.source.name(), first.line());
        found.push(
            Problem::at(&raw.source, name.span, message)
                .path("metadata.name")
                .hint(hint),
        );
    }
}

pub(crate) fn all(
    _raws: &[Raw],
    _lost: &Lost,
    _now: Option<SystemTime>,
    _found: &mut Vec<Problem>,
) {
}
