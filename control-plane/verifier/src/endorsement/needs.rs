//! Which endorsements evidence needs.
//!
//! Derived from the evidence itself, before anything in it is verified: an attester can name chips and versions that do
//! not exist, and pays for it with a refusal. The number of needs is bounded, each has a fixed form, and what the
//! evidence brought along is not asked for.

use x509_parser::certificate::X509Certificate;

use super::need::{AmdSigner, Need};
use super::object::Endorsement;
use crate::dossier::az_vtpm::Parts;
use crate::dossier::{Dossier, File, Kind, nvidia_gpu, sev_snp};
use crate::evidence::az_vtpm::hcl::HclReport;
use crate::evidence::dcap::parts::Wanted;
use crate::evidence::nvidia_gpu::endorsed;
use crate::evidence::sev_snp::Product;
use crate::evidence::sev_snp::endorsed::is_vcek_of;
use crate::evidence::sev_snp::report::{Report, SigningKey};
use crate::evidence::x509;

/// What must be known to judge these files. Each need is named once, and there are at most [`MAX_NEEDS`].
///
/// Files that can't be read need nothing: their judgement says what is wrong with them.
pub fn needs(kind: Kind, files: &[File<'_>]) -> Vec<Need> {
    let mut found = match kind {
        Kind::SevSnp => {
            let (reports, given) = sev_snp::reports(files);
            of_reports(&reports, &given)
        }
        Kind::Tdx | Kind::Sgx => files.iter().flat_map(|file| of_quote(file.bytes)).collect(),
        Kind::AzSnpVtpm => {
            let parts = parts(files);
            let reports = parts
                .hcl
                .iter()
                .filter_map(|hcl| HclReport::parse(hcl).ok());
            let reports: Vec<_> = reports.map(|hcl| hcl.report.to_vec()).collect();
            of_reports(&reports, &parts.certificates)
        }
        Kind::AzTdxVtpm => {
            let parts = parts(files);
            { parts.td_quotes.iter() }
                .flat_map(|quote| of_quote(quote))
                .collect()
        }
        Kind::NvidiaGpu => of_devices(files),
        Kind::Nitro | Kind::Tpm => Vec::new(),
    };
    let mut names: Vec<String> = Vec::new();
    found.retain(|need| {
        let name = need.name();
        let is_new = !names.contains(&name);
        names.push(name);
        is_new
    });
    found.truncate(MAX_NEEDS);
    found
}

/// What an endorsement needs in its turn: whether the certificates that signed a manifest are revoked.
pub fn of_endorsement(endorsement: &Endorsement) -> Vec<Need> {
    match endorsement.need() {
        Need::NvidiaRim { .. } => {
            // Verified when the endorsement was made, up to the root.
            of_chain(&endorsed::certificates_of_rim(endorsement.bytes()))
        }
        _ => Vec::new(),
    }
}

/// A question for each certificate of a chain, leaf first, but the root.
fn of_chain(chain: &[Vec<u8>]) -> Vec<Need> {
    chain
        .iter()
        .zip(chain.iter().skip(1))
        .map(|(certificate, issuer)| Need::Ocsp {
            certificate: certificate.clone(),
            issuer: issuer.clone(),
        })
        .collect()
}

fn parts(files: &[File<'_>]) -> Parts {
    Parts::gather(Dossier {
        files,
        endorsements: &[],
    })
}

fn of_reports(reports: &[Vec<u8>], given: &[Vec<u8>]) -> Vec<Need> {
    reports
        .iter()
        .take(MAX_DEVICES)
        .filter_map(|report| Report::parse(report).ok())
        .flat_map(|report| of_report(&report, given))
        .collect()
}

fn of_report(report: &Report, given: &[Vec<u8>]) -> Vec<Need> {
    let keys: Vec<X509Certificate<'_>> = { given.iter() }
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let named = report
        .cpuid()
        .and_then(|(family, model, _)| Product::from_cpuid(family, model));
    // Reports of version 2 do not say of which product they are; the certificate's issuer does.
    let Some(product) = named.or_else(|| keys.iter().find_map(product_of)) else {
        return Vec::new();
    };
    let signer = match report.signing_key() {
        SigningKey::Vcek => AmdSigner::Vcek,
        SigningKey::Vlek => AmdSigner::Vlek,
        SigningKey::None => return Vec::new(),
    };
    let mut needs = vec![
        Need::AmdChain { product, signer },
        Need::AmdCrl { product, signer },
    ];
    // A masked chip can't be asked for, and providers' keys are given out to providers only.
    let chip_id = match product {
        Product::Turin => report.chip_id().get(..8).map(<[u8]>::to_vec),
        Product::Milan | Product::Genoa => Some(report.chip_id().to_vec()),
    };
    let chip_id = chip_id.filter(|id| id.iter().any(|byte| *byte != 0));
    if let (AmdSigner::Vcek, Some(chip_id)) = (signer, chip_id) {
        // A host may hold on to the certificate of an older firmware, or of the chip that it had before.
        let tcb = report.reported_tcb(product);
        let is_given = keys
            .iter()
            .any(|key| is_vcek_of(key, product, &chip_id, tcb));
        if !is_given {
            needs.push(Need::AmdVcek {
                product,
                chip_id,
                tcb,
            });
        }
    }
    needs
}

/// The product, by the issuer's name of an endorsement key's certificate.
fn product_of(key: &X509Certificate<'_>) -> Option<Product> {
    x509::common_name(key.subject()).filter(|name| matches!(*name, "SEV-VCEK" | "SEV-VLEK"))?;
    let name = x509::common_name(key.issuer())?.strip_prefix("SEV-")?;
    let name = name.strip_prefix("VLEK-").unwrap_or(name);
    Product::ALL
        .into_iter()
        .find(|product| product.as_str() == name)
}

fn of_quote(quote: &[u8]) -> Vec<Need> {
    let Some(Wanted { tee, fmspc, ca }) = Wanted::of(quote) else {
        return Vec::new();
    };
    vec![
        Need::IntelTcbInfo { tee, fmspc },
        Need::IntelQeIdentity { tee },
        Need::IntelPckCrl { ca },
        Need::IntelRootCrl,
    ]
}

fn of_devices(files: &[File<'_>]) -> Vec<Need> {
    let mut devices: Vec<nvidia_gpu::Pair> = Vec::new();
    let mut chain = None;
    let mut reports = Vec::new();
    for file in files {
        if let Some(found) = x509::certificates(file.bytes) {
            chain = Some(found);
        } else if let Some(written) = nvidia_gpu::read_written(file.bytes) {
            devices.extend(written);
        } else {
            reports.push(file.bytes.to_vec());
        }
    }
    if let Some(chain) = chain {
        devices.extend(reports.into_iter().map(|report| (report, chain.clone())));
    }
    let devices = || devices.iter().take(MAX_DEVICES);
    let rims = devices().flat_map(|(report, chain)| {
        let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
        endorsed::rim_ids(report, leaf)
    });
    let mut needs: Vec<Need> = rims.map(|id| Need::NvidiaRim { id }).collect();
    for (_, chain) in devices() {
        // NVIDIA is asked about its own certificates only. The leaf is made by the device at each start, and no
        // responder knows it.
        if endorsed::is_below_device_root(chain) {
            needs.extend(of_chain(chain.get(1..).unwrap_or_default()));
        }
    }
    needs
}

/// Most needs of one set of files: sixteen devices of two manifests, and a few certificates of each chain.
pub const MAX_NEEDS: usize = 128;
/// Most devices in one machine, switches included.
const MAX_DEVICES: usize = 32;

#[cfg(test)]
mod tests;
