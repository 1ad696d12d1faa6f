//! One attestation: a new key, evidence bound to it and to this very connection, and the certificate for it.
//!
//! ```text
//! hello ──► challenge ──► evidence ──► issued | confirmed | refused
//! ```
//! Every attempt to get a certificate makes a key of its own, which exists in memory only and leaves this process never. What comes back is
//! checked before anyone sees it: the chain verifies against the bundle, names this workload, carries an attestation
//! result and bears the key that was made here.
//!
//! Source: DESIGN §5.1 to §5.6.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use vouchsafe_api::convert::ConvertError;
use vouchsafe_api::convert::attest::reattest::{Proof, Slot};
use vouchsafe_api::convert::attest::{
    AttestRequest, AttestResponse, Endpoint, Evidence, Hello, Issued, JoinToken, Refusal,
};
use vouchsafe_api::convert::mesh_state::read_trust_bundle;
use vouchsafe_api::{convert, v1};
use vouchsafe_attestation::binding::{Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{Peer, PeerRole, VerifyPeerError, verify_peer};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_attestation::trust_domain::TrustDomain;
use zeroize::Zeroizing;

use super::connection::{ConnectError, Connection, ControlPlane};
use crate::attester::{Attesters, CollectError};
use crate::clock::MeshClock;
use crate::state::Svid;

/// What this sidecar says about itself in each attestation.
#[derive(Debug)]
pub struct AttestClient {
    /// Whom to ask.
    pub control_plane: Arc<ControlPlane>,
    /// Fed by each challenge.
    pub clock: Arc<MeshClock>,
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// The name to bear.
    pub workload: WorkloadName,
    /// File with the join token, read again at each enrolment because an operator may replace it.
    pub join_token: Option<PathBuf>,
    /// Where peers reach us.
    pub endpoints: Vec<Endpoint>,
}

/// What a successful attestation gives.
#[derive(Debug)]
pub struct Issuance {
    /// The certificate and its key, checked.
    pub svid: Svid,
    /// Whom to believe, unless the mesh state knows better.
    pub bundle: TrustBundle,
    /// When to attest again.
    pub renew_at: SystemTime,
    /// Parts that are to be proven before.
    pub reattest: Vec<Slot>,
    /// Which instance we are.
    pub instance: InstanceId,
    /// Who we are now, with what was proven: for the log.
    pub peer: Peer,
}

/// What one conversation is about.
struct Ask<'a> {
    purpose: Purpose,
    proof: Option<Proof>,
    /// The key that the evidence is bound to.
    key: &'a KeyPair,
}

impl AttestClient {
    /// Attests once.
    ///
    /// `current` is presented as client certificate; an enrolment has none, or one that is no longer good for renewal.
    ///
    /// # Errors
    /// [`AttestError`], whose [`AttestError::reason`] is what log and metric say.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt; nothing was published.
    pub async fn attest(
        &self,
        attesters: &Attesters,
        purpose: Purpose,
        current: Option<&Svid>,
    ) -> Result<Issuance, AttestError> {
        let connection = self.control_plane.connect(current).await?;
        let key = KeyPair::generate().map_err(AttestError::Key)?;
        let ask = Ask {
            purpose,
            proof: None,
            key: &key,
        };
        match self.converse(&connection, attesters, &ask).await? {
            AttestResponse::Issued(issued) => {
                self.accept(*issued, &key, sha256(&key.subject_public_key_info()))
            }
            AttestResponse::Refusal(refusal) => Err(AttestError::Refused(refusal)),
            AttestResponse::Challenge(_) | AttestResponse::Confirmed(_) => {
                Err(AttestError::OutOfOrder)
            }
        }
    }

    /// Proves a part for the certificate that we have; returns when it is due again.
    ///
    /// # Errors
    /// [`AttestError`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt.
    pub async fn prove(
        &self,
        attesters: &Attesters,
        proof: Proof,
        current: &Svid,
    ) -> Result<Vec<Slot>, AttestError> {
        let key = KeyPair::try_from(&current.key).map_err(AttestError::Key)?;
        let connection = self.control_plane.connect(Some(current)).await?;
        let ask = Ask {
            purpose: Purpose::Reattest,
            proof: Some(proof),
            key: &key,
        };
        match self.converse(&connection, attesters, &ask).await? {
            AttestResponse::Confirmed(confirmed) => {
                self.clock
                    .observe_ms(convert::unix_ms(confirmed.server_time));
                Ok(confirmed.reattest)
            }
            AttestResponse::Refusal(refusal) => Err(AttestError::Refused(refusal)),
            AttestResponse::Challenge(_) | AttestResponse::Issued(_) => {
                Err(AttestError::OutOfOrder)
            }
        }
    }

