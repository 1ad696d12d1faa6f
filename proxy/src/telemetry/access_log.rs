//! The access log: one JSON object per request or flow, encoded by hand into the worker's own buffer.
//!
//! Each worker hands its buffer to one writer thread when it is full or at the next tick. When the writer can't keep up,
//! lines are dropped and counted; denials never are: they wait in a buffer of their own, and when that is full the worker
//! waits for the writer. Every field that a peer controls is escaped, so a line is one line.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vouchsafe_attestation::peer::Peer;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::policy::{Direction, RuleSource};
use vouchsafe_config::proxy::AccessLog;

use crate::reason::{Reason, Why};
use crate::registry::{LaneKind, direction_word};
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
    fn encode(self, out: &mut Vec<u8>) {
        hex(out, &self.run.to_be_bytes());
        out.push(b'-');
        number(out, self.worker as u64, 1);
        out.push(b'-');
        number(out, self.number, 1);
    }

    /// As a field of a header: hexadecimal digits, digits and `-`, at most 50 bytes.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.encode(&mut out);
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
    Allow(Option<&'a RuleSource>),
    Audit(Reason),
    Deny(Reason),
}

impl Verdict<'_> {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unjudged => "none",
            Self::Allow(_) => "allow",
            Self::Audit(_) => "audit",
            Self::Deny(_) => "deny",
        }
    }
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
    date: Date,
}

/// The second that was written last, because most lines share it with the one before.
#[derive(Debug, Default)]
struct Date {
    second: u64,
    text: Vec<u8>,
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
        encode(into, &mut lines.date, entry);
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

fn encode(out: &mut Vec<u8>, date: &mut Date, entry: &Entry<'_>) {
    let since = entry
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    // One reservation for all that is not as long as a peer likes.
    out.reserve(USUAL_LINE);
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(date.of(since.as_secs()));
    out.push(b'.');
    number(out, since.subsec_millis().into(), 3);
    out.extend_from_slice(b"Z\",\"id\":\"");
    entry.id.encode(out);
    out.extend_from_slice(b"\",\"connection\":");
    number(out, entry.connection, 1);
    word(out, b",\"direction\":\"", direction_word(entry.direction));
    word(out, b",\"lane\":\"", entry.lane.as_str());
    match entry.peer {
        Some(verified) => out.extend_from_slice(&verified.logged),
        None => out.extend_from_slice(b",\"peer_id\":null,\"class\":null"),
    }
    word(out, b",\"local\":\"", entry.local);
    word(out, b",\"port\":\"", entry.port);
    if entry.port_number != 0 {
        out.extend_from_slice(b",\"port_number\":");
        number(out, entry.port_number.into(), 1);
    }
    if let Some(request) = &entry.request {
        field(out, "method", request.method);
        field(out, "path", request.path);
        if request.grpc {
            out.extend_from_slice(b",\"grpc\":true");
        }
        out.extend_from_slice(b",\"status\":");
        number(out, request.status.into(), 1);
    }
    word(out, b",\"decision\":\"", entry.verdict.as_str());
    out.extend_from_slice(b",\"revision\":\"");
    number(out, entry.revision.epoch, 1);
    out.push(b'.');
    number(out, entry.revision.sequence, 1);
    out.push(b'"');
    match entry.verdict {
        Verdict::Allow(Some(rule)) => {
            out.extend_from_slice(b",\"rule\":\"");
            escape(out, &rule.document);
            out.push(b':');
            number(out, rule.line as u64, 1);
            out.push(b'"');
        }
        Verdict::Allow(None) | Verdict::Unjudged | Verdict::Audit(_) | Verdict::Deny(_) => {
            out.extend_from_slice(b",\"rule\":null");
        }
    }
    let reason = match entry.verdict {
        Verdict::Audit(_) if entry.cut.is_some() => entry.reason,
        Verdict::Audit(reason) | Verdict::Deny(reason) => Some(reason),
        Verdict::Allow(_) | Verdict::Unjudged => entry.reason,
    };
    match reason {
        Some(reason) => word(out, b",\"reason\":\"", reason.as_str()),
        None => out.extend_from_slice(b",\"reason\":null"),
    }
    if let Some(document) = entry.cut.and_then(|why| why.document.as_deref()) {
        field(out, "ended_by", document);
    }
    if let (Verdict::Deny(_) | Verdict::Audit(_), Some(verified)) = (entry.verdict, entry.peer) {
        shown(out, verified);
    }
    out.extend_from_slice(b",\"received_bytes\":");
    number(out, entry.received_bytes, 1);
    out.extend_from_slice(b",\"sent_bytes\":");
    number(out, entry.sent_bytes, 1);
    out.extend_from_slice(b",\"elapsed_ms\":");
    // More milliseconds than a u64 holds are 500 million years.
    let elapsed = u64::try_from(entry.elapsed.as_millis()).unwrap_or(u64::MAX);
    number(out, elapsed, 1);
    out.push(b'.');
    number(out, (entry.elapsed.subsec_micros() % 1000).into(), 3);
    out.extend_from_slice(b"}\n");
}

/// What the peer had shown, so that what no rule allows can be judged again: `vouchsafe explain --log`.
fn shown(out: &mut Vec<u8>, verified: &Verified) {
    let peer = &verified.peer;
    hex_field(out, "spki_sha256", peer.spki_sha256());
    hex_field(out, "authority_sha256", peer.authority_spki_sha256());
    for (place, one) in peer.intermediate_spki_sha256().iter().enumerate() {
        out.extend_from_slice(match place {
            0 => b",\"intermediates_sha256\":[\"".as_slice(),
            _ => b",\"",
        });
        hex(out, one);
        out.push(b'"');
    }
    if !peer.intermediate_spki_sha256().is_empty() {
        out.push(b']');
    }
    // It was decoded from a certificate, so it has an encoding within its bounds.
    if let Some(der) = peer.result().and_then(|result| result.encode().ok()) {
        out.extend_from_slice(b",\"result\":\"");
        out.extend_from_slice(STANDARD.encode(der).as_bytes());
        out.push(b'"');
    }
}

/// What lines say of a peer: written once for all that it asks.
pub(crate) fn peer_fields(peer: &Peer, class: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    field(&mut out, "peer_id", peer.id().as_str());
    field(&mut out, "class", class);
    hex_field(&mut out, "serial", peer.serial().as_bytes());
    out.into_boxed_slice()
}

fn hex_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    hex(out, value);
    out.push(b'"');
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |nibble: u8| b"0123456789abcdef".get(usize::from(nibble)).copied();
    for byte in bytes {
        out.extend(digit(byte >> 4).into_iter().chain(digit(byte & 15)));
    }
}

