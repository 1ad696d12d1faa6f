//! Answers probes: what would fall here if a policy were in force that is not.
//!
//! Nothing of a probe is believed or kept: it is judged by the very function that judges a policy when it comes in force,
//! and what would fall is said. What the sidecar's own certificate is worth under it is said as well, because only the
//! sidecar knows all that a revocation may look at.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::mesh_state::probe::{self, ProbeReport};
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_config::policy::Policy;
use vouchsafe_config::revocation::Bearer;

use super::RevisionError;
use crate::registry::snapshot::{ConnectionSnapshot, Fallen};
use crate::state::{IdentityEpoch, PolicyEpoch};
use crate::telemetry::Chain;
use crate::worker::Connections;

/// The answer to a probe.
pub(super) async fn answer(
    id: u64,
    supposed: Result<PolicyEpoch, RevisionError>,
    connections: &Connections,
    own: Option<Arc<IdentityEpoch>>,
    now: SystemTime,
) -> ProbeReport {
    let supposed = match supposed {
        Ok(supposed) => Arc::new(supposed),
        Err(error) => return ProbeReport::failed(id, &Chain(&error).to_string()),
    };
    let is_revoked = own.is_some_and(|own| is_revoked(&own, &supposed.policy, now));
    let fallen = match connections.would_fall(supposed).await {
        Ok(fallen) => fallen,
        Err(busy) => return ProbeReport::failed(id, &busy.to_string()),
    };
    let live = connections.count_live().await;
    ProbeReport::new(id, fallen.into_iter().map(as_told)).of(live, is_revoked)
}

/// Whether our own certificate is meant by a revocation of that policy.
fn is_revoked(own: &IdentityEpoch, policy: &Policy, now: SystemTime) -> bool {
    let verified = verify_peer(&own.svid.chain, &own.bundle, PeerRole::Client, now);
    // One that peers don't believe anyway has nothing to lose.
    verified.is_ok_and(|peer| policy.revoked(&Bearer::from(&peer), now).is_some())
}

fn as_told(fallen: Fallen) -> probe::Fallen {
    let Fallen {
        connection, stream, ..
    } = fallen;
    let is_stream = stream.is_some();
    let rule = match &stream {
        Some(stream) => stream.rule.clone(),
        // Of all that is open on it, one: what ends is the connection.
        None => connection.open.iter().find_map(|open| open.rule.clone()),
    };
    let port = stream.map(|stream| stream.port);
    let ConnectionSnapshot {
        direction,
        peer,
        serial,
        instance,
        opened,
        ..
    } = connection;
    probe::Fallen {
        direction: direction.to_owned(),
        peer: peer.unwrap_or_default(),
        instance: instance.as_deref().and_then(InstanceId::parse),
        serial: serial.unwrap_or_default(),
        port: port.or(connection.port).unwrap_or_default(),
        rule: rule.unwrap_or_default(),
        reason: fallen.reason.to_owned(),
        is_stream,
        opened: SystemTime::UNIX_EPOCH + Duration::from_secs(opened),
        weight: fallen.weight,
    }
}
