//! The control plane: `vouchsafe serve`, and the operator's command line.
//!
//! # Life of one attestation
//! 1. [`server`] accepts a connection; [`tls`] shakes hands and takes what evidence will be bound to: the exporter of
//!    this very session and the digest of the leaf that was served on it.
//! 2. [`rpc::attest`] reads the hello, finds workload and profile in the policy in force, and answers with a challenge
//!    that lives in this stream's memory only.
//! 3. The evidence consumes the challenge. [`mod@reference`] makes reference values of the profile and lets
//!    `vouchsafe-verifier` judge, over the transcript that this end computed.
//! 4. [`issuance`] decides, purely: membership, names, lifetime, the attestation result. [`registration`] writes down
//!    what admits an instance, [`ca`] signs, [`log`] records, and only then the certificate is handed out.
//! 5. [`keeper`], the one owner of what changes, sees the new endpoint, gives the state of the [`mod@mesh`] the next
//!    revision, and [`rpc::mesh_state`] brings it to every sidecar that it concerns.
//!
//! | Module | Holds |
//! |---|---|
//! | [`app`] | start and end: the only place that wires the parts |
//! | [`state`] | what all parts share |
//! | [`policy`], [`change`] | the watched policy folder, and changes of it that operators ask for |
//! | [`canary`] | a change of policy that a share of the sidecars tries |
//! | [`policy_sets`] | former policies, for `rollback` and `explain` |
//! | [`store`], [`registration`] | what must outlive the process |
//! | [`log`] | the append-only record |
//! | [`mod@standing`] | whose trust ends between attestations, and the brake |
//! | [`renewals`] | certificates that are renewed ahead of time |
//! | [`admission`], [`holders`], [`slots`] | who attests now, how many of whom, and when each comes back |
//! | [`conversations`] | attestations under way |
//! | [`reappraisal`] | live results judged again when policy or endorsements change |
//! | [`mod@difference`] | what changed between good evidence and bad |
//! | [`ca`], [`svid_template`] | keys and certificates |
//! | [`endorsements`] | what vendors say about hardware: fetched, kept, renewed |
//! | [`refusal`], [`refusals`] | the bounded words of refusals, and how many strangers may cause |
//! | [`mod@http`], [`telemetry`] | metrics and probes |
//! | [`operator`], [`rpc::operator`], [`cli`] | the operator's questions |
//!
//! # Why
//! One thread serves the API, so nothing needs a lock across an await; an attestation is a few signatures. The disk has
//! threads of its own ([`store::redb`], [`log`]), which group what waits into one sync. Should one core ever be too
//! little for a mesh, a pool for verifying evidence is the first thing to add, and replicas the second.

pub mod admission;
pub mod app;
pub mod archive;
pub mod ca;
pub mod canary;
pub mod case;
pub mod change;
pub mod cli;
pub mod conversations;
pub mod difference;
pub mod ear;
pub mod endorsements;
pub mod files;
pub mod holders;
pub mod http;
pub mod issuance;
pub mod keeper;
pub mod log;
pub mod mesh;
pub mod operator;
pub mod policy;
pub mod policy_sets;
pub mod profile_draft;
pub mod reappraisal;
pub mod reference;
pub mod refusal;
pub mod refusals;
pub mod registration;
pub mod renewals;
pub mod rpc;
pub mod server;
pub mod slots;
pub mod standing;
pub mod state;
pub mod store;
pub mod svid_template;
pub mod telemetry;
pub mod tls;
