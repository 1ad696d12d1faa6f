//! `vouchsafe status`.

use std::path::PathBuf;

use serde_json::json;
use vouchsafe_api::v1::{
    CanaryStatus, Endpoint, Revision, RevocationStatus, ShownClaim, SidecarStatus, StatusRequest,
    StatusResponse,
};

use super::change::{canary_in_words, canary_json};
use super::client::{connect, failed};
use super::{Outcome, authority, json, show_time, table};
use crate::endorsements::{cache, folder};

/// What `status` is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Data folder of the control plane.
    #[arg(long, default_value = super::DEFAULT_DATA)]
    data: PathBuf,
    /// How much, and for whom.
    #[arg(short, long, value_enum, default_value_t = Width::Table)]
    output: Width,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Width {
    /// For people.
    Table,
    /// For people, with what the flags of `vouchsafe revoke` ask for: serial numbers, keys, hardware, measurements.
    Wide,
    /// For programs, with everything.
    Json,
}

pub(super) async fn show(ask: &Arguments) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let status = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    // The time is the control plane's; the folder beside its socket says what it holds.
    let now = cache::from_ms(status.now_ms);
    let endorsements = folder::count(&ask.data, now);
    let output = match ask.output {
        Width::Json => json(&as_json(&status, endorsements)),
        Width::Table => for_people(&status, endorsements),
        Width::Wide => for_people(&status, endorsements) + &bearers(&status.sidecars),
    };
    // A policy folder whose content is refused is what a script must notice, and so is a control plane that has stopped.
    match status.policy_error.is_empty() && status.outrun.is_none() {
        true => Outcome::good(output),
        false => Outcome::bad(output),
    }
}

fn as_json(status: &StatusResponse, endorsements: Option<[usize; 3]>) -> serde_json::Value {
    json!({
        "trust_domain": status.trust_domain,
        "software_version": status.software_version,
        "started_ms": status.started_ms,
        "now_ms": status.now_ms,
        "revision": revision(status.revision.as_ref()),
        "policy_folder": status.policy_folder,
        "policy_error": status.policy_error,
        "accepts_simulated": status.accepts_simulated,
        "records": status.records,
        "record_head": hex::encode(&status.record_head),
        "root_pin": root_pin(status),
        "endorsements": endorsements.map(|[valid, expired, missing]| json!({
            "valid": valid,
            "expired": expired,
            "missing": missing,
        })),
        "canary": status.canary.as_ref().map(canary_json),
        "outrun": status.outrun.as_ref().map(|outrun| json!({
            "revision": revision(outrun.revision.as_ref()),
            "sidecars": outrun.sidecars,
            "of": outrun.of,
        })),
        "revocations": status.revocations.iter().map(revocation_json).collect::<Vec<_>>(),
        "authorities": status.authorities.iter().map(authority::as_json).collect::<Vec<_>>(),
        "brakes": status.brakes.iter().map(|brake| json!({
            "scope": brake.scope,
            "silent": brake.silent,
            "of": brake.of,
        })).collect::<Vec<_>>(),
        "sidecars": status.sidecars.iter().map(sidecar_json).collect::<Vec<_>>(),
    })
}

