//! The access log: one JSON object per request or flow, encoded by hand into the worker's own buffer.
//!
//! Each worker hands its buffer to one writer thread when it is full or at the next tick. When the writer can't keep up,
//! lines are dropped and counted; denials never are: they wait in a buffer of their own, and when that is full the worker
//! waits for the writer. Every field that a peer controls is escaped, so a line is one line.

pub(crate) mod line;

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::policy::Direction;
use vouchsafe_config::proxy::AccessLog;

use crate::reason::{Reason, Why};
use crate::registry::LaneKind;
use crate::telemetry::access_log::line::{Shared, encode, hex, number};
use crate::telemetry::metrics::DataMetrics;
use crate::tls::peer_verifier::Verified;

/// What one request or flow is called: in the log, and to whom the sidecar answers itself. `<run>-<worker>-<number>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RequestId {
    /// Random, of this run of the sidecar, so that a restart gives no id twice.
    run: u32,
    worker: usize,
    number: u64,
}

impl RequestId {
    /// All but the number.
    fn encode_prefix(self, out: &mut Vec<u8>) {
        hex(out, &self.run.to_be_bytes());
        out.push(b'-');
        number(out, self.worker as u64, 1);
        out.push(b'-');
    }

    /// As a field of a header: hexadecimal digits, digits and `-`, at most 50 bytes.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.encode_prefix(&mut out);
        number(&mut out, self.number, 1);
        out
    }
}

/// What is logged of one request or flow.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: RequestId,
    pub(crate) time: SystemTime,
    /// By which policy it was judged.
    pub(crate) revision: Revision,
    pub(crate) direction: Direction,
    pub(crate) lane: LaneKind,
    /// Number of the connection with its worker.
    pub(crate) connection: u64,
    pub(crate) peer: Option<&'a Verified>,
    pub(crate) local: &'a str,
    pub(crate) port: &'a str,
    /// 0 where it is for no port.
    pub(crate) port_number: u16,
    /// `None` for a flow.
    pub(crate) request: Option<RequestEntry<'a>>,
    pub(crate) verdict: Verdict<'a>,
    /// Why it was refused, failed or was cut.
    pub(crate) reason: Option<Reason>,
    /// Where the sidecar ended it while it was live: why.
    pub(crate) cut: Option<&'a Why>,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) elapsed: Duration,
}

/// The HTTP part.
#[derive(Debug)]
pub(crate) struct RequestEntry<'a> {
    pub(crate) grpc: bool,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Zero where the downstream went away before there was one.
    pub(crate) status: u16,
}

/// What policy said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    /// Refused before policy was asked.
    Unjudged,
    /// With what lines say of the rule ([`line::rule_field`]).
    Allow(Option<&'a [u8]>),
    Audit(Reason),
    Deny(Reason),
}

/// The writer thread's end; ends when all workers are gone.
#[derive(Debug)]
pub struct AccessLogWriter {
    batches: SyncSender<Batch>,
    spent: Arc<std::sync::Mutex<Receiver<Vec<u8>>>>,
    denials_only: bool,
    run: u32,
    thread: JoinHandle<()>,
}

type Batch = Vec<u8>;

impl AccessLogWriter {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// The file can't be opened, or the thread not started.
    pub fn start(log: &AccessLog) -> io::Result<Self> {
        let mut output: Box<dyn Write + Send> = match log {
            AccessLog::Stdout | AccessLog::DenialsOnly => Box::new(io::stdout()),
            AccessLog::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        let mut run = [0; 4];
        aws_lc_rs::rand::fill(&mut run).map_err(|_| io::Error::other("no random bytes"))?;
        let (batches, received) = sync_channel::<Batch>(BATCHES);
        let (give_back, spent) = sync_channel(BATCHES);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                for mut batch in received {
                    // A log that can't be written must not stop the traffic; the operator sees its absence.
                    let _ = output.write_all(&batch).and_then(|()| output.flush());
                    batch.clear();
                    let _ = give_back.try_send(batch);
                }
            })?;
        Ok(Self {
            batches,
            spent: Arc::new(std::sync::Mutex::new(spent)),
            denials_only: matches!(log, AccessLog::DenialsOnly),
            run: u32::from_be_bytes(run),
            thread,
        })
    }

    /// A worker's end.
    pub(crate) fn worker(&self, metrics: &Arc<DataMetrics>, number: usize) -> AccessLogBuffer {
        AccessLogBuffer {
            batches: self.batches.clone(),
            spent: Arc::clone(&self.spent),
            denials_only: self.denials_only,
            metrics: Arc::clone(metrics),
            run: self.run,
            number,
            next: Cell::new(0),
            lines: RefCell::default(),
        }
    }

    /// Waits until all lines of all workers, which must have ended, are written.
    pub fn finish(self) {
        drop(self.batches);
        // The thread neither panics nor is anything lost with it that could still be written.
        let _ = self.thread.join();
    }
}

