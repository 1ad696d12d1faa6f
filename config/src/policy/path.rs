//! Paths: the one normalisation by which they are judged, and the patterns that they are judged by.
//!
//! What two readers could read in two ways is refused, not mended: our reading must be the application's.
//! Source: RFC 3986 §6.2.2; what servers make of `%2f`, `..;` and overlong escapes is why those are refused.

use std::borrow::Cow;

/// Why a path can't be judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// Not starting with a slash.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// `%2f`, `%5c`, `%00`, a backslash, a control character or a broken escape.
    #[error("the path has an encoded slash, a backslash, a control character or a broken escape")]
    Encoding,
    /// `.` or `..`, plain or encoded, or an empty segment.
    #[error("the path has a dot segment or an empty segment")]
    Segment,
}

/// The one normalisation by which paths are judged; borrows when nothing changes.
///
/// Escapes of unreserved characters are decoded, the hexadecimal digits of others written in upper case. A slash at
/// the end stays and means another path than without it.
///
/// # Errors
/// [`PathError`]: what could be read in two ways is refused, not mended.
pub fn normalize_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plainly_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    read_closely(path)
}

fn read_closely(path: &str) -> Result<Cow<'_, str>, PathError> {
    let normal = if path.contains('%') {
        decode(path)?
    } else {
        Cow::Borrowed(path)
    };
    if !normal.bytes().all(is_plain) {
        return Err(PathError::Encoding);
    }
    check_segments(&normal)?;
    Ok(normal)
}

/// Whether one look shows that a path passes as it is: plain characters, no escape, and no segment that is empty or begins
/// with a dot. Most do, and all others are read closely.
fn is_plainly_normal(path: &str) -> bool {
    let mut before = b'a';
    path.bytes().all(|byte| {
        let begins_oddly = before == b'/' && matches!(byte, b'/' | b'.');
        before = byte;
        let sort = PLAIN.get(usize::from(byte));
        !begins_oddly && byte != b'%' && sort.is_some_and(|plain| *plain)
    })
}

/// Looked up, because every byte of every path is asked about.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index out of bounds"
)]
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 0x80 {
        plain[byte as usize] = is_plain(byte);
        byte += 1;
    }
    plain
};

/// Characters of a path that mean themselves; `?` and `#` would end it.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'\\' | b'?' | b'#' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        // Some servers cut parameters off before they look for dots: `..;a=b` climbs there.
        let name = segment.split(';').next().unwrap_or_default();
        // Looking for a string costs more than for a byte, and most paths have no escape.
        let name = match name.contains('%') {
            true => name.split("%3B").next().unwrap_or_default(),
            false => name,
        };
        if matches!(name, "." | "..") || (segment.is_empty() && !is_last) {
            return Err(PathError::Segment);
        }
    }
    Ok(())
}

fn decode(path: &str) -> Result<Cow<'_, str>, PathError> {
    let mut normal = String::with_capacity(path.len());
    // All bytes as an application would decode them: they must be text, so that no overlong `/` hides among them.
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if !is_plain(byte) {
                return Err(PathError::Encoding);
            }
            normal.push(char::from(byte));
            decoded.push(byte);
            continue;
        }
        let (high, low) = (hex_digit(bytes.next())?, hex_digit(bytes.next())?);
        let value = high << 4 | low;
        decoded.push(value);
        match value {
            b'/' | b'\\' | 0..=0x1f | 0x7f => return Err(PathError::Encoding),
            _ if is_unreserved(value) => normal.push(char::from(value)),
            _ => {
                for digit in [b'%', upper(high), upper(low)] {
                    normal.push(char::from(digit));
                }
            }
        }
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err(PathError::Encoding);
    }
    if normal == path {
        return Ok(Cow::Borrowed(path));
    }
    Ok(Cow::Owned(normal))
}

fn hex_digit(byte: Option<u8>) -> Result<u8, PathError> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
    let digit = digit.ok_or(PathError::Encoding)?;
    u8::try_from(digit).map_err(|_| PathError::Encoding)
}

fn upper(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'A' + nibble - 10,
    }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A pattern of paths: `*` stands for exactly one segment that is not empty, `**` for all the rest and only at the end.
