//! What the kernel's list of measured files may hold (`tpm.ima` of an `AttestationProfile`).

use std::collections::BTreeSet;

use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{MapShape, Place, Shape, Text, optional, required};
use crate::yaml::Node;

/// Rules for files that a running system measures.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ima {
    /// Rules, of which one must allow each file.
    pub files: Vec<ImaFile>,
    /// Keys by which files may be signed.
    pub signers: Vec<ImaSigner>,
    /// Whether files of whose content nothing is known are let pass.
    pub danger_accept_violations: bool,
}

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImaFile {
    /// Path: `*` is one segment, `**` last any number of them.
    pub path: String,
    /// What the file must hold.
    pub content: ImaContent,
}

/// What a file must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ImaContent {
    /// One of these digests, each with its hash before it: `sha256:…`.
    Digests(BTreeSet<String>),
    /// A signature by one of these signers.
    SignedBy(Vec<String>),
    /// Anything.
    DangerAny,
}

/// A key by which files may be signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImaSigner {
    /// Its name in rules.
    pub name: String,
    /// Its certificate in PEM.
    pub pem: String,
}

pub(super) static SPEC: MapShape = MapShape {
    fields: &[
        required(
            "files",
            Shape::List(&Shape::Map(&FILE)),
            "Rules, of which one must allow each file that the kernel measures.",
        ),
        optional(
            "signers",
            Shape::List(&Shape::Map(&SIGNER)),
            "",
            "Keys by which files may be signed.",
        ),
        optional(
            "danger_accept_violations",
            Shape::Bool,
            "false",
            "Lets files pass that were open for writing while they were measured.",
        ),
    ],
    exactly_one: &[],
};

static FILE: MapShape = MapShape {
    fields: &[
        required(
            "path",
            Shape::Text(&PATH),
            "Path of the file: `*` is one segment, `**` last any number of them.",
        ),
        optional(
            "sha256",
            Shape::List(&Shape::Text(&scalar::SHA256)),
            "",
            "Accepted content, by SHA-256.",
        ),
        optional(
            "sha384",
            Shape::List(&Shape::Text(&scalar::SHA384)),
            "",
            "Accepted content, by SHA-384.",
        ),
        optional(
            "signed_by",
            Shape::List(&Shape::Text(&scalar::NAME)),
            "",
            "Names of signers, one of which must have signed the file.",
        ),
        optional(
            "danger_any_content",
            Shape::Bool,
            "",
            "Accepts any content, for files that the system itself writes.",
        ),
    ],
    exactly_one: &[&["sha256", "sha384", "signed_by", "danger_any_content"]],
};

static SIGNER: MapShape = MapShape {
    fields: &[
        required("name", Shape::Text(&scalar::NAME), "Its name in rules."),
        required(
            "pem",
            Shape::Text(&scalar::PEM),
            "Its certificate in PEM, as it is loaded into the kernel's keyring.",
        ),
    ],
    exactly_one: &[],
};

static PATH: Text = Text {
    what: "a path of measured files",
    allowed: "`/` and segments; `*` stands for one, `**` last for any number; or a name without slashes",
    pattern: "^(/.+|[^/*]+)$",
    check: |text| {
        let segments: Vec<_> = text.split('/').collect();
        let last = segments.len() - 1;
        let fine = segments.iter().enumerate().all(|(at, segment)| {
            let wild = *segment == "*" || (*segment == "**" && at == last);
            wild || (!segment.contains('*') && !matches!(*segment, "." | ".."))
        });
        let rooted = text.starts_with('/') && text.len() > 1;
        let named = segments.len() == 1 && !text.is_empty() && !text.contains('*');
        if fine && (rooted || named) {
            Ok(())
        } else {
            Err("a star stands for a whole segment, and paths begin with `/`".to_owned())
        }
    },
};

/// Reports what the shape can't say: a signer that no rule could mean.
pub(super) fn check(ima: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let signers = ima.get("signers").map_or(&[][..], Node::items);
    let known: BTreeSet<_> = signers
        .iter()
        .filter_map(|signer| signer.get("name")?.text())
        .collect();
    let files = ima.get("files").map_or(&[][..], Node::items);
    let place = place.key("files", place.owner);
    for (index, file) in files.iter().enumerate() {
        let place = place.index(index, file);
        for name in file.get("signed_by").map_or(&[][..], Node::items) {
            if let Some(text) = name.text()
                && !known.contains(text)
            {
                let problem = reporter.at(name.span, format!("no signer is called `{text}`"));
                reporter.report(problem.path(place.key("signed_by", name.span).path));
            }
        }
    }
}

pub(super) fn read(node: &Node) -> Option<Ima> {
    let files = node.get("files")?.items().iter().map(read_file);
    let signers = node.get("signers").map_or(&[][..], Node::items).iter();
    let signers = signers.map(|signer| {
        Some(ImaSigner {
            name: signer.get("name")?.text()?.to_owned(),
            pem: signer.get("pem")?.text()?.to_owned(),
        })
    });
    Some(Ima {
        files: files.collect::<Option<_>>()?,
        signers: signers.collect::<Option<_>>()?,
        danger_accept_violations: match node.get("danger_accept_violations") {
            Some(node) => node.as_bool()?,
            None => false,
        },
    })
}

fn read_file(node: &Node) -> Option<ImaFile> {
    let texts = |key: &str| -> Option<Vec<String>> {
        let items = node.get(key)?.items().iter();
        items.map(|item| item.text().map(str::to_owned)).collect()
    };
    let digests = |hash: &str, texts: Vec<String>| {
        let named = texts.into_iter().map(|text| format!("{hash}:{text}"));
        ImaContent::Digests(named.collect())
    };
    let content = match (texts("sha256"), texts("sha384"), texts("signed_by")) {
        (Some(found), None, None) => digests("sha256", found),
        (None, Some(found), None) => digests("sha384", found),
        (None, None, Some(names)) => ImaContent::SignedBy(names),
        (None, None, None) if node.get("danger_any_content")?.as_bool()? => ImaContent::DangerAny,
        // Said to be no exception, and with no content: nothing fits.
        (None, None, None) => ImaContent::Digests(BTreeSet::new()),
        _ => return None,
    };
    Some(ImaFile {
        path: node.get("path")?.text()?.to_owned(),
        content,
    })
}
