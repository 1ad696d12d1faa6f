//! `vouchsafe workload init NAME --port N`: everything a new service needs, ready to edit.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::load;
use vouchsafe_config::set::{Options, PolicySet};

use super::Outcome;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct WorkloadInit {
    /// Name of the workload.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
    /// The port where the service listens on loopback.
    pub port: u16,
    /// Policy folder; made where it is not there.
    pub folder: PathBuf,
    /// Trust domain, used where the folder has no Mesh.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the control plane's root key, where it is known.
    pub root_pin: Option<[u8; 32]>,
}

/// How long a new join token can be used.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Writes `<name>.yaml`, `<name>.proxy.yaml` and `<name>.join-token` into the folder, and nothing over what is there.
pub fn init(wanted: &WorkloadInit, now: SystemTime) -> Outcome {
    match write(wanted, now) {
        Ok(text) => Outcome::good(text),
        Err(message) => Outcome::failed(message),
    }
}

fn write(wanted: &WorkloadInit, now: SystemTime) -> Result<String, String> {
    let folder = &wanted.folder;
    let failed =
        |path: &Path, error: std::io::Error| format!("failed to write {}: {error}", path.display());
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let checked = load::check(std::slice::from_ref(folder), Options { now: Some(now) });
    let set = checked
        .policy
        .map_err(|problems| format!("the folder has mistakes, mend them first\n\n{problems}"))?;
    let workload = WorkloadName {
        namespace: wanted.namespace.clone(),
        name: wanted.name.clone(),
    };
    if set.workload(&workload).is_some() {
        return Err(format!("there is a Workload `{workload}` already"));
    }
    let file = |end: &str| folder.join(format!("{}{end}", wanted.name));
    let (documents, proxy, token_file) = (file(".yaml"), file(".proxy.yaml"), file(".join-token"));
    if let Some(there) = [&documents, &proxy, &token_file]
        .into_iter()
        .find(|path| path.exists())
    {
        return Err(format!("{} is there already", there.display()));
    }
    let token = new_token()?;
    let create = |path: &Path, mode: u32, text: &str| {
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(mode).open(path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| failed(path, error))
    };
    create(&token_file, 0o600, &token)?;
    create(&documents, 0o644, &policy_text(wanted, &set, &token, now)?)?;
    create(&proxy, 0o644, &proxy_text(wanted, &set))?;
    Ok(format!(
        "wrote {}: the workload, who may call it, and what it must prove\n\
         wrote {}: for its sidecar\n\
         wrote {}: its join token, for one use within 24 hours; keep it secret, move it to the machine\n\
         next: edit the lines marked EDIT, then `vouchsafe check {}`\n",
        documents.display(),
        proxy.display(),
        token_file.display(),
        folder.display(),
    ))
}

fn new_token() -> Result<String, String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| "the system gave no random numbers".to_owned())?;
    Ok(hex::encode(bytes))
}

fn policy_text(
    wanted: &WorkloadInit,
    set: &PolicySet,
    token: &str,
    now: SystemTime,
) -> Result<String, String> {
    let WorkloadInit {
        name,
        namespace,
        port,
        ..
    } = wanted;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let digest = hex::encode(digest);
    let expires = jiff::Timestamp::try_from(now + TOKEN_LIFETIME)
        .and_then(|time| time.round(jiff::Unit::Second))
        .map_err(|error| format!("the clock is out of range: {error}"))?;
    let mut text = String::new();
    if set.mesh().is_none() {
        text.push_str(&mesh_text(&wanted.trust_domain));
    }
    // A profile of the same namespace is likelier the right one than another's.
    let own = set
        .profiles()
        .find(|profile| profile.name.namespace == *namespace);
    let profile = match own.or_else(|| set.profiles().next()) {
        Some(profile) => profile.name.to_string(),
        None => {
            text.push_str(&profile_text(namespace));
            "measured-boot".to_owned()
        }
    };
    text.push_str(&format!(
        "apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: {namespace}, labels: {{}}}}
spec:
  profile: {profile}
  members:
    join_tokens:
      - {{sha256: {digest}, expires: {expires}}}
  ports:
    - {{name: main, port: {port}, protocol: http, probes: []}}   # EDIT: `tcp` for what is not HTTP
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: {name}-main, namespace: {namespace}}}
spec:
  to: {{workload: {name}, port: main}}
  from: [{{workload: {name}}}]   # EDIT: who may call it, as `namespace/name`
  allow:                        # EDIT: what they may ask; leave it out for `tcp`
    - {{methods: [GET], paths: [\"/**\"]}}
"
    ));
    Ok(text)
}

fn mesh_text(trust_domain: &TrustDomain) -> String {
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {{name: mesh}}
spec: {{trust_domain: {trust_domain}}}
---
"
    )
}

