//! The one description of what may be written: tables of fields, from which the reader checks and the schema is made.
//!
//! [`conform`] walks a tree along a shape and reports every departure: unknown and missing keys, wrong types, bad
//! values. What passes can be read without further questions; what does not pass can still be read in part, so that
//! checks between documents report their mistakes in the same run.

use vouchsafe_attestation::claims::EvidenceKind;

use crate::claim;
use crate::problem::{Reporter, list, nearest};
use crate::profile::hardware::NOT_COMPARED;
use crate::source::Span;
use crate::yaml::{Node, Value};

/// What may stand somewhere.
#[derive(Debug)]
pub(crate) enum Shape {
    Map(&'static MapShape),
    /// Free keys of one kind.
    MapOf(&'static Text, &'static Self),
    /// At least one item.
    List(&'static Self),
    /// Also without items.
    ListOrEmpty(&'static Self),
    Text(&'static Text),
    Word(&'static [&'static str]),
    Bool,
    Number(u64, u64),
    /// The word `any`, or the shape.
    AnyOr(&'static Self),
    /// Comparisons with claims of one kind.
    Claims(EvidenceKind),
    /// Fixed keys, and beside them comparisons with claims of one kind.
    Device(&'static MapShape, EvidenceKind),
    /// A key of the design whose feature is not there.
    NotBuilt,
}

/// A map with fixed keys.
#[derive(Debug)]
pub(crate) struct MapShape {
    pub(crate) fields: &'static [Field],
    /// Of each group exactly one key is there.
    pub(crate) exactly_one: &'static [&'static [&'static str]],
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) key: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) doc: &'static str,
    /// As it would be written; empty where there is none.
    pub(crate) default: &'static str,
}

/// A kind of text.
#[derive(Debug)]
pub(crate) struct Text {
    /// With its article: `a duration`.
    pub(crate) what: &'static str,
    pub(crate) allowed: &'static str,
    /// Regular expression for editors; looser than `check`.
    pub(crate) pattern: &'static str,
    pub(crate) check: fn(&str) -> Result<(), String>,
}

pub(crate) const fn required(key: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        key,
        shape,
        required: true,
        doc,
        default: "",
    }
}

pub(crate) const fn optional(
    key: &'static str,
    shape: Shape,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field {
        key,
        shape,
        required: false,
        doc,
        default,
    }
}

pub(crate) const fn not_built(key: &'static str) -> Field {
    optional(key, Shape::NotBuilt, "", "Not built yet.")
}

/// Where a node stands: the keys that lead to it, and what to blame when something is missing from it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) owner: Span,
}

impl Place {
    pub(crate) fn top(node: &Node) -> Self {
        let owner = node.entries().first().map_or(node.span, |e| e.key_span);
        Self {
            path: String::new(),
            owner,
        }
    }

    pub(crate) fn key(&self, key: &str, owner: Span) -> Self {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Self { path, owner }
    }

    pub(crate) fn index(&self, index: usize, node: &Node) -> Self {
        let owner = node.entries().first().map_or(node.span, |e| e.key_span);
        Self {
            path: format!("{}[{index}]", self.path),
            owner,
        }
    }
}

/// Reports every departure of a node from a shape.
pub(crate) fn conform(node: &Node, shape: &Shape, place: &Place, reporter: &mut Reporter<'_>) {
    if matches!(node.value, Value::Broken) {
        return;
    }
    match shape {
        Shape::Map(map) => conform_map(node, map, place, reporter),
        Shape::MapOf(key, value) => conform_map_of(node, key, value, place, reporter),
        Shape::List(item) => conform_list(node, item, false, place, reporter),
        Shape::ListOrEmpty(item) => conform_list(node, item, true, place, reporter),
        Shape::Text(text) => conform_text(node, text, place, reporter),
        Shape::Word(words) => conform_word(node, words, place, reporter),
        Shape::Bool => {
            if node.as_bool().is_none() {
                wrong_type(node, "`true` or `false`", place, reporter);
            }
        }
        Shape::Number(min, max) => conform_number(node, *min, *max, place, reporter),
        Shape::AnyOr(shape) => {
            if node.text() != Some("any") {
                if node.text().is_some() {
                    let allowed = format!("`any`, or {}", shape.describe());
                    wrong_type(node, &allowed, place, reporter);
                } else {
                    conform(node, shape, place, reporter);
                }
            }
        }
        Shape::Claims(kind) => claim::conform(node, *kind, place, reporter),
        Shape::Device(map, kind) => conform_device(node, map, *kind, place, reporter),
        Shape::NotBuilt => {}
    }
}

impl Node {
    /// A boolean: `true` or `false` without quotes, nothing else.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar(scalar) if scalar.plain => scalar.text.parse().ok(),
            Value::Scalar(_) | Value::Null | Value::List(_) | Value::Map(_) | Value::Broken => None,
        }
    }

