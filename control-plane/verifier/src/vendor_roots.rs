//! Vendors' roots: whom hardware evidence must lead to.
//!
//! They are compiled in ([`VendorRoots::PINNED`]), and no document and no option names others. Tests of whole
//! attestations need chains that no vendor signs, so roots can be replaced, by a name that shows it wherever it is used.

use std::sync::Arc;

use crate::evidence::dcap::INTEL_ROOT;
use crate::evidence::nitro::AWS_ROOT;
use crate::evidence::nvidia_gpu::{NVIDIA, Roots};
use crate::evidence::sev_snp::Product;

/// The roots by which hardware evidence is judged.
#[derive(Clone, Debug, Default)]
pub struct VendorRoots(Option<Arc<TestRoots>>);

/// Roots of hierarchies that a test made, in DER; a vendor that is not named keeps its own.
#[derive(Clone, Debug, Default)]
pub struct TestRoots {
    /// Instead of AMD's root of a product.
    pub amd: Option<(Product, Vec<u8>)>,
    /// Instead of Intel's.
    pub intel: Option<Vec<u8>>,
    /// Instead of NVIDIA's for devices.
    pub nvidia_device: Option<Vec<u8>>,
    /// Instead of NVIDIA's for manifests.
    pub nvidia_rim: Option<Vec<u8>>,
    /// Instead of AWS's.
    pub aws: Option<Vec<u8>>,
    /// What these vendors publish, by name: manifests, revocation lists, answers.
    pub published: Vec<(String, Vec<u8>)>,
}

impl VendorRoots {
    /// Those that are compiled in.
    pub const PINNED: Self = Self(None);

    /// Roots of a test: whoever holds their keys can make any evidence.
    pub fn danger_of_a_test(roots: TestRoots) -> Self {
        Self(Some(Arc::new(roots)))
    }

    /// What the vendors of a test publish; real vendors are asked.
    pub fn published(&self) -> &[(String, Vec<u8>)] {
        self.0.as_deref().map_or(&[], |roots| &roots.published)
    }

    fn test<T: ?Sized>(&self, choose: impl Fn(&TestRoots) -> Option<&T>) -> Option<&T> {
        self.0.as_deref().and_then(choose)
    }

    /// `None`: those that are compiled in, chosen by name.
    pub(crate) fn amd(&self) -> Option<(Product, &[u8])> {
        let held = self.0.as_deref()?.amd.as_ref()?;
        Some((held.0, &held.1))
    }

    pub(crate) fn intel(&self) -> &[u8] {
        self.test(|roots| roots.intel.as_deref())
            .unwrap_or(INTEL_ROOT)
    }

    pub(crate) fn nvidia(&self) -> Roots<'_> {
        Roots {
            device: self
                .test(|roots| roots.nvidia_device.as_deref())
                .unwrap_or(NVIDIA.device),
            rim: self
                .test(|roots| roots.nvidia_rim.as_deref())
                .unwrap_or(NVIDIA.rim),
        }
    }

    pub(crate) fn aws(&self) -> &[u8] {
        self.test(|roots| roots.aws.as_deref()).unwrap_or(AWS_ROOT)
    }
}