///
/// `/a/**` matches `/a/b`, `/a/b/c` and `/a/`, but not `/a`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathPattern {
    /// What every path that matches begins with: the text before the first wildcard, all of it where there is none.
    beginning: Box<str>,
    /// How many segments that is.
    literal: usize,
    /// Segments after the leading slash.
    segments: Vec<Segment>,
    /// Whether `**` stands at the end.
    open: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    Literal(Box<str>),
    Any,
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParsePatternError {
    /// The text, wildcards aside, is not a path that can be judged.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It would never match, because paths are normalised first.
    #[error(
        "the path is not in normal form: write unreserved characters as they are, and escapes in upper case"
    )]
    NotNormal,
    /// A `*` beside other characters.
    #[error("`*` stands for a whole segment")]
    PartOfSegment,
    /// A `**` before the end.
    #[error("`**` stands only at the end")]
    NotLast,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`ParsePatternError`].
    pub fn parse(text: &str) -> Result<Self, ParsePatternError> {
        if normalize_path(text)? != text {
            return Err(ParsePatternError::NotNormal);
        }
        let mut segments = Vec::new();
        let mut open = false;
        let mut written = text.split('/').skip(1).peekable();
        while let Some(segment) = written.next() {
            match segment {
                "**" if written.peek().is_some() => return Err(ParsePatternError::NotLast),
                "**" => open = true,
                "*" => segments.push(Segment::Any),
                _ if segment.contains('*') => return Err(ParsePatternError::PartOfSegment),
                _ => segments.push(Segment::Literal(segment.into())),
            }
        }
        let is_literal = |segment: &&Segment| matches!(segment, Segment::Literal(_));
        Ok(Self {
            beginning: text.split('*').next().unwrap_or_default().into(),
            literal: segments.iter().take_while(is_literal).count(),
            segments,
            open,
        })
    }

    /// Whether a normalised path matches. Allocates nothing.
    pub fn matches(&self, path: &str) -> bool {
        // Most patterns are of other paths, and segments are dear to tell apart.
        let Some(rest) = path.strip_prefix(&*self.beginning) else {
            return false;
        };
        let wild = self.segments.get(self.literal..).unwrap_or_default();
        if wild.is_empty() && !self.open {
            return rest.is_empty();
        }
        let mut found = rest.split('/');
        for wanted in wild {
            let Some(segment) = found.next() else {
                return false;
            };
            let fits = match wanted {
                Segment::Literal(literal) => segment == &**literal,
                Segment::Any => !segment.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        // An open pattern asks for at least one more segment, which may be empty (`/a/`).
        found.next().is_some() == self.open
    }

    /// Whether every path that `other` matches is matched by this pattern too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let enough = if self.open {
            other.segments.len() > self.segments.len()
                || (other.open && other.segments.len() == self.segments.len())
        } else {
            !other.open && other.segments.len() == self.segments.len()
        };
        enough
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|(mine, theirs)| match (mine, theirs) {
                    (Segment::Any, Segment::Literal(text)) => !text.is_empty(),
                    (Segment::Any, Segment::Any) => true,
                    (Segment::Literal(mine), Segment::Literal(theirs)) => mine == theirs,
                    (Segment::Literal(_), Segment::Any) => false,
                })
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.open {
            f.write_str("/**")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_reading_or_none() {
        for (path, normal) in [
            ("/", "/"),
            ("/v1/chat", "/v1/chat"),
            ("/v1/", "/v1/"),
            ("/%61%2D%7e", "/a-~"),
            ("/a%20b%c3%a9", "/a%20b%C3%A9"),
            ("/a;b=c", "/a;b=c"),
            ("/a%252fb", "/a%252fb"),
            ("/...", "/..."),
        ] {
            assert_eq!(normalize_path(path).as_deref(), Ok(normal), "{path}");
            assert_eq!(
                normalize_path(normal).as_deref(),
                Ok(normal),
                "stable: {normal}"
            );
        }
        assert!(matches!(
            normalize_path("/v1/chat%20x"),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        use PathError::{Encoding, NotAbsolute, Segment};
        for (path, error) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("/a%2fb", Encoding),
            ("/a%2Fb", Encoding),
            ("/a%5cb", Encoding),
            ("/a\\b", Encoding),
            ("/a%00", Encoding),
            ("/a%0a", Encoding),
            ("/a%7f", Encoding),
            ("/a\u{1}", Encoding),
            ("/a b", Encoding),
            ("/é", Encoding),
            ("/a%", Encoding),
            ("/a%2", Encoding),
            ("/a%zz", Encoding),
            ("/a%+1", Encoding),
            ("/%c0%af", Encoding),
            ("/%ff", Encoding),
            ("/a?b", Encoding),
            ("/a#b", Encoding),
            ("/a/../b", Segment),
            ("/a/..", Segment),
            ("/./a", Segment),
            ("/%2e%2e/a", Segment),
            ("/.%2e", Segment),
            ("/..;/a", Segment),
            ("/..;x=y/a", Segment),
            ("/..%3b/a", Segment),
            ("//a", Segment),
            ("/a//b", Segment),
            ("/a//", Segment),
        ] {
            assert_eq!(normalize_path(path), Err(error), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn one_look_lets_nothing_pass_that_a_close_reading_refuses_or_changes(path in "/[a-b/.;%?2eE3bB\\\\~é -]{0,12}") {
            if is_plainly_normal(&path) {
                proptest::prop_assert!(matches!(read_closely(&path), Ok(Cow::Borrowed(same)) if same == path));
            }
        }
    }

    #[test]
    fn one_look_is_enough_for_usual_paths() {
        for path in ["/", "/v1/chat/completions", "/a.B/C", "/v1/", "/a;b=c.d"] {
            assert!(is_plainly_normal(path), "{path}");
        }
    }

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let pattern = PathPattern::parse(pattern).unwrap();
        for path in matching {
            assert!(pattern.matches(path), "{pattern} matches {path}");
        }
        for path in others {
            assert!(!pattern.matches(path), "{pattern} does not match {path}");
        }
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_the_rest() {
        check(
            "/v1/chat",
            &["/v1/chat"],
            &["/v1", "/v1/chat/", "/v1/chat/x", "/v1/cha"],
        );
        check(
            "/v1/models/*",
            &["/v1/models/a"],
            &["/v1/models", "/v1/models/", "/v1/models/a/b"],
        );
        check("/*/x", &["/a/x"], &["/x", "//x", "/a/b/x"]);
        check(
            "/v1/**",
            &["/v1/a", "/v1/a/b", "/v1/"],
            &["/v1", "/v2/a", "/v10/a"],
        );
        check("/**", &["/", "/a", "/a/b"], &[]);
        check("/", &["/"], &["/a"]);
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        use ParsePatternError::{NotLast, NotNormal, PartOfSegment};
        for (text, error) in [
            ("/a*", PartOfSegment),
            ("/***", PartOfSegment),
            ("/**/a", NotLast),
            ("/%61", NotNormal),
            ("/a%2e", NotNormal),
            ("/a/../b", PathError::Segment.into()),
            ("a", PathError::NotAbsolute.into()),
        ] {
            assert_eq!(PathPattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let parse = |text| PathPattern::parse(text).unwrap();
        for (wide, narrow) in [
            ("/**", "/a"),
            ("/**", "/**"),
            ("/a/*", "/a/b"),
            ("/a/**", "/a/b/**"),
            ("/a/**", "/a/"),
        ] {
            assert!(parse(wide).covers(&parse(narrow)), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("/a", "/**"),
            ("/a/**", "/a"),
            ("/a/*", "/a/**"),
            ("/a/*", "/a/"),
            ("/a/b", "/a/*"),
        ] {
            assert!(!parse(wide).covers(&parse(narrow)), "{wide} {narrow}");
        }
    }

    /// As [`PathPattern::matches`], segment by segment from the beginning.
    fn matches_by_segment(pattern: &str, path: &str) -> bool {
        let (pattern, open) = match pattern.strip_suffix("/**") {
            Some(pattern) => (pattern, true),
            None => (pattern, false),
        };
        let wanted: Vec<&str> = pattern.split('/').collect();
        let found: Vec<&str> = path.split('/').collect();
        let fits = |(wanted, found): (&&str, &&str)| {
            wanted == found || (*wanted == "*" && !found.is_empty())
        };
        let enough = if open {
            found.len() > wanted.len()
        } else {
            found.len() == wanted.len()
        };
        enough && wanted.iter().zip(&found).all(fits)
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_matches_as_it_does_segment_by_segment(
            pattern in "(/(a|ab|b|\\*)){0,4}(/|/\\*\\*)?",
            path in "(/(a|ab|b|c)){0,5}/?",
        ) {
            if let Ok(parsed) = PathPattern::parse(&pattern) {
                proptest::prop_assert_eq!(parsed.matches(&path), matches_by_segment(&pattern, &path));
            }
        }
    }
}
