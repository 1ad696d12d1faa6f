//! What is wrong with what an operator wrote, and how it is shown.
//!
//! Problems are collected, never thrown one at a time: an operator sees all mistakes of all files at once. Each one
//! stands by itself, with the line that it blames, so that it can outlive the text.

use std::fmt;

use crate::source::{Source, Span};

/// Whether a problem keeps the documents from being used.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// They can't be used.
    Error,
    /// They can, but likely don't mean what was meant.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: u32,
    /// Column, from 1, in characters; 0 where the file as a whole is meant.
    pub column: u32,
    /// Bytes of the file that are blamed.
    pub span: Span,
    /// Keys that lead there (`spec.ports[0].protocol`); empty at the top.
    pub path: String,
    /// What was found, and why it can't stand. Lower case, without a full stop.
    pub message: String,
    /// What is allowed there.
    pub allowed: Option<String>,
    /// What to do, where we know.
    pub hint: Option<String>,
    /// The blamed line.
    pub excerpt: String,
}

impl Problem {
    /// A mistake at a place in a text.
    pub(crate) fn at(source: &Source, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: source.name().to_owned(),
            line: source.line(span.start),
            column: source.column(span.start),
            span,
            path: String::new(),
            message: message.into(),
            allowed: None,
            hint: None,
            excerpt: source.line_text(span.start).to_owned(),
        }
    }

    /// A mistake of a file as a whole.
    pub(crate) fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            span: Span::default(),
            path: String::new(),
            message: message.into(),
            allowed: None,
            hint: None,
            excerpt: String::new(),
        }
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    pub(crate) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn frame(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
        let (shown, offset) = window(&self.excerpt, self.column.saturating_sub(1) as usize);
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {shown}")?;
        let blamed = self
            .excerpt
            .chars()
            .skip(self.column.saturating_sub(1) as usize);
        let width = width_of(blamed, self.span);
        let room = shown.chars().count().saturating_sub(offset).max(1);
        let carets = "^".repeat(width.clamp(1, room));
        write!(f, "{gutter} | {}{carets}", " ".repeat(offset))?;
        if let Some(allowed) = &self.allowed {
            write!(f, " allowed: {allowed}")?;
        }
        writeln!(f)?;
        if !self.path.is_empty() {
            writeln!(f, "{gutter} = at: {}", self.path)?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{gutter} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// How many characters of the line the span covers.
fn width_of(line: impl Iterator<Item = char>, span: Span) -> usize {
    let bytes = span.range().len();
    line.scan(0, |used, c| {
        let begins_inside = *used < bytes;
        *used += c.len_utf8();
        begins_inside.then_some(())
    })
    .count()
}

/// The part of a line around a column, with tabs and control characters as spaces, and the column within it.
fn window(line: &str, column: usize) -> (String, usize) {
    let skip = column.saturating_sub(WINDOW / 2);
    let skip = if line.chars().count() <= WINDOW {
        0
    } else {
        skip
    };
    let shown = line
        .chars()
        .skip(skip)
        .take(WINDOW)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    (shown, column - skip)
}

/// Characters of a blamed line that are shown: what fits a terminal beside the gutter.
const WINDOW: usize = 140;

impl fmt::Display for Problem {
    /// The code frame: several lines, the last with its line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", self.message)?;
        if self.line > 0 {
            return self.frame(f);
        }
        writeln!(f, " --> {}", self.file)?;
        match &self.hint {
            Some(hint) => writeln!(f, "  = hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// All mistakes that were found together, in the order of files and lines. At least one of them is an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Most problems that are kept: nobody reads more, and memory stays bounded.
    pub const MAX: usize = 1000;

    /// Sorts and, where there is an error among them, makes problems of them; otherwise hands back the warnings.
    pub(crate) fn split(mut found: Vec<Problem>) -> Result<Vec<Problem>, Self> {
        // Stable, so that files keep the order in which they were given.
        let mut files: Vec<String> = Vec::new();
        for problem in &found {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        let place = |file: &str| files.iter().position(|held| held == file);
        found.sort_by_cached_key(|problem| (place(&problem.file), problem.line, problem.column));
        found.dedup();
        if found.iter().any(|p| p.severity == Severity::Error) {
            Err(Self(found))
        } else {
            Ok(found)
        }
    }

    /// Problems of which at least one is an error.
    pub(crate) fn from_errors(problems: Vec<Problem>) -> Self {
        Self(problems)
    }

    pub(crate) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count()
    }
}

impl fmt::Display for Problems {
    /// All code frames, with an empty line between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems of one text.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    pub(crate) source: &'a Source,
    found: &'a mut Vec<Problem>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(source: &'a Source, found: &'a mut Vec<Problem>) -> Self {
        Self { source, found }
    }

    /// Notes a problem at a place; what it returns can be filled in.
    pub(crate) fn report(&mut self, problem: Problem) {
        if self.found.len() < Problems::MAX {
            self.found.push(problem);
        }
    }

    pub(crate) fn at(&self, span: Span, message: impl Into<String>) -> Problem {
        Problem::at(self.source, span, message)
    }

    /// Says of what was reported at a place already what to do about it.
    pub(crate) fn hint(&mut self, span: Span, hint: &str) {
        let name = self.source.name();
        let here = |problem: &&mut Problem| problem.span == span && problem.file == name;
        if let Some(problem) = self.found.iter_mut().rev().find(here) {
            problem.hint = Some(hint.to_owned());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }
}

/// The candidate that was likely meant, if one is close.
pub fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found: Vec<char> = found.chars().take(64).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&found, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(found.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, case-insensitive, `-` equal to `_`.
fn distance(a: &[char], b: &str) -> usize {
    let fold = |c: char| match c.to_ascii_lowercase() {
        '-' => '_',
        other => other,
    };
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(&b) {
            let substituted = diagonal + usize::from(fold(*left) != *right);
            diagonal = *cell;
            *cell = substituted.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// `a`, `b` or `c`, each in backticks; at most twenty.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    let over = words.len().saturating_sub(20);
    words.truncate(20);
    if over > 0 {
        words.push(format!("{over} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_shows_place_allowed_values_path_and_hint() {
        let source = Source::new("a.yaml", "a: 1\nspec: {lifetme: 1h}\n");
        let problem = Problem::at(&source, Span::new(12, 19), "unknown key `lifetme`")
            .path("spec.lifetme")
            .allowed("`lifetime`")
            .hint("did you mean `lifetime`?");
        assert_eq!(
            problem.to_string(),
            "error: unknown key `lifetme`\n \
             --> a.yaml:2:8\n  \
             |\n2 | spec: {lifetme: 1h}\n  |        ^^^^^^^ allowed: `lifetime`\n  \
             = at: spec.lifetme\n  = hint: did you mean `lifetime`?\n"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_column() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let source = Source::new("a.yaml", text);
        let shown = Problem::at(&source, Span::new(5000, 5001), "x").to_string();
        assert!(shown.len() < 500, "{shown}");
        assert!(shown.contains("aX"));
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["lifetime", "reattest", "trust_domain"];
        assert_eq!(nearest("lifetme", words), Some("lifetime"));
        assert_eq!(nearest("trust-domain", words), Some("trust_domain"));
        assert_eq!(nearest("trustDomain", words), Some("trust_domain"));
        assert_eq!(nearest("zebra", words), None);
    }
}
