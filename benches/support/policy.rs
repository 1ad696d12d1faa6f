//! Policies of any size for the micro benches.

use std::fmt::Write;

use anyhow::Context as _;
use vouchsafe_config::policy::Policy;
use vouchsafe_config::set::PolicySet;

/// A door of `door` rules that demand claims, of which the last allows `/last`, among `others` rules of other doors.
pub(crate) fn compile(door: usize, others: usize) -> anyhow::Result<Policy> {
    let mut text = workload("client")?;
    text.push_str(&workload("server")?);
    for rule in 0..door - 1 {
        access(&mut text, "server", rule, &format!("/v{rule}/items/*"))?;
    }
    access(&mut text, "server", door - 1, "/last")?;
    for other in 0..others / 10 {
        let name = format!("other-{other}");
        text.push_str(&workload(&name)?);
        for rule in 0..10 {
            access(&mut text, &name, rule, &format!("/v{rule}/items/*"))?;
        }
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

fn access(text: &mut String, workload: &str, rule: usize, path: &str) -> anyhow::Result<()> {
    write!(
        text,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {workload}-{rule}, namespace: bench}}\n\
         spec:\n  to: {{workload: {workload}, port: api}}\n  from: [{{workload: client}}]\n  \
         client: {{attested_within: 20m, require: {{tpm: {{image: [llm-11, llm-12]}}}}}}\n  \
         allow: [{{methods: [GET], paths: [\"{path}\"]}}]\n---\n"
    )?;
    Ok(())
}
