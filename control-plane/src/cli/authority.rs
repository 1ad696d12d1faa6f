//! `vouchsafe authority`: who signs certificates, and the next one ahead of its time.

use serde_json::json;
use vouchsafe_api::v1::{AuthorityStatus, PrepareAuthorityRequest, StatusRequest};

use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, show_time, status, table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Shows the root and all issuing authorities: which one signs, which are announced, which only verify.
    List(Ask),
    /// Makes the next issuing authority now. Every sidecar believes it from then on; it signs when its turn comes.
    Prepare {
        /// Why: it stands in the record.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        ask: Ask,
    },
}

impl Command {
    pub(super) async fn run(&self) -> Outcome {
        match self {
            Self::List(ask) => list(ask).await,
            Self::Prepare { reason, ask } => prepare(reason, ask).await,
        }
    }
}

async fn list(ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let authorities = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner().authorities,
        Err(status) => return failed(&status),
    };
    Outcome::good(match ask.output {
        Format::Json => {
            let all: Vec<_> = authorities.iter().map(as_json).collect();
            json(&json!({ "authorities": all }))
        }
        Format::Table => for_people(&authorities),
    })
}

async fn prepare(reason: &str, ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let request = PrepareAuthorityRequest {
        reason: reason.to_owned(),
    };
    let prepared = match client.prepare_authority(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let spki = hex::encode(&prepared.spki_sha256);
    let revision = status::revision(prepared.revision.as_ref());
    Outcome::good(match ask.output {
        Format::Json => json(&json!({
            "spki_sha256": spki,
            "not_after_ms": prepared.not_after_ms,
            "revision": revision,
        })),
        Format::Table => format!(
            "{spki} is in every bundle from revision {revision} on, and ends {}\n",
            show_time(prepared.not_after_ms)
        ),
    })
}

pub(super) fn as_json(authority: &AuthorityStatus) -> serde_json::Value {
    json!({
        "role": authority.role,
        "state": authority.state,
        "spki_sha256": hex::encode(&authority.spki_sha256),
        "not_after_ms": authority.not_after_ms,
    })
}

pub(super) fn for_people(authorities: &[AuthorityStatus]) -> String {
    let row = |authority: &AuthorityStatus| {
        vec![
            authority.role.clone(),
            authority.state.clone(),
            show_time(authority.not_after_ms),
            hex::encode(&authority.spki_sha256),
        ]
    };
    table(
        &["AUTHORITY", "STATE", "ENDS", "SPKI SHA-256"],
        authorities.iter().map(row).collect(),
    )
}
