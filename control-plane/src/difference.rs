//! How evidence that turned bad differs from the last that was good: which PCR, which entry of the boot log, which file.
//! Pure; one line each, for the record and for people.
//!
//! It explains and decides nothing: what is wrong is what the verifier refused. Nothing here is believed either: of
//! evidence that was refused, even the logs may be made up. So each line is bounded, and all of them together are.

use std::collections::BTreeMap;

use vouchsafe_api::convert::attest::{Evidence, EvidenceBody, PcrBank};
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::ima;

/// What a TPM showed, its own or Azure's.
struct Shown<'a> {
    index: u32,
    pcrs: &'a [PcrBank],
    event_log: &'a [u8],
    ima_log: &'a [u8],
    ima_offset: u64,
}

/// The differences, at most `MOST_LINES` of each sort, each of at most `MOST_LINE_BYTES`, in all at most `MOST_BYTES`.
/// Empty where both are alike in all that is compared.
pub fn difference(before: &Evidence, after: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    let earlier: Vec<Shown<'_>> = shown(before).collect();
    for later in shown(after) {
        let Some(earlier) = earlier.iter().find(|one| one.index == later.index) else {
            continue;
        };
        bounded(&mut lines, pcrs(earlier.pcrs, later.pcrs));
        bounded(&mut lines, events(earlier.event_log, later.event_log));
        bounded(&mut lines, files(earlier, &later));
    }
    within(lines)
}

/// As many of the first lines as fit, and how many do not.
fn within(mut lines: Vec<String>) -> Vec<String> {
    for line in &mut lines {
        *line = shortened(line, MOST_LINE_BYTES);
    }
    let mut room = MOST_BYTES - MOST_LINE_BYTES;
    let fits = |line: &&String| {
        let left = room.checked_sub(line.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let kept = lines.iter().take_while(fits).count();
    let left_out = lines.len() - kept;
    if left_out > 0 {
        lines.truncate(kept);
        lines.push(format!("and {left_out} more"));
    }
    lines
}

/// The text, or its beginning with a mark that it goes on, within so many bytes.
fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub(GOES_ON.len()));
    format!("{}{GOES_ON}", text.get(..end).unwrap_or_default())
}

fn shown(evidence: &Evidence) -> impl Iterator<Item = Shown<'_>> {
    evidence.items.iter().filter_map(|item| match &item.body {
        EvidenceBody::Tpm(tpm) => Some(Shown {
            index: item.index,
            pcrs: &tpm.pcrs,
            event_log: &tpm.event_log,
            ima_log: &tpm.ima_log,
            ima_offset: tpm.ima_offset,
        }),
        EvidenceBody::AzSnpVtpm(vtpm) | EvidenceBody::AzTdxVtpm(vtpm) => Some(Shown {
            index: item.index,
            pcrs: &vtpm.pcrs,
            event_log: &vtpm.event_log,
            ima_log: &[],
            ima_offset: 0,
        }),
        EvidenceBody::Simulated(_)
        | EvidenceBody::SevSnp(_)
        | EvidenceBody::Tdx(_)
        | EvidenceBody::NvidiaGpu(_)
        | EvidenceBody::Nitro(_) => None,
    })
}

fn pcrs(before: &[PcrBank], after: &[PcrBank]) -> Vec<String> {
    let values = |banks: &[PcrBank]| -> BTreeMap<(&'static str, u8), String> {
        let each = banks.iter().flat_map(|bank| {
            let values = bank.values.iter();
            values.map(|(pcr, value)| ((bank.hash.as_str(), *pcr), hex::encode(value)))
        });
        each.collect()
    };
    let (before, after) = (values(before), values(after));
    // What was not asked for in both was not changed.
    let both = after
        .iter()
        .filter_map(|(at, is)| Some((at, before.get(at)?, is)));
    both.filter(|(_, was, is)| was != is)
        .map(|((bank, pcr), was, is)| format!("PCR {pcr} of bank {bank} was {was}, is {is}"))
        .collect()
}