fn sidecar_json(sidecar: &SidecarStatus) -> serde_json::Value {
    json!({
        "workload": sidecar.workload,
        "instance": hex::encode(&sidecar.instance),
        "serial": hex::encode(&sidecar.serial),
        "spki_sha256": hex::encode(&sidecar.spki_sha256),
        "authority_sha256": hex::encode(&sidecar.authority_sha256),
        "identities": sidecar.identities.iter().map(shown_json).collect::<Vec<_>>(),
        "measurements": sidecar.measurements.iter().map(shown_json).collect::<Vec<_>>(),
        "member": sidecar.member,
        "class": sidecar.class,
        "kinds": sidecar.kinds,
        "evidence_time_ms": sidecar.evidence_time_ms,
        "not_after_ms": sidecar.not_after_ms,
        "connected": sidecar.connected,
        "applied": revision(sidecar.applied.as_ref()),
        "behind": sidecar.behind,
        "behind_since_ms": sidecar.behind_since_ms,
        "behind_because": behind_because(sidecar),
        "error": sidecar.error,
        "canary": sidecar.is_canary,
        "software_version": sidecar.software_version,
        "standing": sidecar.standing,
        "standing_reason": sidecar.standing_reason,
        "endpoints": sidecar.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

pub(super) fn revocation_json(one: &RevocationStatus) -> serde_json::Value {
    json!({
        "name": one.name,
        "action": one.action,
        "reason": one.reason,
        "expires_ms": (one.expires_ms > 0).then_some(one.expires_ms),
        "in_force": one.in_force,
        "ends_soon": one.ends_soon,
        "file": one.file,
        "line": one.line,
    })
}

fn for_people(status: &StatusResponse, endorsements: Option<[usize; 3]>) -> String {
    let simulated = match status.accepts_simulated {
        true => "  ACCEPTS SIMULATED EVIDENCE, which proves nothing",
        false => "",
    };
    let policy = match status.policy_error.as_str() {
        "" => format!("in force ({})", status.policy_folder),
        error => format!(
            "BROKEN, the last good one is in force ({})\n{error}",
            status.policy_folder
        ),
    };
    let mut out = format!(
        "trust domain  {}{simulated}\nrevision      {}\npolicy        {policy}\nroot pin      {}\nrecords       {} (head {})\nstarted       {}\n",
        status.trust_domain,
        revision(status.revision.as_ref()),
        root_pin(status),
        status.records,
        hex::encode(&status.record_head),
        show_time(status.started_ms),
    );
    if let Some(outrun) = &status.outrun {
        out.push_str(&format!(
            "STOPPED       {} of {} connected sidecars hold revisions up to {}, which this control plane never made: its data
              folder is an older copy. Nothing is put in force and no certificate is issued. Bring the newest copy
              back, or say `vouchsafe restored --reason …` and revoke again what was revoked since.
",
            outrun.sidecars,
            outrun.of,
            revision(outrun.revision.as_ref()),
        ));
    }
    if let Some([valid, expired, missing]) = endorsements
        && valid + expired + missing > 0
    {
        out.push_str(&format!(
            "endorsements  {valid} valid, {expired} expired, {missing} missing (vouchsafe endorsements status)\n"
        ));
    }
    let in_force = status.revocations.iter().filter(|one| one.in_force);
    if !status.revocations.is_empty() {
        out.push_str(&format!(
            "revocations   {} in force (vouchsafe revoke list)\n",
            in_force.clone().count()
        ));
    }
    for one in in_force.filter(|one| one.ends_soon) {
        out.push_str(&format!(
            "WARNING       revocation {} ends at {}: whoever it means is trusted again then\n",
            one.name,
            show_time(one.expires_ms)
        ));
    }
    if let Some(canary) = &status.canary {
        out.push_str(&canary_for_people(canary));
    }
    for brake in &status.brakes {
        out.push_str(&format!(
            "BRAKE         {} of {} instances of {} are silent: none of them lapses\n",
            brake.silent, brake.of, brake.scope
        ));
    }
    out.push('\n');
    out.push_str(&authority::for_people(&status.authorities));
    let sidecars = status.sidecars.iter().map(|sidecar| {
        let listeners: Vec<&str> = sidecar
            .endpoints
            .iter()
            .map(|endpoint| endpoint.listener.as_str())
            .collect();
        let connected = match sidecar.connected {
            true => "yes",
            false => "no",
        };
        vec![
            sidecar.workload.clone(),
            short(&sidecar.instance),
            format!("{} ({})", sidecar.class, sidecar.kinds.join(", ")),
            show_time(sidecar.evidence_time_ms),
            show_time(sidecar.not_after_ms),
            connected.to_owned(),
            standing(sidecar),
            applied(sidecar),
            behind(sidecar, status.now_ms),
            listeners.join(" "),
        ]
    });
    out.push('\n');
    out.push_str(&table(
        &[
            "SIDECAR",
            "INSTANCE",
            "CLASS",
            "EVIDENCE",
            "CERTIFICATE ENDS",
            "CONNECTED",
            "STANDING",
            "APPLIED",
            "BEHIND",
            "LISTENS",
        ],
        sidecars.collect(),
    ));
    out
}

/// What tells instances apart, and what a revocation can name of them.
fn bearers(sidecars: &[SidecarStatus]) -> String {
    let mut out = String::new();
    for sidecar in sidecars {
        let instance = hex::encode(&sidecar.instance);
        out.push_str(&format!("\n{}  instance {instance}\n", sidecar.workload));
        let known = |bytes: &[u8]| match bytes {
            [] => "unknown until it renews".to_owned(),
            bytes => hex::encode(bytes),
        };
        let rows = [
            ("--serial", known(&sidecar.serial)),
            ("--spki", known(&sidecar.spki_sha256)),
            ("--authority", known(&sidecar.authority_sha256)),
        ];
        let claims = |flag, claims: &[ShownClaim]| -> Vec<(&'static str, String)> {
            let shown = claims.iter();
            let shown = shown.map(|one| (flag, format!("{}  ({})", one.value, one.claim)));
            shown.collect()
        };
        let hardware = claims("--hardware-id", &sidecar.identities);
        let measured = claims("--measurement", &sidecar.measurements);
        for (flag, value) in rows.into_iter().chain(hardware).chain(measured) {
            out.push_str(&format!("  {flag:<13}  {value}\n"));
        }
    }
    out
}

/// The beginning of an instance's name: enough to tell replicas apart.
fn short(instance: &[u8]) -> String {
    hex::encode(instance.get(..4).unwrap_or(instance))
}

fn shown_json(one: &ShownClaim) -> serde_json::Value {
    json!({"claim": one.claim, "value": one.value})
}

fn canary_for_people(canary: &CanaryStatus) -> String {
    let bad = match canary.refused {
        0 => String::new(),
        refused => format!(", {refused} CAN'T APPLY IT"),
    };
    format!(
        "CANARY        revision {} since {}, by {}: {}\n              {}\n              {} have applied it{bad}; since then they denied {} and ended {} (said before: {} of {} that live)\n",
        revision(canary.revision.as_ref()),
        show_time(canary.started_ms),
        canary.actor,
        canary.reason,
        canary_in_words(canary),
        canary.applied,
        canary.denied,
        canary.ended,
        canary.would_drop,
        canary.live,
    )
}

fn standing(sidecar: &SidecarStatus) -> String {
    match sidecar.standing_reason.as_str() {
        "" => sidecar.standing.clone(),
        reason => format!("{}: {reason}", sidecar.standing.to_uppercase()),
    }
}

fn applied(sidecar: &SidecarStatus) -> String {
    let revision = revision(sidecar.applied.as_ref());
    match sidecar.is_canary {
        true => format!("{revision} (canary)"),
        false => revision,
    }
}

/// How far a sidecar lags, since when, and why.
fn behind(sidecar: &SidecarStatus, now_ms: u64) -> String {
    if sidecar.behind == 0 {
        return String::new();
    }
    let revisions = match sidecar.behind {
        1 => "1 revision".to_owned(),
        behind => format!("{behind} revisions"),
    };
    let since = match sidecar.behind_since_ms {
        0 => String::new(),
        since => format!(" for {} s", now_ms.saturating_sub(since) / 1000),
    };
    format!("{revisions}{since}: {}", behind_because(sidecar))
}

fn behind_because(sidecar: &SidecarStatus) -> &str {
    match (sidecar.behind, sidecar.connected, sidecar.error.as_str()) {
        (0, ..) => "",
        (_, false, _) => "not connected",
        (_, true, "") => "has not answered yet",
        (_, true, error) => error,
    }
}

fn root_pin(status: &StatusResponse) -> String {
    let root = status.authorities.iter().find(|one| one.role == "root");
    root.map_or_else(String::new, |root| hex::encode(&root.spki_sha256))
}

pub(super) fn revision(revision: Option<&Revision>) -> String {
    let revision = revision.copied().unwrap_or_default();
    format!("{}.{}", revision.epoch, revision.sequence)
}

fn endpoint(endpoint: &Endpoint) -> serde_json::Value {
    json!({"listener": endpoint.listener, "ports": endpoint.ports})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(behind: u64, connected: bool, error: &str) -> SidecarStatus {
        SidecarStatus {
            behind,
            connected,
            error: error.to_owned(),
            behind_since_ms: behind * 1_000,
            ..SidecarStatus::default()
        }
    }

    #[test]
    fn replicas_are_told_apart_and_shown_with_what_a_revocation_names() {
        let replica = |number: u8| SidecarStatus {
            workload: "inference/llm".to_owned(),
            instance: vec![number; 16],
            serial: vec![0x5e, number],
            spki_sha256: vec![number; 32],
            identities: vec![ShownClaim {
                claim: "tpm.ek_sha256".to_owned(),
                value: format!("ee{number}"),
            }],
            measurements: vec![ShownClaim {
                claim: "tpm.image".to_owned(),
                value: "llm-1".to_owned(),
            }],
            ..SidecarStatus::default()
        };
        let status = StatusResponse {
            sidecars: vec![replica(1), replica(2)],
            ..StatusResponse::default()
        };
        let table = for_people(&status, None);
        assert!(
            table.contains("01010101") && table.contains("02020202"),
            "{table}"
        );
        let wide = bearers(&status.sidecars);
        for words in [
            format!("inference/llm  instance {}\n", "02".repeat(16)),
            "--serial       5e02\n".to_owned(),
            format!("--spki         {}\n", "02".repeat(32)),
            "--authority    unknown until it renews\n".to_owned(),
            "--hardware-id  ee2  (tpm.ek_sha256)\n".to_owned(),
            "--measurement  llm-1  (tpm.image)\n".to_owned(),
        ] {
            assert!(wide.contains(&words), "{words}: {wide}");
        }
        let value = as_json(&status, None);
        assert_eq!(value["sidecars"][1]["serial"], "5e02");
        assert_eq!(value["sidecars"][0]["identities"][0]["value"], "ee1");
    }

    #[test]
    fn a_sidecar_that_lags_shows_by_how_much_since_when_and_why() {
        let shown = |one: SidecarStatus| behind(&one, 5_000);
        assert_eq!(shown(sidecar(0, true, "")), "");
        assert_eq!(
            shown(sidecar(1, true, "")),
            "1 revision for 4 s: has not answered yet"
        );
        assert_eq!(
            shown(sidecar(2, true, "no bundle")),
            "2 revisions for 3 s: no bundle"
        );
        let mut away = sidecar(3, false, "no bundle");
        assert_eq!(shown(away.clone()), "3 revisions for 2 s: not connected");
        away.behind_since_ms = 0;
        assert_eq!(shown(away), "3 revisions: not connected");
    }
}
