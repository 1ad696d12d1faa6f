//! Reports of SEV-SNP and TDX guests, through the kernel's configfs-tsm.
//!
//! Each request has a directory of its own. What comes back is believed to be the answer to *this* request only if the
//! directory's `generation` counts our writes and no others, and if the report itself holds the report data that was
//! written: a report over somebody else's data never leaves this machine.
//!
//! There is no fallback to the older devices `/dev/sev-guest` and `/dev/tdx_guest`: kernels from 6.7 on have this
//! interface for both makers, and older kernels lack fixes that a confidential guest needs.
//!
//! Source: Linux `Documentation/ABI/testing/configfs-tsm-report`, `drivers/virt/coco/guest/report.c`; AMD 56860 table 23
//! (report); Intel TDX DCAP quoting library API (quote).

mod entry;
pub mod processor;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vouchsafe_config::proxy::Tsm;

use super::device_thread::{DeviceThread, DeviceThreadError};
use entry::{Entry, is};

/// What makes the reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Provider {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
}

impl Provider {
    /// Its name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevSnp => "sev_guest",
            Self::Tdx => "tdx_guest",
        }
    }

    fn parse(name: &str) -> Result<Self, TsmError> {
        [Self::SevSnp, Self::Tdx]
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or_else(|| TsmError::UnknownProvider(name.to_owned()))
    }
}

/// What the kernel gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The report of SEV-SNP, or the quote of TDX, which some hosts pad.
    pub report: Vec<u8>,
    /// The host's certificate table; empty where it has none, and always for TDX.
    pub certificates: Vec<u8>,
    /// The firmware's event log; empty for SEV-SNP, whose guests have none here.
    pub event_log: Vec<u8>,
}

/// A guest that attests through configfs-tsm.
#[derive(Debug)]
pub struct TsmAttester {
    provider: Provider,
    config: Tsm,
    thread: DeviceThread,
}

impl TsmAttester {
    /// Finds the kernel's interface, and `provider` behind it.
    ///
    /// # Errors
    /// [`TsmError`], which says what is missing.
    pub async fn open(provider: Provider, config: &Tsm) -> Result<Self, TsmError> {
        let thread = DeviceThread::new(provider.as_str(), DEADLINE);
        let root = config.path.clone();
        thread.run(move || check_provider(&root, provider)).await?;
        Ok(Self {
            provider,
            config: config.clone(),
            thread,
        })
    }

    /// Which one it is.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// A report over `report_data`.
    ///
    /// # Errors
    /// [`TsmError`].
    ///
    /// # Cancel safety
    /// The kernel's entry is removed even if nobody waits for the report.
    pub async fn report(&self, report_data: &[u8; 64]) -> Result<Report, TsmError> {
        let (provider, config, report_data) = (self.provider, self.config.clone(), *report_data);
        let until = Instant::now() + GIVE_UP_RETRYING;
        self.thread
            .run(move || collect(provider, &config, &report_data, until))
            .await
    }
}

fn check_provider(root: &Path, wanted: Provider) -> Result<(), TsmError> {
    let entry = Entry::create(root)?;
    match Provider::parse(&entry.read_line("provider")?)? {
        found if found == wanted => Ok(()),
        found => Err(TsmError::OtherProvider { found, wanted }),
    }
}

fn collect(
    provider: Provider,
    config: &Tsm,
    report_data: &[u8; 64],
    until: Instant,
) -> Result<Report, TsmError> {
    let (report, certificates) = retry(until, || request(provider, config, report_data))?;
    let event_log = match provider {
        Provider::SevSnp => Vec::new(),
        Provider::Tdx => event_log(config)?,
    };
    Ok(Report {
        report,
        certificates,
        event_log,
    })
}

/// Asks again, with a new entry, where the interface was busy or somebody interfered.
fn retry<T>(until: Instant, mut ask: impl FnMut() -> Result<T, TsmError>) -> Result<T, TsmError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match ask() {
            Err(error) if error.is_passing() && Instant::now() + pause < until => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
}

/// One request: report and certificate table.
fn request(
    provider: Provider,
    config: &Tsm,
    report_data: &[u8; 64],
) -> Result<(Vec<u8>, Vec<u8>), TsmError> {
    let entry = Entry::create(&config.path)?;
    match Provider::parse(&entry.read_line("provider")?)? {
        found if found == provider => {}
        wanted_not => {
            return Err(TsmError::OtherProvider {
                found: wanted_not,
                wanted: provider,
            });
        }
    }
    let mut writes = 0_u64;
    if let Some(level) = config.privilege_level {
        entry.write("privlevel", level.to_string().as_bytes())?;
        writes += 1;
    }
    entry.write("inblob", report_data)?;
    writes += 1;
    let report = entry.read("outblob", MAX_BLOB)?;
    let certificates = match provider {
        Provider::SevSnp => entry.read_if_present("auxblob", MAX_BLOB)?,
        Provider::Tdx => Vec::new(),
    };
    let generation = entry.read_line("generation")?;
    if generation.parse() != Ok(writes) {
        return Err(TsmError::Raced);
    }
    // A host that could not make a quote leaves an empty one, and says nothing (Linux before 6.19).
    if report.is_empty() {
        return Err(TsmError::Empty);
    }
    let found = report_data_of(provider, &report).ok_or(TsmError::Unreadable("outblob"))?;
    if found != report_data {
        return Err(TsmError::OtherReportData);
    }
    Ok((report, certificates))
}

