//! The XML that vendors sign: a strict subset, and its canonical form.
//!
//! # Why
//! A signature over XML holds for a canonical form, so reader and form must agree on every byte. This subset has
//! elements, attributes, text and comments; a document type, processing instructions, CDATA and attributes of the `xml`
//! namespace are refused, which leaves Canonical XML 1.0 and 1.1 equal and entities without a way in. A general library
//! (`bergshamra`) brings certificate stores, encryption and four ways to name a key that nobody should use here.
//!
//! Source: W3C XML 1.0; Namespaces in XML 1.0; Canonical XML 1.1.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// Namespaces in scope, by prefix; the default one has none. Shared by all elements below the one that declares them.
type Namespaces = Arc<BTreeMap<String, String>>;

/// An element.
#[derive(Clone, Debug, Default)]
pub(crate) struct Element {
    /// With its prefix.
    name: String,
    /// With their prefixes, those that declare namespaces excepted.
    attributes: Vec<(String, String)>,
    namespaces: Namespaces,
    children: Vec<Child>,
}

#[derive(Clone, Debug)]
enum Child {
    Element(Element),
    Text(String),
}

impl Element {
    /// Name without prefix.
    pub(crate) fn local_name(&self) -> &str {
        self.name
            .split_once(':')
            .map_or(self.name.as_str(), |(_, local)| local)
    }

    /// Namespace of the element.
    pub(crate) fn namespace(&self) -> &str {
        let prefix = self.name.split_once(':').map_or("", |(prefix, _)| prefix);
        self.namespaces.get(prefix).map_or("", String::as_str)
    }

    /// Whether it has this namespace and name.
    pub(crate) fn is(&self, namespace: &str, name: &str) -> bool {
        self.local_name() == name && self.namespace() == namespace
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
        let mut found = self.elements().filter(|held| held.is(namespace, name));
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// How many elements of this namespace and name lie at any depth.
    pub(crate) fn count(&self, namespace: &str, name: &str) -> usize {
        let below: usize = self
            .elements()
            .map(|element| element.count(namespace, name))
            .sum();
        below + usize::from(self.is(namespace, name))
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

    /// The inclusive canonical form without comments, of this element as the apex.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        self.canonical_except(|_| false)
    }

    /// The same without some elements right below: the enveloped-signature transform.
    pub(crate) fn canonical_except(&self, is_left_out: impl Fn(&Self) -> bool) -> Vec<u8> {
        let mut out = String::new();
        self.open(&Namespaces::default(), &mut out);
        for child in &self.children {
            match child {
                Child::Element(element) if is_left_out(element) => {}
                other => other.write(&self.namespaces, &mut out),
            }
        }
        self.close(&mut out);
        out.into_bytes()
    }

    /// Start tag; namespaces that are in scope outside are not repeated.
    fn open(&self, outer: &Namespaces, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (prefix, uri) in self.namespaces.iter() {
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
    }

    fn close(&self, out: &mut String) {
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

impl Child {
    fn write(&self, outer: &Namespaces, out: &mut String) {
        match self {
            Self::Element(element) => {
                element.open(outer, out);
                for child in &element.children {
                    child.write(&element.namespaces, out);
                }
                element.close(out);
            }
            Self::Text(text) => put_text(text, out),
        }
    }
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
