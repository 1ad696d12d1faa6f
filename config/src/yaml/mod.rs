//! The one reader of YAML: text to a tree whose nodes know where they were written.
//!
//! It is strict where YAML is loose, because policy must mean the same to its author, to a reviewer and to us:
//! duplicate keys, tags, directives, anchors, aliases and merge keys are errors, and a scalar keeps its text until a
//! field asks for a type. Bounds on size, depth and number of nodes are checked while reading, so memory follows the
//! bounds and not the input.
//!
//! # Why anchors are refused
//! Each document is distributed, signed and reviewed by itself; an alias would make a rule depend on text elsewhere in
//! its file. Refusing them also leaves nothing for an alias bomb to expand.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, options};

use crate::problem::Reporter;
use crate::source::Span;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already reported: every field takes it without another word.
    Broken,
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Written without quotes.
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// One document of a text.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    /// Whole lines of the document, without comments around it.
    pub(crate) text: Span,
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::List(_) | Value::Broken => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null | Value::Scalar(_) | Value::Map(_) | Value::Broken => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::Null | Value::List(_) | Value::Map(_) | Value::Broken => None,
        }
    }

    /// The value at the end of a chain of keys.
    pub(crate) fn find(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The value as a type that parses from text.
    pub(crate) fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// What was written, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(Scalar { plain: false, .. }) => "a quoted text",
            Value::Scalar(_) => "a plain value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Broken => "something broken",
        }
    }
}

/// Largest file in bytes. 10,000 policies take about 4 MiB.
pub(crate) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Deepest nesting. The deepest key that means something is at 9.
const MAX_DEPTH: usize = 24;
/// Most nodes of one file: bounds memory to about 200 MiB whatever the file holds. 10,000 policies have about 400,000.
const MAX_NODES: usize = 1_500_000;
/// Most documents of one file.
const MAX_DOCUMENTS: usize = 100_000;

/// What a text holds.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    pub(crate) read: Vec<Tree>,
    /// Where documents were that could not be read.
    pub(crate) lost: Vec<Span>,
}

/// Reads all documents of a text; what can't be read is reported, and reading goes on with the next document.
pub(crate) fn parse(reporter: &mut Reporter<'_>) -> Trees {
    let source = reporter.source;
    let nothing = Trees {
        read: Vec::new(),
        lost: vec![Span::new(0, source.text().len())],
    };
    if source.text().len() > MAX_BYTES {
        let message = format!(
            "the file has {} bytes, more than the {MAX_BYTES} that are read",
            source.text().len()
        );
        reporter.report(
            reporter
                .at(Span::default(), message)
                .hint("spread the documents over several files"),
        );
        return nothing;
    }
    if let Some((at, found)) = source.text().char_indices().find(|(_, c)| is_forbidden(*c)) {
        let message = format!("control character U+{:04X} in the file", u32::from(found));
        reporter.report(
            reporter
                .at(Span::new(at, at + 1), message)
                .hint("is this a text file?"),
        );
        return nothing;
    }
    Reading::new(reporter).run()
}

/// Characters that no configuration needs and that terminals and editors hide.
fn is_forbidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A collection that is not closed yet.
enum Open {
    List(Span, Vec<Node>),
    Map {
        span: Span,
        entries: Vec<Entry>,
        seen: HashMap<String, Span>,
        key: Option<Key>,
    },
}

/// A key that waits for its value; `None` was reported and takes its value with it.
struct Key(Option<String>, Span);

struct Reading<'r, 's> {
    reporter: &'r mut Reporter<'s>,
    open: Vec<Open>,
    root: Option<Node>,
    extent: Option<Span>,
    nodes: usize,
    trees: Vec<Tree>,
    lost: Vec<Span>,
    /// End of the last document, read or lost.
    end: usize,
}

impl<'r, 's> Reading<'r, 's> {
    fn new(reporter: &'r mut Reporter<'s>) -> Self {
        Self {
            reporter,
            open: Vec::new(),
            root: None,
            extent: None,
            nodes: 0,
            trees: Vec::new(),
            lost: Vec::new(),
            end: 0,
        }
    }