/// One worker's buffer.
#[derive(Debug)]
pub(crate) struct AccessLogBuffer {
    batches: SyncSender<Batch>,
    spent: Arc<std::sync::Mutex<Receiver<Vec<u8>>>>,
    denials_only: bool,
    metrics: Arc<DataMetrics>,
    run: u32,
    number: usize,
    /// Requests and flows that were given an id.
    next: Cell<u64>,
    lines: RefCell<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
    denials: Vec<u8>,
    shared: Shared,
}

impl AccessLogBuffer {
    /// The id of a request or flow that begins.
    pub(crate) fn id(&self) -> RequestId {
        let number = self.next.get() + 1;
        self.next.set(number);
        RequestId {
            run: self.run,
            worker: self.number,
            number,
        }
    }

    /// Encodes one entry.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        // What policy takes back while it is live counts as what it denies.
        let denial = matches!(entry.verdict, Verdict::Deny(_)) || entry.cut.is_some();
        if self.denials_only && !denial {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        let lines = &mut *lines;
        let into = if denial {
            &mut lines.denials
        } else {
            lines.count += 1;
            &mut lines.text
        };
        encode(into, &mut lines.shared, entry);
        if lines.text.len() >= BATCH_BYTES || lines.denials.len() >= BATCH_BYTES {
            self.hand_over(lines);
        }
    }

    /// Hands over what there is, if the writer has room.
    pub(crate) fn flush(&self) {
        self.hand_over(&mut self.lines.borrow_mut());
    }

    fn hand_over(&self, lines: &mut Lines) {
        if !lines.denials.is_empty() {
            match self.batches.try_send(std::mem::take(&mut lines.denials)) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(denials)) if denials.len() > MAX_DENIALS => {
                    // Denials are never dropped: the worker waits. `Err` means that the log is gone for good.
                    let _ = self.batches.send(denials);
                }
                Err(TrySendError::Full(denials)) => lines.denials = denials,
            }
        }
        if !lines.text.is_empty() {
            let fresh = self.spent_buffer();
            let batch = std::mem::replace(&mut lines.text, fresh);
            match self.batches.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(mut batch) | TrySendError::Disconnected(mut batch)) => {
                    self.metrics.access_log_dropped.inc_by(lines.count);
                    batch.clear();
                    lines.text = batch;
                }
            }
            lines.count = 0;
        }
    }

    fn spent_buffer(&self) -> Vec<u8> {
        // Another worker holds the lock for a moment only; a new buffer is as good.
        let spent = self.spent.try_lock().ok();
        spent
            .and_then(|spent| spent.try_recv().ok())
            .unwrap_or_default()
    }
}

impl Drop for AccessLogBuffer {
    fn drop(&mut self) {
        let lines = self.lines.get_mut();
        for batch in [&mut lines.denials, &mut lines.text] {
            if !batch.is_empty() {
                // The worker is leaving, so it may wait; `Err` means that the log is gone for good.
                let _ = self.batches.send(std::mem::take(batch));
            }
        }
    }
}

/// Batches that wait for the writer: 4 MiB in all, some seconds of a busy sidecar.
const BATCHES: usize = 64;
/// One write call for about 150 lines.
const BATCH_BYTES: usize = 64 * 1024;
/// Denials that wait before the worker waits for the writer.
const MAX_DENIALS: usize = 1024 * 1024;
