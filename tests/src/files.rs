//! Sidecars beside SPIRE or cert-manager: identity from files, policy from a folder, no control plane.

use std::path::Path;

use tempfile::TempDir;

use crate::pki::{Authority, Issued, Leaf};
use crate::sidecar::Spec;

/// A trust domain whose authority attests nothing.
#[derive(Debug)]
pub struct FileMesh {
    folder: TempDir,
    /// Its root.
    pub authority: Authority,
}

/// Trust domain of every [`FileMesh`].
pub const TRUST_DOMAIN: &str = "files.example";

impl FileMesh {
    /// A new authority, and a policy folder with these documents beside a `Mesh`.
    pub fn new(documents: &str) -> Self {
        let mesh = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            authority: Authority::new(TRUST_DOMAIN),
        };
        std::fs::create_dir(mesh.path().join("policy")).expect("the folder can be made");
        mesh.write_policy(documents);
        mesh.authority.write(mesh.path(), "root");
        mesh
    }

    /// Where all its files are.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the policy documents.
    pub fn write_policy(&self, documents: &str) {
        let mesh = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: test}}\n\
             spec: {{trust_domain: {TRUST_DOMAIN}}}\n---\n{documents}"
        );
        let (new, file) = (
            self.path().join("all.new"),
            self.path().join("policy/all.yaml"),
        );
        std::fs::write(&new, mesh).expect("the folder can be written");
        std::fs::rename(&new, &file).expect("the folder can be written");
    }

    /// Has sidecars that start from now on believe another authority as well.
    pub fn trust(&self, authority: &Authority) {
        let both = self.authority.pem() + &authority.pem();
        std::fs::write(self.path().join("root.pem"), both).expect("the folder can be written");
    }

    /// SPIFFE ID of a workload.
    pub fn id(workload: &str) -> String {
        let (namespace, name) = workload.split_once('/').expect("`namespace/name`");
        format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/workload/{name}")
    }

    /// A good certificate for a workload.
    pub fn issue(&self, workload: &str) -> Issued {
        self.authority.issue(&Leaf::new(&Self::id(workload)))
    }

    /// The description of a sidecar with a good certificate.
    pub fn sidecar(&self, name: &str, workload: &str) -> Spec {
        let (chain, key) = self.issue(workload).write(self.path(), name);
        let identity = format!(
            "files:\n  chain: {}\n  key: {}\n  bundle: [{{file: {}}}]\n  policy: {}",
            chain.display(),
            key.display(),
            self.path().join("root.pem").display(),
            self.path().join("policy").display(),
        );
        Spec::new(name, TRUST_DOMAIN, workload, &identity)
    }
}