    fn run(mut self) -> Trees {
        let options = options! {
            disallow_directives: true,
            emit_unresolved_aliases: true,
            emit_anchor_events: true,
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        let mut parser = Parser::new_from_str_with_options(self.reporter.source.text(), options);
        let length = self.reporter.source.text().len();
        while let Some(next) = parser.next_event() {
            let (event, at) = match next {
                Ok(next) => next,
                Err(error) => {
                    self.syntax(&error);
                    self.abandon();
                    match parser.proceed_next_document() {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(error) => self.syntax(&error),
                    }
                    self.found_end(length);
                    break;
                }
            };
            let span = at.byte_range().unwrap_or_default();
            let tag = at.tag_span().and_then(|span| span.byte_range());
            if !self.event(event, Span::new(span.start, span.end), tag) {
                self.lost.push(Span::new(self.end, length));
                break;
            }
        }
        Trees {
            read: self.trees,
            lost: self.lost,
        }
    }

    /// Says where a lost document ended: where the next one begins.
    fn found_end(&mut self, at: usize) {
        if let Some(lost) = self.lost.last_mut()
            && lost.range().is_empty()
        {
            *lost = Span::new(lost.range().start, at);
            self.end = at;
        }
    }

    /// Takes one event; `false` when a bound was passed.
    fn event(&mut self, event: Event<'_>, span: Span, tag: Option<std::ops::Range<usize>>) -> bool {
        if event.is_node() {
            self.nodes += 1;
            if self.nodes > MAX_NODES || self.trees.len() >= MAX_DOCUMENTS {
                self.refuse(
                    span,
                    "the file has more values than are read",
                    "spread the documents over several files",
                );
                return false;
            }
        }
        let tagged = event.tag().is_some();
        if tagged {
            let at = tag.map_or(span, |range| Span::new(range.start, range.end));
            self.refuse(
                at,
                "tags are not read",
                "leave the tag out; quote the value where it is a text",
            );
        }
        match event {
            Event::Scalar(..) if tagged => self.node(span, Value::Broken),
            Event::Scalar(text, style, _, _) => {
                let plain = style == ScalarStyle::Plain;
                self.node(span, scalar(text.into_owned(), plain, span));
            }
            Event::SequenceStart(..) => self.open(Open::List(span, Vec::new())),
            Event::MappingStart(..) => self.open(Open::Map {
                span,
                entries: Vec::new(),
                seen: HashMap::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse(span, "aliases are not read", "write the value out");
                self.node(span, Value::Broken);
            }
            Event::Anchor(..) => {
                self.refuse(
                    span,
                    "anchors are not read",
                    "write the value out where it is needed",
                );
            }
            Event::DocumentStart(..) => self.found_end(span.range().start),
            Event::DocumentEnd => self.finish(),
            _ => {}
        }
        true
    }

    fn open(&mut self, open: Open) {
        self.open.push(open);
    }

    fn close(&mut self, end: Span) {
        let Some(open) = self.open.pop() else { return };
        // The end of a block collection is where the next token stands; only a flow collection ends in a bracket.
        let close = |start: Span, last: Option<Span>| {
            let bracket = end.end > end.start;
            let last = last.unwrap_or(start);
            if bracket {
                start.to(end)
            } else {
                start.to(last)
            }
        };
        match open {
            Open::List(span, items) => {
                let span = close(span, items.last().map(|node| node.span));
                self.node(span, Value::List(items));
            }
            Open::Map { span, entries, .. } => {
                let last = entries
                    .last()
                    .map(|entry| entry.value.span.to(entry.key_span));
                self.node(close(span, last), Value::Map(entries));
            }
        }
    }

    /// Puts a finished node where it belongs.
    fn node(&mut self, span: Span, value: Value) {
        self.extent = Some(self.extent.map_or(span, |extent| extent.to(span)));
        let node = Node { span, value };
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map {
                entries, seen, key, ..
            }) => match key.take() {
                Some(Key(Some(key), key_span)) => entries.push(Entry {
                    key,
                    key_span,
                    value: node,
                }),
                Some(Key(None, _)) => {}
                None => match key_of(&node, seen) {
                    Ok(text) => *key = Some(Key(Some(text), span)),
                    Err((message, hint)) => {
                        *key = Some(Key(None, span));
                        self.refuse(span, &message, &hint);
                    }
                },
            },
        }
    }

