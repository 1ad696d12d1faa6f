//! Endorsements by name: which objects of which vendors exist, and what each is called.
//!
//! A [`Need`] names one object. Its [`Need::name`] is the key of every cache and the name of the file that holds it, so a
//! folder of such files is what [`crate::dossier`] takes as endorsements. Names say everything that is needed to ask the
//! vendor, but for answers about one certificate (OCSP), whose name is a digest.
//!
//! Source: AMD 57230 rev. 0.51 §4; Intel SGX and TDX PCS API v4; NVIDIA RIM service; RFC 6960.

use std::time::Duration;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::evidence::sev_snp::Product;
use crate::evidence::sev_snp::report::Tcb;

/// One object that a vendor signs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub enum Need {
    /// The certificate of a chip's key at given versions, in DER.
    AmdVcek {
        /// Whose chip.
        product: Product,
        /// The chip: 64 bytes, or 8 on Turin.
        chip_id: Vec<u8>,
        /// The versions that the key was derived from.
        tcb: Tcb,
    },
    /// The authority that signs keys, and AMD's root, in PEM.
    AmdChain {
        /// Of which product.
        product: Product,
        /// Whose keys.
        signer: AmdSigner,
    },
    /// Revoked authorities, in DER.
    AmdCrl {
        /// Of which product.
        product: Product,
        /// Whose keys.
        signer: AmdSigner,
    },
    /// Levels of platforms of one FMSPC, with signature and issuers: a part of Intel's collateral as JSON.
    IntelTcbInfo {
        /// For which of both.
        tee: IntelTee,
        /// Family, model, platform and SKU.
        fmspc: [u8; 6],
    },
    /// The identity of quoting enclaves: a part of Intel's collateral as JSON.
    IntelQeIdentity {
        /// For which of both.
        tee: IntelTee,
    },
    /// Revoked PCK certificates: a part of Intel's collateral as JSON.
    IntelPckCrl {
        /// Whose list.
        ca: PckCa,
    },
    /// Revoked authorities of Intel: a part of Intel's collateral as JSON.
    IntelRootCrl,
    /// A reference integrity manifest, in XML.
    NvidiaRim {
        /// Which.
        id: RimId,
    },
    /// Whether a certificate is revoked: an OCSP response in DER.
    Ocsp {
        /// The certificate asked about, in DER.
        certificate: Vec<u8>,
        /// Its issuer, in DER.
        issuer: Vec<u8>,
    },
}

/// Whose keys an authority of AMD signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AmdSigner {
    /// Chips' (ASK).
    Vcek,
    /// Cloud providers' (ASVK).
    Vlek,
}

impl AmdSigner {
    /// The word in AMD's addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

/// What Intel's levels are about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IntelTee {
    /// Enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

impl IntelTee {
    /// The word in Intel's addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
        }
    }
}

/// Which authority issued a PCK certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PckCa {
    /// Of processors that stand alone.
    Processor,
    /// Of platforms.
    Platform,
}

impl PckCa {
    /// The word in Intel's addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }

    /// Its common name.
    pub(crate) fn common_name(self) -> &'static str {
        match self {
            Self::Processor => "Intel SGX PCK Processor CA",
            Self::Platform => "Intel SGX PCK Platform CA",
        }
    }
}

/// The name of a manifest at NVIDIA: at most 100 letters, digits, `_`, `.` and `-`, so that it can stand in an address
/// and be a file's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RimId(String);

impl RimId {
    /// Takes a name; `None` for one of another form.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let fits = (1..=MAX_RIM_ID).contains(&id.len())
            && id.bytes().all(is_plain)
            && id.starts_with("NV_");
        fits.then_some(Self(id))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How long an object is good, whatever its dates say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lasting {
    /// Never changes; renewed only when its certificates end.
    Immutable,
    /// Replaced by its issuer from time to time, before it ends.
    Replaced,
    /// Says how things are now.
    Momentary,
}

impl Lasting {
    /// How old a copy may get before a newer one is asked for, although it is still valid.
    ///
    /// Issuers publish lists and levels before the old ones end; a day late is what their customers get who ask daily.
    pub fn refresh_after(self) -> Option<Duration> {
        match self {
            Self::Immutable => None,
            Self::Replaced => Some(Duration::from_secs(24 * 3600)),
            Self::Momentary => Some(Duration::from_secs(3600)),
        }
    }
}

/// Who answers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// AMD's key distribution service.
    AmdKds,
    /// Intel's provisioning certification service, or a cache of it (PCCS).
    IntelPcs,
    /// NVIDIA's service of manifests.
    NvidiaRim,
    /// NVIDIA's OCSP responder.
    NvidiaOcsp,
}