fn profile_text(namespace: &Name) -> String {
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {{name: measured-boot, namespace: {namespace}}}
spec:
  any_of:
    - tpm:
        classes: [hardware, software]   # EDIT: [hardware] where the Mesh names `ek_roots`
        images:                         # EDIT: the PCR values of your machines; these match none
          - {{name: base-1, pcrs: {{sha256: {{\"4\": {}}}}}}}
---
",
        "0".repeat(64)
    )
}

fn proxy_text(wanted: &WorkloadInit, set: &PolicySet) -> String {
    let WorkloadInit {
        name,
        namespace,
        port,
        ..
    } = wanted;
    let trust_domain = set
        .mesh()
        .map_or(&wanted.trust_domain, |mesh| &mesh.trust_domain);
    let (pin, remark) = match wanted.root_pin {
        Some(pin) => (hex::encode(pin), ""),
        None => ("0".repeat(64), "   # EDIT: `vouchsafe status` prints it"),
    };
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1
kind: Proxy
spec:
  trust_domain: {trust_domain}
  workload: {namespace}/{name}
  identity:
    control_plane:
      addresses: [\"127.0.0.1:15480\"]   # EDIT: where the control plane listens
      root_pins: [{pin}]{remark}
      join_token: {name}.join-token     # relative to this file
      attester: {{tpm: {{device: /dev/tpmrm0}}}}
  inbound:
    - listen: 0.0.0.0:15443
      ports: [{{name: main, upstream: \"127.0.0.1:{port}\"}}]
  outbound: []   # EDIT: `{{listen: \"127.0.0.1:9001\", to: namespace/name, port: name}}` for each service it calls
  admin: /run/vouchsafe-proxy/{name}/admin.sock
  metrics: 127.0.0.1:15021
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use vouchsafe_config::workload::Members;

    fn wanted(folder: &Path, name: &str) -> WorkloadInit {
        WorkloadInit {
            name: name.parse().unwrap(),
            namespace: "inference".parse().unwrap(),
            port: 8000,
            folder: folder.to_owned(),
            trust_domain: "factory.example".parse().unwrap(),
            root_pin: None,
        }
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn what_it_writes_passes_the_check_and_pins_the_token() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["llm", "vector-store"] {
            let outcome = init(&wanted(folder.path(), name), NOW);
            assert_eq!(outcome.status, 0, "{}{}", outcome.output, outcome.error);
        }
        let outcome = super::super::check::check(&[folder.path().to_owned()], NOW);
        assert_eq!(outcome.status, 0, "{}{}", outcome.output, outcome.error);
        let token_file = folder.path().join("llm.join-token");
        let token = fs::read_to_string(&token_file).unwrap();
        let mode = fs::metadata(&token_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let checked = load::check(&[folder.path().to_owned()], Options::default());
        let set = checked.policy.unwrap();
        let workload = set.workload(&"inference/llm".parse().unwrap()).unwrap();
        let Members::JoinTokens(tokens) = &workload.members else {
            panic!()
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        assert_eq!(tokens[0].sha256, digest.as_ref());
    }

    #[test]
    fn it_writes_over_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(init(&wanted(folder.path(), "llm"), NOW).status, 0);
        let before = fs::read_to_string(folder.path().join("llm.yaml")).unwrap();
        let again = init(&wanted(folder.path(), "llm"), NOW);
        assert_eq!(
            (again.status, again.error.contains("already")),
            (3, true),
            "{}",
            again.error
        );
        assert_eq!(
            fs::read_to_string(folder.path().join("llm.yaml")).unwrap(),
            before
        );
    }
}
