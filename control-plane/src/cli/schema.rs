//! `vouchsafe schema`: JSON Schemas for editors.

use std::fs;
use std::path::Path;

use vouchsafe_config::document::Kind;
use vouchsafe_config::schema;

use super::Outcome;

/// Prints the schema of one kind, or the names of all kinds.
pub fn show(kind: Option<&str>) -> Outcome {
    let names = || Kind::ALL.map(Kind::as_str).join("\n");
    match kind {
        None => Outcome::good(format!("{}\n", names())),
        Some(word) => match Kind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            Some(kind) => Outcome::good(schema::of(kind)),
            None => Outcome::misused(format!(
                "error: `{word}` is not a kind; kinds are:\n{}\n",
                names()
            )),
        },
    }
}

/// Writes the schemas of all kinds, and the page of claims, into a folder.
pub fn write(folder: &Path) -> Outcome {
    let written = Kind::ALL.into_iter().try_for_each(|kind| {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(schema::file_name(kind)), schema::of(kind))
    });
    let written =
        written.and_then(|()| fs::write(folder.join(schema::CLAIMS_FILE), schema::claims_page()));
    match written {
        Ok(()) => Outcome::good(format!(
            "wrote {} schemas and the page of claims to {}\n",
            Kind::ALL.len(),
            folder.display()
        )),
        Err(error) => Outcome::failed(format!("failed to write to {}: {error}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_schema_that_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(write(folder.path()).status, 0);
        for kind in Kind::ALL {
            let text = fs::read_to_string(folder.path().join(schema::file_name(kind))).unwrap();
            assert_eq!(show(Some(kind.as_str())).output, text);
        }
        let page = fs::read_to_string(folder.path().join(schema::CLAIMS_FILE)).unwrap();
        assert_eq!(page, schema::claims_page());
        assert_eq!(show(None).output.lines().count(), Kind::ALL.len());
        assert_eq!(show(Some("Pod")).status, 2);
    }
}
