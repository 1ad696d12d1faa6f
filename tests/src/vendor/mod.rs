//! Vendors of our own, and hardware that they made: devices that sign what they are asked to, below roots that a test
//! made. What a control plane believes of real vendors it believes of these, once it is started below their roots
//! ([`crate::factory::Factory`]), which no file and no option of the real program can do.
//!
//! Layouts are written here once more, independently of the verifier that reads them.

pub mod amd;
pub mod authority;
pub mod aws;
pub mod intel;
pub mod nvidia;
pub mod service;

use std::time::{Duration, SystemTime};

use vouchsafe_config::control_plane::EndorsementSources;
use vouchsafe_verifier::evidence::sev_snp::Product;
use vouchsafe_verifier::vendor_roots::{TestRoots, VendorRoots};

use self::amd::Amd;
use self::aws::Aws;
use self::intel::Intel;
use self::nvidia::Nvidia;
use self::service::{Reply, Service};

/// All of them.
#[derive(Debug)]
pub struct Vendors {
    /// Makes processors with SEV-SNP.
    pub amd: Amd,
    /// Runs machines with enclaves.
    pub aws: Aws,
    /// Makes processors with TDX.
    pub intel: Intel,
    /// Makes GPUs.
    pub nvidia: Nvidia,
}

impl Vendors {
    /// With roots that nobody had before.
    pub fn new() -> Self {
        Self {
            amd: Amd::new(),
            aws: Aws::new(),
            intel: Intel::new(),
            nvidia: Nvidia::new(),
        }
    }

    /// Roots by which a control plane believes these vendors.
    pub fn roots(&self) -> VendorRoots {
        VendorRoots::danger_of_a_test(TestRoots {
            amd: Some((Product::Milan, self.amd.root().to_vec())),
            intel: Some(self.intel.root().to_vec()),
            nvidia_device: Some(self.nvidia.root().to_vec()),
            nvidia_rim: Some(self.nvidia.root().to_vec()),
            aws: Some(self.aws.root().to_vec()),
            published: Vec::new(),
        })
    }

    /// Their services, on loopback: what they sign about hardware is good until `until`.
    pub fn serve(&self, until: SystemTime) -> Service {
        let service = Service::start();
        for (path, reply) in self.intel.answers(until) {
            service.set(&path, reply);
        }
        for (id, manifest) in self.nvidia.manifests(until) {
            service.set(&format!("/v1/rim/{id}"), Reply::manifest(&id, &manifest));
        }
        let list = self.amd.revocation_list(until);
        service.set("/vcek/v1/Milan/crl", Reply::ok(list));
        service
    }
}

impl Default for Vendors {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// Where a control plane asks, if it asks here for everything.
    pub fn sources(&self) -> EndorsementSources {
        let base = self.base();
        EndorsementSources {
            offline: false,
            amd_kds: base.clone(),
            intel_pcs: base.clone(),
            nvidia_rim: base.clone(),
            nvidia_ocsp: base,
            ca_file: None,
            // A busy machine must not take a slow answer for none.
            wait: Duration::from_secs(30),
        }
    }
}
