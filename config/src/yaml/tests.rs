use proptest::prelude::*;

use super::*;
use crate::problem::Problem;
use crate::source::Source;

#[path = "../../../tests/src/mutation.rs"]
#[expect(
    unreachable_pub,
    clippy::print_stderr,
    reason = "a module of the test harness, which exports and tells"
)]
mod mutation;

fn read(text: &str) -> (Vec<Tree>, Vec<Problem>) {
    let source = Source::new("a.yaml", text);
    let mut found = Vec::new();
    let trees = parse(&mut Reporter::new(&source, &mut found));
    (trees.read, found)
}

/// The first problem as `line:column message`.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let (_, found) = read(text);
    let first = found.first().unwrap_or_else(|| panic!("accepted: {text}"));
    let shown = format!("{}:{} {}", first.line, first.column, first.message);
    assert!(shown.starts_with(expected), "{shown}\nin {text}");
}

#[track_caller]
fn accepted(text: &str) -> Vec<Tree> {
    let (trees, found) = read(text);
    assert_eq!(found, [], "{text}");
    trees
}

#[test]
fn what_yaml_allows_and_we_do_not_is_named_with_its_place() {
    refused("a: 1\nb: 2\na: 3\n", "3:1 the key `a` is written twice");
    refused("a: {b: 1, \"b\": 2}\n", "1:11 the key `b` is written twice");
    refused("a: &x 1\n", "1:4 anchors are not read");
    refused("a: *x\n", "1:4 aliases are not read");
    refused("a:\n  <<: {b: 1}\n", "2:3 merge keys are not read");
    refused("a: !secret x\n", "1:4 tags are not read");
    refused("a: !!str x\n", "1:4 tags are not read");
    refused("!x {a: 1}\n", "1:1 tags are not read");
    refused("? [a, b]\n: 1\n", "1:3 a key is a text, found a list");
    refused("? {a: 1}\n: 1\n", "1:3 a key is a text, found a map");
    refused("~: 1\n", "1:1 a key is a text, found nothing");
    refused("%YAML 1.1\n---\na: 1\n", "1:1 not YAML");
    refused("a: 1\n\tb: 2\n", "2:1 not YAML");
    refused("a:\n\t- b\n", "2:1 not YAML");
    refused("a: [1, 2\n", "1:4 not YAML: unclosed bracket");
    refused("a: \"x\n", "1:4 not YAML");
    refused("a: 1\0\n", "1:5 control character U+0000");
    refused("a: \u{1b}[31m\n", "1:4 control character U+001B");
    refused("a: x\u{202e}y\n", "1:5 control character U+202E");
}

#[test]
fn a_quoted_merge_key_is_a_key() {
    let trees = accepted("\"<<\": 1\n");
    assert!(trees[0].root.get("<<").is_some());
}

#[test]
fn byte_order_mark_and_line_ends_of_other_systems_are_read() {
    let trees = accepted("\u{feff}a: 1\r\nb:\r\n  - x\r\n");
    assert_eq!(trees[0].root.get("a").unwrap().text(), Some("1"));
    assert_eq!(trees[0].root.get("b").unwrap().items()[0].text(), Some("x"));
    let (_, found) = read("\u{feff}a: 1\r\na: 2\r\n");
    assert_eq!((found[0].line, found[0].column), (2, 1));
    assert_eq!(found[0].excerpt, "a: 2");
}

#[test]
fn reading_goes_on_after_a_document_that_is_broken() {
    let (trees, found) = read("a: [\n---\nb: 1\n---\nc: }\n---\nd: 1\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].line, found[1].line), (1, 5));
    let keys: Vec<_> = trees
        .iter()
        .map(|tree| tree.root.entries()[0].key.as_str())
        .collect();
    assert_eq!(keys, ["b", "d"]);
}

#[test]
fn what_is_lost_is_known() {
    let text = "a: 1\n---\nb: [\nname: x\n---\nc: 1\n---\nd: ]\n";
    let source = Source::new("a.yaml", text);
    let mut found = Vec::new();
    let trees = parse(&mut Reporter::new(&source, &mut found));
    let lost: Vec<_> = trees.lost.iter().map(|span| &text[span.range()]).collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(
        lost[0].contains("name: x") && !lost[0].contains("c: 1"),
        "{lost:?}"
    );
    assert!(lost[1].contains("d: ]"), "{lost:?}");
}

#[test]
fn spans_are_those_of_the_words() {
    let text = "a:\n  b: [x, 'y z']\n  c: |\n    text\n    more\n# end\n---\n{d: 1}\n";
    let trees = accepted(text);
    let at = |node: &Node| &text[node.span.range()];
    let list = trees[0].root.find(&["a", "b"]).unwrap();
    assert_eq!(at(list), "[x, 'y z']");
    assert_eq!(at(&list.items()[1]), "'y z'");
    assert_eq!(
        &text[trees[0].text.range()].trim_end(),
        &"a:\n  b: [x, 'y z']\n  c: |\n    text\n    more"
    );
    assert_eq!(&text[trees[1].text.range()], "{d: 1}");
    let key = trees[0].root.get("a").unwrap().entry("c").unwrap();
    assert_eq!(&text[key.key_span.range()], "c");
    assert_eq!(key.value.text(), Some("text\nmore\n"));
}

#[test]
fn nothing_is_told_from_empty_text() {
    let trees = accepted("a:\nb: ~\nc: \"\"\nd: '~'\ne: null\n");
    let is_null = |key| matches!(trees[0].root.get(key).unwrap().value, Value::Null);
    assert!(is_null("a") && is_null("b") && is_null("e"));
    assert!(!is_null("c") && !is_null("d"));
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("a: {}{}\n", "[".repeat(depth), "]".repeat(depth));
    accepted(&nested(20));
    refused(&nested(100), "1:");
    refused(&"[".repeat(1_000_000), "1:");
    let deep: String = (0..100)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    refused(&deep, "");
}

#[test]
fn size_and_number_of_values_are_bounded() {
    refused(
        &"#".repeat(MAX_BYTES + 1),
        "1:1 the file has 16777217 bytes",
    );
    let many = format!("a: [{}]\n", "1,".repeat(MAX_NODES));
    refused(&many, "1:");
    accepted(&"#".repeat(MAX_BYTES - 1));
}

#[test]
fn an_alias_bomb_expands_nothing() {
    let mut bomb = "a: &a [x, x]\n".to_owned();
    for (from, to) in ('a'..='y').zip('b'..='z') {
        bomb.push_str(&format!("{to}: &{to} [*{from}, *{from}]\n"));
    }
    let (trees, found) = read(&bomb);
    assert_eq!(found.len(), 26 + 50);
    assert_eq!(trees.len(), 1);
}

#[test]
fn the_corpus_of_the_fuzz_target_is_read_without_panic() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/documents");
    let paths = std::fs::read_dir(corpus).unwrap();
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(inputs.len() > 10);
    let parse = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let sources = vec![Source::new("corpus", text)];
        let _ = crate::set::PolicySet::parse(sources, crate::set::Options::default());
    };
    inputs.iter().for_each(|bytes| parse(bytes));
    mutation::mutate(&inputs, 1_000, parse);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_place_in_it(text in "[a-c:\\[\\]{},\\-#&*!|>'\"%@`?~ \t\r\n\u{feff}é]{0,60}") {
        let (trees, found) = read(&text);
        for problem in &found {
            prop_assert!(problem.span.range().end <= text.len());
            let _ = problem.to_string();
        }
        for tree in &trees {
            prop_assert!(text.get(tree.text.range()).is_some());
        }
    }
}
