//! The XML that vendors sign: a strict subset, and its canonical form.
//!
//! # Why
//! A signature over XML holds for a canonical form, so reader and form must agree on every byte. This subset has
//! elements, attributes, text and comments; a document type, processing instructions, CDATA and attributes of the `xml`
//! namespace are refused, which leaves Canonical XML 1.0 and 1.1 equal and entities without a way in. A general library
//! (`bergshamra`) brings certificate stores, encryption and four ways to name a key that nobody should use here.
//!
//! Source: W3C XML 1.0; Namespaces in XML 1.0; Canonical XML 1.1.

use std::collections::BTreeMap;

/// Why text is not the XML that is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum XmlError {
    /// Larger or deeper than is read.
    #[error("{0} is more than is read")]
    TooLarge(&'static str),
    /// Not well-formed, or outside of the subset.
    #[error("not the XML that is read: {0}")]
    Malformed(&'static str),
}

/// An element.
#[derive(Clone, Debug, Default)]
pub(crate) struct Element {
    /// With its prefix.
    name: String,
    /// With their prefixes, those that declare namespaces excepted.
    attributes: Vec<(String, String)>,
    /// By prefix; the default namespace has none.
    namespaces: BTreeMap<String, String>,
    children: Vec<Child>,
}

#[derive(Clone, Debug)]
enum Child {
    Element(Element),
    Text(String),
}

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
        let root = reader.element(&BTreeMap::new(), 0)?;
        reader.skip_between()?;
        if !reader.rest.is_empty() {
            return Err(XmlError::Malformed("something follows the root"));
        }
        Ok(root)
    }

    /// Name without prefix.
    pub(crate) fn local_name(&self) -> &str {
        local(&self.name)
    }

    /// Namespace of the element.
    pub(crate) fn namespace(&self) -> &str {
        let prefix = self.name.split_once(':').map_or("", |(prefix, _)| prefix);
        self.namespaces.get(prefix).map_or("", String::as_str)
    }

    /// Value of an attribute without prefix.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(held, _)| held == name)?;
        Some(&found.1)
    }

    /// Value of an attribute in a namespace.
    pub(crate) fn attribute_of(&self, namespace: &str, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(held, _)| {
            held.split_once(':').is_some_and(|(prefix, local)| {
                local == name
                    && self
                        .namespaces
                        .get(prefix)
                        .is_some_and(|uri| uri == namespace)
            })
        })?;
        Some(&found.1)
    }

    /// Elements right below.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|child| match child {
            Child::Element(element) => Some(element),
            Child::Text(_) => None,
        })
    }

    /// The only element right below of this namespace and name.
    pub(crate) fn only(&self, namespace: &str, name: &str) -> Option<&Self> {
        let mut found = self
            .elements()
            .filter(|element| element.local_name() == name && element.namespace() == namespace);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// How many elements of this namespace and name lie at any depth.
    pub(crate) fn count(&self, namespace: &str, name: &str) -> usize {
        let own = usize::from(self.local_name() == name && self.namespace() == namespace);
        self.elements()
            .map(|element| element.count(namespace, name))
            .sum::<usize>()
            + own
    }

    /// All text right below.
    pub(crate) fn text(&self) -> String {
        self.children
            .iter()
            .map(|child| match child {
                Child::Element(_) => "",
                Child::Text(text) => text,
            })
            .collect()
    }

    /// The same without elements of this namespace and name right below: the enveloped-signature transform.
    pub(crate) fn without(&self, namespace: &str, name: &str) -> Self {
        let kept = self.children.iter().filter(|child| match child {
            Child::Element(element) => {
                !(element.local_name() == name && element.namespace() == namespace)
            }
            Child::Text(_) => true,
        });
        Self {
            children: kept.cloned().collect(),
            ..self.clone()
        }
    }

    /// The inclusive canonical form without comments, of this element as the apex.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut out = String::new();
        self.write(&BTreeMap::new(), &mut out);
        out.into_bytes()
    }

    fn write(&self, outer: &BTreeMap<String, String>, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (prefix, uri) in &self.namespaces {
            let known = outer.get(prefix).map_or("", String::as_str);
            if known == uri {
                continue;
            }
            out.push_str(if prefix.is_empty() {
                " xmlns"
            } else {
                " xmlns:"
            });
            out.push_str(prefix);
            put_attribute(uri, out);
        }
        let mut attributes: Vec<_> = self
            .attributes
            .iter()
            .map(|(name, value)| (self.order(name), name, value))
            .collect();
        attributes.sort();
        for (_, name, value) in attributes {
            out.push(' ');
            out.push_str(name);
            put_attribute(value, out);
        }
        out.push('>');
        for child in &self.children {
            match child {
                Child::Element(element) => element.write(&self.namespaces, out),
                Child::Text(text) => put_text(text, out),
            }
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }

    /// Attributes are in the order of namespace, then local name; those without prefix have no namespace.
    fn order<'a>(&'a self, name: &'a str) -> (&'a str, &'a str) {
        match name.split_once(':') {
            Some((prefix, local)) => (
                self.namespaces.get(prefix).map_or("", String::as_str),
                local,
            ),
            None => ("", name),
        }
    }
}

