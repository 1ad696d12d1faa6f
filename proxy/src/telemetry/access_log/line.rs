//! One line of the access log.
//!
//! # Why
//! A line is written for each request, on both sides. So what many lines share is written once and copied: what they say
//! of a peer with its certificate, of a rule with its admission, of the second and of the policy's revision here.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vouchsafe_attestation::peer::Peer;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::policy::{Direction, RuleSource};

use crate::scan::{any_of, below, is};
use crate::telemetry::access_log::{Entry, RequestId, Verdict};
use crate::tls::peer_verifier::Verified;

/// What the line before said and the next one most likely says again, written once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    date: Date,
    ids: Ids,
    revision: Numbered,
}

/// The second that was written last, as lines begin.
#[derive(Debug, Default)]
struct Date {
    second: u64,
    text: Vec<u8>,
}

/// What is between the second's fraction and the number of a request: run and worker.
#[derive(Debug, Default)]
struct Ids {
    of: (u32, usize),
    text: Vec<u8>,
}

/// The revision that was written last, with what is before and after it.
#[derive(Debug, Default)]
struct Numbered {
    revision: Revision,
    text: Vec<u8>,
}

pub(super) fn encode(out: &mut Vec<u8>, shared: &mut Shared, entry: &Entry<'_>) {
    let since = entry
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    // One reservation for all that is not as long as a peer likes.
    out.reserve(USUAL_LINE);
    out.extend_from_slice(shared.date.of(since.as_secs()));
    number(out, since.subsec_millis().into(), 3);
    out.extend_from_slice(shared.ids.of(entry.id));
    number(out, entry.id.number, 1);
    out.extend_from_slice(b"\",\"connection\":");
    number(out, entry.connection, 1);
    out.extend_from_slice(match entry.direction {
        Direction::Inbound => b",\"direction\":\"inbound\",\"lane\":\"",
        Direction::Outbound => b",\"direction\":\"outbound\",\"lane\":\"".as_slice(),
    });
    word(out, b"", entry.lane.as_str());
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
    out.extend_from_slice(match entry.verdict {
        Verdict::Unjudged => b",\"decision\":\"none\"".as_slice(),
        Verdict::Allow(_) => b",\"decision\":\"allow\"",
        Verdict::Audit(_) => b",\"decision\":\"audit\"",
        Verdict::Deny(_) => b",\"decision\":\"deny\"",
    });
    out.extend_from_slice(shared.revision.of(entry.revision));
    match entry.verdict {
        Verdict::Allow(Some(rule)) => out.extend_from_slice(rule),
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
    let whole = entry.elapsed.as_secs().saturating_mul(1000);
    number(
        out,
        whole.saturating_add(entry.elapsed.subsec_millis().into()),
        1,
    );
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

pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |nibble: u8| b"0123456789abcdef".get(usize::from(nibble)).copied();
    for byte in bytes {
        out.extend(digit(byte >> 4).into_iter().chain(digit(byte & 15)));
    }
}

/// What lines say of a rule: written once for all that it admits.
pub(crate) fn rule_field(rule: &RuleSource) -> Box<[u8]> {
    let mut out = b",\"rule\":\"".to_vec();
    escape(&mut out, &rule.document);
    out.push(b':');
    number(&mut out, u64::from(rule.line), 1);
    out.push(b'"');
    out.into_boxed_slice()
}

impl Date {
    /// The beginning of a line, up to the fraction of a second since 1970: `{"time":"2026-11-23T05:30:00.`.
    fn of(&mut self, second: u64) -> &[u8] {
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            self.text.extend_from_slice(b"{\"time\":\"");
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
        }
        &self.text
    }
}

impl Ids {
    /// `Z","id":"<run>-<worker>-`.
    fn of(&mut self, id: RequestId) -> &[u8] {
        let of = (id.run, id.worker);
        if self.of != of || self.text.is_empty() {
            self.of = of;
            self.text.clear();
            self.text.extend_from_slice(b"Z\",\"id\":\"");
            id.encode_prefix(&mut self.text);
        }
        &self.text
    }
}

impl Numbered {
    /// `,"revision":"<epoch>.<sequence>"`.
    fn of(&mut self, revision: Revision) -> &[u8] {
        if self.revision != revision || self.text.is_empty() {
            self.revision = revision;
            self.text.clear();
            self.text.extend_from_slice(b",\"revision\":\"");
            number(&mut self.text, revision.epoch, 1);
            self.text.push(b'.');
            number(&mut self.text, revision.sequence, 1);
            self.text.push(b'"');
        }
        &self.text
    }
}

/// Writes a number in decimal with at least `width` digits: the formatting of the standard library costs more than all the
/// rest of a line.
pub(super) fn number(out: &mut Vec<u8>, mut value: u64, width: usize) {
    if value < 10 && width == 1 {
        // Bytes of a request without a body, and small revisions.
        out.push(b'0' + u8::try_from(value).unwrap_or(0));
        return;
    }
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
    let cut = if value.len() <= MAX_FIELD {
        value.len()
    } else {
        value.floor_char_boundary(MAX_FIELD)
    };
    let mut rest = value.as_bytes().get(..cut).unwrap_or_default();
    if is_plain(rest) {
        out.extend_from_slice(rest);
        return;
    }
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

/// Whether nothing is to be escaped: nearly always.
fn is_plain(text: &[u8]) -> bool {
    let has_escaped = |word| {
        let found = below(word, 0x20) | is(word, b'"') | is(word, b'\\') | is(word, 0x7f);
        found != 0
    };
    !any_of(text, has_escaped, must_escape)
}

fn must_escape(byte: u8) -> bool {
    ESCAPED
        .get(usize::from(byte))
        .is_some_and(|escaped| *escaped)
}

/// Looked up, because where one byte is to be escaped all are asked about.
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

/// A line without its path, generously.
const USUAL_LINE: usize = 768;
/// Digits of the largest `u64`.
const LONGEST_NUMBER: usize = 20;
/// Longest field in bytes.
const MAX_FIELD: usize = 2048;

#[cfg(test)]
mod tests;
