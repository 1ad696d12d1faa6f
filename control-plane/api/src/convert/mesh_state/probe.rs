//! Probes: what would fall if a change were made, asked of every sidecar before it is made.
//!
//! A probe is unsigned and applied by nobody. What it leads to is an answer, so whoever can send one (the control plane
//! of an authenticated stream) learns which connections there are, and can change nothing.

use std::time::SystemTime;

use prost::Message;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::spiffe_id::SpiffeId;

use super::super::{
    ConvertError, MAX_WATCH_REQUEST_BYTES, array, bounded, each, text, time, unix_ms, word,
};
use super::{MAX_ERROR_BYTES, MAX_NAME_BYTES, Resource, ResourceName, names, resources};
use crate::v1;

/// A question: what would fall if these resources were in force?
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Of the question; the answer repeats it.
    pub id: u64,
    /// They stand in for those of the same name; in the order of names.
    pub resources: Vec<Resource>,
    /// Those that would be gone.
    pub removed: Vec<ResourceName>,
}

/// The answer to a [`Probe`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbeReport {
    /// Of the question.
    pub id: u64,
    /// What would fall, as much as fits into a message.
    pub fallen: Vec<Fallen>,
    /// How much of `live` would fall in all: a connection with all that is open on it.
    pub total: u64,
    /// Why nothing can be said; then nothing is listed.
    pub error: Option<String>,
    /// How many connections with peers, requests and flows the sidecar has open, each for one.
    pub live: u64,
    /// Whether its own certificate would be meant by a revocation.
    pub is_revoked: bool,
}

/// A live connection, or one stream of it, that would end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fallen {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// SPIFFE ID of the peer.
    pub peer: String,
    /// The peer's instance; `None` for an unattested one.
    pub instance: Option<InstanceId>,
    /// Serial number of the peer's certificate, in hex.
    pub serial: String,
    /// Name of the port; empty where a connection has none of its own.
    pub port: String,
    /// What admits it now, as access logs write it; empty where no rule does.
    pub rule: String,
    /// The word that its end would be logged with.
    pub reason: String,
    /// Whether only a stream would end and the connection stay.
    pub is_stream: bool,
    /// When it was opened.
    pub opened: SystemTime,
    /// How many connections, requests and flows that is; none for a stream that is counted with its connection.
    pub weight: u64,
}

impl ProbeReport {
    /// A report of all that would fall, of which as much is listed as fits into a message.
    pub fn new(id: u64, fallen: impl IntoIterator<Item = Fallen>) -> Self {
        let (mut listed, mut total, mut room) = (Vec::new(), 0, ROOM);
        for one in fallen {
            total += one.weight;
            let size = v1::Fallen::from(one.clone()).encoded_len() + FRAMING;
            if size <= room && listed.len() < MAX_FALLEN {
                room -= size;
                listed.push(one);
            }
        }
        Self {
            id,
            fallen: listed,
            total,
            error: None,
            live: 0,
            is_revoked: false,
        }
    }

    /// The same, of a sidecar where so many connections, requests and flows are live, and whose own certificate is meant or
    /// not.
    #[must_use]
    pub fn of(self, live: u64, is_revoked: bool) -> Self {
        Self {
            live,
            is_revoked,
            ..self
        }
    }

    /// A report that nothing can be said, and why.
    pub fn failed(id: u64, error: &str) -> Self {
        Self {
            id,
            fallen: Vec::new(),
            total: 0,
            error: Some(super::one_line(error)),
            live: 0,
            is_revoked: false,
        }
    }
}

impl TryFrom<v1::Probe> for Probe {
    type Error = ConvertError;

    fn try_from(wire: v1::Probe) -> Result<Self, ConvertError> {
        Ok(Self {
            id: wire.id,
            resources: resources("resources", wire.resources)?,
            removed: names("removed", &wire.removed)?,
        })
    }
}

