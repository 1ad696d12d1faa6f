//! Policy documents for small meshes, as an operator would write them.

/// Trust domain of [`simulated_mesh`].
pub const SIMULATED_DOMAIN: &str = "simulated.example";
/// Trust domain of [`mesh`].
pub const DOMAIN: &str = "mesh.example";

/// A trust domain for real evidence.
pub fn mesh() -> String {
    document("Mesh", "{name: test}", &format!("trust_domain: {DOMAIN}"))
}

/// A trust domain that believes what it is told.
pub fn simulated_mesh() -> String {
    document(
        "Mesh",
        "{name: test}",
        &format!("trust_domain: {SIMULATED_DOMAIN}\ndanger_accept_simulated: true"),
    )
}

/// A profile that simulated machines satisfy by saying `image`.
pub fn simulated_profile(name: &str, image: &str) -> String {
    let (namespace, name) = split(name);
    document(
        "AttestationProfile",
        &format!("{{name: {name}, namespace: {namespace}}}"),
        &format!("any_of: [{{simulated: {{images: [{{name: {image}}}]}}}}]"),
    )
}

/// A profile that software TPMs satisfy whose SHA-256 PCR has this value.
pub fn tpm_profile(name: &str, image: &str, pcr: u8, value: &str) -> String {
    let (namespace, name) = split(name);
    document(
        "AttestationProfile",
        &format!("{{name: {name}, namespace: {namespace}}}"),
        &format!(
            "any_of:\n  - tpm:\n      classes: [hardware, software]\n      images: [{{name: {image}, \
             pcrs: {{sha256: {{{pcr}: \"{value}\"}}}}}}]"
        ),
    )
}

/// A made-up machine.
pub fn simulated_node(name: &str) -> String {
    let (namespace, name) = split(name);
    document(
        "Node",
        &format!("{{name: {name}, namespace: {namespace}}}"),
        &format!("hardware: {{simulated_machine: {name}}}"),
    )
}

/// A machine with a TPM, by its endorsement key.
pub fn tpm_node(name: &str, ek_sha256: &str) -> String {
    let (namespace, name) = split(name);
    document(
        "Node",
        &format!("{{name: {name}, namespace: {namespace}}}"),
        &format!("hardware: {{tpm_ek_sha256: \"{ek_sha256}\"}}"),
    )
}

/// A workload on one machine of its namespace; `ports` are items of a YAML list.
pub fn workload(name: &str, profile: &str, node: &str, ports: &[&str]) -> String {
    let (namespace, name) = split(name);
    document(
        "Workload",
        &format!("{{name: {name}, namespace: {namespace}}}"),
        &format!(
            "profile: {profile}\nmembers: {{nodes: [{node}]}}\nports: [{}]",
            ports.join(", ")
        ),
    )
}

/// A rule: `from` may use port `port` of `to`; `more` are further lines of `spec`.
pub fn access(to: &str, port: &str, from: &str, more: &str) -> String {
    let (namespace, name) = split(to);
    let (_, client) = split(from);
    document(
        "AccessPolicy",
        &format!("{{name: {client}-to-{name}-{port}, namespace: {namespace}}}"),
        &format!("to: {{workload: {name}, port: {port}}}\nfrom: [{{workload: {from}}}]\n{more}"),
    )
}

/// Puts documents into one file.
pub fn file<const N: usize>(documents: [String; N]) -> String {
    documents.join("---\n")
}

fn document(kind: &str, metadata: &str, spec: &str) -> String {
    let spec: Vec<_> = spec.lines().map(|line| format!("  {line}")).collect();
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec:\n{}\n",
        spec.join("\n")
    )
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').expect("`namespace/name`")
}
