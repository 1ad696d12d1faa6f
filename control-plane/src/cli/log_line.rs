//! What a line of a sidecar's access log says of a decision: for `vouchsafe explain --log` and `suggest`.
//!
//! A log has been on other machines, and peers choose paths and methods in it, so nothing is believed that does not parse
//! as what it must be. Apart, so that a fuzzer reaches it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::policy::{Direction, normalize_path};
use vouchsafe_config::reason::suggest::{Seen, SeenRequest};
use vouchsafe_config::reason::who_can::Door;

/// What a line of the access log says of a decision.
#[derive(Clone, Debug)]
pub struct Line {
    pub(super) id: String,
    pub(super) time: SystemTime,
    pub(super) direction: Direction,
    pub(super) peer: SpiffeId,
    pub(super) serial: Vec<u8>,
    pub(super) spki_sha256: Option<[u8; 32]>,
    pub(super) authority_spki_sha256: Option<[u8; 32]>,
    pub(super) intermediate_spki_sha256: Vec<[u8; 32]>,
    pub(super) result: Option<AttestationResult>,
    /// Whether the peer had a result, which the log keeps of what no rule allows only.
    pub(super) is_attested: bool,
    pub(super) local: WorkloadName,
    pub(super) port: Name,
    pub(super) port_number: Option<u16>,
    /// Method, path, whether it is gRPC.
    pub(super) request: Option<(String, String, bool)>,
    /// How long it was live; older lines may lack it.
    pub(super) elapsed: Option<Duration>,
    pub(super) decision: String,
    pub(super) reason: String,
    /// The rule that admitted it.
    pub(super) rule: Option<String>,
    /// The document by which it was ended while it was live.
    pub(super) ended_by: Option<String>,
    pub(super) revision: Revision,
}

impl Line {
    /// What was seen at the door, as rules are suggested for it; `None` where its path can't be judged.
    pub fn seen(&self) -> Option<Seen> {
        let ask = match &self.request {
            None => None,
            Some((method, path, grpc)) => Some(SeenRequest {
                method: method.clone(),
                path: normalize_path(path).ok()?.into_owned(),
                grpc: *grpc,
                is_pattern: false,
            }),
        };
        let result = self.result.as_ref();
        let class = result.map_or("unattested", |result| result.class.as_str());
        Some(Seen {
            door: Door {
                workload: self.local.clone(),
                port: self.port.clone(),
            },
            client: self.peer.to_string(),
            class: class.to_owned(),
            ask,
        })
    }
}

/// Reads a line.
///
/// # Errors
/// What it lacks, or what is wrong with it.
pub fn read_line(text: &str) -> Result<Line, String> {
    let line: Value =
        serde_json::from_str(text).map_err(|error| format!("the line is no JSON: {error}"))?;
    let field = |name: &str| line.get(name).and_then(Value::as_str);
    let need = |name: &str| {
        field(name).ok_or_else(|| {
            format!(
                "the line has no `{name}`: it is no decision about a peer, or of an older sidecar"
            )
        })
    };
    let direction = match need("direction")? {
        "inbound" => Direction::Inbound,
        "outbound" => Direction::Outbound,
        other => return Err(format!("`direction` is `{other}`")),
    };
    let read_digest = |name: &str, text: &str| -> Result<[u8; 32], String> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| format!("`{name}` is no digest"))?;
        Ok(digest)
    };
    let digest = |name: &str| field(name).map(|text| read_digest(name, text)).transpose();
    let digests = |name: &str| -> Result<Vec<[u8; 32]>, String> {
        let listed = line.get(name).and_then(Value::as_array);
        let listed = listed.into_iter().flatten();
        listed
            .map(|one| read_digest(name, one.as_str().unwrap_or_default()))
            .collect()
    };
    let port_number = line.get("port_number").and_then(Value::as_u64);
    let result = match field("result") {
        None => None,
        Some(text) => {
            let der = STANDARD.decode(text).map_err(|_| "`result` is no base64")?;
            Some(AttestationResult::decode(&der).map_err(|error| format!("`result`: {error}"))?)
        }
    };
    let parsed = |name: &str, error: String| format!("`{name}`: {error}");
    let request = match (field("method"), field("path")) {
        (Some(method), Some(path)) => {
            let grpc = line.get("grpc").and_then(Value::as_bool).unwrap_or(false);
            Some((method.to_owned(), path.to_owned(), grpc))
        }
        _ => None,
    };
    let time: jiff::Timestamp = need("time")?
        .parse()
        .map_err(|error| parsed("time", format!("{error}")))?;
    let milliseconds = u64::try_from(time.as_millisecond()).unwrap_or_default();
    Ok(Line {
        id: need("id")?.to_owned(),
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds),
        direction,
        peer: need("peer_id")?
            .parse()
            .map_err(|error| parsed("peer_id", format!("{error}")))?,
        serial: hex::decode(need("serial")?).map_err(|_| "`serial` is no hex")?,
        spki_sha256: digest("spki_sha256")?,
        authority_spki_sha256: digest("authority_sha256")?,
        intermediate_spki_sha256: digests("intermediates_sha256")?,
        result,
        is_attested: need("class")? != "unattested",
        local: need("local")?
            .parse()
            .map_err(|error| parsed("local", format!("{error}")))?,
        port: need("port")?
            .parse()
            .map_err(|error| parsed("port", format!("{error}")))?,
        port_number: port_number
            .map(u16::try_from)
            .transpose()
            .map_err(|_| "`port_number` is no port number")?,
        request,
        // A log may say anything: what is no time is none.
        elapsed: { line.get("elapsed_ms").and_then(Value::as_f64) }
            .and_then(|elapsed| Duration::try_from_secs_f64(elapsed / 1000.0).ok())
            .filter(|elapsed| *elapsed <= LONGEST),
        decision: need("decision")?.to_owned(),
        reason: field("reason").unwrap_or_default().to_owned(),
        rule: field("rule").map(str::to_owned),
        ended_by: field("ended_by").map(str::to_owned),
        revision: revision(need("revision")?)?,
    })
}

fn revision(text: &str) -> Result<Revision, String> {
    let read = || {
        let (epoch, sequence) = text.split_once('.')?;
        Some(Revision {
            epoch: epoch.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    };
    read().ok_or_else(|| format!("`{text}` is no revision: expected `<epoch>.<sequence>`"))
}

/// Longer than any connection lives; more would overflow a clock.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
