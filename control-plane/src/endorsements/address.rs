//! What is asked of which service: the address of each endorsement.
//!
//! Source: AMD 57230 rev. 0.51 §4; Intel SGX and TDX PCS API v4; Intel PCCS design guide; NVIDIA RIM service; RFC 6960
//! appendix A.1.

use bytes::Bytes;
use vouchsafe_config::control_plane::{EndorsementSources, INTEL_PCS};
use vouchsafe_verifier::endorsement::need::{IntelTee, Need};
use vouchsafe_verifier::ocsp;

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ask {
    /// `https://host/path?query`.
    pub(crate) url: String,
    /// An OCSP request is posted; everything else is got.
    pub(crate) body: Option<Bytes>,
}

/// How to ask for a need. `None` where the evidence's own certificates can't be asked about.
pub(crate) fn ask(need: &Need, sources: &EndorsementSources) -> Option<Ask> {
    let (amd, intel) = (&sources.amd_kds, &sources.intel_pcs);
    let url = match need {
        Need::AmdVcek {
            product,
            chip_id,
            tcb,
        } => {
            // Bootloader, TEE and so on, as AMD's own tools write them; Turin has one more.
            let fmc = tcb
                .fmc
                .map_or_else(String::new, |fmc| format!("&fmcSPL={fmc:02}"));
            format!(
                "{amd}/vcek/v1/{}/{}?blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}{fmc}",
                product.as_str(),
                hex::encode(chip_id),
                tcb.bootloader,
                tcb.tee,
                tcb.snp,
                tcb.microcode,
            )
        }
        Need::AmdChain { product, signer } => {
            let (signer, product) = (signer.as_str(), product.as_str());
            format!("{amd}/{signer}/v1/{product}/cert_chain")
        }
        Need::AmdCrl { product, signer } => {
            let (signer, product) = (signer.as_str(), product.as_str());
            format!("{amd}/{signer}/v1/{product}/crl")
        }
        Need::IntelTcbInfo { tee, fmspc } => format!(
            "{}/tcb?fmspc={}",
            certification(intel, *tee),
            hex::encode_upper(fmspc)
        ),
        Need::IntelQeIdentity { tee } => format!("{}/qe/identity", certification(intel, *tee)),
        Need::IntelPckCrl { ca } => format!(
            "{}/pckcrl?ca={}&encoding=der",
            certification(intel, IntelTee::Sgx),
            ca.as_str()
        ),
        // Intel publishes the root's list beside its service; caches of the service have it inside.
        Need::IntelRootCrl if intel == INTEL_PCS => INTEL_ROOT_CRL.to_owned(),
        Need::IntelRootCrl => format!("{}/rootcacrl", certification(intel, IntelTee::Sgx)),
        Need::NvidiaRim { id } => format!("{}/v1/rim/{}", sources.nvidia_rim, id.as_str()),
        Need::Ocsp {
            certificate,
            issuer,
        } => {
            // Without a nonce, so that an answer serves every attestation until it ends.
            let request = ocsp::request(certificate, issuer, None).ok()?;
            return Some(Ask {
                url: format!("{}/", sources.nvidia_ocsp),
                body: Some(request.into()),
            });
        }
    };
    Some(Ask { url, body: None })
}

fn certification(base: &str, tee: IntelTee) -> String {
    format!("{base}/{}/certification/v4", tee.as_str())
}

const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

#[cfg(test)]
mod tests {
    use vouchsafe_verifier::endorsement::need::{AmdSigner, PckCa, RimId};
    use vouchsafe_verifier::evidence::sev_snp::Product;
    use vouchsafe_verifier::evidence::sev_snp::report::Tcb;

    use super::*;

    #[track_caller]
    fn check(need: &Need, expected: &str) {
        let sources = EndorsementSources::default();
        assert_eq!(ask(need, &sources).unwrap().url, expected);
    }

    #[test]
    fn addresses_are_those_of_the_vendors_documents() {
        let tcb = Tcb {
            fmc: None,
            bootloader: 4,
            tee: 0,
            snp: 24,
            microcode: 219,
        };
        check(
            &Need::AmdVcek {
                product: Product::Milan,
                chip_id: vec![0xab; 64],
                tcb,
            },
            &format!(
                "https://kdsintf.amd.com/vcek/v1/Milan/{}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219",
                "ab".repeat(64)
            ),
        );
        check(
            &Need::AmdVcek {
                product: Product::Turin,
                chip_id: vec![1; 8],
                tcb: Tcb {
                    fmc: Some(1),
                    ..tcb
                },
            },
            "https://kdsintf.amd.com/vcek/v1/Turin/0101010101010101?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219&fmcSPL=01",
        );
        check(
            &Need::AmdChain {
                product: Product::Genoa,
                signer: AmdSigner::Vlek,
            },
            "https://kdsintf.amd.com/vlek/v1/Genoa/cert_chain",
        );
        check(
            &Need::AmdCrl {
                product: Product::Genoa,
                signer: AmdSigner::Vcek,
            },
            "https://kdsintf.amd.com/vcek/v1/Genoa/crl",
        );
        let fmspc = [0xb0, 0xc0, 0x6f, 0, 0, 0];
        check(
            &Need::IntelTcbInfo {
                tee: IntelTee::Tdx,
                fmspc,
            },
            "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=B0C06F000000",
        );
        check(
            &Need::IntelQeIdentity { tee: IntelTee::Sgx },
            "https://api.trustedservices.intel.com/sgx/certification/v4/qe/identity",
        );
        check(
            &Need::IntelPckCrl {
                ca: PckCa::Platform,
            },
            "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        );
        check(&Need::IntelRootCrl, INTEL_ROOT_CRL);
        check(
            &Need::NvidiaRim {
                id: RimId::new("NV_GPU_DRIVER_GH100_550.90.07").unwrap(),
            },
            "https://rim.attestation.nvidia.com/v1/rim/NV_GPU_DRIVER_GH100_550.90.07",
        );
    }

    #[test]
    fn a_cache_of_intels_service_has_the_roots_list_inside() {
        let sources = EndorsementSources {
            intel_pcs: "https://pccs.example:8081".to_owned(),
            ..EndorsementSources::default()
        };
        assert_eq!(
            ask(&Need::IntelRootCrl, &sources).unwrap().url,
            "https://pccs.example:8081/sgx/certification/v4/rootcacrl"
        );
    }

    #[test]
    fn garbage_is_not_asked_about() {
        let need = Need::Ocsp {
            certificate: vec![1],
            issuer: vec![2],
        };
        assert_eq!(ask(&need, &EndorsementSources::default()), None);
    }
}
