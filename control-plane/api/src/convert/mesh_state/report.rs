//! What a sidecar decided at its own doors: how much it denied and ended, and what its ports in `audit` admitted although
//! policy would deny it.
//!
//! A report is the word of one sidecar about itself. It decides nothing; what an operator is shown of it is bounded here.

use std::time::SystemTime;

use prost::Message;
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_attestation::spiffe_id::SpiffeId;

use super::super::{
    ConvertError, MAX_WATCH_REQUEST_BYTES, bounded, bytes, each, time, unix_ms, word,
};
use crate::v1;

/// A report; the default says that nothing happened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Requests and flows that were denied, both ways.
    pub denied: u64,
    /// Live connections, requests and flows that policy or trust ended.
    pub ended: u64,
    /// Who came in by audit.
    pub clients: Vec<AuditedClient>,
    /// For what.
    pub audited: Vec<Audited>,
    /// How often something came in by audit that is not listed.
    pub beyond: u64,
}

/// Somebody who came in by audit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditedClient {
    /// SPIFFE ID.
    pub id: String,
    /// Class of its attestation result; `unattested` without one.
    pub class: String,
    /// Serial number of its newest certificate, big-endian.
    pub serial: Vec<u8>,
    /// The attestation result in that, encoded; empty where there is none, or no room.
    pub result: Vec<u8>,
}

/// One sort of thing that was admitted by audit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audited {
    /// Place of the client among the clients.
    pub client: u32,
    /// Name of the port.
    pub port: String,
    /// Why policy would deny it.
    pub reason: String,
    /// What was asked for; `None` for a flow.
    pub ask: Option<AuditedRequest>,
    /// How often.
    pub count: u64,
    /// When first.
    pub first: SystemTime,
    /// When last.
    pub last: SystemTime,
}

/// One sort of request.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct AuditedRequest {
    /// Its method.
    pub method: String,
    /// Its path, with `*` for each segment that looks like an identifier.
    pub path: String,
    /// Whether it was gRPC.
    pub grpc: bool,
}

impl AuditedRequest {
    /// Whether it can be reported: a method of letters and digits, a path without what would need quoting in a policy.
    pub fn is_plain(&self) -> bool {
        let is_method = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_path =
            |byte: u8| byte.is_ascii_alphanumeric() || b"/._~*:@+=,;!$&()-".contains(&byte);
        let is_service = |byte: u8| byte.is_ascii_alphanumeric() || b"/._".contains(&byte);
        !self.method.is_empty()
            && self.method.len() <= MAX_METHOD_BYTES
            && self.method.bytes().all(is_method)
            && self.path.starts_with('/')
            && self.path.len() <= MAX_PATH_BYTES
            && match self.grpc {
                true => self.path.bytes().all(is_service),
                false => self.path.bytes().all(is_path),
            }
    }
}

impl Report {
    /// As much of it as fits into a message: what is left out counts as beyond.
    #[must_use]
    pub fn fitting(mut self) -> Self {
        let (mut room, mut fit) = (CLIENTS_ROOM, 0);
        for client in &mut self.clients {
            if v1::AuditedClient::from(client.clone()).encoded_len() + FRAMING > room / 2 {
                // Whoever looks has to do without what it proved.
                client.result.clear();
            }
            let size = v1::AuditedClient::from(client.clone()).encoded_len() + FRAMING;
            if size > room || fit == MAX_CLIENTS {
                break;
            }
            room -= size;
            fit += 1;
        }
        self.clients.truncate(fit);
        let (mut room, mut listed) = (AUDITED_ROOM, Vec::new());
        for one in std::mem::take(&mut self.audited) {
            let size = v1::Audited::from(one.clone()).encoded_len() + FRAMING;
            let has_client = usize::try_from(one.client).is_ok_and(|place| place < fit);
            if has_client && size <= room && listed.len() < MAX_AUDITED {
                room -= size;
                listed.push(one);
            } else {
                self.beyond = self.beyond.saturating_add(one.count);
            }
        }
        self.audited = listed;
        self
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = ConvertError;

    fn try_from(wire: v1::Report) -> Result<Self, ConvertError> {
        let clients = each(
            "clients",
            MAX_CLIENTS,
            wire.clients,
            AuditedClient::try_from,
        )?;
        let audited = each("audited", MAX_AUDITED, wire.audited, Audited::try_from)?;
        let is_known =
            |one: &Audited| usize::try_from(one.client).is_ok_and(|at| at < clients.len());
        if !audited.iter().all(is_known) {
            return Err(ConvertError::Malformed {
                field: "client",
                expected: "the place of a client",
            });
        }
        Ok(Self {
            denied: wire.denied,
            ended: wire.ended,
            clients,
            audited,
            beyond: wire.beyond,
        })
    }
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> Self {
        Self {
            denied: report.denied,
            ended: report.ended,
            clients: report.clients.into_iter().map(Into::into).collect(),
            audited: report.audited.into_iter().map(Into::into).collect(),
            beyond: report.beyond,
        }
    }
}

impl TryFrom<v1::AuditedClient> for AuditedClient {
    type Error = ConvertError;

