//! Which texts a claim can be: words of a closed list, bytes in hex of one length, a number in hex; else any text.
//!
//! # Why
//! A condition on a word that no verifier says never holds: in a profile or a rule it locks everybody out, and in a
//! `Revocation` it means nobody, without a sound. So the catalog knows the lists that formats close, and policy that
//! names another word is refused. Lists that vendors grow by themselves (boards, advisories, providers, chip numbers)
//! stay open: a new word there must not wait for a new version of this program.

use super::EvidenceKind::{self, AzSnpVtpm, AzTdxVtpm, Nitro, NvidiaGpu, SevSnp, Tdx, Tpm};

/// Which texts a claim can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Texts {
    /// Any.
    Open,
    /// One of these, letter by letter.
    Words(&'static [&'static str]),
    /// So many bytes in hex, in lower case; who compares may write upper case.
    Hex(usize),
    /// A number in hex with `0x`, filled with zeros to so many digits.
    HexNumber(usize),
}

impl Texts {
    /// What a verifier would write for this; `None` where none would.
    pub fn canonical(self, text: &str) -> Option<String> {
        match self {
            Self::Open => Some(text.to_owned()),
            Self::Words(words) => words.contains(&text).then(|| text.to_owned()),
            Self::Hex(bytes) => {
                let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                (is_hex && text.len() == bytes * 2).then(|| text.to_ascii_lowercase())
            }
            Self::HexNumber(digits) => {
                let written = text.strip_prefix("0x")?;
                let is_hex = written.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u64::from_str_radix(written, 16).ok().filter(|_| is_hex)?;
                Some(format!("0x{number:0digits$x}"))
            }
        }
    }
}

/// What the texts of a claim can be.
pub(super) fn of(kind: EvidenceKind, name: &str) -> Texts {
    CLOSED
        .iter()
        .find(|(kinds, names, _)| kinds.contains(&kind) && names.contains(&name))
        .map_or(Texts::Open, |(_, _, texts)| *texts)
}

type Row = (&'static [EvidenceKind], &'static [&'static str], Texts);

/// Claims whose texts are closed; a test holds each row to claims that exist.
const CLOSED: &[Row] = &[
    (&[Tpm], &["ek_sha256"], Texts::Hex(32)),
    (
        SNP,
        &["product"],
        Texts::Words(&["Milan", "Genoa", "Turin"]),
    ),
    (SNP, &["signing_key"], Texts::Words(&["vcek", "vlek"])),
    (
        SNP,
        &["measurement", "id_key_digest", "author_key_digest"],
        Texts::Hex(48),
    ),
    (SNP, &["host_data"], Texts::Hex(32)),
    (SNP, &["family_id", "image_id"], Texts::Hex(16)),
    (SNP, &["chip_id"], Texts::Hex(64)),
    (SNP, &["policy"], Texts::HexNumber(1)),
    (
        INTEL,
        &[
            "mrtd",
            "mrseam",
            "mrconfigid",
            "mrowner",
            "mrownerconfig",
            "mrservicetd",
            "rtmr0",
            "rtmr1",
            "rtmr2",
            "rtmr3",
        ],
        Texts::Hex(48),
    ),
    (INTEL, &["fmspc"], Texts::Hex(6)),
    (
        INTEL,
        &["ppid", "platform_instance_id", "tee_tcb_svn"],
        Texts::Hex(16),
    ),
    (INTEL, &["xfam", "td_attributes"], Texts::HexNumber(16)),
    // Intel PCS API v4, `tcbStatus`.
    (
        INTEL,
        &["tcb_status"],
        Texts::Words(&[
            "UpToDate",
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "ConfigurationAndSWHardeningNeeded",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
            "Revoked",
        ]),
    ),
    (&[AzSnpVtpm, AzTdxVtpm], &["pcr_digest"], Texts::Hex(32)),
    (&[NvidiaGpu], &["device"], Texts::Words(&["gpu", "switch"])),
    (
        &[NvidiaGpu],
        &["architecture"],
        Texts::Words(&["hopper", "blackwell", "ls10"]),
    ),
    (
        &[NvidiaGpu],
        &["mode"],
        Texts::Words(&["single_gpu", "multi_gpu", "protected_pcie"]),
    ),
    (&[NvidiaGpu], &["firmware_id"], Texts::Hex(48)),
    (
        &[Nitro],
        &["pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"],
        Texts::Hex(48),
    ),
];

const SNP: &[EvidenceKind] = &[SevSnp, AzSnpVtpm];
const INTEL: &[EvidenceKind] = &[Tdx, AzTdxVtpm];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{CATALOG, ClaimType, definition};

    #[test]
    fn every_closed_list_is_of_a_text_that_exists_and_of_no_other() {
        for (kinds, names, texts) in CLOSED {
            for (kind, name) in kinds
                .iter()
                .flat_map(|kind| names.iter().map(move |n| (kind, n)))
            {
                let claim = definition(*kind, name).unwrap_or_else(|| panic!("{kind}.{name}"));
                assert_eq!(claim.value, ClaimType::Text, "{kind}.{name}");
                assert_eq!(claim.texts, *texts, "{kind}.{name} stands twice");
            }
        }
    }

    #[test]
    fn a_claim_that_is_said_to_be_a_digest_has_its_length() {
        for claim in CATALOG.iter() {
            for (digest, bytes) in [("SHA-256 of", 32), ("SHA-384", 48)] {
                if claim.value == ClaimType::Text && claim.doc.starts_with(digest) {
                    assert_eq!(
                        claim.texts,
                        Texts::Hex(bytes),
                        "{}.{}",
                        claim.kind,
                        claim.name
                    );
                }
            }
        }
    }

    #[test]
    fn texts_are_read_as_verifiers_write_them() {
        let words = Texts::Words(&["UpToDate"]);
        assert_eq!(words.canonical("UpToDate").as_deref(), Some("UpToDate"));
        for other in ["UpToDat", "uptodate", "", "UpToDate "] {
            assert_eq!(words.canonical(other), None, "{other}");
        }
        let hex = Texts::Hex(2);
        assert_eq!(hex.canonical("00Ff").as_deref(), Some("00ff"));
        for other in ["", "00f", "00fff", "00fg", "0x0f", "é0f"] {
            assert_eq!(hex.canonical(other), None, "{other}");
        }
        let number = Texts::HexNumber(4);
        assert_eq!(number.canonical("0x3").as_deref(), Some("0x0003"));
        assert_eq!(number.canonical("0xABCDE").as_deref(), Some("0xabcde"));
        assert_eq!(
            Texts::HexNumber(1).canonical("0x030").as_deref(),
            Some("0x30")
        );
        for other in ["", "3", "0x", "0x+3", "0X3", "0x10000000000000000"] {
            assert_eq!(number.canonical(other), None, "{other}");
        }
        assert_eq!(
            Texts::Open.canonical("Any thing").as_deref(),
            Some("Any thing")
        );
    }
}
