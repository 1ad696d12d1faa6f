//! Reads the subset, and refuses the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Child, Element, Namespaces, XmlError};

impl Element {
    /// Reads a document and returns its root.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        if bytes.len() > MAX_BYTES {
            return Err(XmlError::TooLarge("document"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Malformed("not UTF-8"))?;
        // Line ends are one character before anything else is read (XML 1.0 §2.11).
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut reader = Reader { rest: &text };
        if reader.pass("<?xml ") {
            reader.until("?>")?;
        }
        reader.skip_between()?;
        if !reader.rest.starts_with('<') {
            return Err(XmlError::Malformed("no root"));
        }
        let root = reader.element(&Namespaces::default(), 0)?;
        reader.skip_between()?;
        if !reader.rest.is_empty() {
            return Err(XmlError::Malformed("something follows the root"));
        }
        Ok(root)
    }

    /// Every prefix is declared, and no attribute stands twice under two prefixes of one namespace.
    fn check_names(&self) -> Result<(), XmlError> {
        let names = self.attributes.iter().map(|(name, _)| name);
        for name in names.chain([&self.name]) {
            let prefix = name.split_once(':').map(|(prefix, _)| prefix);
            if prefix.is_some_and(|prefix| !self.namespaces.contains_key(prefix)) {
                return Err(XmlError::Malformed("an unknown prefix"));
            }
        }
        let mut orders: Vec<_> = self
            .attributes
            .iter()
            .map(|(name, _)| self.order(name))
            .collect();
        orders.sort_unstable();
        let count = orders.len();
        orders.dedup();
        if orders.len() == count {
            Ok(())
        } else {
            Err(XmlError::Malformed("an attribute twice"))
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn pass(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn until(&mut self, end: &str) -> Result<&'a str, XmlError> {
        let (before, after) = self
            .rest
            .split_once(end)
            .ok_or(XmlError::Malformed("cut short"))?;
        self.rest = after;
        Ok(before)
    }

    fn skip_space(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t', '\n']);
        let skipped = rest.len() != self.rest.len();
        self.rest = rest;
        skipped
    }

    /// White space and comments, before and after the root.
    fn skip_between(&mut self) -> Result<(), XmlError> {
        loop {
            self.skip_space();
            if !self.pass("<!--") {
                return Ok(());
            }
            self.comment()?;
        }
    }

    fn comment(&mut self) -> Result<(), XmlError> {
        self.until("--")?;
        if self.pass(">") {
            Ok(())
        } else {
            Err(XmlError::Malformed("`--` in a comment"))
        }
    }

    fn name(&mut self) -> Result<&'a str, XmlError> {
        let end = self
            .rest
            .find(|character: char| {
                !(character.is_ascii_alphanumeric() || matches!(character, ':' | '_' | '-' | '.'))
            })
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        let parts: Vec<_> = name.split(':').collect();
        let well_formed = parts.len() <= 2
            && parts.iter().all(|part| {
                part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            });
        if !well_formed {
            return Err(XmlError::Malformed("a name"));
        }
        self.rest = rest;
        Ok(name)
    }

    fn element(&mut self, outer: &Namespaces, depth: usize) -> Result<Element, XmlError> {
        if depth == MAX_DEPTH {
            return Err(XmlError::TooLarge("depth"));
        }
        if !self.pass("<") {
            return Err(XmlError::Malformed("expected an element"));
        }
        let mut element = Element {
            name: self.name()?.to_owned(),
            namespaces: Arc::clone(outer),
            ..Element::default()
        };
        let mut declared = BTreeMap::new();
        let is_empty = self.attributes(&mut element, &mut declared)?;
        if !declared.is_empty() {
            Arc::make_mut(&mut element.namespaces).extend(declared);
        }
        if element.namespaces.len() > MAX_NAMESPACES {
            return Err(XmlError::TooLarge("number of namespaces"));
        }
        element.check_names()?;
        if !is_empty {
            self.content(&mut element, depth)?;
        }
        Ok(element)
    }

    /// Reads attributes to the end of the tag; whether the element is empty.
    fn attributes(
        &mut self,
        element: &mut Element,
        declared: &mut BTreeMap<String, String>,
    ) -> Result<bool, XmlError> {
        loop {
            let spaced = self.skip_space();
            if self.pass("/>") {
                return Ok(true);
            }
            if self.pass(">") {
                return Ok(false);
            }
            if !spaced {
                return Err(XmlError::Malformed("expected white space"));
            }
            let name = self.name()?;
            self.skip_space();
            if !self.pass("=") {
                return Err(XmlError::Malformed("expected `=`"));
            }
            self.skip_space();
            let value = self.value()?;
            let is_twice = match name.split_once(':') {
                None if name == "xmlns" => declared.insert(String::new(), value).is_some(),
                Some(("xmlns", "xml" | "xmlns")) => {
                    return Err(XmlError::Malformed("a reserved prefix"));
                }
                Some(("xmlns", _)) if value.is_empty() => {
                    return Err(XmlError::Malformed("a prefix without a namespace"));
                }
                Some(("xmlns", prefix)) => declared.insert(prefix.to_owned(), value).is_some(),
                Some(("xml", _)) => return Err(XmlError::Malformed("an attribute of `xml`")),
                None | Some(_) => {
                    let is_twice = element.attributes.iter().any(|(held, _)| held == name);
                    element.attributes.push((name.to_owned(), value));
                    is_twice
                }
            };
            if is_twice || element.attributes.len() + declared.len() > MAX_ATTRIBUTES {
                return Err(XmlError::Malformed("an attribute twice, or too many"));
            }
        }
    }

    fn value(&mut self) -> Result<String, XmlError> {
        let quote = if self.pass("\"") {
            "\""
        } else if self.pass("'") {
            "'"
        } else {
            return Err(XmlError::Malformed("expected a quoted value"));
        };
        let raw = self.until(quote)?;
        if raw.contains('<') {
            return Err(XmlError::Malformed("`<` in a value"));
        }
        // White space that is written plainly is a space (XML 1.0 §3.3.3).
        unescape(&raw.replace(['\t', '\n'], " "))
    }

    fn content(&mut self, element: &mut Element, depth: usize) -> Result<(), XmlError> {
        loop {
            let end = self
                .rest
                .find('<')
                .ok_or(XmlError::Malformed("cut short"))?;
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            if text.contains("]]>") {
                return Err(XmlError::Malformed("`]]>` in text"));
            }
            if !text.is_empty() {
                element.children.push(Child::Text(unescape(text)?));
            }
            if self.pass("</") {
                if self.name()? != element.name {
                    return Err(XmlError::Malformed("an end that does not fit"));
                }
                self.skip_space();
                return match self.pass(">") {
                    true => Ok(()),
                    false => Err(XmlError::Malformed("an end that does not fit")),
                };
            }
            if self.pass("<!--") {
                self.comment()?;
                continue;
            }
            let child = self.element(&element.namespaces, depth + 1)?;
            element.children.push(Child::Element(child));
        }
    }
}

/// The five entities that XML has by itself, and characters by number.
fn unescape(raw: &str) -> Result<String, XmlError> {
    let mut parts = raw.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, rest) = part
            .split_once(';')
            .ok_or(XmlError::Malformed("an entity"))?;
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => numbered(other).ok_or(XmlError::Malformed("an entity"))?,
        });
        out.push_str(rest);
    }
    if out
        .chars()
        .any(|character| character.is_control() && !matches!(character, '\t' | '\n' | '\r'))
    {
        return Err(XmlError::Malformed("a control character"));
    }
    Ok(out)
}

fn numbered(entity: &str) -> Option<char> {
    let number = match entity.strip_prefix("#x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => entity.strip_prefix('#')?.parse().ok()?,
    };
    char::from_u32(number)
}

/// Manifests have 26 KiB.
const MAX_BYTES: usize = 256 * 1024;
/// Manifests have six levels.
const MAX_DEPTH: usize = 16;
/// A measurement has ten, with four alternatives.
const MAX_ATTRIBUTES: usize = 64;
/// Namespaces in scope, which each element that declares one copies. Manifests have four.
const MAX_NAMESPACES: usize = 16;
