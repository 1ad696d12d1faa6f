//! A case: everything that the evidence of one attestation is judged by.
//!
//! A live attestation makes one when its evidence has come, and the [archive](crate::archive) gives one back later: the
//! same function judges both, so a decision can be made again, offline, from what was kept of it.

use std::time::SystemTime;

use vouchsafe_api::convert::attest::{Evidence, Hello, Offer, TpmOffer};
use vouchsafe_attestation::binding::{Base, Nonce, Role, Transcript};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_verifier::appraise::Expected;
use vouchsafe_verifier::dossier::File;
use vouchsafe_verifier::endorsement::age;
use vouchsafe_verifier::endorsement::need::Need;
use vouchsafe_verifier::endorsement::needs::needs;
use vouchsafe_verifier::evidence::EvidenceItem;
use vouchsafe_verifier::evidence::received::Files;
use vouchsafe_verifier::evidence::tpm::public::PublicArea;
use vouchsafe_verifier::evidence::tpm::{Challenged, Offer as CheckableOffer, TpmState};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::reference::{Fitting, appraise_profile, narrowed};
use crate::refusal::Refused;
use crate::rpc::attest::received;

/// What one attestation is judged by.
#[derive(Debug)]
pub struct Case {
    /// When it is judged, in whole milliseconds.
    pub time: SystemTime,
    /// What was asked for, without the join token.
    pub hello: Hello,
    /// What was shown.
    pub evidence: Evidence,
    /// Kinds that were challenged.
    pub required: Vec<EvidenceKind>,
    /// Kinds of the whole machine, where only a part of it was challenged.
    pub part_of: Option<Vec<EvidenceKind>>,
    /// The TPM that was challenged.
    pub tpm: Option<Challenged>,
    /// What was known of the instance's TPM; `None` for an enrolment.
    pub previous_tpm: Option<TpmState>,
    /// Our view of the connection.
    pub connection: Connection,
    /// Whose mesh.
    pub trust_domain: TrustDomain,
    /// Whether the trust domain was created to accept simulated evidence.
    pub accepts_simulated: bool,
    /// Policy that the evidence is judged by.
    pub revision: Revision,
    /// What vendors say of the hardware, by name.
    pub endorsements: Vec<(String, Vec<u8>)>,
    /// Whom evidence of hardware must lead to.
    pub roots: VendorRoots,
}

/// What binds evidence to one connection, from our own end of it.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The challenge.
    pub nonce: Nonce,
    /// SHA-256 of the leaf that was served.
    pub leaf_sha256: [u8; 32],
    /// TLS exporter.
    pub exporter: [u8; 32],
}

impl Case {
    /// The digest that every device signs over.
    pub fn base(&self) -> Base {
        let (ek_name, ak_name) = match (&self.tpm, self.vtpm_key()) {
            (Some(tpm), _) => (tpm.offer().ek_name(), tpm.offer().ak_name()),
            // A key that can't be read has no name; its evidence is refused for it.
            (None, Some(key)) => (
                Vec::new(),
                PublicArea::parse(key).map_or_else(|_| Vec::new(), |key| key.name()),
            ),
            (None, None) => (Vec::new(), Vec::new()),
        };
        Transcript {
            purpose: self.hello.purpose,
            role: Role::Attester,
            trust_domain: &self.trust_domain,
            workload: &self.hello.workload,
            client_nonce: self.hello.client_nonce,
            server_nonce: self.connection.nonce,
            spki_sha256: self.hello.spki_sha256,
            server_leaf_sha256: self.connection.leaf_sha256,
            exporter: self.connection.exporter,
            ek_name: &ek_name,
            ak_name: &ak_name,
            policy_revision: self.revision,
        }
        .base()
    }

    /// Public area of the vTPM's key that was offered, if a vTPM of Azure was challenged.
    pub fn vtpm_key(&self) -> Option<&[u8]> {
        self.hello.offers.iter().find_map(|offer| match offer {
            Offer::AzSnpVtpm(vtpm) | Offer::AzTdxVtpm(vtpm)
                if self.required.contains(&offer.kind()) =>
            {
                Some(vtpm.ak_public.as_slice())
            }
            _ => None,
        })
    }

