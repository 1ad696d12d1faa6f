//! Evidence of where this sidecar runs: collected here, judged by the control plane.
//!
//! One attestation is offers, then a challenge, then evidence in order of collection, the binding root last
//! (DESIGN §5.3). What a device signs binds the evidence to the connection, the keys and the roles
//! ([`vouchsafe_attestation::binding`]); it never signs anything that the control plane chose alone.
//! An [`Attester`] knows one kind of device and nothing of the others; [`Attesters`] keeps the order, so that each
//! device signs over all that was collected before it. `svid` is the only user.
//!
//! # Why
//! TPM commands are our own: twelve of them, with fixed templates, in one file. A marshalling library would bring the
//! whole command set into the sidecar's trusted base, and libtss2 a C library, for what is a header, a few integers and
//! length-prefixed bytes.

pub mod az_vtpm;
mod der;
pub mod device_thread;
pub mod nitro;
pub mod nvidia_gpu;
pub mod simulated;
pub mod tpm;
pub mod tsm;

use std::io;
use std::sync::Arc;

use vouchsafe_api::convert::attest::{
    Answer, AzVtpmEvidence, AzVtpmOffer, Challenge, EvidenceBody, EvidenceItem, NitroEvidence,
    NvidiaDriverState, NvidiaGpuEvidence, NvidiaGpuOffer, Offer, PcrSelection, SevSnpEvidence,
    TdxEvidence,
};
use vouchsafe_attestation::binding::{Base, DeviceBinding, EvidenceDigest};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::proxy;

use az_vtpm::{AzVtpmAttester, Hardware};
use nitro::NitroAttester;
use nvidia_gpu::GpuAttester;
use simulated::Simulated;
use tpm::TpmAttester;
use tsm::{Provider, TsmAttester};

/// All that collects evidence on this machine, at most one attester per kind.
#[derive(Debug)]
pub struct Attesters(Vec<Attester>);

/// What collects evidence of one kind of device.
#[derive(Debug)]
pub enum Attester {
    /// A TPM.
    Tpm(Arc<TpmAttester>),
    /// A guest of SEV-SNP or TDX.
    Tsm(TsmAttester),
    /// A confidential VM of Azure.
    AzVtpm(AzVtpmAttester),
    /// NVIDIA GPUs.
    NvidiaGpu(GpuAttester),
    /// An AWS Nitro Enclave.
    Nitro(NitroAttester),
    /// Nothing: made-up evidence of a made-up machine.
    Simulated(Simulated),
}

/// TPM names that enter the transcript; empty without a TPM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyNames {
    /// Of the endorsement key.
    pub ek: Vec<u8>,
    /// Of the attestation key.
    pub ak: Vec<u8>,
}

impl Attesters {
    /// Takes attesters, in no particular order.
    pub fn new(attesters: Vec<Attester>) -> Self {
        Self(attesters)
    }

    /// Opens what the configuration names.
    ///
    /// # Errors
    /// [`OpenError`] of the first that is not there: a sidecar that was told to prove something starts only where it can.
    pub async fn open(configs: &[proxy::Attester]) -> Result<Self, OpenError> {
        let mut attesters = Vec::new();
        for config in configs {
            let opened = Attester::open(config).await;
            let attester = opened.map_err(|source| OpenError {
                key: config.as_str(),
                source,
            })?;
            attesters.push(attester);
        }
        Ok(Self(attesters))
    }

    /// What was found at start, for who asks the sidecar.
    pub fn describe(&self) -> serde_json::Value {
        self.0.iter().map(Attester::describe).collect()
    }

