//! What the other kinds of hardware must show.

use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::judgement::{Judgement, Value};

use super::{Asked, DraftError, Section, comment, judged, quoted, set_claim, text_claim};

pub(super) fn section(
    kind: Kind,
    files: &[(String, Vec<u8>)],
    judgement: &Judgement,
    asked: &Asked,
) -> Result<Section, DraftError> {
    let mut lines = vec![judged(judgement)];
    match kind {
        Kind::SevSnp | Kind::AzSnpVtpm => sev_snp(kind, judgement, asked, &mut lines),
        Kind::Tdx | Kind::AzTdxVtpm => tdx(kind, judgement, asked, &mut lines),
        Kind::Nitro => nitro(judgement, asked, &mut lines),
        Kind::NvidiaGpu => nvidia_gpu(files, judgement, &mut lines),
        Kind::Sgx | Kind::Tpm => None,
    }
    .ok_or_else(|| DraftError::NoValue {
        kind: kind.as_str(),
        why: format!("the judgement says {}", judgement.reason),
    })?;
    Ok(Section {
        kind: kind.as_str(),
        lines,
    })
}

fn sev_snp(
    kind: Kind,
    judgement: &Judgement,
    asked: &Asked,
    lines: &mut Vec<String>,
) -> Option<()> {
    let measurement = text_claim(judgement, "measurement")?;
    lines.push("images:".into());
    lines.push(format!("  - name: {}", quoted(&asked.image)));
    lines.push(format!(
        "    sha384: {measurement}  # launch digest: firmware, and what it was given to check"
    ));
    if kind == Kind::AzSnpVtpm {
        pcrs(judgement, "sha256", lines)?;
    }
    if let Some(host_data) = text_claim(judgement, "host_data")
        && host_data.chars().any(|c| c != '0')
    {
        lines.push(format!(
            "    host_data: {host_data}  # of the host's choice at launch"
        ));
    }
    if let Some(product) = text_claim(judgement, "product") {
        lines.push(format!(
            "# product: {}  # if other processors are not to count",
            comment(product)
        ));
    }
    let floors = ["fmc", "bootloader", "tee", "snp", "microcode"]
        .into_iter()
        .filter_map(|name| {
            let claim = format!("tcb.{name}");
            match judgement.claims.get(claim.as_str()) {
                Some(Value::Number(number)) => Some(format!("{name}: \">={number}\"")),
                _ => None,
            }
        });
    let floors: Vec<_> = floors.collect();
    if !floors.is_empty() {
        lines.push(format!(
            "tcb: {{{}}}  # what this machine reports",
            floors.join(", ")
        ));
    }
    Some(())
}

fn tdx(kind: Kind, judgement: &Judgement, asked: &Asked, lines: &mut Vec<String>) -> Option<()> {
    let mrtd = text_claim(judgement, "mrtd")?;
    lines.push("images:".into());
    lines.push(format!("  - name: {}", quoted(&asked.image)));
    lines.push(format!("    mrtd: {mrtd}  # firmware"));
    if kind == Kind::AzTdxVtpm {
        pcrs(judgement, "sha256", lines)?;
        return Some(());
    }
    for (register, what) in REGISTERS {
        if let Some(value) = text_claim(judgement, register) {
            let mark = if value.chars().all(|c| c == '0') {
                "# "
            } else {
                ""
            };
            lines.push(format!("    {mark}{register}: {value}  # {what}"));
        }
    }
    Some(())
}

/// Quoted values of Azure's vTPM, of which those that stay the same are demanded.
fn pcrs(judgement: &Judgement, bank: &str, lines: &mut Vec<String>) -> Option<()> {
    let shown = set_claim(judgement, "pcrs");
    lines.push("    pcrs:".into());
    lines.push(format!("      {bank}:"));
    let mut any = false;
    for one in shown {
        let (pcr, value) = one.split_once(':')?;
        let stays = matches!(pcr, "0" | "2" | "4" | "7" | "8" | "9" | "11" | "14");
        let measured = value.chars().any(|c| c != '0') && value.chars().any(|c| c != 'f');
        if measured {
            let mark = if stays { "" } else { "# " };
            any |= stays;
            lines.push(format!("        {mark}\"{pcr}\": {value}"));
        }
    }
    any.then_some(())
}

