//! What is demanded of a TPM's evidence from files.

use vouchsafe_attestation::claims::Class;

use super::ima::policy::Policy;
use super::pcr::PcrSelection;
use crate::reference_value::TpmImage;

/// Demands. The default names no reference value and takes a TPM of any class, which the claims say.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Images, one of which the quoted values must fit; empty demands nothing of them.
    pub images: Vec<TpmImage>,
    /// Classes that are accepted.
    pub classes: Vec<Class>,
    /// PCRs that must be quoted with their values, whatever those are.
    pub pcrs: PcrSelection,
    /// What the replayed event log must say of Secure Boot; `None` leaves it open.
    pub secure_boot: Option<bool>,
    /// Whether a boot event log must be there.
    pub require_event_log: bool,
    /// What the measurement list may hold; `None` leaves it open. With it a list must be there.
    pub ima: Option<Policy>,
    /// Roots, in DER, that sign certificates of attestation keys, beside those of clouds that are compiled in.
    pub ak_roots: Vec<(Vec<u8>, Class)>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            classes: vec![Class::Software, Class::Hardware],
            pcrs: PcrSelection::default(),
            secure_boot: None,
            require_event_log: false,
            ima: None,
            ak_roots: Vec::new(),
        }
    }
}