    /// What vendors must say so that the evidence can be judged.
    ///
    /// # Errors
    /// [`Refused`] for evidence that has no meaning.
    pub fn needs(&self) -> Result<Vec<Need>, Refused> {
        let mut found: Vec<Need> = Vec::new();
        for item in self.items()? {
            let Some((kind, files)) = item.evidence.files() else {
                continue;
            };
            let files: Vec<File<'_>> = files.iter().collect();
            for need in needs(kind, &files) {
                if !found.contains(&need) {
                    found.push(need);
                }
            }
        }
        Ok(found)
    }

    /// The first end of what vendors signed inside the evidence itself: the chain of an enclave's document lives three
    /// hours, that of a quote or a chip years. What is issued must not outlive it.
    pub fn evidence_end(&self) -> Option<SystemTime> {
        let items = self.items().unwrap_or_default();
        let files = items.iter().filter_map(|item| item.evidence.files());
        let files: Vec<_> = files.map(|(_, files)| files).collect();
        let tpm = self.tpm.as_ref().and_then(|_| tpm_offer(&self.hello));
        let evidence = files.iter().flat_map(Files::iter);
        let chain = tpm
            .iter()
            .flat_map(|offer| &offer.ek_chain)
            .map(|der| File {
                name: "ek_chain.der",
                bytes: der,
            });
        let all: Vec<File<'_>> = evidence.chain(chain).collect();
        age::first_end(&all, self.time)
    }

    /// Judges the evidence by a profile. Milliseconds to tens of milliseconds of cryptography.
    ///
    /// # Errors
    /// [`Refused`], naming the check that failed.
    pub fn judge(&self, profile: &AttestationProfile) -> Result<Fitting, Refused> {
        let narrowed =
            { self.part_of.as_ref() }.map(|whole| narrowed(profile, whole, &self.required));
        let profile = narrowed.as_ref().unwrap_or(profile);
        let items = self.items()?;
        let base = self.base();
        let endorsements: Vec<File<'_>> = { self.endorsements.iter() }
            .map(|(name, bytes)| File { name, bytes })
            .collect();
        let expected = Expected {
            base: &base,
            required: &self.required,
            tpm: self.tpm.as_ref(),
            previous_tpm: self.previous_tpm.as_ref(),
            vtpm_key: self.vtpm_key(),
            nvidia_devices: self.nvidia_devices(),
            simulated_machine: self.simulated_machine(),
            danger_accept_simulated: self.accepts_simulated,
            endorsements: &endorsements,
            roots: &self.roots,
        };
        let fitting = appraise_profile(&items, profile, &expected, self.time)?;
        let state = fitting.appraised.tpm();
        if let (Some(before), Some(now)) = (&self.previous_tpm, state)
            && before.clock.reset_count != now.clock.reset_count
        {
            // Whoever lived through it is not who was judged before (evidence of another boot is that of an enrolment).
            return Err(Refused::new(
                "tpm_reset",
                "enrol again: the machine was started anew",
                format!(
                    "the TPM's reset count was {}, is {}",
                    before.clock.reset_count, now.clock.reset_count
                ),
            )
            .of_evidence());
        }
        Ok(fitting)
    }

    /// Name of the made-up machine, if one was challenged.
    pub fn simulated_machine(&self) -> Option<&str> {
        let asked = self.required.contains(&EvidenceKind::Simulated);
        let machine = self.hello.offers.iter().find_map(|offer| match offer {
            Offer::Simulated { machine } => Some(machine.as_str()),
            _ => None,
        });
        machine.filter(|_| asked)
    }

    fn nvidia_devices(&self) -> u32 {
        let devices = self.hello.offers.iter().find_map(|offer| match offer {
            Offer::NvidiaGpu(devices) => Some(devices.gpus.saturating_add(devices.switches)),
            _ => None,
        });
        devices.unwrap_or(0)
    }

    fn items(&self) -> Result<Vec<EvidenceItem>, Refused> {
        received::items(&self.evidence.items)
    }
}

/// The TPM that a hello offers.
pub fn tpm_offer(hello: &Hello) -> Option<CheckableOffer> {
    hello.offers.iter().find_map(|offer| match offer {
        Offer::Tpm(TpmOffer {
            ek_public,
            ek_chain,
            ak_public,
        }) => Some(CheckableOffer {
            ek_public: ek_public.clone(),
            ek_chain: ek_chain.clone(),
            ak_public: ak_public.clone(),
        }),
        _ => None,
    })
}
