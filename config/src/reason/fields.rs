//! What differs between two documents of one name, field by field: `certificates.lifetime 1h -> 30m`.
//!
//! It is for people, beside the comparison that decides whether anything differs, and never instead of it.

use std::collections::BTreeMap;

use crate::problem::Reporter;
use crate::source::Source;
use crate::yaml::{self, Node, Value};

/// Fields that differ, the keys of `spec` without that word; at most [`MAX_FIELDS`], and then how many more.
pub(super) fn changed_fields(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (fields(old), fields(new));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let told = paths.into_iter().filter_map(|path| {
        let (before, after) = (old.get(path), new.get(path));
        (before != after).then(|| change(path, before, after))
    });
    let mut told: Vec<String> = told.collect();
    let more = told.len().saturating_sub(MAX_FIELDS);
    told.truncate(MAX_FIELDS);
    if more > 0 {
        told.push(format!("and {more} more fields"));
    }
    told
}

/// The same as one clause behind what changed.
pub(super) fn in_words(changed: &[String]) -> String {
    match changed {
        [] => " (written otherwise, with the same fields)".to_owned(),
        changed => format!(": {}", changed.join(", ")),
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Field {
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

fn fields(text: &str) -> BTreeMap<String, Field> {
    let source = Source::new("document", text);
    let mut ignored = Vec::new();
    // Whatever is wrong with it was said when the policy was read.
    let trees = yaml::parse(&mut Reporter::new(&source, &mut ignored));
    let mut found = BTreeMap::new();
    for tree in &trees.read {
        collect(&tree.root, String::new(), &mut found);
    }
    found
}

fn collect(node: &Node, path: String, found: &mut BTreeMap<String, Field>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = match path.as_str() {
                    "" if entry.key == "spec" => String::new(),
                    "" => entry.key.clone(),
                    path => format!("{path}.{}", entry.key),
                };
                collect(&entry.value, path, found);
            }
        }
        Value::List(items) if items.iter().all(|item| item.text().is_some()) => {
            found.insert(path, Field::Many(items.iter().map(shown).collect()));
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                // An item that has a name is the same one wherever it stands.
                let name = item.get("name").and_then(Node::text);
                let at = name.map_or_else(|| index.to_string(), str::to_owned);
                collect(item, format!("{path}[{at}]"), found);
            }
        }
        Value::Scalar(_) | Value::Null | Value::Broken => {
            found.insert(path, Field::One(shown(node)));
        }
    }
}

/// A value in one line, with quotes where they make it another one.
fn shown(node: &Node) -> String {
    let Value::Scalar(scalar) = &node.value else {
        return "nothing".to_owned();
    };
    let plain = Node {
        span: node.span,
        value: Value::Scalar(yaml::Scalar {
            plain: true,
            ..scalar.clone()
        }),
    };
    let says_more = plain.as_bool().is_some() || plain.as_number().is_some();
    match scalar.plain || !says_more {
        true => scalar.text.clone(),
        false => format!("\"{}\"", scalar.text),
    }
}

fn change(path: &str, before: Option<&Field>, after: Option<&Field>) -> String {
    if let (Some(Field::Many(before)), Some(Field::Many(after))) = (before, after) {
        let beyond = |sign: char, some: &[String], others: &[String]| -> String {
            let beyond = some.iter().filter(|one| !others.contains(one));
            beyond
                .map(|one| format!(" {sign} {}", cut(one, None)))
                .collect()
        };
        let told = beyond('+', after, before) + &beyond('-', before, after);
        let told = if told.is_empty() {
            " in another order"
        } else {
            &told
        };
        return format!("{path}{told}");
    }
    let word = |field: Option<&Field>, other: Option<&Field>| match field {
        None => "none".to_owned(),
        Some(Field::Many(items)) => {
            let items: Vec<String> = items.iter().map(|item| cut(item, None)).collect();
            format!("[{}]", items.join(", "))
        }
        Some(Field::One(text)) => match other {
            Some(Field::One(other)) => cut(text, Some(other)),
            Some(Field::Many(_)) | None => cut(text, None),
        },
    };
    format!("{path} {} -> {}", word(before, after), word(after, before))
}

/// The beginning of a long text, unless the other one begins like that.
fn cut(text: &str, other: Option<&str>) -> String {
    if text.lines().nth(1).is_some() {
        return format!("(a text of {} lines)", text.lines().count());
    }
    let end = text.floor_char_boundary(LONGEST);
    let begins = text.get(..end).unwrap_or_default();
    let is_told_apart = other.is_none_or(|other| !other.starts_with(begins));
    match end < text.len() && is_told_apart {
        true => format!("{begins}…"),
        false => text.to_owned(),
    }
}

/// More fields than anyone reads in one line.
const MAX_FIELDS: usize = 12;
/// Bytes of a value that are shown: a digest is known by its first ones.
const LONGEST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: &str, new: &str, expected: &[&str]) {
        assert_eq!(changed_fields(old, new), expected);
    }

    #[test]
    fn a_field_is_named_with_what_it_was_and_what_it_is() {
        check(
            "spec: {certificates: {lifetime: 1h}, reattest: {root: 10m}}",
            "spec:\n  certificates: {lifetime: 30m}\n  reattest: {root: 10m}\n  stale_after: 5m\n",
            &["certificates.lifetime 1h -> 30m", "stale_after none -> 5m"],
        );
        check(
            "spec: {a: 1, b: 2}",
            "spec: {b: \"2\"}",
            &["a 1 -> none", "b 2 -> \"2\""],
        );
        check("metadata: {name: x}", "metadata: {name: \"x\"}", &[]);
    }

    #[test]
    fn items_of_lists_are_known_by_their_names_and_texts_by_themselves() {
        check(
            "spec: {any_of: [{tpm: {images: [{name: a, pcr: 1}, {name: b, pcr: 2}], classes: [hardware, software]}}]}",
            "spec: {any_of: [{tpm: {images: [{name: b, pcr: 3}], classes: [simulated, hardware]}}]}",
            &[
                "any_of[0].tpm.classes + simulated - software",
                "any_of[0].tpm.images[a].name a -> none",
                "any_of[0].tpm.images[a].pcr 1 -> none",
                "any_of[0].tpm.images[b].pcr 2 -> 3",
            ],
        );
        check(
            "spec: {a: [x, y]}",
            "spec: {a: [y, x]}",
            &["a in another order"],
        );
    }

    #[test]
    fn long_values_are_cut_but_never_so_that_they_look_alike() {
        let (one, other) = ("a".repeat(64), format!("{}b", "a".repeat(63)));
        check(
            &format!("spec: {{a: {one}, b: {one}}}"),
            &format!("spec: {{a: {other}, b: c}}"),
            &[
                &format!("a {one} -> {other}"),
                &format!("b {}… -> c", "a".repeat(32)),
            ],
        );
    }

    #[test]
    fn of_many_fields_the_first_are_told_and_the_rest_counted() {
        let text = |value: u8| {
            let fields: String = (10..30).map(|key| format!(", k{key}: {value}")).collect();
            format!("spec: {{k: 1{fields}}}")
        };
        let told = changed_fields(&text(1), &text(2));
        assert_eq!(told.len(), MAX_FIELDS + 1);
        assert_eq!(told.last().unwrap(), "and 8 more fields");
    }
}