    /// A whole number in decimal digits, without quotes, sign or leading zero.
    pub(crate) fn as_number(&self) -> Option<u64> {
        match &self.value {
            Value::Scalar(scalar) if scalar.plain => parse_number(&scalar.text),
            Value::Scalar(_) | Value::Null | Value::List(_) | Value::Map(_) | Value::Broken => None,
        }
    }
}

pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0')))
        .then(|| text.parse().ok())
        .flatten()
}

impl Shape {
    /// What is allowed, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Map(map) => format!("a map of {}", list(map.allowed())),
            Self::MapOf(key, _) => format!("a map whose keys are each {}", key.what),
            Self::List(item) | Self::ListOrEmpty(item) => match item {
                Self::Text(text) => format!("a list, each item {}", text.what),
                Self::Word(words) => format!("a list of {}", list(words.iter().copied())),
                _ => "a list".to_owned(),
            },
            Self::Text(text) => text.allowed.to_owned(),
            Self::Word(words) => list(words.iter().copied()),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Number(min, max) => format!("a number from {min} to {max}"),
            Self::AnyOr(shape) => format!("`any`, or {}", shape.describe()),
            Self::Claims(kind) => format!("a map of claims of `{kind}`"),
            Self::Device(map, kind) => {
                format!("a map of {} and claims of `{kind}`", list(map.allowed()))
            }
            Self::NotBuilt => "nothing yet".to_owned(),
        }
    }
}

impl MapShape {
    fn allowed(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.fields
            .iter()
            .filter(|field| !matches!(field.shape, Shape::NotBuilt))
            .map(|field| field.key)
    }
}

fn conform_map(node: &Node, map: &MapShape, place: &Place, reporter: &mut Reporter<'_>) {
    if !matches!(node.value, Value::Map(_) | Value::Null) {
        let allowed = format!("a map of {}", list(map.allowed()));
        return wrong_type(node, &allowed, place, reporter);
    }
    // One slip is one mistake: a key that is misspelt is not missing too.
    let mut slips = Vec::new();
    for entry in node.entries() {
        let inner = place.key(&entry.key, entry.key_span);
        match map.fields.iter().find(|field| field.key == entry.key) {
            None => {
                slips.push(nearest(&entry.key, map.allowed()));
                unknown_key(entry.key_span, &entry.key, map.allowed(), &inner, reporter);
            }
            Some(Field {
                shape: Shape::NotBuilt,
                ..
            }) => {
                slips.push(None);
                let message = format!("`{}` is not built yet", entry.key);
                let problem = reporter.at(entry.key_span, message).path(inner.path);
                reporter.report(problem.hint("leave it out: this version would not enforce it"));
            }
            Some(field) => conform(&entry.value, &field.shape, &inner, reporter),
        }
    }
    conform_whole(node, map, &slips, place, reporter);
}

/// Reports keys that are missing, and too many of those of which one is meant.
fn conform_whole(
    node: &Node,
    map: &MapShape,
    slips: &[Option<&str>],
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    for field in map.fields.iter().filter(|field| field.required) {
        if node.entry(field.key).is_none() && !slips.contains(&Some(field.key)) {
            let message = format!("missing key `{}`", field.key);
            let problem = reporter
                .at(place.owner, message)
                .path(place.path.clone())
                .hint(format!(
                    "add `{}`: {}",
                    field.key,
                    lower_first(field.doc.trim_end_matches('.'))
                ));
            reporter.report(problem);
        }
    }
    for group in map.exactly_one {
        conform_group(node, group, !slips.is_empty(), place, reporter);
    }
}

