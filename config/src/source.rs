//! A file's name and text, and where its lines begin.
//!
//! Everything that blames a place in a file counts in bytes and asks here for line and column, so that line ends,
//! a byte order mark and wide characters are understood in one place.

use std::ops::Range;

/// A half-open range of bytes in one [`Source`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end.max(start)),
        }
    }

    /// The range as indices.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn to(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// One file, or one text that came from elsewhere under a name.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<u32>,
    origin: Option<Origin>,
}

/// Where the text of a distributed document was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    pub(crate) file: String,
    pub(crate) line: u32,
}

impl Source {
    /// Takes a text under the name that problems and decisions will show.
    ///
    /// A first line `# source: <file>:<line>`, as [`crate::set::Document::distributable`] writes it, says where the
    /// text that follows was written; problems and decisions then name that place.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .map(|at| u32::try_from(at).unwrap_or(u32::MAX))
            .collect();
        Self {
            name: name.into(),
            origin: parse_origin(&text),
            text,
            line_starts,
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name under which people know the text.
    pub fn name(&self) -> &str {
        self.origin.as_ref().map_or(&self.name, |at| &at.file)
    }

    /// Line of a byte, from 1, in the file where it was written.
    pub fn line(&self, at: u32) -> u32 {
        let here = self.physical_line(at);
        match &self.origin {
            // The text begins on physical line 2, below the comment.
            Some(origin) => here.saturating_sub(2).saturating_add(origin.line),
            None => here,
        }
    }

    fn physical_line(&self, at: u32) -> u32 {
        let line = self.line_starts.partition_point(|start| *start <= at);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// Column of a byte, from 1, in characters; a byte order mark does not count.
    pub fn column(&self, at: u32) -> u32 {
        let start = self.line_start(at);
        let before = self.text.get(start..at as usize).unwrap_or_default();
        let before = before.trim_start_matches('\u{feff}');
        u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn line_start(&self, at: u32) -> usize {
        let line = self.physical_line(at).saturating_sub(1) as usize;
        self.line_starts.get(line).copied().unwrap_or_default() as usize
    }

    /// The line that holds a byte, without its end.
    pub fn line_text(&self, at: u32) -> &str {
        let rest = self.text.get(self.line_start(at)..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        line.trim_start_matches('\u{feff}').trim_end_matches('\r')
    }
}

fn parse_origin(text: &str) -> Option<Origin> {
    let line = text.split('\n').next()?.strip_prefix(ORIGIN_PREFIX)?;
    let (file, line) = line.trim_end_matches('\r').rsplit_once(':')?;
    Some(Origin {
        file: file.to_owned(),
        line: line.parse().ok()?,
    })
}

/// How a distributed document begins.
pub(crate) const ORIGIN_PREFIX: &str = "# source: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_as_people_do() {
        let source = Source::new("a.yaml", "\u{feff}a: é x\r\nb: y\n");
        let at = |text: &str| u32::try_from(source.text().find(text).unwrap()).unwrap();
        assert_eq!((source.line(at("x")), source.column(at("x"))), (1, 6));
        assert_eq!((source.line(at("b")), source.column(at("b"))), (2, 1));
        assert_eq!(source.line_text(at("x")), "a: é x");
        assert_eq!((source.line(99), source.column(99)), (3, 1));
    }

    #[test]
    fn a_distributed_text_speaks_of_the_file_where_it_was_written() {
        let source = Source::new("policy/x", "# source: team/a.yaml:40\nkind: X\nspec: {}\n");
        let at = u32::try_from(source.text().find("spec").unwrap()).unwrap();
        assert_eq!((source.name(), source.line(at)), ("team/a.yaml", 41));
    }
}
