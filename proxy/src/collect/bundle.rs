//! A bundle as files.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

/// What was collected, over one nonce.
#[derive(Debug)]
pub(super) struct Bundle {
    nonce: [u8; 32],
    pieces: Vec<Piece>,
    lacking: Vec<(&'static str, String)>,
}

/// Evidence of one kind.
#[derive(Debug)]
pub(super) struct Piece {
    kind: &'static str,
    /// What `attest verify` must be told to expect: name of the option, value in hex.
    expected: Option<(&'static str, String)>,
    /// What a `Node` pins.
    pins: Vec<(&'static str, String)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Piece {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            expected: None,
            pins: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(super) fn expect(&mut self, option: &'static str, value: String) {
        self.expected = Some((option, value));
    }

    pub(super) fn pin(&mut self, key: &'static str, value: String) {
        self.pins.push((key, value));
    }

    /// Adds a file; what is empty does not exist on this machine and becomes none.
    pub(super) fn file(&mut self, name: &str, content: Vec<u8>) {
        if !content.is_empty() {
            self.files.push((name.to_owned(), content));
        }
    }
}

/// Why a bundle can't be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{path}`")]
pub struct WriteBundleError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Bundle {
    pub(super) fn new(nonce: [u8; 32]) -> Self {
        Self {
            nonce,
            pieces: Vec::new(),
            lacking: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    pub(super) fn lack(&mut self, kind: &'static str, why: String) {
        self.lacking.push((kind, why));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Why each kind that was looked for is not there.
    pub(super) fn lacking(&self) -> String {
        let all = self.lacking.iter();
        let all: Vec<_> = all.map(|(kind, why)| format!("{kind}: {why}")).collect();
        all.join("; ")
    }

    /// `bundle.json`.
    fn manifest(&self) -> serde_json::Value {
        let evidence = self.pieces.iter().map(|piece| {
            let mut entry = json!({
                "kind": piece.kind,
                "folder": piece.kind,
                "files": piece.files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            });
            if let (Some((option, value)), Some(entry)) = (&piece.expected, entry.as_object_mut()) {
                entry.insert((*option).to_owned(), value.as_str().into());
            }
            entry
        });
        let evidence: Vec<_> = evidence.collect();
        let lacking: serde_json::Map<_, _> = self
            .lacking
            .iter()
            .map(|(kind, why)| ((*kind).to_owned(), why.as_str().into()))
            .collect();
        json!({
            "version": 1,
            "nonce": hex::encode(self.nonce),
            "evidence": serde_json::Value::Array(evidence),
            "lacking": lacking,
        })
    }

    /// Makes the folder with all files. An existing one is left alone: its files could be taken for this machine's.
    pub(super) fn write(&self, out: &Path) -> Result<(), WriteBundleError> {
        let at = |path: &Path, result: io::Result<()>| {
            result.map_err(|source| WriteBundleError {
                path: path.to_owned(),
                source,
            })
        };
        at(out, std::fs::create_dir(out))?;
        for piece in &self.pieces {
            let folder = out.join(piece.kind);
            at(&folder, std::fs::create_dir(&folder))?;
            for (name, content) in &piece.files {
                let path = folder.join(name);
                at(&path, std::fs::write(&path, content))?;
            }
        }
        let path = out.join("bundle.json");
        at(
            &path,
            std::fs::write(&path, format!("{:#}\n", self.manifest())),
        )
    }

    /// What was collected, for people.
    pub(super) fn summary(&self, out: &Path) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            let names: Vec<_> = piece.files.iter().map(|(name, _)| name.as_str()).collect();
            text += &format!("{}: {}\n", piece.kind, names.join(" "));
        }
        for (kind, why) in &self.lacking {
            text += &format!("{kind}: not collected: {why}\n");
        }
        text + &format!(
            "nonce {}\nnext: vouchsafe attest reference {}\n",
            hex::encode(self.nonce),
            out.display()
        )
    }

    /// A `Node` that pins what was found.
    pub(super) fn node(&self, name: &str, namespace: &str) -> String {
        let pins = self.pieces.iter().flat_map(|piece| &piece.pins);
        let pins: Vec<_> = pins.map(|(key, value)| format!("{key}: {value}")).collect();
        // Names are quoted, so that whatever was typed stays one text; `vouchsafe check` says whether it is a name.
        format!(
            "# What the machine says of itself: review it, and compare with what the machine's maker or cloud says.\n\
             apiVersion: vouchsafe.dev/v1alpha1\n\
             kind: Node\n\
             metadata: {{name: {name:?}, namespace: {namespace:?}}}\n\
             spec: {{hardware: {{{}}}}}\n",
            pins.join(", ")
        )
    }
}