/// A fixed key, or a claim: what is neither gets the nearest of both.
fn conform_device(
    node: &Node,
    map: &MapShape,
    kind: EvidenceKind,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let keys = || device_keys(map, kind);
    if !matches!(node.value, Value::Map(_) | Value::Null) {
        let allowed = format!("a map of {}", list(keys()));
        return wrong_type(node, &allowed, place, reporter);
    }
    let mut slips = Vec::new();
    for entry in node.entries() {
        let inner = place.key(&entry.key, entry.key_span);
        let field = map.fields.iter().find(|field| field.key == entry.key);
        if let Some(field) = field {
            conform(&entry.value, &field.shape, &inner, reporter);
        } else if !keys().any(|key| key == entry.key)
            || !claim::conform_claim(entry, kind, "", &inner, reporter)
        {
            let near = nearest(&entry.key, keys());
            slips.push(near);
            let message = format!("`{kind}` has no key and no claim `{}`", entry.key);
            let mut problem = reporter
                .at(entry.key_span, message)
                .path(inner.path)
                .allowed(list(keys()));
            let meant = near.map(str::to_owned);
            if let Some(meant) = meant.or_else(|| claim::nearest_claim(kind, "", &entry.key)) {
                problem = problem.hint(format!("did you mean `{meant}`?"));
            }
            reporter.report(problem);
        }
    }
    conform_whole(node, map, &slips, place, reporter);
}

/// What may stand in a section: its own keys first, then claims.
pub(crate) fn device_keys(
    map: &MapShape,
    kind: EvidenceKind,
) -> impl Iterator<Item = &'static str> + Clone {
    let claims = claim::keys_below(kind, "").filter(|key| !NOT_COMPARED.contains(key));
    map.allowed().chain(claims)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

fn conform_group(
    node: &Node,
    group: &[&str],
    has_slips: bool,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let mut found = node
        .entries()
        .iter()
        .filter(|entry| group.contains(&entry.key.as_str()));
    let Some(first) = found.next() else {
        if has_slips {
            return;
        }
        let message = format!("missing one of {}", list(group.iter().copied()));
        let problem = reporter.at(place.owner, message).path(place.path.clone());
        return reporter.report(problem);
    };
    for more in found {
        let message = format!("`{}` can't stand beside `{}`", more.key, first.key);
        let problem = reporter
            .at(more.key_span, message)
            .path(place.key(&more.key, more.key_span).path)
            .hint(format!("keep one of {}", list(group.iter().copied())));
        reporter.report(problem);
    }
}

pub(crate) fn unknown_key(
    span: Span,
    key: &str,
    allowed: impl Iterator<Item = &'static str> + Clone,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let mut problem = reporter
        .at(span, format!("unknown key `{key}`"))
        .path(place.path.clone())
        .allowed(list(allowed.clone()));
    if let Some(meant) = nearest(key, allowed) {
        problem = problem.hint(format!("did you mean `{meant}`?"));
    }
    reporter.report(problem);
}

fn conform_map_of(
    node: &Node,
    key: &Text,
    value: &Shape,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    if !matches!(node.value, Value::Map(_)) {
        let allowed = format!("a map whose keys are each {}", key.what);
        return wrong_type(node, &allowed, place, reporter);
    }
    for entry in node.entries() {
        let inner = place.key(&entry.key, entry.key_span);
        if let Err(reason) = (key.check)(&entry.key) {
            bad_value(entry.key_span, &reason, key.allowed, &inner, reporter);
        }
        conform(&entry.value, value, &inner, reporter);
    }
}