    /// What can be proven with, one offer per kind.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn offers(&self) -> Result<Vec<Offer>, CollectError> {
        let mut offers = Vec::new();
        for attester in &self.0 {
            offers.push(attester.offer().await?);
        }
        Ok(offers)
    }

    /// Names of the keys of those kinds that the challenge asks for: they enter the transcript.
    pub fn names(&self, required: &[EvidenceKind]) -> KeyNames {
        let asked = self.0.iter().filter(|one| required.contains(&one.kind()));
        asked.filter_map(Attester::names).next().unwrap_or_default()
    }

    /// Collects what the challenge asks for, bound to `base`: in the order of [`EvidenceKind::ALL`], but the binding
    /// root last, over the digest of all the rest.
    ///
    /// # Errors
    /// [`CollectError`].
    ///
    /// # Cancel safety
    /// A device finishes its command even if nobody waits for the evidence.
    pub async fn collect(
        &self,
        base: &Base,
        challenge: &Challenge,
    ) -> Result<Vec<EvidenceItem>, CollectError> {
        let mut prior = EvidenceDigest::empty();
        let mut items = Vec::new();
        for attester in self.in_order(&challenge.required)? {
            let kind = attester.kind();
            for index in 0..attester.devices() {
                let binding = base.device(kind, index, &prior);
                let body = attester.collect(index, binding, challenge).await?;
                let item = EvidenceItem { index, body };
                prior = prior.after(kind, index, &item.canonical());
                items.push(item);
            }
        }
        Ok(items)
    }

    fn in_order(&self, required: &[EvidenceKind]) -> Result<Vec<&Attester>, CollectError> {
        let find = |kind: EvidenceKind| {
            let mut all = self.0.iter();
            all.find(|one| one.kind() == kind)
                .ok_or(CollectError::NotOffered(kind))
        };
        let root = EvidenceKind::binding_root(required.iter().copied());
        let root = root.ok_or(CollectError::NoRoot)?;
        if let Some(unknown) = required.iter().find(|kind| find(**kind).is_err()) {
            return Err(CollectError::NotOffered(*unknown));
        }
        let others = EvidenceKind::ALL.into_iter();
        let others = others.filter(|kind| *kind != root && required.contains(kind));
        others.chain([root]).map(find).collect()
    }
}