impl Source {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::AmdKds,
        Self::IntelPcs,
        Self::NvidiaRim,
        Self::NvidiaOcsp,
    ];

    /// A bounded word, for configuration, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AmdKds => "amd_kds",
            Self::IntelPcs => "intel_pcs",
            Self::NvidiaRim => "nvidia_rim",
            Self::NvidiaOcsp => "nvidia_ocsp",
        }
    }
}

impl Need {
    /// The stable name of the object and of the file that holds it: at most 200 characters of `[A-Za-z0-9_.-]`.
    pub fn name(&self) -> String {
        match self {
            Self::AmdVcek {
                product,
                chip_id,
                tcb,
            } => format!(
                "amd-vcek-{}-{}-{}.der",
                word(*product),
                hex::encode(chip_id),
                hex::encode(tcb_bytes(*tcb))
            ),
            Self::AmdChain { product, signer } => {
                format!("amd-chain-{}-{}.pem", word(*product), signer.as_str())
            }
            Self::AmdCrl { product, signer } => {
                format!("amd-crl-{}-{}.der", word(*product), signer.as_str())
            }
            Self::IntelTcbInfo { tee, fmspc } => {
                format!(
                    "intel-tcb-info-{}-{}.json",
                    tee.as_str(),
                    hex::encode(fmspc)
                )
            }
            Self::IntelQeIdentity { tee } => format!("intel-qe-identity-{}.json", tee.as_str()),
            Self::IntelPckCrl { ca } => format!("intel-pck-crl-{}.json", ca.as_str()),
            Self::IntelRootCrl => "intel-root-crl.json".to_owned(),
            Self::NvidiaRim { id } => format!("nvidia-rim-{}.xml", id.as_str()),
            Self::Ocsp {
                certificate,
                issuer,
            } => format!("ocsp-{}.der", hex::encode(ocsp_digest(certificate, issuer))),
        }
    }

    /// Reads a name; `None` for one that [`Self::name`] never makes, and for those of OCSP, which say too little.
    pub fn from_name(name: &str) -> Option<Self> {
        let (stem, _) = name.rsplit_once('.')?;
        let need = if let Some(rest) = stem.strip_prefix("amd-vcek-") {
            vcek_from(rest)?
        } else if let Some(rest) = stem.strip_prefix("amd-chain-") {
            let (product, signer) = amd_from(rest)?;
            Self::AmdChain { product, signer }
        } else if let Some(rest) = stem.strip_prefix("amd-crl-") {
            let (product, signer) = amd_from(rest)?;
            Self::AmdCrl { product, signer }
        } else if let Some(rest) = stem.strip_prefix("intel-tcb-info-") {
            let (tee, fmspc) = rest.split_once('-')?;
            Self::IntelTcbInfo {
                tee: tee_from(tee)?,
                fmspc: hex::decode(fmspc).ok()?.try_into().ok()?,
            }
        } else if let Some(rest) = stem.strip_prefix("intel-qe-identity-") {
            Self::IntelQeIdentity {
                tee: tee_from(rest)?,
            }
        } else if let Some(rest) = stem.strip_prefix("intel-pck-crl-") {
            let ca = [PckCa::Processor, PckCa::Platform]
                .into_iter()
                .find(|ca| ca.as_str() == rest)?;
            Self::IntelPckCrl { ca }
        } else if let Some(rest) = stem.strip_prefix("nvidia-rim-") {
            let id = RimId::new(rest)?;
            Self::NvidiaRim { id }
        } else {
            Self::IntelRootCrl
        };
        // One name per object: upper case or another ending would be a second one.
        (need.name() == name).then_some(need)
    }