fn conform_list(
    node: &Node,
    item: &Shape,
    may_be_empty: bool,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let Value::List(items) = &node.value else {
        let mut problem = type_problem(node, "a list", place, reporter);
        if node.text().is_some() {
            problem = problem.hint("put it in brackets: `[...]`");
        }
        return reporter.report(problem);
    };
    if items.is_empty() && !may_be_empty {
        return bad_value(
            node.span,
            "the list is empty",
            "at least one item",
            place,
            reporter,
        );
    }
    for (index, node) in items.iter().enumerate() {
        conform(node, item, &place.index(index, node), reporter);
    }
}

fn conform_text(node: &Node, text: &Text, place: &Place, reporter: &mut Reporter<'_>) {
    let Value::Scalar(scalar) = &node.value else {
        return wrong_type(node, text.allowed, place, reporter);
    };
    if scalar.plain && is_ambiguous(&scalar.text) {
        let message = format!(
            "`{}` without quotes is not a text to every reader",
            scalar.text
        );
        let problem = reporter
            .at(node.span, message)
            .path(place.path.clone())
            .allowed(text.allowed)
            .hint("put it in quotes");
        return reporter.report(problem);
    }
    if let Err(reason) = (text.check)(&scalar.text) {
        bad_value(node.span, &reason, text.allowed, place, reporter);
    }
}

/// Words that readers of YAML 1.1 take for booleans; `y` and `n`, which hardly any of them does, are names.
fn is_ambiguous(text: &str) -> bool {
    ["true", "false", "yes", "no", "on", "off"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn conform_word(node: &Node, words: &[&'static str], place: &Place, reporter: &mut Reporter<'_>) {
    let allowed = list(words.iter().copied());
    let Some(found) = node.text() else {
        return wrong_type(node, &allowed, place, reporter);
    };
    if words.contains(&found) {
        return;
    }
    let mut problem = reporter
        .at(node.span, format!("`{found}` is not allowed here"))
        .path(place.path.clone())
        .allowed(allowed);
    if let Some(meant) = nearest(found, words.iter().copied()) {
        problem = problem.hint(format!("did you mean `{meant}`?"));
    }
    reporter.report(problem);
}

fn conform_number(node: &Node, min: u64, max: u64, place: &Place, reporter: &mut Reporter<'_>) {
    let allowed = format!("a number from {min} to {max}");
    match node.as_number() {
        Some(number) if (min..=max).contains(&number) => {}
        Some(number) => {
            let message = format!("{number} is out of range");
            bad_value(node.span, &message, &allowed, place, reporter);
        }
        None => wrong_type(node, &allowed, place, reporter),
    }
}

pub(crate) fn bad_value(
    span: Span,
    message: &str,
    allowed: &str,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let problem = reporter
        .at(span, message)
        .path(place.path.clone())
        .allowed(allowed);
    reporter.report(problem);
}

pub(crate) fn wrong_type(node: &Node, allowed: &str, place: &Place, reporter: &mut Reporter<'_>) {
    let mut problem = type_problem(node, allowed, place, reporter);
    if let Value::Scalar(scalar) = &node.value {
        if is_ambiguous(&scalar.text) && allowed.contains("`true`") {
            problem = problem.hint("only `true` and `false`, in lower case and without quotes");
        } else if !scalar.plain && allowed.contains("number") {
            problem = problem.hint("write it without quotes");
        }
    }
    reporter.report(problem);
}

fn type_problem(
    node: &Node,
    allowed: &str,
    place: &Place,
    reporter: &Reporter<'_>,
) -> crate::problem::Problem {
    let message = match &node.value {
        Value::Scalar(scalar) if scalar.plain => {
            format!("`{}` is not allowed here", shorten(&scalar.text))
        }
        Value::Scalar(scalar) => format!("`\"{}\"` is not allowed here", shorten(&scalar.text)),
        Value::Null | Value::List(_) | Value::Map(_) | Value::Broken => {
            format!("{} is not allowed here", node.describe())
        }
    };
    // An empty value has no width of its own: its key is what people can see.
    let span = match node.value {
        Value::Null => place.owner,
        Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Broken => node.span,
    };
    reporter
        .at(span, message)
        .path(place.path.clone())
        .allowed(allowed)
}

/// A value as a message can bear it.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