fn events(before: &[u8], after: &[u8]) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let (before, after) = match (EventLog::parse(before), EventLog::parse(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (_, Err(_)) => return vec!["the boot log can't be read, or is gone".to_owned()],
        (Err(_), Ok(_)) => return vec!["there was no boot log before".to_owned()],
    };
    let (before, after) = (before.events(), after.events());
    // What both begin and end with is the same; between lies what was changed, put in or left out.
    let same = |one: usize, other: usize| before.get(one) == after.get(other);
    let shorter = before.len().min(after.len());
    let head = (0..shorter).take_while(|at| same(*at, *at)).count();
    let tail = (1..=shorter - head)
        .take_while(|back| same(before.len() - back, after.len() - back))
        .count();
    let line = |word: &'static str| {
        move |(number, event): (
            usize,
            &vouchsafe_verifier::evidence::tpm::event_log::Event<'_>,
        )| {
            let digest = { HashAlgorithm::ALL.into_iter() }
                .find_map(|hash| Some(format!("{hash} {}", hex::encode(event.digest(hash)?))));
            format!(
                "boot log entry {number} {word}: PCR {}, type 0x{:08x}, {}, {}",
                event.pcr,
                event.kind,
                digest.unwrap_or_else(|| "no digest".to_owned()),
                printable(event.data),
            )
        }
    };
    let gone = before
        .iter()
        .enumerate()
        .take(before.len() - tail)
        .skip(head);
    let new = after.iter().enumerate().take(after.len() - tail).skip(head);
    gone.map(line("is gone"))
        .chain(new.map(line("is new")))
        .collect()
}

/// Files that were measured since.
fn files(before: &Shown<'_>, after: &Shown<'_>) -> Vec<String> {
    let Ok(later) = ima::parse(after.ima_log) else {
        return vec!["the list of measured files can't be read".to_owned()];
    };
    let Ok(earlier) = ima::parse(before.ima_log) else {
        return Vec::new();
    };
    // Both are parts of one list, unless the machine was started anew.
    let known = before.ima_offset.saturating_add(earlier.len() as u64);
    let numbered = (after.ima_offset..).zip(&later);
    numbered
        .filter(|(number, entry)| {
            let at = number.checked_sub(before.ima_offset);
            let held = at.and_then(|at| earlier.get(usize::try_from(at).ok()?));
            *number >= known || held.is_some_and(|held| held != *entry)
        })
        .map(|(number, entry)| {
            let content = match entry.is_violation {
                true => "changed while it was measured".to_owned(),
                false => format!("{}:{}", entry.hash.as_str(), hex::encode(&entry.digest)),
            };
            // What a file holds is worth more than the end of a name that somebody chose.
            let line = |path: &str| format!("measured file {number} is new: `{path}`, {content}");
            let room = MOST_LINE_BYTES.saturating_sub(line("").len());
            line(&shortened(&entry.shown_path(), room))
        })
        .collect()
}

/// Bytes for people: printable ones as they are, at most [`MOST_DATA`].
fn printable(data: &[u8]) -> String {
    // Firmware writes UTF-16: its zeros say nothing.
    let text = data.iter().filter(|byte| **byte != 0).take(MOST_DATA);
    let shown = text.map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    });
    format!("`{}`", shown.collect::<String>())
}

fn bounded(lines: &mut Vec<String>, mut more: Vec<String>) {
    let left_out = more.len().saturating_sub(MOST_LINES);
    more.truncate(MOST_LINES);
    lines.extend(more);
    if left_out > 0 {
        lines.push(format!("and {left_out} more of this sort"));
    }
}

/// Whoever reads it looks at the first; the evidence itself is archived.
const MOST_LINES: usize = 16;
/// Two SHA-384 values of a PCR and their words fit.
const MOST_LINE_BYTES: usize = 256;
/// A quarter of a leaf of the record.
const MOST_BYTES: usize = 8 * 1024;
const GOES_ON: &str = "…";
const MOST_DATA: usize = 64;

#[cfg(test)]
mod tests {
    use vouchsafe_api::convert::attest::{EvidenceItem, PcrHash, TpmEvidence};

    use super::*;

    fn evidence(pcr: u8, event_log: Vec<u8>, ima_log: Vec<u8>, ima_offset: u64) -> Evidence {
        let values = vec![(4, vec![1; 32]), (10, vec![pcr; 32])];
        Evidence {
            csr: vec![],
            items: vec![EvidenceItem {
                index: 0,
                body: EvidenceBody::Tpm(TpmEvidence {
                    quote: vec![1],
                    signature: vec![1],
                    pcrs: vec![PcrBank {
                        hash: PcrHash::Sha256,
                        values,
                    }],
                    event_log,
                    activated_credential: vec![1],
                    ima_log,
                    ima_offset,
                }),
            }],
        }
    }

    /// A log of the old form: one SHA-1 digest per event.
    fn boot(events: &[(u32, &[u8])]) -> Vec<u8> {
        let mut log = Vec::new();
        for (pcr, data) in events {
            log.extend(pcr.to_le_bytes());
            log.extend(13u32.to_le_bytes());
            log.extend([u8::try_from(data.len()).unwrap(); 20]);
            log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            log.extend(*data);
        }
        log
    }