    /// Hello, challenge, evidence: up to the outcome.
    async fn converse(
        &self,
        connection: &Connection,
        attesters: &Attesters,
        ask: &Ask<'_>,
    ) -> Result<AttestResponse, AttestError> {
        let all = self.converse_at_leisure(connection, attesters, ask);
        tokio::time::timeout(ATTEST_DEADLINE, all)
            .await
            .map_err(|_| AttestError::Deadline)?
    }

    async fn converse_at_leisure(
        &self,
        connection: &Connection,
        attesters: &Attesters,
        ask: &Ask<'_>,
    ) -> Result<AttestResponse, AttestError> {
        let spki_sha256 = sha256(&ask.key.subject_public_key_info());
        let client_nonce = nonce()?;
        let offers = attesters.offers().await?;
        let hello = self.hello(ask, spki_sha256, client_nonce, offers).await?;
        let mut stream = Conversation::open(connection, hello).await?;
        let challenge = match stream.answer().await? {
            AttestResponse::Challenge(challenge) => challenge,
            AttestResponse::Refusal(refusal) => return Err(AttestError::Refused(refusal)),
            AttestResponse::Issued(_) | AttestResponse::Confirmed(_) => {
                return Err(AttestError::OutOfOrder);
            }
        };
        self.clock
            .observe_ms(convert::unix_ms(challenge.server_time));
        let names = attesters.names(&challenge.required);
        let transcript = Transcript {
            purpose: ask.purpose,
            role: Role::Attester,
            trust_domain: &self.trust_domain,
            workload: &self.workload,
            client_nonce,
            server_nonce: challenge.nonce,
            spki_sha256,
            server_leaf_sha256: connection.server().leaf_sha256,
            exporter: connection.exporter(),
            ek_name: &names.ek,
            ak_name: &names.ak,
            policy_revision: challenge.policy_revision,
        };
        let items = attesters.collect(&transcript.base(), &challenge).await?;
        let csr = match ask.proof {
            None => csr(ask.key)?,
            Some(_) => Vec::new(),
        };
        let evidence = AttestRequest::Evidence(Box::new(Evidence { csr, items }));
        stream.send(evidence).await?;
        stream.answer().await
    }

    async fn hello(
        &self,
        ask: &Ask<'_>,
        spki_sha256: [u8; 32],
        client_nonce: Nonce,
        offers: Vec<convert::attest::Offer>,
    ) -> Result<AttestRequest, AttestError> {
        // A token is spent at enrolment; a known instance never sends it again.
        let join_token = match (&self.join_token, ask.purpose) {
            (Some(path), Purpose::Enroll) => Some(read_join_token(path).await?),
            _ => None,
        };
        Ok(AttestRequest::Hello(Box::new(Hello {
            purpose: ask.purpose,
            workload: self.workload.clone(),
            spki_sha256,
            client_nonce,
            offers,
            join_token,
            endpoints: self.endpoints.clone(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            proof: ask.proof,
        })))
    }

    /// Checks what was issued. Nothing that fails here is ever used.
    fn accept(
        &self,
        issued: Issued,
        key: &KeyPair,
        spki_sha256: [u8; 32],
    ) -> Result<Issuance, AttestError> {
        self.clock.observe_ms(convert::unix_ms(issued.server_time));
        let chain: Vec<CertificateDer<'static>> = issued
            .certificate_chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        let bundle = read_trust_bundle(&issued.trust_bundle)?;
        let now = self.clock.now();
        let peer = verify_peer(&chain, &bundle, PeerRole::Server, now)?;
        // Both, because the same certificate is presented at both ends of connections.
        verify_peer(&chain, &bundle, PeerRole::Client, now)?;
        if *peer.id() != SpiffeId::for_workload(&self.trust_domain, &self.workload) {
            return Err(AttestError::WrongName(peer.id().to_string()));
        }
        if *peer.spki_sha256() != spki_sha256 {
            return Err(AttestError::WrongKey);
        }
        let result = peer.result().ok_or(AttestError::NoResult)?;
        if result.instance != issued.instance {
            return Err(AttestError::WrongInstance);
        }
        let not_after = peer.not_after();
        let private_key = Zeroizing::new(key.serialize_der());
        Ok(Issuance {
            svid: Svid {
                chain,
                key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key.to_vec())),
                not_after,
            },
            bundle,
            renew_at: issued.renew_at,
            reattest: issued.reattest,
            instance: issued.instance,
            peer,
        })
    }
}

/// One Attest stream.
struct Conversation {
    requests: mpsc::Sender<v1::AttestRequest>,
    responses: Streaming<v1::AttestResponse>,
}

