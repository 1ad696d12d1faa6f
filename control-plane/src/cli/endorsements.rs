//! `vouchsafe endorsements`: what hardware vendors say, as the control plane keeps it, and carried to sites that reach
//! no vendor.
//!
//! All commands work on the folder in the data folder; a running control plane notices what they write within seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use vouchsafe_config::control_plane::{ControlPlaneConfig, EndorsementSources};
use vouchsafe_config::load;
use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::endorsement::bundle::{self, BundleKey, Unsigned};
use vouchsafe_verifier::endorsement::need::Need;
use vouchsafe_verifier::endorsement::needs::needs;
use vouchsafe_verifier::vendor_roots::VendorRoots;

use super::attest_verify::{borrowed, read_all};
use super::{DEFAULT_DATA, Format, Outcome, json, show_time, table};
use crate::app;
use crate::endorsements::cache::{Index, Kept, State, to_ms};
use crate::endorsements::gathered::Gathered;
use crate::endorsements::operator_key::OperatorKey;
use crate::endorsements::{Clock, Endorsements};
use crate::telemetry::{Chain, EndorsementMetrics};

/// What may be done with endorsements.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Fetches from the vendors what evidence needs; without evidence, what the control plane's machines need.
    Fetch(Fetch),
    /// Shows what is held and what is wanted.
    Status(Place),
    /// Writes what is held into one signed file.
    Export(Export),
    /// Takes what is in a signed file, after verifying all of it; nothing is replaced by an older edition.
    Import(Import),
    /// Makes a key that signs such files.
    Keygen {
        /// Where to write the private key; the public one goes beside it, with `.pub` added.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// Which control plane's.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Data folder of the control plane; overrides the configuration.
    #[arg(long)]
    data: Option<PathBuf>,
    /// `control-plane.yaml`, for the services' addresses; without it, the vendors' own.
    #[arg(long)]
    config: Option<PathBuf>,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Fetch {
    #[command(flatten)]
    place: Place,
    /// Kind of the evidence: sev_snp, tdx, sgx, az_snp_vtpm, az_tdx_vtpm or nvidia_gpu.
    #[arg(long, requires = "files")]
    kind: Option<Kind>,
    /// What `endorsements status -o json` printed elsewhere: everything that it names is fetched.
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    needs: Option<PathBuf>,
    /// Evidence; a folder stands for its files.
    #[arg(value_name = "EVIDENCE", requires = "kind")]
    files: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    place: Place,
    /// Private key of whoever vouches for the file, mode 0600.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    #[command(flatten)]
    place: Place,
    /// Public key of whoever may vouch for the file; several may be named.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// What `endorsements export` wrote.
    #[arg(value_name = "BUNDLE")]
    file: PathBuf,
}

/// Runs a command by this machine's clock.
pub(super) async fn run(command: Command) -> Outcome {
    run_at(command, Arc::new(app::clock)).await
}

async fn run_at(command: Command, clock: Clock) -> Outcome {
    let result = match command {
        Command::Fetch(asked) => fetch(asked, clock).await,
        Command::Status(place) => status(&place, clock),
        Command::Export(asked) => export(&asked, clock),
        Command::Import(asked) => import(&asked, clock),
        Command::Keygen { key } => keygen(&key),
    };
    result.unwrap_or_else(|outcome| outcome)
}

impl Place {
    fn open(&self, clock: Clock) -> Result<Endorsements, Outcome> {
        let config = match &self.config {
            Some(file) => {
                let loaded = load::control_plane(file).map_err(|problems| Outcome {
                    status: 1,
                    output: String::new(),
                    error: problems.to_string(),
                })?;
                loaded.0
            }
            None => ControlPlaneConfig::new(DEFAULT_DATA),
        };
        let data = self.data.clone().unwrap_or(config.data);
        // A person waits longer than an attestation, and AMD answers one request in ten seconds.
        let sources = EndorsementSources {
            wait: PATIENCE,
            ..config.endorsements
        };
        crate::files::private_folder(&data).map_err(failed)?;
        let metrics = EndorsementMetrics::new().map_err(failed)?;
        Endorsements::open(sources, &data, metrics, clock, VendorRoots::PINNED).map_err(failed)
    }
}

fn failed(error: impl std::error::Error) -> Outcome {
    Outcome::failed(Chain(&error).to_string())
}

async fn fetch(asked: Fetch, clock: Clock) -> Result<Outcome, Outcome> {
    let endorsements = asked.place.open(Arc::clone(&clock))?;
    let wanted = match (asked.kind, &asked.needs) {
        (Some(kind), _) => {
            let files = read_all(&asked.files)
                .map_err(|error| Outcome::misused(format!("error: {error}\n")))?;
            needs(kind, &borrowed(&files))
        }
        (None, Some(file)) => read_needs(file)?,
        (None, None) => endorsements.wanted_or_due(),
    };
    let mut files = Vec::new();
    let mut missing = Vec::new();
    // In parts, since a request is bounded; a site's list is not.
    for part in wanted.chunks(PART) {
        let gathered = gather_patiently(&endorsements, part).await;
        files.extend(gathered.files);
        missing.extend(gathered.missing);
    }
    endorsements.write();
    let rows = files.iter().map(|file| {
        let until = show_time(to_ms(file.endorsement.until()));
        (
            file.name.clone(),
            "held".to_owned(),
            format!("until {until}"),
        )
    });
    let missing_rows = missing.iter().map(|missing| {
        let error = Chain(&missing.error).to_string();
        (
            missing.need.name(),
            missing.error.reason().to_owned(),
            error,
        )
    });
    let rows: Vec<_> = rows.chain(missing_rows).collect();
    Ok(outcome(
        asked.place.output,
        &["OBJECT", "RESULT", "DETAIL"],
        rows,
        missing.is_empty(),
    ))
}

/// Goes on while a service only wants us to be slower.
async fn gather_patiently(endorsements: &Endorsements, needs: &[Need]) -> Gathered {
    let mut whole = endorsements.gather(needs, "").await;
    for _ in 0..MAX_TRIES {
        let (again, missing): (Vec<_>, Vec<_>) = std::mem::take(&mut whole.missing)
            .into_iter()
            .partition(|missing| matches!(missing.error.reason(), "paced" | "slow"));
        whole.missing = missing;
        if again.is_empty() {
            break;
        }
        let again: Vec<Need> = again.into_iter().map(|missing| missing.need).collect();
        let more = endorsements.gather(&again, "").await;
        whole.files.extend(more.files);
        whole.missing.extend(more.missing);
    }
    whole
}

fn read_needs(file: &Path) -> Result<Vec<Need>, Outcome> {
    let misused = |why: String| Outcome::misused(format!("error: `{}`: {why}\n", file.display()));
    let bytes = std::fs::read(file).map_err(|error| misused(error.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|_| misused("not what `endorsements status -o json` prints".to_owned()))?;
    let listed = value.get("endorsements").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| misused("it lists no endorsements".to_owned()))?;
    listed
        .iter()
        .map(|entry| {
            let need = entry.get("need").cloned().unwrap_or_default();
            serde_json::from_value(need).map_err(|error| misused(error.to_string()))
        })
        .collect()
}

fn status(place: &Place, clock: Clock) -> Result<Outcome, Outcome> {
    let endorsements = place.open(Arc::clone(&clock))?;
    let now = clock();
    let listed = endorsements.list();
    let is_complete = { listed.iter() }.all(|index| index.state(now) == State::Valid);
    let output = match place.output {
        Format::Json => json(&json!({
            "now_ms": to_ms(now),
            "endorsements": listed.iter().map(|index| as_json(index, now)).collect::<Vec<_>>(),
        })),
        Format::Table => {
            let rows = listed.iter().map(|index| row(index, now)).collect();
            table(
                &[
                    "OBJECT",
                    "STATE",
                    "SOURCE",
                    "AGE",
                    "VALID UNTIL",
                    "LAST USED",
                    "USED BY",
                ],
                rows,
            )
        }
    };
    Ok(Outcome {
        status: u8::from(!is_complete),
        output,
        error: String::new(),
    })
}

fn row(index: &Index, now: SystemTime) -> Vec<String> {
    let word = index.state(now).as_str();
    let state = match (index.state(now), &index.failure) {
        (State::Expired | State::Missing, Some(failure)) => format!("{word}: {}", failure.reason),
        _ => word.to_owned(),
    };
    let age = match index.is_held() {
        true => show_age(to_ms(now).saturating_sub(index.fetched_ms)),
        false => "-".to_owned(),
    };
    let source = match index.origin.as_str() {
        "" => index.need.source().as_str(),
        origin => origin,
    };
    vec![
        shorten(&index.need.name()),
        state,
        source.to_owned(),
        age,
        show_time(index.until_ms),
        show_time(index.used_ms),
        index.users.join(" "),
    ]
}

/// Names of chips have 128 digits; the first and last tell them apart.
fn shorten(name: &str) -> String {
    match (name.get(..32), name.get(name.len().saturating_sub(24)..)) {
        (Some(head), Some(tail)) if name.len() > 72 => format!("{head}…{tail}"),
        _ => name.to_owned(),
    }
}

fn show_age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn as_json(index: &Index, now: SystemTime) -> Value {
    json!({
        "name": index.need.name(),
        "need": index.need,
        "state": index.state(now).as_str(),
        "lasting": index.lasting(),
        "source": index.need.source().as_str(),
        "origin": index.origin,
        "fetched_ms": index.fetched_ms,
        "issued_ms": index.issued_ms,
        "until_ms": index.until_ms,
        "used_ms": index.used_ms,
        "used_by": index.users,
        "failure": index.failure,
    })
}

fn export(asked: &Export, clock: Clock) -> Result<Outcome, Outcome> {
    let key = OperatorKey::load(&asked.key).map_err(failed)?;
    let endorsements = asked.place.open(Arc::clone(&clock))?;
    let held = endorsements.valid();
    if held.is_empty() {
        return Err(Outcome::failed(
            "nothing is held that could be exported\nhint: `vouchsafe endorsements fetch` first",
        ));
    }
    let objects = held.iter().map(|held| (held.need(), held.bytes()));
    let unsigned = Unsigned::new(objects).map_err(failed)?;
    let signature = key.sign(unsigned.message()).map_err(failed)?;
    let file = unsigned.signed(key.public(), &signature);
    std::fs::write(&asked.out, &file).map_err(failed)?;
    Ok(Outcome::good(match asked.place.output {
        Format::Json => json(&json!({
            "file": asked.out,
            "endorsements": held.len(),
            "bytes": file.len(),
            "key": key.public().id(),
        })),
        Format::Table => format!(
            "wrote {} endorsements to {}, signed by key {}\n",
            held.len(),
            asked.out.display(),
            key.public().id()
        ),
    }))
}

fn import(asked: &Import, clock: Clock) -> Result<Outcome, Outcome> {
    let keys: Result<Vec<BundleKey>, Outcome> = asked.key.iter().map(|path| public(path)).collect();
    let keys = keys?;
    let bytes = std::fs::read(&asked.file).map_err(failed)?;
    let objects = bundle::read(&bytes, &keys).map_err(|error| Outcome {
        status: 1,
        output: String::new(),
        error: format!("error: {error} ({})\n", error.reason()),
    })?;
    let endorsements = asked.place.open(clock)?;
    let mut is_good = true;
    let mut rows = Vec::new();
    // Sorted by name, AMD's authorities come before the certificates that they sign.
    for (need, bytes) in &objects {
        let (result, detail) = match endorsements.import(need, bytes, "import") {
            Ok(Kept::New) => ("imported", String::new()),
            Ok(Kept::Same) => ("same", "held already".to_owned()),
            Ok(Kept::Older) => {
                is_good = false;
                ("older", "refused: a newer edition is held".to_owned())
            }
            Err(error) => {
                is_good = false;
                (error.reason(), format!("refused: {error}"))
            }
        };
        rows.push((need.name(), result.to_owned(), detail));
    }
    endorsements.write();
    Ok(outcome(
        asked.place.output,
        &["OBJECT", "RESULT", "DETAIL"],
        rows,
        is_good,
    ))
}

fn public(path: &Path) -> Result<BundleKey, Outcome> {
    let misused = |why: String| Outcome::misused(format!("error: `{}`: {why}\n", path.display()));
    let pem = std::fs::read(path).map_err(|error| misused(error.to_string()))?;
    BundleKey::from_pem(&pem).map_err(|error| misused(error.to_string()))
}

fn keygen(path: &Path) -> Result<Outcome, Outcome> {
    let (key, public) = OperatorKey::generate(path).map_err(failed)?;
    Ok(Outcome::good(format!(
        "private key  {}\npublic key   {}\nkey          {}\n",
        path.display(),
        public.display(),
        key.public().id()
    )))
}

/// A table or a list of objects, and exit code 1 if something is not as it should be.
fn outcome(
    format: Format,
    header: &[&str],
    rows: Vec<(String, String, String)>,
    is_good: bool,
) -> Outcome {
    let output = match format {
        Format::Json => {
            let rows = rows.iter().map(
                |(name, result, detail)| json!({"name": name, "result": result, "detail": detail}),
            );
            json(&json!({"endorsements": rows.collect::<Vec<_>>()}))
        }
        Format::Table => {
            let rows = rows
                .into_iter()
                .map(|(name, result, detail)| vec![shorten(&name), result, detail]);
            table(header, rows.collect())
        }
    };
    Outcome {
        status: u8::from(!is_good),
        output,
        error: String::new(),
    }
}

/// How long one round of `fetch` waits.
const PATIENCE: Duration = Duration::from_secs(90);
/// Rounds of `fetch` for services that want us to be slower: a hundred machines' keys at AMD take a quarter of an hour.
const MAX_TRIES: usize = 60;
/// Needs of one round.
const PART: usize = 64;

#[cfg(test)]
mod tests;