impl Attester {
    /// Opens what the configuration names. A TPM makes or reads its keys: milliseconds on a software TPM, up to a
    /// minute on a chip, on a thread that may block.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn open(config: &proxy::Attester) -> Result<Self, CollectError> {
        Ok(match config {
            proxy::Attester::Simulated { machine, image } => Self::Simulated(Simulated {
                machine: machine.clone(),
                image: image.clone(),
            }),
            proxy::Attester::Tpm(tpm) => {
                let tpm = tpm.clone();
                let opened = blocking(move || TpmAttester::open(&tpm)).await?;
                Self::Tpm(Arc::new(opened))
            }
            proxy::Attester::SevSnp(guest) => {
                Self::Tsm(TsmAttester::open(Provider::SevSnp, guest).await?)
            }
            proxy::Attester::Tdx(guest) => {
                Self::Tsm(TsmAttester::open(Provider::Tdx, guest).await?)
            }
            proxy::Attester::AzVtpm(vtpm) => Self::AzVtpm(AzVtpmAttester::open(vtpm).await?),
            proxy::Attester::NvidiaGpu(gpus) => Self::NvidiaGpu(GpuAttester::open(gpus).await?),
            proxy::Attester::Nitro(enclave) => Self::Nitro(NitroAttester::open(enclave)?),
        })
    }

    /// The kind of its evidence.
    pub fn kind(&self) -> EvidenceKind {
        match self {
            Self::Tpm(_) => EvidenceKind::Tpm,
            Self::Tsm(guest) => match guest.provider() {
                Provider::SevSnp => EvidenceKind::SevSnp,
                Provider::Tdx => EvidenceKind::Tdx,
            },
            Self::AzVtpm(vtpm) => match vtpm.hardware() {
                Hardware::SevSnp => EvidenceKind::AzSnpVtpm,
                Hardware::Tdx => EvidenceKind::AzTdxVtpm,
            },
            Self::NvidiaGpu(_) => EvidenceKind::NvidiaGpu,
            Self::Nitro(_) => EvidenceKind::Nitro,
            Self::Simulated(_) => EvidenceKind::Simulated,
        }
    }

    /// What can be proven with.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn offer(&self) -> Result<Offer, CollectError> {
        Ok(match self {
            Self::Tpm(tpm) => tpm.offer(),
            Self::Tsm(guest) => match guest.provider() {
                Provider::SevSnp => Offer::SevSnp,
                Provider::Tdx => Offer::Tdx,
            },
            Self::AzVtpm(vtpm) => {
                let offer = AzVtpmOffer {
                    ak_public: vtpm.ak_public().to_vec(),
                };
                match vtpm.hardware() {
                    Hardware::SevSnp => Offer::AzSnpVtpm(offer),
                    Hardware::Tdx => Offer::AzTdxVtpm(offer),
                }
            }
            Self::NvidiaGpu(gpus) => Offer::NvidiaGpu(NvidiaGpuOffer {
                gpus: gpus.machine().count,
                switches: 0,
            }),
            Self::Nitro(_) => Offer::Nitro,
            Self::Simulated(simulated) => simulated.offer(),
        })
    }

    /// How many devices were offered: one item of evidence each.
    pub fn devices(&self) -> u32 {
        match self {
            Self::NvidiaGpu(gpus) => gpus.machine().count,
            Self::Tpm(_) | Self::Tsm(_) | Self::AzVtpm(_) | Self::Nitro(_) | Self::Simulated(_) => {
                1
            }
        }
    }

    /// Names of the keys offered, where the kind has keys.
    pub fn names(&self) -> Option<KeyNames> {
        match self {
            Self::Tpm(tpm) => Some(tpm.names()),
            // Its endorsement key proves nothing here: the hardware's report names the attestation key.
            Self::AzVtpm(vtpm) => Some(KeyNames {
                ek: Vec::new(),
                ak: tpm::name(vtpm.ak_public()),
            }),
            Self::Tsm(_) | Self::NvidiaGpu(_) | Self::Nitro(_) | Self::Simulated(_) => None,
        }
    }

    /// What was found at start, for who asks the sidecar.
    pub fn describe(&self) -> serde_json::Value {
        let mut found = serde_json::json!({"kind": self.kind().as_str()});
        if let (Self::NvidiaGpu(gpus), Some(found)) = (self, found.as_object_mut()) {
            let machine = gpus.machine();
            found.insert("count".to_owned(), machine.count.into());
            found.insert("driver".to_owned(), machine.driver.as_str().into());
            found.insert("devtools".to_owned(), machine.devtools.into());
            found.insert("protected_pcie".to_owned(), machine.protected_pcie.into());
        }
        found
    }

    /// Collects the evidence of one device over its binding.
    ///
    /// # Errors
    /// [`CollectError`].
    ///
    /// # Cancel safety
    /// A device finishes its command even if nobody waits for the evidence.
    pub async fn collect(
        &self,
        index: u32,
        binding: DeviceBinding,
        challenge: &Challenge,
    ) -> Result<EvidenceBody, CollectError> {
        match self {
            Self::Simulated(simulated) => Ok(simulated.collect(&binding)),
            Self::Tpm(tpm) => {
                let answer = challenge.answers.iter().find_map(|answer| match answer {
                    Answer::Tpm(answer) => Some(answer.clone()),
                    Answer::AzSnpVtpm(_) | Answer::AzTdxVtpm(_) => None,
                });
                let answer = answer.ok_or(CollectError::NoAnswer)?;
                let tpm = Arc::clone(tpm);
                let evidence = blocking(move || tpm.collect(&binding, &answer)).await?;
                Ok(EvidenceBody::Tpm(evidence))
            }
            Self::Tsm(guest) => collect_report(guest, binding).await,
            Self::AzVtpm(vtpm) => collect_vtpm(vtpm, binding, challenge).await,
            Self::NvidiaGpu(gpus) => {
                let said = gpus.report(index, binding.as_bytes()).await?;
                Ok(EvidenceBody::NvidiaGpu(NvidiaGpuEvidence {
                    report: said.report,
                    certificate_chain: said.certificate_chain,
                    architecture: said.architecture.to_owned(),
                    is_switch: false,
                    driver: Some(NvidiaDriverState {
                        confidential_compute: said.confidential_compute,
                        devtools: said.devtools,
                    }),
                }))
            }
            Self::Nitro(enclave) => Ok(EvidenceBody::Nitro(NitroEvidence {
                document: enclave.document(binding.as_bytes()).await?,
            })),
        }
    }
}

async fn collect_report(
    guest: &TsmAttester,
    binding: DeviceBinding,
) -> Result<EvidenceBody, CollectError> {
    let said = guest.report(&binding.report_data()).await?;
    Ok(match guest.provider() {
        Provider::SevSnp => EvidenceBody::SevSnp(SevSnpEvidence {
            report: said.report,
            certificates: said.certificates,
        }),
        Provider::Tdx => EvidenceBody::Tdx(TdxEvidence {
            quote: said.report,
            event_log: said.event_log,
        }),
    })
}

async fn collect_vtpm(
    vtpm: &AzVtpmAttester,
    binding: DeviceBinding,
    challenge: &Challenge,
) -> Result<EvidenceBody, CollectError> {
    let selection = vtpm_selection(challenge, vtpm.hardware())?;
    let (nonce, user_data) = (binding.as_bytes(), binding.report_data());
    let said = vtpm.collect(nonce, &user_data, selection).await?;
    let evidence = AzVtpmEvidence {
        hcl_report: said.hcl_report,
        quote: said.quote,
        signature: said.signature,
        pcrs: said.pcrs,
        event_log: said.event_log,
        hardware: said.hardware,
    };
    Ok(match vtpm.hardware() {
        Hardware::SevSnp => EvidenceBody::AzSnpVtpm(evidence),
        Hardware::Tdx => EvidenceBody::AzTdxVtpm(evidence),
    })
}

