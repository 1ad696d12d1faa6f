//! The hello: who asks for which name, with what.

use std::collections::BTreeSet;

use vouchsafe_attestation::binding::{Nonce, Purpose};
use vouchsafe_attestation::claims::EvidenceKind;

use super::{
    AzVtpmOffer, Endpoint, Hello, JoinToken, MAX_OFFERS, NvidiaGpuOffer, Offer, Proof, TpmOffer,
    endpoints, some_word, workload,
};
use crate::convert::{ConvertError, array, each, some_bytes, word};
use crate::v1;

impl TryFrom<v1::Hello> for Hello {
    type Error = ConvertError;

    fn try_from(wire: v1::Hello) -> Result<Self, ConvertError> {
        let purpose = match v1::Purpose::try_from(wire.purpose) {
            Ok(v1::Purpose::Enroll) => Purpose::Enroll,
            Ok(v1::Purpose::Renew) => Purpose::Renew,
            Ok(v1::Purpose::Reattest) => Purpose::Reattest,
            Ok(v1::Purpose::Unspecified) | Err(_) => return Err(ConvertError::Missing("purpose")),
        };
        let offers = each("offers", MAX_OFFERS, wire.offers, Offer::try_from)?;
        let kinds: BTreeSet<EvidenceKind> = offers.iter().map(Offer::kind).collect();
        if offers.is_empty() || kinds.len() != offers.len() {
            let expected = "one offer per kind of evidence, at least one";
            return Err(ConvertError::Malformed {
                field: "offers",
                expected,
            });
        }
        let join_token = match wire.join_token.as_str() {
            "" => None,
            token => Some(JoinToken::new(token)?),
        };
        let proof = match (purpose, wire.proof.as_str()) {
            (Purpose::Reattest, word) => Some(Proof::parse(word)?),
            (Purpose::Enroll | Purpose::Renew, "") => None,
            (Purpose::Enroll | Purpose::Renew, _) => {
                return Err(ConvertError::Malformed {
                    field: "proof",
                    expected: "empty: an enrolment or a renewal proves everything",
                });
            }
        };
        Ok(Self {
            purpose,
            workload: workload(&wire.workload)?,
            spki_sha256: array("spki_sha256", &wire.spki_sha256)?,
            client_nonce: Nonce(array("client_nonce", &wire.client_nonce)?),
            offers,
            join_token,
            endpoints: endpoints(wire.endpoints)?,
            software_version: word("software_version", MAX_VERSION_BYTES, wire.software_version)?,
            proof,
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let purpose = match hello.purpose {
            Purpose::Enroll => v1::Purpose::Enroll,
            Purpose::Renew => v1::Purpose::Renew,
            Purpose::Reattest => v1::Purpose::Reattest,
        };
        Self {
            purpose: purpose.into(),
            workload: hello.workload.to_string(),
            spki_sha256: hello.spki_sha256.to_vec(),
            client_nonce: hello.client_nonce.0.to_vec(),
            offers: hello.offers.into_iter().map(Into::into).collect(),
            join_token: hello.join_token.map(|token| token.0).unwrap_or_default(),
            endpoints: hello.endpoints.into_iter().map(Into::into).collect(),
            software_version: hello.software_version,
            proof: { hello.proof }.map_or_else(String::new, |proof| proof.as_str().to_owned()),
        }
    }
}

impl TryFrom<v1::Offer> for Offer {
    type Error = ConvertError;

    fn try_from(wire: v1::Offer) -> Result<Self, ConvertError> {
        match wire.kind.ok_or(ConvertError::Missing("offers.kind"))? {
            v1::offer::Kind::Tpm(tpm) => Ok(Self::Tpm(TpmOffer {
                ek_public: some_bytes("ek_public", MAX_PUBLIC_BYTES, tpm.ek_public)?,
                ek_chain: each("ek_chain", MAX_EK_CHAIN, tpm.ek_chain, |certificate| {
                    some_bytes("ek_chain", MAX_EK_CERTIFICATE_BYTES, certificate)
                })?,
                ak_public: some_bytes("ak_public", MAX_PUBLIC_BYTES, tpm.ak_public)?,
            })),
            v1::offer::Kind::Simulated(simulated) => Ok(Self::Simulated {
                machine: some_word("machine", simulated.machine)?,
            }),
            v1::offer::Kind::SevSnp(v1::SevSnpOffer {}) => Ok(Self::SevSnp),
            v1::offer::Kind::Tdx(v1::TdxOffer {}) => Ok(Self::Tdx),
            v1::offer::Kind::AzSnpVtpm(vtpm) => vtpm.try_into().map(Self::AzSnpVtpm),
            v1::offer::Kind::AzTdxVtpm(vtpm) => vtpm.try_into().map(Self::AzTdxVtpm),
            v1::offer::Kind::NvidiaGpu(gpus) => gpus.try_into().map(Self::NvidiaGpu),
            v1::offer::Kind::Nitro(v1::NitroOffer {}) => Ok(Self::Nitro),
        }
    }
}

impl From<Offer> for v1::Offer {
    fn from(offer: Offer) -> Self {
        let kind = match offer {
            Offer::Tpm(tpm) => v1::offer::Kind::Tpm(v1::TpmOffer {
                ek_public: tpm.ek_public,
                ek_chain: tpm.ek_chain,
                ak_public: tpm.ak_public,
            }),
            Offer::Simulated { machine } => {
                v1::offer::Kind::Simulated(v1::SimulatedOffer { machine })
            }
            Offer::SevSnp => v1::offer::Kind::SevSnp(v1::SevSnpOffer {}),
            Offer::Tdx => v1::offer::Kind::Tdx(v1::TdxOffer {}),
            Offer::AzSnpVtpm(vtpm) => v1::offer::Kind::AzSnpVtpm(vtpm.into()),
            Offer::AzTdxVtpm(vtpm) => v1::offer::Kind::AzTdxVtpm(vtpm.into()),
            Offer::NvidiaGpu(gpus) => v1::offer::Kind::NvidiaGpu(v1::NvidiaGpuOffer {
                gpus: gpus.gpus,
                switches: gpus.switches,
            }),
            Offer::Nitro => v1::offer::Kind::Nitro(v1::NitroOffer {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::AzVtpmOffer> for AzVtpmOffer {
    type Error = ConvertError;

    fn try_from(wire: v1::AzVtpmOffer) -> Result<Self, ConvertError> {
        Ok(Self {
            ak_public: some_bytes("ak_public", MAX_PUBLIC_BYTES, wire.ak_public)?,
        })
    }
}

impl From<AzVtpmOffer> for v1::AzVtpmOffer {
    fn from(offer: AzVtpmOffer) -> Self {
        Self {
            ak_public: offer.ak_public,
        }
    }
}

impl TryFrom<v1::NvidiaGpuOffer> for NvidiaGpuOffer {
    type Error = ConvertError;

    fn try_from(wire: v1::NvidiaGpuOffer) -> Result<Self, ConvertError> {
        if !(1..=MAX_GPUS).contains(&wire.gpus) {
            return Err(ConvertError::Malformed {
                field: "gpus",
                expected: "between 1 and 16",
            });
        }
        if wire.switches > MAX_SWITCHES {
            return Err(ConvertError::Malformed {
                field: "switches",
                expected: "at most 8",
            });
        }
        Ok(Self {
            gpus: wire.gpus,
            switches: wire.switches,
        })
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = ConvertError;

    fn try_from(wire: v1::Endpoint) -> Result<Self, ConvertError> {
        let port = |name: String| {
            name.parse().map_err(|_| ConvertError::Malformed {
                field: "endpoints.ports",
                expected: "a port's name",
            })
        };
        let listener = word("endpoints.listener", MAX_LISTENER_BYTES, wire.listener)?;
        let has_port = listener.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !has_port {
            return Err(ConvertError::Malformed {
                field: "endpoints.listener",
                expected: "`host:port`",
            });
        }
        let ports = each("endpoints.ports", MAX_PORTS, wire.ports, port)?;
        Ok(Self { listener, ports })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            listener: endpoint.listener,
            ports: endpoint.ports.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A `TPMT_PUBLIC` of RSA 4096 has less than 600 bytes.
const MAX_PUBLIC_BYTES: usize = 2048;
/// Manufacturers' chains have two to four certificates.
const MAX_EK_CHAIN: usize = 8;
const MAX_EK_CERTIFICATE_BYTES: usize = 16 * 1024;
/// The largest machines have eight; twice as many to spare.
const MAX_GPUS: u32 = 16;
/// The largest machines have four.
const MAX_SWITCHES: u32 = 8;
/// The longest DNS name, brackets and a port number.
const MAX_LISTENER_BYTES: usize = 262;
const MAX_PORTS: usize = 64;
const MAX_VERSION_BYTES: usize = 64;
