//! Live connections and streams as an operator sees them: what `/connections` answers, and what a change would end.

use std::time::SystemTime;

use serde::Serialize;
use vouchsafe_attestation::name::Name;

use crate::registry::live::Live;
use crate::registry::stream::Stream;
use crate::registry::{LaneKind, Registry, direction_word};
use crate::tls::peer_verifier::Verified;

/// One live connection, as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSnapshot {
    /// Number of the worker that carries it.
    pub worker: usize,
    /// Its number with that worker.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// What it carries.
    pub lane: LaneKind,
    /// SPIFFE ID of the peer; `None` for the local application.
    pub peer: Option<String>,
    /// Class of the peer's attestation result, or `unattested`.
    pub class: Option<&'static str>,
    /// Serial number of the peer's certificate, in hex; after a lease was extended that of its successor.
    pub serial: Option<String>,
    /// Instance that the peer's attestation result names.
    pub instance: Option<String>,
    /// When the peer's evidence was collected, in Unix seconds.
    pub evidence_time: Option<u64>,
    /// Name of the port, where there is one for the whole connection.
    pub port: Option<String>,
    /// When it was opened, in Unix seconds.
    pub opened: u64,
    /// When it must end, in Unix seconds.
    pub lease_end: Option<u64>,
    /// Whether it takes on nothing new.
    pub draining: bool,
    /// Requests and flows that it carries now.
    pub streams: u32,
    /// Of these, those that policy admitted for this very peer.
    pub open: Vec<StreamSnapshot>,
    /// Bytes of bodies and flows received from the opener.
    pub received_bytes: u64,
    /// Bytes of bodies and flows sent to the opener.
    pub sent_bytes: u64,
}

/// One open request or flow, as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamSnapshot {
    /// Name of the port.
    pub port: String,
    /// Method; `None` for a flow.
    pub method: Option<String>,
    /// Path without its query; `None` for a flow.
    pub path: Option<String>,
    /// The rule that admits it, with its line: `AccessPolicy inference/gateway-to-llm:12`; `None` where only `audit` does.
    pub rule: Option<String>,
    /// Where only `audit` admits it: what policy would say.
    pub audit: Option<&'static str>,
}

/// What a policy would end, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Fallen {
    /// The connection; with nothing in `open` where one stream alone would end.
    pub connection: ConnectionSnapshot,
    /// The stream that would end alone; `None`: the whole connection.
    pub stream: Option<StreamSnapshot>,
    /// `cut`, or `drain`: it may finish what it has.
    pub action: &'static str,
    /// The bounded word that log and metric would say.
    pub reason: &'static str,
    /// The document that decides it, where one does.
    pub document: Option<String>,
    /// How many connections, requests and flows that is; what ends with its connection is counted there.
    #[serde(skip)]
    pub weight: u64,
}

impl Registry {
    /// All live connections, as an operator sees them.
    pub(crate) fn snapshot(&self) -> Vec<ConnectionSnapshot> {
        let live = self.live.borrow();
        live.values()
            .map(|live| live.snapshot(self.worker))
            .collect()
    }
}

impl Live {
    fn snapshot(&self, worker: usize) -> ConnectionSnapshot {
        let open = self.open.borrow();
        ConnectionSnapshot {
            open: open.iter().map(|(_, stream)| stream.snapshot()).collect(),
            ..self.snapshot_alone(worker)
        }
    }

    /// The connection without what is open on it.
    pub(super) fn snapshot_alone(&self, worker: usize) -> ConnectionSnapshot {
        let verified = self.peer();
        let verified = verified.as_deref();
        let peer = verified.map(|verified| &verified.peer);
        let result = peer.and_then(|peer| peer.result());
        ConnectionSnapshot {
            worker,
            id: self.id,
            direction: direction_word(self.direction),
            lane: self.lane,
            peer: peer.map(|peer| peer.id().to_string()),
            class: verified.map(Verified::class),
            serial: peer.map(|peer| peer.serial().to_string()),
            instance: result.map(|result| result.instance.to_string()),
            evidence_time: result.map(|result| unix_seconds(result.evidence_time)),
            port: self.port.borrow().as_ref().map(Name::to_string),
            opened: unix_seconds(self.opened),
            lease_end: self.lease_end().map(unix_seconds),
            draining: self.is_draining(),
            streams: self.streams.get(),
            open: Vec::new(),
            received_bytes: self.received.get(),
            sent_bytes: self.sent.get(),
        }
    }
}

impl Stream {
    pub(super) fn snapshot(&self) -> StreamSnapshot {
        let asked = self.facts.asked.as_ref();
        StreamSnapshot {
            port: (self.facts.port.as_ref()).map_or_else(String::new, Name::to_string),
            method: asked.map(|asked| asked.method().to_owned()),
            path: asked.map(|asked| asked.path().to_owned()),
            rule: self.admission.document(),
            audit: self.audited.map(|reason| reason.as_str()),
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