fn vtpm_selection(
    challenge: &Challenge,
    hardware: Hardware,
) -> Result<&[PcrSelection], CollectError> {
    let mut answers = challenge.answers.iter();
    let selection = answers.find_map(|answer| match (answer, hardware) {
        (Answer::AzSnpVtpm(selection), Hardware::SevSnp)
        | (Answer::AzTdxVtpm(selection), Hardware::Tdx) => Some(selection.as_slice()),
        (Answer::Tpm(_) | Answer::AzSnpVtpm(_) | Answer::AzTdxVtpm(_), _) => None,
    });
    selection.ok_or(CollectError::NoAnswer)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CollectError> + Send + 'static,
) -> Result<T, CollectError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CollectError::Stopped))
}

/// What the configuration names is not there.
#[derive(Debug, thiserror::Error)]
#[error("`identity.control_plane.attester.{key}` of proxy.yaml can't be used here")]
pub struct OpenError {
    /// Which.
    pub key: &'static str,
    /// What is missing, and what to do.
    #[source]
    pub source: CollectError,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The control plane asks for a kind that was not offered.
    #[error(
        "the control plane asks for `{0}` evidence, which this machine was not configured to give"
    )]
    NotOffered(EvidenceKind),
    /// The control plane asks for kinds of which none, or more than one, could sign over the rest.
    #[error("the control plane asks for a set of evidence without exactly one binding root")]
    NoRoot,
    /// The TPM can't be reached, or stopped answering.
    #[error("failed to talk to the TPM at `{address}`")]
    Transport {
        /// Path or address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM refused a command (TPM 2.0 Part 2 §6.6 explains the code).
    #[error("the TPM refused `{command}` with code 0x{code:03x}")]
    Refused {
        /// Name of the command.
        command: &'static str,
        /// `TPM_RC`.
        code: u32,
    },
    /// The TPM answered something that is not of the command's shape.
    #[error("the TPM's answer to `{0}` can't be read")]
    Malformed(&'static str),
    /// A file that the configuration names can't be used.
    #[error("failed to read {what} from `{path}`")]
    File {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The control plane asks for the kernel's measurement list, and there is none.
    #[error(
        "the control plane asks for the kernel's measurement list: boot with IMA, or name the list by `ima_log`"
    )]
    NoList,
    /// The part of the measurement list that was not judged yet is longer than an attestation carries.
    #[error(
        "the measurement list `{path}` has {bytes} bytes that were not judged yet; {most} are carried"
    )]
    TooLong {
        /// Where.
        path: String,
        /// Bytes found.
        bytes: usize,
        /// Bytes that fit.
        most: u64,
    },
    /// The challenge has no answer to the TPM's offer.
    #[error("the control plane's challenge has no answer for the TPM")]
    NoAnswer,
    /// The control plane wants a PCR bank quoted that this TPM does not keep.
    #[error("the TPM keeps no PCR bank `{0}`: activate it, or use another in the profile")]
    NoBank(&'static str),
    /// The keys are not those that were offered: the TPM was cleared or replaced meanwhile.
    #[error("the TPM's keys have changed since they were offered: restart the sidecar")]
    KeysChanged,
    /// PCRs were extended while they were read and quoted, again and again.
    #[error("PCR values keep changing while they are quoted")]
    Unstable,
    /// No report of a confidential guest.
    #[error("no report of this confidential guest")]
    Tsm(#[from] tsm::TsmError),
    /// No evidence of an Azure confidential VM.
    #[error("no evidence of this confidential VM of Azure")]
    AzVtpm(#[from] az_vtpm::AzVtpmError),
    /// No reports of the GPUs.
    #[error("no reports of the GPUs")]
    NvidiaGpu(#[from] nvidia_gpu::GpuError),
    /// No document of the enclave.
    #[error("no document of this enclave")]
    Nitro(#[from] nitro::NitroError),
    /// A device takes too long.
    #[error(transparent)]
    Thread(#[from] device_thread::DeviceThreadError),
    /// The thread that talks to the TPM ended early: the process is shutting down.
    #[error("the collection of evidence was stopped")]
    Stopped,
}
