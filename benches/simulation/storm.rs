//! All sidecars at once: renewing, and being judged again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::control_plane::ControlPlane;
use crate::fleet::Fleet;
use crate::policy::Policy;
use crate::watch::{ms, quantile};

/// Has every sidecar renew its certificate in the same moment, as if nobody had spread them: none may be lost.
pub(crate) async fn renewals(control_plane: &ControlPlane, fleet: &Fleet) -> Result<Value> {
    control_plane.forget_peak()?;
    let mut renewing = JoinSet::new();
    let started = Instant::now();
    for member in fleet.members() {
        let member = Arc::clone(member);
        let home = member.home().clone();
        let renewal = async move {
            let renewed = tokio::time::timeout(DEADLINE, member.renew()).await;
            (renewed, started.elapsed())
        };
        renewing.spawn_on(renewal, &home);
    }
    let (mut times, mut sent_away, mut lost) = (Vec::new(), 0, Vec::new());
    while let Some(renewed) = renewing.join_next().await {
        match renewed? {
            (Ok(Ok(refused)), time) => {
                sent_away += refused;
                times.push(time);
            }
            (Ok(Err(error)), _) => lost.push(format!("{error:#}")),
            (Err(_), _) => lost.push(format!("no certificate after {DEADLINE:?}")),
        }
    }
    let why = lost.first().map_or("", String::as_str);
    ensure!(lost.is_empty(), "{} renewals were lost: {why}", lost.len());
    times.sort_unstable();
    Ok(json!({
        "sidecars": times.len(),
        "lost": lost.len(),
        "sent_away": sent_away,
        "renewed_p50_ms": ms(quantile(&times, 50)),
        "renewed_p99_ms": ms(quantile(&times, 99)),
        "renewed_last_ms": ms(quantile(&times, 100)),
        "control_plane_peak_kib": control_plane.peak_kib()?,
    }))
}

/// Changes the profile of all, after which every live result is judged again, and none may fall.
pub(crate) async fn appraisals(
    control_plane: &ControlPlane,
    policy: &mut Policy,
    sidecars: usize,
) -> Result<Value> {
    let before = control_plane.cpu()?;
    let text = policy.other_profile();
    let (judged, revoked, took) = control_plane.judge_again(&text).await?;
    let used = control_plane.cpu()?.since(before);
    ensure!(
        usize::try_from(judged)? >= sidecars && revoked == 0,
        "{judged} of {sidecars} were judged again, {revoked} revoked"
    );
    control_plane.write_policy(&policy.plain()).await?;
    Ok(json!({
        "instances": judged,
        "all_judged_ms": ms(took),
        "control_plane_cpu_ms": ms(used.control_plane),
    }))
}

/// Far more than a renewal may take.
const DEADLINE: Duration = Duration::from_secs(120);