impl From<Probe> for v1::Probe {
    fn from(probe: Probe) -> Self {
        Self {
            id: probe.id,
            resources: probe.resources.into_iter().map(Into::into).collect(),
            removed: probe.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::ProbeReport> for ProbeReport {
    type Error = ConvertError;

    fn try_from(wire: v1::ProbeReport) -> Result<Self, ConvertError> {
        let fallen = each("fallen", MAX_FALLEN, wire.fallen, Fallen::try_from)?;
        let listed = fallen.iter().map(|one| one.weight);
        if wire.total < listed.fold(0, u64::saturating_add) {
            return Err(ConvertError::Malformed {
                field: "total",
                expected: "at least the weight of those listed",
            });
        }
        let error = text("error", MAX_ERROR_BYTES, wire.error)?;
        Ok(Self {
            id: wire.id,
            fallen,
            total: wire.total,
            error: Some(error).filter(|error| !error.is_empty()),
            live: wire.live,
            is_revoked: wire.is_revoked,
        })
    }
}

impl From<ProbeReport> for v1::ProbeReport {
    fn from(report: ProbeReport) -> Self {
        Self {
            id: report.id,
            fallen: report.fallen.into_iter().map(Into::into).collect(),
            total: report.total,
            error: report.error.unwrap_or_default(),
            live: report.live,
            is_revoked: report.is_revoked,
        }
    }
}

impl TryFrom<v1::Fallen> for Fallen {
    type Error = ConvertError;

    fn try_from(wire: v1::Fallen) -> Result<Self, ConvertError> {
        bounded("instance", InstanceId::BYTES, wire.instance.len())?;
        Ok(Self {
            direction: word("direction", MAX_WORD_BYTES, wire.direction)?,
            peer: word("peer", SpiffeId::MAX_BYTES, wire.peer)?,
            instance: match wire.instance.as_slice() {
                [] => None,
                instance => Some(InstanceId(array("instance", instance)?)),
            },
            serial: word("serial", MAX_WORD_BYTES, wire.serial)?,
            port: word("port", MAX_WORD_BYTES, wire.port)?,
            rule: text("rule", MAX_NAME_BYTES, wire.rule)?,
            reason: word("reason", MAX_WORD_BYTES, wire.reason)?,
            is_stream: wire.is_stream,
            opened: time("opened_ms", wire.opened_ms)?,
            weight: wire.weight,
        })
    }
}

impl From<Fallen> for v1::Fallen {
    fn from(fallen: Fallen) -> Self {
        let instance = fallen.instance.map(|instance| instance.0.to_vec());
        Self {
            direction: fallen.direction,
            peer: fallen.peer,
            instance: instance.unwrap_or_default(),
            serial: fallen.serial,
            port: fallen.port,
            rule: fallen.rule,
            reason: fallen.reason,
            is_stream: fallen.is_stream,
            opened_ms: unix_ms(fallen.opened),
            weight: fallen.weight,
        }
    }
}

/// More than anyone reads; the total says how many there are.
pub const MAX_FALLEN: usize = 512;
/// Serial numbers have up to 40 digits, names of ports 63 letters.
const MAX_WORD_BYTES: usize = 64;
/// What a report's list may take of a message, the rest being its error and framing.
const ROOM: usize = MAX_WATCH_REQUEST_BYTES - MAX_ERROR_BYTES - 256;
/// Tag and length of one entry.
const FRAMING: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::convert::mesh_state::{WatchRequest, WatchResponse};

    fn fallen(peer: &str) -> Fallen {
        Fallen {
            direction: "inbound".to_owned(),
            peer: peer.to_owned(),
            instance: Some(InstanceId([3; 16])),
            serial: "0a1b".to_owned(),
            port: "openai".to_owned(),
            rule: "AccessPolicy inference/gateway-to-llm".to_owned(),
            reason: "revoked".to_owned(),
            is_stream: true,
            opened: UNIX_EPOCH + Duration::from_millis(1_800_000_000_000),
            weight: 2,
        }
    }

    fn through_the_wire(request: WatchRequest) -> Result<WatchRequest, ConvertError> {
        let bytes = v1::WatchRequest::from(request).encode_to_vec();
        v1::WatchRequest::decode(bytes.as_slice())
            .unwrap()
            .try_into()
    }

    #[test]
    fn a_probe_survives_the_wire() {
        let probe = Probe {
            id: 9,
            resources: vec![Resource {
                name: "policy/Revocation/platform/gone".parse().unwrap(),
                content: b"kind: Revocation".as_slice().into(),
            }],
            removed: vec!["policy/AccessPolicy/a/b".parse().unwrap()],
        };
        let message = Some(v1::watch_response::Message::Probe(probe.clone().into()));
        let bytes = v1::WatchResponse { message }.encode_to_vec();
        let read = v1::WatchResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(
            WatchResponse::try_from(read),
            Ok(WatchResponse::Probe(probe))
        );
    }

    #[test]
    fn a_report_survives_the_wire() {
        let mut unattested = fallen("spiffe://factory.example/ns/a/workload/b");
        unattested.instance = None;
        let peers = [fallen("spiffe://factory.example/x"), unattested];
        for report in [
            ProbeReport::new(7, peers).of(9, true),
            ProbeReport::failed(7, "two\nlines"),
        ] {
            let request = WatchRequest::ProbeReport(report);
            assert_eq!(through_the_wire(request.clone()), Ok(request));
        }
    }

    #[test]
    fn a_report_lists_what_fits_and_counts_the_rest() {
        let long = format!("spiffe://factory.example/{}", "x".repeat(2000));
        let report = ProbeReport::new(1, (0..10_000).map(|_| fallen(&long)));
        assert_eq!(report.total, 20_000);
        let listed = report.fallen.len();
        assert!((1..MAX_FALLEN).contains(&listed), "{listed}");
        let request = v1::WatchRequest::from(WatchRequest::ProbeReport(report));
        assert!(request.encoded_len() <= MAX_WATCH_REQUEST_BYTES);
        let short = ProbeReport::new(1, (0..10_000).map(|_| fallen("spiffe://a/b")));
        assert!(short.fallen.len() <= MAX_FALLEN);
        assert!(through_the_wire(WatchRequest::ProbeReport(short)).is_ok());
    }

    #[test]
    fn a_report_out_of_bounds_is_refused() {
        let check = |change: fn(&mut v1::ProbeReport)| {
            let mut wire = v1::ProbeReport::from(ProbeReport::new(1, [fallen("spiffe://a/b")]));
            change(&mut wire);
            assert!(ProbeReport::try_from(wire).is_err());
        };
        check(|report| report.total = 1);
        check(|report| report.error = "x".repeat(MAX_ERROR_BYTES + 1));
        check(|report| report.fallen[0].instance = vec![1; 15]);
        check(|report| report.fallen[0].instance = vec![1; 17]);
        check(|report| report.fallen[0].peer = "a b".to_owned());
        check(|report| report.fallen[0].reason = "x".repeat(MAX_WORD_BYTES + 1));
        check(|report| report.fallen[0].opened_ms = 0);
        check(|report| {
            let one = report.fallen[0].clone();
            report.fallen = vec![one; MAX_FALLEN + 1];
            report.total = 100_000;
        });
    }
}
