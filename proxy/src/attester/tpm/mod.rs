//! Evidence of a TPM 2.0: its keys, credential activation, a quote, and the boot event log.
//!
//! Keys are primary keys of the endorsement hierarchy. The endorsement key is that of the TCG's standard templates, so
//! that its maker's certificate fits. The attestation key is a restricted ECDSA P-256 key whose template holds our own
//! label: the TPM derives the same key from its seed each time, so nothing is stored, and quotes of a key in this
//! hierarchy state reset counter and firmware version openly.
//!
//! Source: TCG EK Credential Profile for TPM Family 2.0 §2.2.1 and Annex B.

pub(super) mod command;
mod ima;
mod transport;
mod wire;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_api::convert::attest::{
    Offer, PcrBank, PcrHash, PcrSelection, TpmAnswer, TpmEvidence, TpmOffer,
};
use vouchsafe_attestation::binding::DeviceBinding;
use vouchsafe_config::attester::DEFAULT_IMA_LOG;
use vouchsafe_config::proxy::{self, TpmTransport};

use super::{CollectError, KeyNames};
use command::{Handle, Tpm};
use transport::Transport;
use wire::put_sized;

/// A TPM that collects evidence. Holds no connection: each operation opens its own.
#[derive(Debug)]
pub struct TpmAttester {
    config: proxy::Tpm,
    ek: EkPlace,
    ek_public: Vec<u8>,
    ek_chain: Vec<Vec<u8>>,
    ak_public: Vec<u8>,
}

/// A machine's TPM at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// All values that were quoted, in the order of the quote.
    pub pcrs: Vec<PcrBank>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// Certificates of the endorsement key, leaf first; empty where there is none.
    pub ek_chain: Vec<Vec<u8>>,
    /// Boot event log; empty where there is none.
    pub event_log: Vec<u8>,
    /// The kernel's measurement list; empty where there is none.
    pub ima_log: Vec<u8>,
}

/// Where the endorsement key is found again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EkPlace {
    Persistent(Handle),
    Template(EkTemplate),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EkTemplate {
    Rsa2048,
    EccP256,
}