impl Date {
    /// A second since 1970 as `2026-11-23T05:30:00`.
    fn of(&mut self, second: u64) -> &[u8] {
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            let (year, month, day) = civil(second / 86_400);
            let second = second % 86_400;
            let parts = [
                (year, 4, b'-'),
                (month, 2, b'-'),
                (day, 2, b'T'),
                (second / 3600, 2, b':'),
                (second / 60 % 60, 2, b':'),
                (second % 60, 2, b'.'),
            ];
            for (value, width, after) in parts {
                number(&mut self.text, value, width);
                self.text.push(after);
            }
            self.text.pop();
        }
        &self.text
    }
}

/// Writes a number in decimal with at least `width` digits: the formatting of the standard library costs more than all the
/// rest of a line.
fn number(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; LONGEST_NUMBER];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        // A remainder by ten always fits.
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        used += 1;
        if value == 0 && used >= width {
            break;
        }
    }
    out.extend_from_slice(digits.get(LONGEST_NUMBER - used..).unwrap_or_default());
}

/// A field whose value is a word of ours or a name, in which nothing is to be escaped. `name` is all that stands before it.
fn word(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    escape(out, value);
    out.push(b'"');
}

/// Escapes what JSON demands (RFC 8259 §7), and bounds a field, because a path can be as long as a request head.
fn escape(out: &mut Vec<u8>, value: &str) {
    let cut = value.floor_char_boundary(MAX_FIELD.min(value.len()));
    let value = value.get(..cut).unwrap_or_default();
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|byte| must_escape(*byte)) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = from.split_first() else {
            break;
        };
        if matches!(byte, b'"' | b'\\') {
            out.extend_from_slice(&[b'\\', *byte]);
        } else {
            let digit = |nibble: u8| b"0123456789abcdef".get(usize::from(nibble)).copied();
            out.extend_from_slice(b"\\u00");
            out.extend(digit(byte >> 4).into_iter().chain(digit(byte & 15)));
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

fn must_escape(byte: u8) -> bool {
    ESCAPED
        .get(usize::from(byte))
        .is_some_and(|escaped| *escaped)
}

/// Looked up, because every byte of every path is asked about.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index out of bounds"
)]
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped[0x7f] = true;
    escaped
};