    /// How long it lasts.
    pub fn lasting(&self) -> Lasting {
        match self {
            Self::AmdVcek { .. } | Self::AmdChain { .. } | Self::NvidiaRim { .. } => {
                Lasting::Immutable
            }
            Self::AmdCrl { .. }
            | Self::IntelTcbInfo { .. }
            | Self::IntelQeIdentity { .. }
            | Self::IntelPckCrl { .. }
            | Self::IntelRootCrl => Lasting::Replaced,
            Self::Ocsp { .. } => Lasting::Momentary,
        }
    }

    /// Who answers.
    pub fn source(&self) -> Source {
        match self {
            Self::AmdVcek { .. } | Self::AmdChain { .. } | Self::AmdCrl { .. } => Source::AmdKds,
            Self::IntelTcbInfo { .. }
            | Self::IntelQeIdentity { .. }
            | Self::IntelPckCrl { .. }
            | Self::IntelRootCrl => Source::IntelPcs,
            Self::NvidiaRim { .. } => Source::NvidiaRim,
            Self::Ocsp { .. } => Source::NvidiaOcsp,
        }
    }

    /// Whether evidence can be judged without it: AMD's authorities are compiled in, so a fetched chain helps only after
    /// AMD replaced one.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::AmdChain { .. })
    }

    /// Whether a copy whose time is over still says something: what it revokes stays revoked, and it can't vouch for
    /// anything else. Without this, whoever keeps us from a vendor for a day would undo its revocations.
    pub fn outlives_its_end(&self) -> bool {
        matches!(self, Self::AmdCrl { .. } | Self::Ocsp { .. })
    }

    /// Most bytes that are read of a vendor's answer.
    pub fn max_bytes(&self) -> usize {
        match self {
            Self::AmdVcek { .. } | Self::AmdChain { .. } | Self::Ocsp { .. } => 32 * 1024,
            // Intel's list of all platforms has about 100 KiB, its levels about 40.
            Self::AmdCrl { .. }
            | Self::IntelTcbInfo { .. }
            | Self::IntelQeIdentity { .. }
            | Self::IntelPckCrl { .. }
            | Self::IntelRootCrl => 1024 * 1024,
            // Manifests have up to 60 KiB, and come as Base64 in JSON.
            Self::NvidiaRim { .. } => 1024 * 1024,
        }
    }
}

/// A need as it is written down: its name, and the certificates where the name says too little.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
}

impl From<Need> for Form {
    fn from(need: Need) -> Self {
        let name = need.name();
        match need {
            Need::Ocsp {
                certificate,
                issuer,
            } => Self {
                name,
                certificate: Some(hex::encode(certificate)),
                issuer: Some(hex::encode(issuer)),
            },
            _ => Self {
                name,
                certificate: None,
                issuer: None,
            },
        }
    }
}

impl TryFrom<Form> for Need {
    type Error = UnknownNeedError;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let unknown = || UnknownNeedError(form.name.clone());
        let need = match (&form.certificate, &form.issuer) {
            (None, None) => Self::from_name(&form.name),
            (Some(certificate), Some(issuer)) => Some(Self::Ocsp {
                certificate: hex::decode(certificate).map_err(|_| unknown())?,
                issuer: hex::decode(issuer).map_err(|_| unknown())?,
            }),
            _ => None,
        };
        need.filter(|need| need.name() == form.name)
            .ok_or_else(unknown)
    }
}

/// The text names no endorsement.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` names no endorsement")]
pub struct UnknownNeedError(pub String);

fn word(product: Product) -> &'static str {
    match product {
        Product::Milan => "milan",
        Product::Genoa => "genoa",
        Product::Turin => "turin",
    }
}

fn product_from(text: &str) -> Option<Product> {
    Product::ALL
        .into_iter()
        .find(|product| word(*product) == text)
}

fn amd_from(text: &str) -> Option<(Product, AmdSigner)> {
    let (product, signer) = text.split_once('-')?;
    let signer = [AmdSigner::Vcek, AmdSigner::Vlek]
        .into_iter()
        .find(|held| held.as_str() == signer)?;
    Some((product_from(product)?, signer))
}

fn tee_from(text: &str) -> Option<IntelTee> {
    [IntelTee::Sgx, IntelTee::Tdx]
        .into_iter()
        .find(|tee| tee.as_str() == text)
}

fn tcb_bytes(tcb: Tcb) -> Vec<u8> {
    let parts = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode];
    tcb.fmc.into_iter().chain(parts).collect()
}