    fn try_from(wire: v1::AuditedClient) -> Result<Self, ConvertError> {
        bounded("id", SpiffeId::MAX_BYTES, wire.id.len())?;
        let malformed = |field, expected| ConvertError::Malformed { field, expected };
        if wire.id.parse::<SpiffeId>().is_err() {
            return Err(malformed("id", "a SPIFFE ID"));
        }
        let result = bytes("result", AttestationResult::MAX_BYTES, wire.result)?;
        let is_result = result.is_empty() || AttestationResult::decode(&result).is_ok();
        if !is_result {
            return Err(malformed("result", "an attestation result"));
        }
        Ok(Self {
            class: word("class", MAX_WORD_BYTES, wire.class)?,
            serial: bytes("serial", MAX_SERIAL_BYTES, wire.serial)?,
            id: wire.id,
            result,
        })
    }
}

impl From<AuditedClient> for v1::AuditedClient {
    fn from(client: AuditedClient) -> Self {
        Self {
            id: client.id,
            class: client.class,
            serial: client.serial,
            result: client.result,
        }
    }
}

impl TryFrom<v1::Audited> for Audited {
    type Error = ConvertError;

    fn try_from(wire: v1::Audited) -> Result<Self, ConvertError> {
        let ask = AuditedRequest {
            method: word("method", MAX_METHOD_BYTES, wire.method)?,
            path: word("path", MAX_PATH_BYTES, wire.path)?,
            grpc: wire.grpc,
        };
        let is_flow = ask.method.is_empty() && ask.path.is_empty() && !ask.grpc;
        if !is_flow && !ask.is_plain() {
            return Err(ConvertError::Malformed {
                field: "path",
                expected: "a plain path with a method, or neither",
            });
        }
        Ok(Self {
            client: wire.client,
            port: word("port", MAX_WORD_BYTES, wire.port)?,
            reason: word("reason", MAX_WORD_BYTES, wire.reason)?,
            ask: (!is_flow).then_some(ask),
            count: wire.count,
            first: time("first_ms", wire.first_ms)?,
            last: time("last_ms", wire.last_ms)?,
        })
    }
}

impl From<Audited> for v1::Audited {
    fn from(audited: Audited) -> Self {
        let ask = audited.ask;
        let (method, path, grpc) = ask
            .map(|ask| (ask.method, ask.path, ask.grpc))
            .unwrap_or_default();
        Self {
            client: audited.client,
            port: audited.port,
            reason: audited.reason,
            method,
            path,
            grpc,
            count: audited.count,
            first_ms: unix_ms(audited.first),
            last_ms: unix_ms(audited.last),
        }
    }
}

/// Clients whom one sidecar names.
pub const MAX_CLIENTS: usize = 64;
/// Sorts of things that one sidecar lists: more than a person decides about at once.
pub const MAX_AUDITED: usize = 256;
/// Longest path that is listed.
pub const MAX_PATH_BYTES: usize = 512;
const MAX_METHOD_BYTES: usize = 32;
/// Names of ports have 63 letters.
const MAX_WORD_BYTES: usize = 64;
/// RFC 5280 §4.1.2.2.
const MAX_SERIAL_BYTES: usize = 20;
/// Half a message each, but for what frames them.
const CLIENTS_ROOM: usize = MAX_WATCH_REQUEST_BYTES / 2 - 128;
const AUDITED_ROOM: usize = MAX_WATCH_REQUEST_BYTES / 2 - 128;
/// Tag and length of one entry.
const FRAMING: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::convert::mesh_state::WatchRequest;

