//! What a TPM must show: which PCRs say what software a machine runs, and what was measured into them.

use std::collections::BTreeMap;

use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::measured::Measured;
use vouchsafe_verifier::judgement::{Judgement, Value};

use super::{Asked, DraftError, Section, comment, hardware, judged, quoted, set_claim};

/// Values by bank and PCR, in hex.
type Banks = BTreeMap<HashAlgorithm, BTreeMap<u8, String>>;

pub(super) fn section(
    files: &[(String, Vec<u8>)],
    judgement: &Judgement,
    asked: &Asked,
) -> Result<Section, DraftError> {
    if judgement.claims.get("ccel") == Some(&Value::Bool(true)) {
        return hardware::from_ccel(files, judgement, asked);
    }
    let quoted = read(set_claim(judgement, "pcrs"));
    let (banks, source) = if quoted.is_empty() {
        // A log alone: what it replays to, which a quote would confirm.
        (
            read(set_claim(judgement, "replayed")),
            "replayed from the event log, not quoted",
        )
    } else {
        (quoted, "quoted")
    };
    let logs = files
        .iter()
        .filter_map(|(_, bytes)| EventLog::parse(bytes).ok());
    let log = logs.max_by_key(|log| log.events().len());
    let measured = |bank| log.as_ref().map_or_else(Vec::new, |log| log.measured(bank));
    image(&banks, source, &measured, asked).map(|image| {
        let mut lines = vec![judged(judgement)];
        lines.push(
            "classes: [hardware]  # `software` also takes a TPM that is a program, as clouds' are"
                .into(),
        );
        lines.push("images:".into());
        lines.extend(image.into_iter().map(|line| format!("  {line}")));
        match judgement.claims.get("secure_boot") {
            Some(Value::Bool(on)) => lines.push(format!("secure_boot: {on}  # by the event log")),
            _ => lines.push("# secure_boot: true  # nothing here shows whether it was on".into()),
        }
        if judgement.claims.contains_key("events") {
            lines.push("event_log: required  # the machine has one".into());
        }
        Section { kind: "tpm", lines }
    })
}

/// `sha256:4:hex`, as claims write it.
fn read(shown: &[String]) -> Banks {
    let mut banks = Banks::new();
    for one in shown {
        let mut parts = one.splitn(3, ':');
        let (Some(bank), Some(pcr), Some(value)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if let (Ok(bank), Ok(pcr)) = (bank.parse(), pcr.parse()) {
            banks.entry(bank).or_default().insert(pcr, value.to_owned());
        }
    }
    banks
}

/// An image of the values of one bank: SHA-256 where there is a choice, since every TPM keeps it.
pub(super) fn image(
    banks: &Banks,
    source: &str,
    measured: &dyn Fn(HashAlgorithm) -> Vec<Measured>,
    asked: &Asked,
) -> Result<Vec<String>, DraftError> {
    let no_value = |why: &str| DraftError::NoValue {
        kind: "tpm",
        why: why.to_owned(),
    };
    let (bank, values) = banks
        .iter()
        .next()
        .ok_or_else(|| no_value("neither quoted values nor an event log"))?;
    let is_measured =
        |value: &str| !value.chars().all(|c| c == '0') && !value.chars().all(|c| c == 'f');
    let mut chosen: Vec<u8> = values
        .iter()
        .filter(|(pcr, value)| SENSIBLE.contains(pcr) && is_measured(value))
        .map(|(pcr, _)| *pcr)
        .collect();
    if chosen.is_empty() {
        let any = values.iter().filter(|(_, value)| is_measured(value));
        chosen.extend(any.map(|(pcr, _)| *pcr));
    }
    if chosen.is_empty() {
        return Err(no_value("no PCR was extended, so every machine would fit"));
    }
    let measured = measured(*bank);
    let mut lines = vec![
        format!("- name: {}", quoted(&asked.image)),
        format!("  pcrs:  # {source}"),
        format!("    {bank}:"),
    ];
    for (pcr, value) in values.iter().filter(|(_, value)| is_measured(value)) {
        lines.push(format!("      # {pcr}: {}", meaning(*pcr)));
        lines.extend(words(&measured, *pcr).map(|line| format!("      #   {line}")));
        let mark = if chosen.contains(pcr) { "" } else { "# " };
        lines.push(format!("      {mark}\"{pcr}\": {value}"));
    }
    Ok(lines)
}

/// The first of what was measured into a PCR; what a digest does not cover could be anything.
fn words(measured: &[Measured], pcr: u8) -> impl Iterator<Item = String> {
    let of_pcr = measured
        .iter()
        .filter(move |one| one.register == u32::from(pcr));
    let count = of_pcr.clone().count();
    let shown = of_pcr.take(MAX_WORDS).map(|one| {
        let doubt = if one.is_covered {
            ""
        } else {
            "  (not covered by its digest)"
        };
        format!("{}{doubt}", comment(&one.what.describe()))
    });
    let rest = (count > MAX_WORDS).then(|| format!("and {} more", count - MAX_WORDS));
    shown.chain(rest).collect::<Vec<_>>().into_iter()
}

/// What a PCR holds on a PC, and whether it stays the same from boot to boot.
fn meaning(pcr: u8) -> &'static str {
    match pcr {
        0 => "firmware",
        1 => "firmware's settings: changes with boot order and hardware, so it is left out",
        2 => "drivers of cards",
        3 => "settings of cards: left out",
        4 => "boot loader, and a kernel that firmware starts",
        5 => "partition table and attempts to boot: left out",
        6 => "the maker's own: left out",
        7 => "Secure Boot: keys, and what they signed",
        8 => "boot loader's commands and the kernel's command line",
        9 => "files that the boot loader read: kernel, initial RAM disk",
        10 => {
            "files that the kernel measured (IMA): grows, so it is judged by its list and left out"
        }
        11 => "unified kernel image (systemd-stub)",
        12 => "command line and credentials beside a unified kernel image: left out",
        13 => "system extensions: left out",
        14 => "keys and deny lists of shim",
        15 => "identity of the machine and its root file system: left out",
        16 => "debugging: left out",
        17..=22 => "dynamic launch: left out",
        _ => "applications: left out",
    }
}

/// PCRs that say which software runs and stay the same as long as it does.
const SENSIBLE: [u8; 8] = [0, 2, 4, 7, 8, 9, 11, 14];
/// A GRUB script has a hundred commands.
const MAX_WORDS: usize = 8;
