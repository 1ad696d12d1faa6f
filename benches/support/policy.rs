//! Policies of any size for the micro benches.

use std::fmt::Write;

use anyhow::Context as _;
use vouchsafe_config::policy::Policy;
use vouchsafe_config::set::PolicySet;

/// What the rules of the door demand of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Demands {
    /// That it is attested, how lately, and a claim.
    Claims,
    /// Nothing but its name.
    Name,
}

/// A policy to decide by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Rules of the door, of which the last allows `/last`.
    pub(crate) door: usize,
    /// Rules of other doors.
    pub(crate) others: usize,
    /// Certificates that are revoked, none of them the client's.
    pub(crate) revoked: usize,
    /// What the rules demand.
    pub(crate) demands: Demands,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            door: 10,
            others: 0,
            revoked: 0,
            demands: Demands::Claims,
        }
    }
}

/// Compiles a policy of this size.
pub(crate) fn compile(size: Size) -> anyhow::Result<Policy> {
    let Size { door, others, .. } = size;
    let mut text = workload("client")?;
    text.push_str(&workload("server")?);
    for rule in 0..door - 1 {
        let path = format!("/v{rule}/items/*");
        access(&mut text, "server", rule, &path, size.demands)?;
    }
    access(&mut text, "server", door - 1, "/last", size.demands)?;
    for other in 0..others / 10 {
        let name = format!("other-{other}");
        text.push_str(&workload(&name)?);
        for rule in 0..10 {
            let path = format!("/v{rule}/items/*");
            access(&mut text, &name, rule, &path, size.demands)?;
        }
    }
    for number in 0..size.revoked {
        write!(
            text,
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: gone-{number}, namespace: bench}}\n\
             spec: {{match: {{serial: [5e{number:06x}]}}, action: cut, reason: bench}}\n---\n"
        )?;
    }
    let documents = text.split_inclusive("---\n").map(|text| ("bench", text));
    let trust_domain = "bench.test".parse()?;
    PolicySet::compile_slice(&trust_domain, documents)
        .map_err(|problems| anyhow::anyhow!("{problems}"))
        .context("the policy of the bench has mistakes")
}

fn workload(name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    write!(
        text,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  \
         profile: any\n  members: {{nodes: [node]}}\n  ports: [{{name: api, port: 8000, protocol: http}}]\n---\n"
    )?;
    Ok(text)
}

fn access(
    text: &mut String,
    workload: &str,
    rule: usize,
    path: &str,
    demands: Demands,
) -> anyhow::Result<()> {
    let client = match demands {
        Demands::Claims => "attested_within: 20m, require: {tpm: {image: [llm-11, llm-12]}}",
        Demands::Name => "danger_unattested: true",
    };
    write!(
        text,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {workload}-{rule}, namespace: bench}}\n\
         spec:\n  to: {{workload: {workload}, port: api}}\n  from: [{{workload: client}}]\n  \
         client: {{{client}}}\n  \
         allow: [{{methods: [GET], paths: [\"{path}\"]}}]\n---\n"
    )?;
    Ok(())
}