    fn client(number: usize) -> AuditedClient {
        AuditedClient {
            id: format!("spiffe://factory.example/ns/a/workload/w{number}"),
            class: "unattested".to_owned(),
            serial: vec![7; 20],
            result: Vec::new(),
        }
    }

    fn audited(client: u32, path: &str) -> Audited {
        let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Audited {
            client,
            port: "web".to_owned(),
            reason: "no_rule".to_owned(),
            ask: Some(AuditedRequest {
                method: "GET".to_owned(),
                path: path.to_owned(),
                grpc: false,
            }),
            count: 3,
            first: at,
            last: at,
        }
    }

    fn report() -> Report {
        Report {
            denied: 4,
            ended: 5,
            clients: vec![client(0)],
            audited: vec![
                audited(0, "/v1/files/*"),
                Audited {
                    ask: None,
                    ..audited(0, "")
                },
            ],
            beyond: 6,
        }
    }

    fn read(wire: v1::Report) -> Result<Report, ConvertError> {
        wire.try_into()
    }

    #[test]
    fn a_report_survives_the_wire() {
        let request = WatchRequest::Report(report());
        let wire = v1::WatchRequest::from(request.clone());
        assert_eq!(WatchRequest::try_from(wire), Ok(request));
    }

    #[test]
    fn more_than_a_message_holds_counts_as_beyond() {
        let path = format!("/{}", "a".repeat(MAX_PATH_BYTES - 1));
        let full = Report {
            clients: (0..200).map(client).collect(),
            audited: (0..1_000)
                .map(|number| audited(number % 200, &path))
                .collect(),
            ..report()
        };
        let fitting = full.fitting();
        assert!(!fitting.audited.is_empty() && fitting.audited.len() < MAX_AUDITED);
        assert_eq!(fitting.clients.len(), MAX_CLIENTS);
        let listed = fitting.audited.len() as u64;
        assert_eq!(fitting.beyond, 6 + (1_000 - listed) * 3);
        let wire = v1::WatchRequest::from(WatchRequest::Report(fitting.clone()));
        assert!(wire.encoded_len() <= MAX_WATCH_REQUEST_BYTES);
        assert_eq!(
            WatchRequest::try_from(wire),
            Ok(WatchRequest::Report(fitting))
        );
    }

    #[test]
    fn what_no_sidecar_of_ours_writes_is_refused() {
        type Change = fn(&mut v1::Report);
        let changes: [(&str, Change); 8] = [
            ("client", |wire| wire.audited[0].client = 1),
            ("id", |wire| wire.clients[0].id = "nobody".to_owned()),
            ("result", |wire| wire.clients[0].result = vec![1]),
            ("path", |wire| wire.audited[0].path = "/\"x".to_owned()),
            ("path", |wire| wire.audited[0].path = String::new()),
            ("path", |wire| {
                wire.audited[0].method = "GET, PUT".replace(", ", "]")
            }),
            ("first_ms", |wire| wire.audited[1].first_ms = 0),
            ("port", |wire| wire.audited[1].port = "a b".to_owned()),
        ];
        for (field, change) in changes {
            let mut wire = v1::Report::from(report());
            change(&mut wire);
            let error = read(wire).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
        }
        let many = Report {
            audited: vec![audited(0, "/a"); MAX_AUDITED + 1],
            ..report()
        };
        assert!(read(many.into()).is_err());
    }
}
