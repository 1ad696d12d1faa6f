//! Authorities and the keys of the mesh's own roles, renewed in good time.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use vouchsafe_api::convert::record::Event;
use vouchsafe_attestation::svid::MeshRole;
use vouchsafe_attestation::trust_bundle::TrustBundle;

use super::Keeper;
use crate::ca::{AuthorityFacts, CaError, CertificateAuthority, RoleKey};
use crate::telemetry::Chain;
use crate::tls::TlsEpoch;

/// Keys of the mesh's own roles.
#[derive(Debug)]
pub struct RoleKeys {
    /// Serves the API.
    pub serving: RoleKey,
    /// Signs the mesh state.
    pub mesh_state: RoleKey,
}

impl RoleKeys {
    /// Makes both.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn new(ca: &CertificateAuthority, now: SystemTime) -> Result<Self, CaError> {
        Ok(Self {
            serving: ca.certify_role(MeshRole::ControlPlane, now)?,
            mesh_state: ca.certify_role(MeshRole::MeshState, now)?,
        })
    }
}

impl Keeper {
    pub(super) async fn rotate(&mut self) -> Result<(), CaError> {
        let now = self.control_plane.now();
        let is_behind = self.control_plane.ca.begins_after(now);
        for facts in self.control_plane.ca.rotate(now)? {
            if is_behind {
                tracing::warn!(
                    "the clock shows a time before all issuing authorities were made, so another one signs: check the clock"
                );
            }
            tracing::info!(
                spki_sha256 = hex::encode(facts.spki_sha256),
                "issuing authority made"
            );
            self.record_authority(authority_created(&facts)).await;
        }
        let bundle = self.control_plane.ca.trust_bundle();
        self.control_plane.bundle.store(Arc::new(bundle));
        if self.keys.mesh_state.renew_at <= now {
            let key = self
                .control_plane
                .ca
                .certify_role(MeshRole::MeshState, now)?;
            self.record_authority(role_created("mesh-state", &key))
                .await;
            self.keys.mesh_state = key;
        }
        if self.keys.serving.renew_at <= now {
            let key = self
                .control_plane
                .ca
                .certify_role(MeshRole::ControlPlane, now)?;
            match TlsEpoch::new(&key, &self.control_plane.bundle) {
                Ok(epoch) => {
                    self.record_authority(role_created("control-plane", &key))
                        .await;
                    self.tls.send_replace(epoch);
                    self.keys.serving = key;
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "failed to serve a new certificate");
                }
            }
        }
        Ok(())
    }

    pub(super) async fn record_authority(&self, event: Event) {
        if let Err(error) = self.control_plane.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a new authority");
        }
    }
}

pub(crate) fn authority_created(facts: &AuthorityFacts) -> Event {
    Event::AuthorityCreated {
        role: facts.role.to_owned(),
        spki_sha256: facts.spki_sha256,
        not_after: facts.not_after,
    }
}

pub(crate) fn role_created(role: &str, key: &RoleKey) -> Event {
    Event::AuthorityCreated {
        role: role.to_owned(),
        spki_sha256: key.spki_sha256,
        not_after: key.not_after,
    }
}

/// The bundle that verifies clients, replaced when authorities change.
pub(crate) fn shared_bundle(ca: &CertificateAuthority) -> Arc<ArcSwap<TrustBundle>> {
    Arc::new(ArcSwap::from_pointee(ca.trust_bundle()))
}