impl Conversation {
    async fn open(connection: &Connection, hello: AttestRequest) -> Result<Self, AttestError> {
        // The hello and the evidence: no more is ever sent.
        let (requests, receiver) = mpsc::channel(2);
        let outgoing = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        requests
            .send(hello.into())
            .await
            .map_err(|_| AttestError::Ended)?;
        let mut client = connection.attestation();
        let responses = client
            .attest(outgoing)
            .await
            .map_err(|status| AttestError::Rpc(Box::new(status)))?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    async fn send(&self, request: AttestRequest) -> Result<(), AttestError> {
        self.requests
            .send(request.into())
            .await
            .map_err(|_| AttestError::Ended)
    }

    async fn answer(&mut self) -> Result<AttestResponse, AttestError> {
        let message = self
            .responses
            .message()
            .await
            .map_err(|status| AttestError::Rpc(Box::new(status)))?
            .ok_or(AttestError::Ended)?;
        Ok(message.try_into()?)
    }
}

fn nonce() -> Result<Nonce, AttestError> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AttestError::Random)?;
    Ok(Nonce(nonce))
}

/// A request that proves possession of the key and says nothing else: names come from policy.
fn csr(key: &KeyPair) -> Result<Vec<u8>, AttestError> {
    let request = CertificateParams::default()
        .serialize_request(key)
        .map_err(AttestError::Key)?;
    Ok(request.der().to_vec())
}

async fn read_join_token(path: &PathBuf) -> Result<JoinToken, AttestError> {
    let failed = |error| AttestError::JoinTokenFile(path.clone(), error);
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    let mut bounded = tokio::io::AsyncReadExt::take(file, MAX_TOKEN_FILE_BYTES);
    tokio::io::AsyncReadExt::read_to_string(&mut bounded, &mut text)
        .await
        .map_err(failed)?;
    Ok(JoinToken::new(text.trim())?)
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// No connection to the control plane.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The call failed: the control plane went away, is overloaded, or speaks another protocol.
    #[error("the attestation call failed")]
    Rpc(#[source] Box<Status>),
    /// The stream ended before the outcome.
    #[error("the control plane ended the attestation without an outcome")]
    Ended,
    /// A message that is not due at this point.
    #[error("the control plane answered out of order")]
    OutOfOrder,
    /// A message out of bounds.
    #[error("a message of the attestation is malformed")]
    Message(#[from] ConvertError),
    /// The whole conversation took too long.
    #[error("the attestation did not end in time")]
    Deadline,
    /// Evidence could not be collected here.
    #[error("failed to collect evidence")]
    Collect(#[from] CollectError),
    /// The join token could not be read.
    #[error("failed to read the join token `{0}`")]
    JoinTokenFile(PathBuf, #[source] std::io::Error),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// No key or certificate request.
    #[error("failed to make a key")]
    Key(#[source] rcgen::Error),
    /// The control plane refused.
    #[error("the control plane refused (`{}`): {}", .0.reason, .0.remedy)]
    Refused(Refusal),
    /// The issued chain does not verify.
    #[error("the issued certificate does not verify")]
    Chain(#[from] VerifyPeerError),
    /// The certificate names someone else.
    #[error("the issued certificate names `{0}`")]
    WrongName(String),
    /// The certificate is for a key that we don't hold.
    #[error("the issued certificate is for another key")]
    WrongKey,
    /// The certificate carries no attestation result.
    #[error("the issued certificate carries no attestation result")]
    NoResult,
    /// The certificate is of another instance than the answer says.
    #[error("the issued certificate is of another instance")]
    WrongInstance,
}

impl AttestError {
    /// The bounded word for logs and metrics. A refusal's own word is in its text.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Rpc(_) | Self::Ended => "transport",
            Self::OutOfOrder | Self::Message(_) => "protocol",
            Self::Deadline => "deadline",
            Self::Collect(_) => "evidence",
            Self::JoinTokenFile(..) => "join_token",
            Self::Random | Self::Key(_) => "key",
            Self::Refused(_) => "refused",
            Self::Chain(_)
            | Self::WrongName(_)
            | Self::WrongKey
            | Self::NoResult
            | Self::WrongInstance => "issued_certificate",
        }
    }

    /// Whether a renewal must start again as an enrolment: the control plane no longer knows this instance, or its
    /// attestation key is another (DESIGN §5.3).
    pub fn asks_to_enroll(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.reason == ENROLL_AGAIN)
    }

    /// How long the control plane asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => Some(refusal.retry_after),
            _ => None,
        }
    }
}

/// The one reason of a refusal that changes what is done next.
const ENROLL_AGAIN: &str = "enroll_again";
/// Longest conversation. A challenge lives 60 s; a slow TPM takes seconds for a key and a quote.
const ATTEST_DEADLINE: Duration = Duration::from_secs(60);
/// A token is at most 256 characters.
const MAX_TOKEN_FILE_BYTES: u64 = 1024;