fn local(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, local)| local)
}

fn put_attribute(value: &str, out: &mut String) {
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn put_text(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
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

    fn element(
        &mut self,
        outer: &BTreeMap<String, String>,
        depth: usize,
    ) -> Result<Element, XmlError> {
        if depth == MAX_DEPTH {
            return Err(XmlError::TooLarge("depth"));
        }
        if !self.pass("<") {
            return Err(XmlError::Malformed("expected an element"));
        }
        let mut element = Element {
            name: self.name()?.to_owned(),
            namespaces: outer.clone(),
            ..Element::default()
        };
        let is_empty = self.attributes(&mut element)?;
        element.check_names()?;
        if !is_empty {
            self.content(&mut element, depth)?;
        }
        Ok(element)
    }

    /// Reads attributes to the end of the tag; whether the element is empty.
    fn attributes(&mut self, element: &mut Element) -> Result<bool, XmlError> {
        let mut declared: Vec<String> = Vec::new();
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
            let prefix = match name.split_once(':') {
                None if name == "xmlns" => Some(""),
                Some(("xmlns", prefix)) => Some(prefix),
                Some(("xml", _)) => return Err(XmlError::Malformed("an attribute of `xml`")),
                None | Some(_) => None,
            };
            let twice = match prefix {
                Some("xml" | "xmlns") => return Err(XmlError::Malformed("a reserved prefix")),
                Some(prefix) => {
                    let twice = declared.iter().any(|held| held == prefix);
                    declared.push(prefix.to_owned());
                    if value.is_empty() && !prefix.is_empty() {
                        return Err(XmlError::Malformed("a prefix without a namespace"));
                    }
                    element.namespaces.insert(prefix.to_owned(), value);
                    twice
                }
                None => {
                    let twice = element.attributes.iter().any(|(held, _)| held == name);
                    element.attributes.push((name.to_owned(), value));
                    twice
                }
            };
            if twice || element.attributes.len() + declared.len() > MAX_ATTRIBUTES {
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

impl Element {
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

const MAX_BYTES: usize = 1024 * 1024;
const MAX_DEPTH: usize = 16;
const MAX_ATTRIBUTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, canonical: Option<&str>) {
        let found = Element::parse(text.as_bytes()).ok();
        let found = found.map(|root| String::from_utf8(root.canonical()).unwrap());
        assert_eq!(found.as_deref(), canonical);
    }

    #[test]
    fn canonical_form_is_that_of_the_standard() {
        check("<a/>", Some("<a></a>"));
        check(
            "<?xml version=\"1.0\"?>\n<!-- c --><a  b = 'x\ny' ></a>\n",
            Some("<a b=\"x y\"></a>"),
        );
        check("<a z='1' b='2'/>", Some("<a b=\"2\" z=\"1\"></a>"));
        check(
            "<a xmlns:y='u1' xmlns:x='u2' x:q='1' y:r='2' p='3'/>",
            Some("<a xmlns:x=\"u2\" xmlns:y=\"u1\" p=\"3\" y:r=\"2\" x:q=\"1\"></a>"),
        );
        check(
            "<a xmlns='u'><b xmlns='u'/></a>",
            Some("<a xmlns=\"u\"><b></b></a>"),
        );
        check(
            "<a xmlns='u'><b xmlns=''/></a>",
            Some("<a xmlns=\"u\"><b xmlns=\"\"></b></a>"),
        );
        check(
            "<a>1<!-- c -->2&lt;&#xD;&gt;\r\n</a>",
            Some("<a>12&lt;&#xD;&gt;\n</a>"),
        );
        check(
            "<a b='&quot;&#9;&#10;&#xD;&apos;'/>",
            Some("<a b=\"&quot;&#x9;&#xA;&#xD;'\"></a>"),
        );
    }

    #[test]
    fn what_is_outside_of_the_subset_is_refused() {
        for text in [
            "",
            "a",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<!DOCTYPE a><a/>",
            "<a><![CDATA[x]]></a>",
            "<a><?p?></a>",
            "<a b='1' b='2'/>",
            "<x:a/>",
            "<a x:b='1'/>",
            "<a xml:lang='e'/>",
            "<a>&nbsp;</a>",
            "<a>&amp</a>",
            "<a b=1/>",
            "<a b='<'/>",
            "<a b='1'c='2'/>",
            "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
            "<a>]]></a>",
            "<a:b:c/>",
            "<a>&#0;</a>",
            "<a xmlns:x=''/>",
            "<a/>b",
            "<1/>",
        ] {
            check(text, None);
        }
        check(&"<a>".repeat(100), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic_and_canonical_forms_are_stable(text in "[<>/a:&;#x'\"= \n!-]{0,60}") {
            if let Ok(root) = Element::parse(text.as_bytes()) {
                let canonical = root.canonical();
                let again = Element::parse(&canonical).unwrap().canonical();
                prop_assert_eq!(canonical, again);
            }
        }
    }
}