fn vcek_from(text: &str) -> Option<Need> {
    let mut parts = text.split('-');
    let product = product_from(parts.next()?)?;
    let chip_id = hex::decode(parts.next()?).ok()?;
    let tcb = hex::decode(parts.next()?).ok()?;
    let (chip_bytes, tcb) = match (product, tcb.as_slice()) {
        (Product::Milan | Product::Genoa, [bootloader, tee, snp, microcode]) => (
            64,
            [
                None,
                Some(*bootloader),
                Some(*tee),
                Some(*snp),
                Some(*microcode),
            ],
        ),
        (Product::Turin, [fmc, bootloader, tee, snp, microcode]) => (
            8,
            [
                Some(*fmc),
                Some(*bootloader),
                Some(*tee),
                Some(*snp),
                Some(*microcode),
            ],
        ),
        _ => return None,
    };
    let [fmc, Some(bootloader), Some(tee), Some(snp), Some(microcode)] = tcb else {
        return None;
    };
    let tcb = Tcb {
        fmc,
        bootloader,
        tee,
        snp,
        microcode,
    };
    let fits = chip_id.len() == chip_bytes && parts.next().is_none();
    fits.then_some(Need::AmdVcek {
        product,
        chip_id,
        tcb,
    })
}

/// Of the issuer's digest and the certificate's: the same for the same question.
fn ocsp_digest(certificate: &[u8], issuer: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(digest::digest(&digest::SHA256, issuer).as_ref());
    context.update(digest::digest(&digest::SHA256, certificate).as_ref());
    context.finish().as_ref().to_vec()
}

const MAX_RIM_ID: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Need> {
        let tcb = Tcb {
            fmc: None,
            bootloader: 4,
            tee: 0,
            snp: 24,
            microcode: 219,
        };
        vec![
            Need::AmdVcek {
                product: Product::Genoa,
                chip_id: vec![0xab; 64],
                tcb,
            },
            Need::AmdVcek {
                product: Product::Turin,
                chip_id: vec![1; 8],
                tcb: Tcb {
                    fmc: Some(1),
                    ..tcb
                },
            },
            Need::AmdChain {
                product: Product::Milan,
                signer: AmdSigner::Vlek,
            },
            Need::AmdCrl {
                product: Product::Turin,
                signer: AmdSigner::Vcek,
            },
            Need::IntelTcbInfo {
                tee: IntelTee::Tdx,
                fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
            },
            Need::IntelQeIdentity { tee: IntelTee::Sgx },
            Need::IntelPckCrl {
                ca: PckCa::Platform,
            },
            Need::IntelRootCrl,
            Need::NvidiaRim {
                id: RimId::new("NV_GPU_DRIVER_GH100_550.90.07").unwrap(),
            },
            Need::Ocsp {
                certificate: vec![1, 2],
                issuer: vec![3],
            },
        ]
    }

    #[test]
    fn a_need_is_written_down_and_read_again() {
        for need in samples() {
            let text = serde_json::to_string(&need).unwrap();
            assert_eq!(serde_json::from_str::<Need>(&text).unwrap(), need);
            assert!(need.name().len() <= 200, "{}", need.name());
        }
    }

    #[test]
    fn a_name_says_all_but_for_ocsp() {
        for need in samples() {
            let is_ocsp = matches!(need, Need::Ocsp { .. });
            assert_eq!(Need::from_name(&need.name()), (!is_ocsp).then_some(need));
        }
    }

    #[test]
    fn a_name_of_another_form_names_nothing() {
        for name in [
            "",
            "amd-vcek-milan-00-04001819.der",
            "amd-crl-milan-vcek.pem",
            "amd-crl-Milan-vcek.der",
            "intel-tcb-info-tdx-B0C06F000000.json",
            "intel-tcb-info-tdx-b0c06f.json",
            "intel-pck-crl-root.json",
            "nvidia-rim-../../etc/passwd.xml",
            "nvidia-rim-GH100.xml",
            "whatever.json",
        ] {
            assert_eq!(Need::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_written_need_whose_name_is_of_another_certificate_is_refused() {
        let text = serde_json::to_string(&Need::Ocsp {
            certificate: vec![1, 2],
            issuer: vec![3],
        });
        let text = text.unwrap().replace("0102", "0103");
        assert!(serde_json::from_str::<Need>(&text).is_err());
    }
}
