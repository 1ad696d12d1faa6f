//! Answers probes: what would fall here if a policy were in force that is not.
//!
//! Beside the stream that they come by, so that no question keeps a revision waiting: reading a large policy takes
//! hundreds of milliseconds, and a busy worker a second. Of a stream one question is answered at a time, and the newest of
//! those that come meanwhile waits; whoever asked an older one has given it up.
//!
//! Nothing of a probe is believed or kept: it is judged by the very function that judges a policy when it comes in force,
//! and what would fall is said. What the sidecar's own certificate is worth under it is said as well, because only the
//! sidecar knows all that a revocation may look at.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::mesh_state::probe::{self, Probe, ProbeReport};
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_config::policy::Policy;
use vouchsafe_config::revocation::Bearer;

use super::RevisionError;
use super::held::{Held, Wanted};
use crate::registry::snapshot::{ConnectionSnapshot, Fallen};
use crate::state::IdentityEpoch;
use crate::telemetry::Chain;
use crate::worker::Connections;

/// What the sidecar knows of itself when it is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) probe: Probe,
    /// What it holds, and whose slice that is.
    pub(super) held: Held,
    pub(super) wanted: Wanted,
    pub(super) connections: Connections,
    pub(super) own: Option<Arc<IdentityEpoch>>,
    pub(super) now: SystemTime,
}

/// The questions of one stream.
#[derive(Default)]
pub(super) struct Questions {
    answering: Option<Pin<Box<dyn Future<Output = ProbeReport> + Send>>>,
    waiting: Option<Asked>,
}

impl Questions {
    /// Takes a question.
    pub(super) fn put(&mut self, asked: Asked) {
        match self.answering {
            Some(_) => self.waiting = Some(asked),
            None => self.answering = Some(Box::pin(answer(asked))),
        }
    }

    /// The next answer; never where there is no question.
    ///
    /// # Cancel safety
    /// Safe: what was begun goes on with the next call.
    pub(super) async fn answered(&mut self) -> ProbeReport {
        let Some(answering) = &mut self.answering else {
            return std::future::pending().await;
        };
        let report = answering.await;
        self.answering = None;
        if let Some(asked) = self.waiting.take() {
            self.put(asked);
        }
        report
    }
}

/// The answer to a probe.
async fn answer(asked: Asked) -> ProbeReport {
    let id = asked.probe.id;
    let Asked {
        probe,
        held,
        wanted,
        connections,
        own,
        now,
    } = asked;
    let read = tokio::task::spawn_blocking(move || {
        let supposed = held.supposed(&probe, &wanted)?;
        let is_revoked = own.is_some_and(|own| is_revoked(&own, &supposed.policy, now));
        Ok::<_, RevisionError>((Arc::new(supposed), is_revoked))
    });
    let (supposed, is_revoked) = match read.await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return ProbeReport::failed(id, &Chain(&error).to_string()),
        Err(error) => return ProbeReport::failed(id, &Chain(&error).to_string()),
    };
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