/// The report data that a report or quote holds; `None` where it is not of a known shape.
///
/// Nothing else of it is read here: judging is the verifier's.
pub fn report_data_of(provider: Provider, report: &[u8]) -> Option<&[u8; 64]> {
    let at = match provider {
        Provider::SevSnp if report.len() == SNP_REPORT => SNP_REPORT_DATA,
        Provider::SevSnp => return None,
        Provider::Tdx => match report.split_first_chunk()?.0 {
            [4, 0] => QUOTE_HEADER + TD_REPORT_DATA,
            // Version 5 puts the type and size of the body before it.
            [5, 0] => QUOTE_HEADER + 6 + TD_REPORT_DATA,
            _ => return None,
        },
    };
    report.get(at..)?.first_chunk()
}

/// The firmware's log of a trust domain, without most of the bytes that fill its table up.
fn event_log(config: &Tsm) -> Result<Vec<u8>, TsmError> {
    let Some(path) = &config.event_log else {
        return Ok(Vec::new());
    };
    let failed = |source| TsmError::EventLog {
        path: path.clone(),
        source,
    };
    let mut log = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TABLE + 1).read_to_end(&mut log))
        .map_err(failed)?;
    if u64::try_from(log.len()).map_or(true, |length| length > MAX_TABLE) {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let filled = log
        .iter()
        .rposition(|byte| *byte != FILLER)
        .map_or(0, |last| last + 1);
    log.truncate(filled + KEPT_FILLER);
    if log.len() > MAX_EVENT_LOG {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(log)
}

/// Why the kernel gave no report.
#[derive(Debug, thiserror::Error)]
pub enum TsmError {
    /// There is no such folder.
    #[error(
        "`{}` does not exist: reports need Linux 6.7 or later with CONFIG_TSM_REPORTS, configfs mounted \
         (`mount -t configfs none /sys/kernel/config`) and the module `sev-guest` or `tdx-guest`",
        .0.display()
    )]
    NoInterface(PathBuf),
    /// The interface is there, and nothing behind it.
    #[error(
        "the kernel has no provider of reports: this is no SEV-SNP or TDX guest, or its module `sev-guest` or \
         `tdx-guest` is not loaded"
    )]
    NoProvider,
    /// The sidecar's user may not ask.
    #[error("no permission to create an entry in `{}`: only root may ask for reports", .0.display())]
    NotPermitted(PathBuf),
    /// Something else makes reports here.
    #[error(
        "the kernel's provider of reports is `{0}`, which is neither `sev_guest` nor `tdx_guest`"
    )]
    UnknownProvider(String),
    /// The configuration names the other maker.
    #[error("this is a guest of `{}`, and the configuration says `{}`: correct `attester` in proxy.yaml", found.as_str(), wanted.as_str())]
    OtherProvider {
        /// What is here.
        found: Provider,
        /// What was configured.
        wanted: Provider,
    },
    /// The system refused an operation.
    #[error("the kernel refused `{operation}`{}", hint(operation, source))]
    System {
        /// The attribute, or `mkdir`.
        operation: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// An attribute is longer than it may be.
    #[error("the kernel's `{attribute}` is longer than {limit} bytes")]
    TooLong {
        /// Which.
        attribute: &'static str,
        /// What is read at most.
        limit: u64,
    },
    /// An attribute holds something that is not known.
    #[error("the kernel's `{0}` can't be read")]
    Unreadable(&'static str),
    /// The host did not make the report.
    #[error("the kernel gave an empty report: the host's quoting service does not work")]
    Empty,
    /// Somebody else wrote into our entry while we used it.
    #[error("another process wrote into this request for a report")]
    Raced,
    /// The report is the answer to somebody else's request.
    #[error("the report holds other report data than was asked for")]
    OtherReportData,
    /// The event log can't be read.
    #[error("failed to read the event log from `{}`", path.display())]
    EventLog {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// It takes too long.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
}

impl TsmError {
    fn failed(operation: &'static str, source: io::Error) -> Self {
        Self::System { operation, source }
    }

    /// Whether the same request may succeed a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Raced | Self::Empty => true,
            Self::System { source, .. } => {
                [Errno::BUSY, Errno::AGAIN, Errno::INTR, Errno::TIMEDOUT]
                    .into_iter()
                    .any(|errno| is(source, errno))
            }
            _ => false,
        }
    }
}

/// What the operator can do about a refusal.
fn hint(operation: &str, source: &io::Error) -> &'static str {
    match operation {
        "privlevel" if is(source, Errno::INVAL) => {
            ": this guest can't speak for the configured `vmpl`"
        }
        "outblob" if is(source, Errno::NOTTY) => {
            ": the guest's key to its firmware is wiped after an error, reboot it"
        }
        _ => "",
    }
}

const SNP_REPORT: usize = 1184;
const SNP_REPORT_DATA: usize = 0x50;
const QUOTE_HEADER: usize = 48;
/// In the body of a quote.
const TD_REPORT_DATA: usize = 520;
/// `TSM_REPORT_OUTBLOB_MAX`; the firmware's certificate table has at most half of it.
const MAX_BLOB: u64 = 32 * 1024;
/// Firmware reserves 64 or 256 KiB for the table.
const MAX_TABLE: u64 = 4 * 1024 * 1024;
/// What is sent at most: as much as the control plane reads.
const MAX_EVENT_LOG: usize = 768 * 1024;
/// Fills the table behind the last event.
const FILLER: u8 = 0xff;
/// How much of it is kept: a reader sees eight such bytes as the end, and the last event may itself end in some.
const KEPT_FILLER: usize = 64;
/// A throttling host lets a read wait for up to 60 s; behind it something is broken.
const DEADLINE: Duration = Duration::from_secs(75);
/// An attestation as a whole must not wait much longer.
const GIVE_UP_RETRYING: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