impl TpmAttester {
    /// Reads or makes the keys. Blocks.
    ///
    /// The attestation key is the same after a restart of sidecar and machine, without any file; it changes only when
    /// the TPM is cleared or replaced.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn open(config: &proxy::Tpm) -> Result<Self, CollectError> {
        let given = given_chain(config)?;
        let mut tpm = connect(config)?;
        let ChosenEk {
            place,
            public: ek_public,
            leaf,
        } = choose_ek(&mut tpm, &given)?;
        let ak_public = tpm.with_primary(&ak_template(), |_, _, public| Ok(public.to_vec()))?;
        Ok(Self {
            config: config.clone(),
            ek: place,
            ek_chain: assemble_chain(leaf, given, &ek_public),
            ek_public,
            ak_public,
        })
    }

    pub(super) fn offer(&self) -> Offer {
        Offer::Tpm(TpmOffer {
            ek_public: self.ek_public.clone(),
            ek_chain: self.ek_chain.clone(),
            ak_public: self.ak_public.clone(),
        })
    }

    pub(super) fn names(&self) -> KeyNames {
        KeyNames {
            ek: name(&self.ek_public),
            ak: name(&self.ak_public),
        }
    }

    /// Answers a challenge: opens the credential and quotes what was asked for over the binding. Blocks.
    pub(super) fn collect(
        &self,
        binding: &DeviceBinding,
        answer: &TpmAnswer,
    ) -> Result<TpmEvidence, CollectError> {
        let mut tpm = connect(&self.config)?;
        tpm.with_primary(&ak_template(), |tpm, ak, ak_public| {
            if ak_public != self.ak_public {
                return Err(CollectError::KeysChanged);
            }
            let activated_credential = self.activate(tpm, ak, answer)?;
            let (quote, pcrs) = stable_quote(tpm, ak, binding.as_bytes(), &answer.selection)?;
            let ima = match (answer.ima, ima_log(&self.config)) {
                (None, _) => ima::Part::default(),
                (Some(from), Some(path)) => ima::collect(&path, from, &quote.attest)?,
                (Some(_), None) => return Err(CollectError::NoList),
            };
            Ok(TpmEvidence {
                ima_log: ima.log,
                ima_offset: ima.offset,
                quote: quote.attest,
                signature: quote.signature,
                pcrs,
                event_log: event_log(&self.config)?,
                activated_credential,
            })
        })
    }

    /// Quotes all PCRs of the banks that the TPM keeps, over `nonce`, with the logs: what there is to know of this machine
    /// at this moment, for people. Blocks.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn snapshot(&self, nonce: &[u8; 32], ima: Option<&Path>) -> Result<Snapshot, CollectError> {
        let mut tpm = connect(&self.config)?;
        let (quote, pcrs) = tpm.with_primary(&ak_template(), |tpm, ak, _| {
            let mut kept = Vec::new();
            for hash in [PcrHash::Sha256, PcrHash::Sha384] {
                let bank = PcrSelection {
                    hash,
                    pcrs: (0..PCR_COUNT).collect(),
                };
                match read_pcrs(tpm, std::slice::from_ref(&bank)) {
                    Ok(_) => kept.push(bank),
                    Err(CollectError::NoBank(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if kept.is_empty() {
                return Err(CollectError::NoBank(PcrHash::Sha256.as_str()));
            }
            stable_quote(tpm, ak, nonce, &kept)
        })?;
        let ima_log = match ima {
            // After the quote: what the kernel measured since is beyond it, and nothing of it is missing.
            Some(path) => read_file(path, "the measurement list", MAX_IMA_LOG)?,
            None => Vec::new(),
        };
        Ok(Snapshot {
            quote: quote.attest,
            signature: quote.signature,
            pcrs,
            ak_public: self.ak_public.clone(),
            ek_public: self.ek_public.clone(),
            ek_chain: self.ek_chain.clone(),
            event_log: event_log(&self.config)?,
            ima_log,
        })
    }

    fn activate(
        &self,
        tpm: &mut Tpm,
        ak: Handle,
        answer: &TpmAnswer,
    ) -> Result<Vec<u8>, CollectError> {
        with_ek(tpm, self.ek, |tpm, ek, ek_public| {
            if ek_public != self.ek_public {
                return Err(CollectError::KeysChanged);
            }
            tpm.activate_credential(ak, ek, &answer.credential_blob, &answer.encrypted_secret)
        })
    }
}

pub(super) fn connect(config: &proxy::Tpm) -> Result<Tpm, CollectError> {
    let address = match &config.transport {
        TpmTransport::Device(path) | TpmTransport::SwtpmUnix(path) => path.display().to_string(),
        TpmTransport::SwtpmTcp(address) => address.to_string(),
    };
    let transport =
        Transport::open(&config.transport).map_err(|source| CollectError::Transport {
            address: address.clone(),
            source,
        })?;
    Tpm::new(transport, address)
}

/// An endorsement key, with the TPM's own certificate of it.
struct ChosenEk {
    place: EkPlace,
    public: Vec<u8>,
    leaf: Option<Vec<u8>>,
}

/// The endorsement key that the maker certified, in the TPM or in the given chain, with its
/// certificate; ECC P-256 where nothing is certified. ECC first: chips make ECC keys in milliseconds and RSA keys in seconds.
fn choose_ek(tpm: &mut Tpm, given: &[Vec<u8>]) -> Result<ChosenEk, CollectError> {
    for (index, template) in [
        (NV_ECC_CERTIFICATE, EkTemplate::EccP256),
        (NV_RSA_CERTIFICATE, EkTemplate::Rsa2048),
    ] {
        if let Some(content) = tpm.read_nv(index)?
            && let Some(certificate) = one_der(&content)
        {
            let (place, public) = find_ek(tpm, template)?;
            let leaf = Some(certificate.to_vec());
            return Ok(ChosenEk {
                place,
                public,
                leaf,
            });
        }
    }
    let (place, public) = find_ek(tpm, EkTemplate::EccP256)?;
    let certified = |public: &[u8]| given.first().is_some_and(|leaf| holds_key(leaf, public));
    if !given.is_empty() && !certified(&public) {
        let (rsa_place, rsa_public) = find_ek(tpm, EkTemplate::Rsa2048)?;
        if certified(&rsa_public) {
            return Ok(ChosenEk {
                place: rsa_place,
                public: rsa_public,
                leaf: None,
            });
        }
    }
    Ok(ChosenEk {
        place,
        public,
        leaf: None,
    })
}

/// A persistent RSA endorsement key saves making it; by convention it is at one handle. Only one made by the standard
/// template is taken: another may have a policy that we can't satisfy.
fn find_ek(tpm: &mut Tpm, template: EkTemplate) -> Result<(EkPlace, Vec<u8>), CollectError> {
    if template == EkTemplate::Rsa2048
        && let Some(public) = tpm.read_public(PERSISTENT_RSA_EK)?
        && public.starts_with(&ek_head(EkTemplate::Rsa2048))
    {
        return Ok((EkPlace::Persistent(PERSISTENT_RSA_EK), public));
    }
    let place = EkPlace::Template(template);
    let public = with_ek(tpm, place, |_, _, public| Ok(public.to_vec()))?;
    Ok((place, public))
}

fn with_ek<T>(
    tpm: &mut Tpm,
    place: EkPlace,
    body: impl FnOnce(&mut Tpm, Handle, &[u8]) -> Result<T, CollectError>,
) -> Result<T, CollectError> {
    match place {
        EkPlace::Template(template) => tpm.with_primary(&ek_template(template), body),
        EkPlace::Persistent(handle) => {
            let public = tpm.read_public(handle)?.ok_or(CollectError::KeysChanged)?;
            body(tpm, handle, &public)
        }
    }
}

/// Quotes, and reads the same PCRs before and after: they can only be extended, so equal values are the quoted ones.
pub(super) fn stable_quote(
    tpm: &mut Tpm,
    ak: Handle,
    extra_data: &[u8],
    selection: &[PcrSelection],
) -> Result<(command::Quote, Vec<PcrBank>), CollectError> {
    let wanted: Vec<_> = selection
        .iter()
        .map(|bank| (hash_id(bank.hash), bitmap(bank)))
        .collect();
    let mut before = read_pcrs(tpm, selection)?;
    for _ in 0..MAX_QUOTES {
        let quote = tpm.quote(ak, extra_data, &wanted)?;
        let after = read_pcrs(tpm, selection)?;
        if before == after {
            return Ok((quote, after));
        }
        before = after;
    }
    Err(CollectError::Unstable)
}

/// All selected values; a TPM reads eight at a time.
fn read_pcrs(tpm: &mut Tpm, selection: &[PcrSelection]) -> Result<Vec<PcrBank>, CollectError> {
    let mut banks = Vec::new();
    for bank in selection {
        let mut values = Vec::new();
        let mut left = bitmap(bank);
        while left != 0 {
            let (read, digests) = tpm.read_pcrs(hash_id(bank.hash), left)?;
            if read & left == 0 {
                // A bank that is not active reads as nothing.
                return Err(CollectError::NoBank(bank.hash.as_str()));
            }
            let pcrs = (0..PCR_COUNT).filter(|pcr| read & (1 << pcr) != 0);
            values.extend(pcrs.zip(digests));
            left &= !read;
        }
        banks.push(PcrBank {
            hash: bank.hash,
            values,
        });
    }
    Ok(banks)
}

fn bitmap(bank: &PcrSelection) -> u32 {
    bank.pcrs
        .iter()
        .filter(|pcr| **pcr < PCR_COUNT)
        .fold(0, |bits, pcr| bits | 1 << pcr)
}

fn hash_id(hash: PcrHash) -> u16 {
    match hash {
        PcrHash::Sha256 => 0x000b,
        PcrHash::Sha384 => 0x000c,
    }
}

/// The firmware's log: the one that is configured, or a device's where the kernel shows it.
pub(super) fn event_log(config: &proxy::Tpm) -> Result<Vec<u8>, CollectError> {
    let default = Path::new(KERNEL_EVENT_LOG);
    let path = match (&config.event_log, &config.transport) {
        (Some(path), _) => path.as_path(),
        (None, TpmTransport::Device(_)) if default.exists() => default,
        (None, _) => return Ok(Vec::new()),
    };
    read_file(path, "the boot event log", MAX_EVENT_LOG)
}

/// The kernel's measurement list: the one that is configured, or a device's where the kernel shows it.
fn ima_log(config: &proxy::Tpm) -> Option<PathBuf> {
    let default = Path::new(DEFAULT_IMA_LOG);
    match (&config.ima_log, &config.transport) {
        (Some(path), _) => Some(path.clone()),
        (None, TpmTransport::Device(_)) => default.exists().then(|| default.to_owned()),
        (None, TpmTransport::SwtpmUnix(_) | TpmTransport::SwtpmTcp(_)) => None,
    }
}

fn read_file(path: &Path, what: &'static str, most: u64) -> Result<Vec<u8>, CollectError> {
    read_bounded(path, most).map_err(|source| CollectError::File {
        what,
        path: path.display().to_string(),
        source,
    })
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(most + 1)
        .read_to_end(&mut content)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= most => Ok(content),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

fn given_chain(config: &proxy::Tpm) -> Result<Vec<Vec<u8>>, CollectError> {
    let Some(path) = &config.ek_chain else {
        return Ok(Vec::new());
    };
    let error = |source| CollectError::File {
        what: "the endorsement key's certificate chain",
        path: path.display().to_string(),
        source,
    };
    let content = read_bounded(path, MAX_EVENT_LOG).map_err(error)?;
    CertificateDer::pem_slice_iter(&content)
        .map(|one| one.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| error(io::ErrorKind::InvalidData.into()))
}

/// The chain to offer: the file's, with the TPM's own leaf before it unless the file begins with this key's leaf.
fn assemble_chain(leaf: Option<Vec<u8>>, given: Vec<Vec<u8>>, ek_public: &[u8]) -> Vec<Vec<u8>> {
    let given_has_leaf = given
        .first()
        .is_some_and(|first| holds_key(first, ek_public));
    let leaf = leaf.filter(|_| !given_has_leaf);
    leaf.into_iter().chain(given).collect()
}

/// Whether a certificate holds this public area's number. The verifier parses; here it only has to be found.
fn holds_key(certificate: &[u8], public: &[u8]) -> bool {
    // Modulus or second coordinate: the last 32 bytes of either public area.
    let tail = public.get(public.len().saturating_sub(32)..);
    tail.is_some_and(|tail| {
        tail.len() == 32 && certificate.windows(32).any(|window| window == tail)
    })
}

/// The first DER element of an NV index, which may be longer than the certificate in it.
fn one_der(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0x30, 0x82, high, low, ..] => {
            content.get(..4 + usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

/// Name of a key: hash identifier and digest of the public area. All our templates name by SHA-256.
pub(super) fn name(public: &[u8]) -> Vec<u8> {
    let mut name = vec![0x00, 0x0b];
    name.extend_from_slice(digest::digest(&digest::SHA256, public).as_ref());
    name
}

/// Everything of an endorsement key's public area but the key itself (templates L-1 and L-2).
fn ek_head(template: EkTemplate) -> Vec<u8> {
    let kind: u16 = match template {
        EkTemplate::Rsa2048 => 0x0001,
        EkTemplate::EccP256 => 0x0023,
    };
    let mut out = kind.to_be_bytes().to_vec();
    out.extend([0x00, 0x0b]); // names by SHA-256
    out.extend(EK_ATTRIBUTES.to_be_bytes());
    put_sized(&mut out, &EK_POLICY);
    out.extend([0x00, 0x06, 0x00, 0x80, 0x00, 0x43]); // protects with AES-128 in CFB mode
    out.extend([0x00, 0x10]); // no scheme
    match template {
        EkTemplate::Rsa2048 => out.extend([0x08, 0x00, 0x00, 0x00, 0x00, 0x00]), // 2048 bits, exponent 65537
        EkTemplate::EccP256 => out.extend([0x00, 0x03, 0x00, 0x10]), // P-256, no key derivation
    }
    out
}

fn ek_template(template: EkTemplate) -> Vec<u8> {
    let mut out = ek_head(template);
    match template {
        EkTemplate::Rsa2048 => put_sized(&mut out, &[0; 256]),
        EkTemplate::EccP256 => {
            put_sized(&mut out, &[0; 32]);
            put_sized(&mut out, &[0; 32]);
        }
    }
    out
}

fn ak_template() -> Vec<u8> {
    let mut out = vec![0x00, 0x23, 0x00, 0x0b]; // ECC, names by SHA-256
    out.extend(AK_ATTRIBUTES.to_be_bytes());
    put_sized(&mut out, &[]); // no policy
    out.extend([0x00, 0x10]); // protects nothing
    out.extend([0x00, 0x18, 0x00, 0x0b]); // ECDSA with SHA-256
    out.extend([0x00, 0x03, 0x00, 0x10]); // P-256, no key derivation
    put_sized(&mut out, digest::digest(&digest::SHA256, AK_LABEL).as_ref());
    put_sized(&mut out, &[0; 32]);
    out
}

/// Makes our attestation key another one than anybody else's of the same shape.
const AK_LABEL: &[u8] = b"vouchsafe/v1/attestation-key\0";
/// `fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy | restricted | decrypt`.
const EK_ATTRIBUTES: u32 = 0x0003_00b2;
/// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | noDA | restricted | sign`.
const AK_ATTRIBUTES: u32 = 0x0005_0472;
/// Policy A: `TPM2_PolicySecret(TPM_RH_ENDORSEMENT)`.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const PERSISTENT_RSA_EK: Handle = Handle(0x8101_0001);
const NV_RSA_CERTIFICATE: Handle = Handle(0x01c0_0002);
const NV_ECC_CERTIFICATE: Handle = Handle(0x01c0_000a);
const PCR_COUNT: u8 = 24;
/// PCRs that change more often than this within one operation are under somebody's constant fire.
const MAX_QUOTES: u32 = 5;
/// What the verifier reads at most.
const MAX_EVENT_LOG: u64 = 1024 * 1024;
/// What the verifier reads at most.
const MAX_IMA_LOG: u64 = 16 * 1024 * 1024;
const KERNEL_EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