/// Year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Batches that wait for the writer: 4 MiB in all, some seconds of a busy sidecar.
const BATCHES: usize = 64;
/// One write call for about 150 lines.
const BATCH_BYTES: usize = 64 * 1024;
/// Denials that wait before the worker waits for the writer.
const MAX_DENIALS: usize = 1024 * 1024;
/// A line without its path, generously.
const USUAL_LINE: usize = 768;
/// Digits of the largest `u64`.
const LONGEST_NUMBER: usize = 20;
/// Longest field in bytes.
const MAX_FIELD: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, verdict: Verdict<'_>) -> String {
        line_of(path, verdict, None)
    }

    fn line_of(path: &str, verdict: Verdict<'_>, cut: Option<&Why>) -> String {
        let mut out = Vec::new();
        let entry = Entry {
            id: RequestId {
                run: 0x00c0_ffee,
                worker: 1,
                number: 2,
            },
            revision: Revision {
                epoch: 1,
                sequence: 42,
            },
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_401_600_042),
            direction: Direction::Inbound,
            lane: LaneKind::Shared,
            connection: 7,
            peer: None,
            local: "inference/llm",
            port: "openai",
            port_number: 8_000,
            request: Some(RequestEntry {
                grpc: false,
                method: "POST",
                path,
                status: 200,
            }),
            verdict,
            reason: cut.map(|why| why.reason),
            cut,
            received_bytes: 5,
            sent_bytes: 6,
            elapsed: Duration::from_micros(1_234),
        };
        encode(&mut out, &mut Date::default(), &entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object() {
        let rule = RuleSource {
            document: "AccessPolicy inference/gateway".to_owned(),
            file: "a.yaml".to_owned(),
            line: 12,
        };
        let line = line("/v1/x", Verdict::Allow(Some(&rule)));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["time"], "2026-11-23T02:40:00.042Z");
        assert_eq!(value["rule"], "AccessPolicy inference/gateway:12");
        assert_eq!(value["elapsed_ms"], 1.234);
        assert_eq!(value["id"], "00c0ffee-1-2");
        assert_eq!(value["revision"], "1.42");
        assert_eq!(value["port_number"], 8_000);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn what_was_ended_while_live_names_the_document_that_ended_it() {
        let why = Why {
            reason: vouchsafe_config::policy::DenyReason::Revoked.into(),
            document: Some("Revocation app/incident-7:3".into()),
        };
        let line = line_of("/v1/x", Verdict::Allow(None), Some(&why));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["decision"], "allow");
        assert_eq!(value["reason"], "revoked");
        assert_eq!(value["ended_by"], "Revocation app/incident-7:3");
    }

    #[test]
    fn what_a_peer_wrote_stays_inside_its_field() {
        let hostile = "/\"},{\"a\":\"\\\n\r\u{0}\u{7f}é";
        let line = line(hostile, Verdict::Unjudged);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], hostile);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_long_field_is_cut_at_a_character() {
        let line = line(&"é".repeat(5_000), Verdict::Unjudged);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"].as_str().unwrap().len(), MAX_FIELD);
    }

    #[test]
    fn numbers_have_all_their_digits_and_no_more() {
        for (value, width, text) in [
            (0, 1, "0"),
            (7, 3, "007"),
            (1_234, 3, "1234"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            number(&mut out, value, width);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn a_second_is_written_anew_when_it_changes() {
        let mut date = Date::default();
        assert_eq!(date.of(0), b"1970-01-01T00:00:00");
        assert_eq!(date.of(1_795_401_600), b"2026-11-23T02:40:00");
        assert_eq!(date.of(1_795_401_600), b"2026-11-23T02:40:00");
        assert_eq!(date.of(1_795_401_601), b"2026-11-23T02:40:01");
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
    }
}