    fn measured(path: &str, content: u8) -> Vec<u8> {
        let sized =
            |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat();
        let named = [b"sha256:\0", [content; 32].as_slice()].concat();
        let template = [sized(&named), sized(&[path.as_bytes(), b"\0"].concat())].concat();
        let head: [&[u8]; 4] = [
            &[10, 0, 0, 0],
            &[7; 20],
            &sized(b"ima-ng"),
            &sized(&template),
        ];
        head.concat()
    }

    #[test]
    fn a_value_an_event_and_a_file_are_named() {
        let kept = measured("/bin/sh", 1);
        let before = evidence(
            1,
            boot(&[(0, b"firmware"), (4, b"kernel")]),
            kept.clone(),
            5,
        );
        let list = measured("/tmp/evil", 2);
        let boots = boot(&[(0, b"firmware"), (4, b"rootkit"), (4, b"kernel")]);
        let after = evidence(2, boots, list, 6);
        let lines = difference(&before, &after);
        let was = "01".repeat(32);
        let is = "02".repeat(32);
        assert_eq!(
            lines,
            [
                format!("PCR 10 of bank sha256 was {was}, is {is}"),
                "boot log entry 1 is new: PCR 4, type 0x0000000d, no digest, `rootkit`".to_owned(),
                format!("measured file 6 is new: `/tmp/evil`, sha256:{is}"),
            ]
        );
        assert_eq!(difference(&before, &before), Vec::<String>::new());
    }

    #[test]
    fn a_list_that_is_shown_again_names_only_what_is_new_or_other_than_before() {
        let first = [measured("/a", 1), measured("/b", 2)].concat();
        let again = [measured("/a", 1), measured("/b", 3), measured("/c", 4)].concat();
        let before = evidence(1, vec![], first, 0);
        let lines = difference(&before, &evidence(1, vec![], again, 0));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("measured file 1 is new: `/b`"));
        assert!(lines[1].starts_with("measured file 2 is new: `/c`"));
    }

    #[test]
    fn an_event_that_was_left_out_or_a_log_that_is_gone_is_said() {
        let before = evidence(1, boot(&[(0, b"firmware"), (7, b"policy")]), vec![], 0);
        let lines = difference(&before, &evidence(1, boot(&[(0, b"firmware")]), vec![], 0));
        assert!(
            lines[0].starts_with("boot log entry 1 is gone: PCR 7"),
            "{lines:?}"
        );
        let lines = difference(&before, &evidence(1, vec![], vec![], 0));
        assert_eq!(lines, ["the boot log can't be read, or is gone"]);
    }

    #[test]
    fn a_flood_of_files_is_cut() {
        let list: Vec<u8> = (0..100).flat_map(|number| measured("/f", number)).collect();
        let lines = difference(
            &evidence(1, vec![], vec![], 0),
            &evidence(1, vec![], list, 0),
        );
        assert_eq!(lines.len(), MOST_LINES + 1);
        assert_eq!(lines[MOST_LINES], "and 84 more of this sort");
    }

    #[test]
    fn hostile_names_of_files_make_no_line_and_no_list_longer_than_its_bound() {
        for name in [
            "\u{1}".repeat(4000),
            "\u{10ffff}".repeat(1000),
            "a".repeat(4000),
        ] {
            let list: Vec<u8> = (0..16).flat_map(|number| measured(&name, number)).collect();
            let mut before = evidence(1, boot(&[(0, b"f")]), vec![], 0);
            let data = [7; 200];
            let events: Vec<(u32, &[u8])> = (0..40).map(|pcr| (pcr, data.as_slice())).collect();
            let mut after = evidence(2, boot(&events), list, 0);
            let lines = difference(&before, &after);
            assert!(
                lines.iter().all(|line| line.len() <= MOST_LINE_BYTES),
                "{lines:?}"
            );
            let file = lines
                .iter()
                .find(|line| line.starts_with("measured file 3 is new"));
            let content = format!("…`, sha256:{}", "03".repeat(32));
            assert!(file.unwrap().ends_with(&content), "{file:?}");
            // Several TPMs show as much each.
            for one in [&mut before, &mut after] {
                let item = one.items[0].clone();
                one.items = (0..12)
                    .map(|index| EvidenceItem {
                        index,
                        ..item.clone()
                    })
                    .collect();
            }
            let lines = difference(&before, &after);
            let bytes: usize = lines.iter().map(String::len).sum();
            assert!((MOST_BYTES / 2..=MOST_BYTES).contains(&bytes), "{bytes}");
            let last = lines.last().unwrap();
            assert!(
                last.starts_with("and ") && last.ends_with(" more"),
                "{last}"
            );
        }
    }
}