    fn finish(&mut self) {
        let root = self.root.take();
        let extent = self.extent.take();
        self.open.clear();
        if let (Some(root), Some(extent)) = (root, extent) {
            let text = self.lines(extent);
            self.end = text.range().end;
            self.trees.push(Tree { root, text });
        }
    }

    /// Widens to the line's start, unless something else (`---`) stands before.
    fn lines(&self, extent: Span) -> Span {
        let source = self.reporter.source;
        let start = source.line_start(extent.start);
        let before = source.text().get(start..extent.start as usize);
        match before {
            Some(before) if before.trim_matches([' ', '\u{feff}']).is_empty() => {
                let mark = before.len() - before.trim_start_matches('\u{feff}').len();
                Span::new(start + mark, extent.end as usize)
            }
            _ => extent,
        }
    }

    fn abandon(&mut self) {
        self.lost.push(Span::new(self.end, self.end));
        self.open.clear();
        self.root = None;
        self.extent = None;
    }

    fn refuse(&mut self, span: Span, message: &str, hint: &str) {
        let problem = self.reporter.at(span, message).hint(hint);
        self.reporter.report(problem);
    }

    fn syntax(&mut self, error: &granit_parser::ScanError) {
        let source = self.reporter.source;
        let at = error.marker().byte_offset().unwrap_or_default();
        let mut at = at.min(source.text().len());
        // The parser blames where the scalar before it began; people look for the tab.
        if error.info().contains("tab") {
            let (before, after) = source.text().split_at_checked(at).unwrap_or_default();
            if before.ends_with('\t') && !after.starts_with('\t') {
                at -= 1;
            } else {
                at += after.find('\t').unwrap_or_default();
            }
        }
        let rest = source.text().get(at..).unwrap_or_default();
        let width = rest.chars().next().map_or(0, char::len_utf8);
        let mut problem = self.reporter.at(
            Span::new(at, at + width),
            format!("not YAML: {}", error.info()),
        );
        if rest.starts_with('\t') {
            problem = problem.hint("indent with spaces: YAML does not allow tabs there");
        }
        self.reporter.report(problem);
    }
}

/// A plain empty scalar, `~` or `null` is nothing. The parser writes `~` for a value that is not there.
fn scalar(text: String, plain: bool, span: Span) -> Value {
    let absent = span.range().is_empty();
    if plain && (absent || matches!(text.as_str(), "~" | "null" | "Null" | "NULL" | "")) {
        Value::Null
    } else {
        Value::Scalar(Scalar { text, plain })
    }
}

fn key_of(node: &Node, seen: &mut HashMap<String, Span>) -> Result<String, (String, String)> {
    let Value::Scalar(scalar) = &node.value else {
        let message = match node.value {
            Value::Broken => return Err(("the key can't be read".into(), "write it out".into())),
            Value::Null | Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                format!("a key is a text, found {}", node.describe())
            }
        };
        return Err((message, "write `key: value`".into()));
    };
    if scalar.plain && scalar.text == "<<" {
        return Err((
            "merge keys are not read".into(),
            "write the keys out".into(),
        ));
    }
    if seen.insert(scalar.text.clone(), node.span).is_some() {
        let message = format!("the key `{}` is written twice", scalar.text);
        return Err((message, "keep one of them".into()));
    }
    Ok(scalar.text.clone())
}

#[cfg(test)]
mod tests;