fn nitro(judgement: &Judgement, asked: &Asked, lines: &mut Vec<String>) -> Option<()> {
    lines.push("images:".into());
    lines.push(format!("  - name: {}", quoted(&asked.image)));
    lines.push("    pcrs:".into());
    lines.push("      sha384:".into());
    let mut any = false;
    for pcr in 0..16 {
        // What nothing was measured into is not claimed.
        let Some(value) = text_claim(judgement, &format!("pcr{pcr}")) else {
            continue;
        };
        let (stays, what) = match pcr {
            0 => (true, "the enclave's image"),
            1 => (true, "kernel and initial RAM disk"),
            2 => (true, "application"),
            3 => (false, "role of the parent instance"),
            4 => (false, "parent instance: a Node pins that"),
            8 => (true, "who signed the image"),
            _ => (false, "the enclave's own"),
        };
        let mark = if stays { "" } else { "# " };
        any |= stays;
        lines.push(format!("        {mark}\"{pcr}\": {value}  # {what}"));
    }
    any.then_some(())
}

/// Measurements of GPUs are NVIDIA's to name, by signed manifests; a profile says which versions count.
fn nvidia_gpu(
    files: &[(String, Vec<u8>)],
    judgement: &Judgement,
    lines: &mut Vec<String>,
) -> Option<()> {
    match judgement.claims.get("count") {
        Some(Value::Number(count)) if *count > 0 => lines.push(format!("count: {count}")),
        _ => lines.push("# count: 8  # how many GPUs the machine has".into()),
    }
    let before = lines.len();
    for version in ["driver", "vbios"] {
        if let Some(found) = text_claim(judgement, version) {
            lines.push(format!("{version}: {}", quoted(&format!(">={found}"))));
        }
    }
    if lines.len() == before {
        for (name, version) in files
            .iter()
            .filter_map(|(_, bytes)| manifest_version(bytes))
        {
            lines.push(format!(
                "{name}: {}  # of the manifest",
                quoted(&format!(">={version}"))
            ));
        }
    }
    (lines.len() > before).then(|| {
        lines.push("# confidential_compute: true  # default; `vouchsafe schema AttestationProfile` has the rest".into());
    })
}

/// The version in the head of NVIDIA's manifest: of a driver three numbers, of a VBIOS five.
fn manifest_version(bytes: &[u8]) -> Option<(&'static str, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, rest) = text.split_once("colloquialVersion=\"")?;
    let (version, _) = rest.split_once('"')?;
    let numbers = version.split('.').count();
    let fits = version.len() <= 32
        && version
            .chars()
            .all(|c| c == '.' || c.is_ascii_alphanumeric());
    match numbers {
        2 | 3 if fits => Some(("driver", version)),
        5 if fits => Some(("vbios", version)),
        _ => None,
    }
}

/// A log of a confidential VM by itself: the registers that a quote would show.
pub(super) fn from_ccel(
    files: &[(String, Vec<u8>)],
    judgement: &Judgement,
    asked: &Asked,
) -> Result<Section, DraftError> {
    let mut lines = vec![
        judged(judgement),
        "images:".into(),
        format!("  - name: {}", quoted(&asked.image)),
        format!(
            "    mrtd: {}  # REPLACE: a log does not know the firmware's digest, a quote does",
            "0".repeat(96)
        ),
    ];
    let logs = files
        .iter()
        .filter_map(|(_, bytes)| EventLog::parse_padded(bytes).ok());
    let log = logs.max_by_key(|log| log.events().len());
    let measured = log.map_or_else(Vec::new, |log| log.measured(HashAlgorithm::Sha384));
    for (index, (register, what)) in (1..).zip(REGISTERS) {
        let value = set_claim(judgement, "replayed")
            .iter()
            .find_map(|one| one.strip_prefix(register)?.strip_prefix(':'));
        if let Some(value) = value {
            let of_register = measured.iter().filter(|one| one.register == index);
            for one in of_register.take(MAX_WORDS) {
                let doubt = if one.is_covered {
                    ""
                } else {
                    "  (not covered by its digest)"
                };
                lines.push(format!("    #   {}{doubt}", comment(&one.what.describe())));
            }
            lines.push(format!(
                "    {register}: {value}  # {what}; replayed from the event log"
            ));
        }
    }
    lines.push("event_log: required".into());
    Ok(Section { kind: "tdx", lines })
}

const REGISTERS: [(&str, &str); 4] = [
    ("rtmr0", "firmware's settings and Secure Boot"),
    ("rtmr1", "boot loader and kernel"),
    ("rtmr2", "command line, initial RAM disk"),
    ("rtmr3", "the system's own"),
];
/// A register takes a hundred events.
const MAX_WORDS: usize = 8;
