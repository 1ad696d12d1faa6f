//! Machines of our own: vendors' chains that we made, and devices that sign what they are asked to.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, date_time_ymd,
};
use vouchsafe_api::convert::attest::{EvidenceBody, EvidenceItem, NitroEvidence, SevSnpEvidence};
use vouchsafe_attestation::binding::{Base, EvidenceDigest};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_verifier::evidence::sev_snp::Product;
use vouchsafe_verifier::vendor_roots::{TestRoots, VendorRoots};

use super::harness::now;

/// AMD and AWS, as a test has them.
pub(super) struct Vendors {
    amd: (Authority, Authority),
    aws: (Authority, Authority),
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Vendors {
    pub(super) fn new() -> Self {
        let hierarchy = |root: &str, issuer: &str| {
            let root = Authority::root(root);
            let issuer = Authority::below(&root, issuer);
            (root, issuer)
        };
        Self {
            amd: hierarchy("ARK-Milan", "SEV-Milan"),
            aws: hierarchy("aws.nitro-enclaves", "zone"),
        }
    }

    /// Roots by which a control plane believes these vendors.
    pub(super) fn roots(&self) -> VendorRoots {
        VendorRoots::danger_of_a_test(TestRoots {
            amd: Some((Product::Milan, self.amd.0.certificate.clone())),
            aws: Some(self.aws.0.certificate.clone()),
            ..TestRoots::default()
        })
    }

    /// A confidential VM on a chip.
    pub(super) fn snp(&self, chip: u8) -> Snp {
        let key = key();
        let mut params = params("SEV-VCEK");
        let extensions: [(u64, u64, &[u8]); 4] = [
            (3, 1, &[2, 1, 3]),
            (3, 2, &[2, 1, 0]),
            (3, 3, &[2, 1, 22]),
            (3, 8, &[2, 2, 0, 210]),
        ];
        for (arc, part, value) in extensions {
            let oid = [1, 3, 6, 1, 4, 1, 3704, 1, arc, part];
            let extension = CustomExtension::from_oid_content(&oid, value.to_vec());
            params.custom_extensions.push(extension);
        }
        let oid = [1, 3, 6, 1, 4, 1, 3704, 1, 4];
        let extension = CustomExtension::from_oid_content(&oid, vec![chip; 64]);
        params.custom_extensions.push(extension);
        let issuer = self.amd.1.issuer();
        let vcek = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Snp {
            certificates: table(&[&vcek, &self.amd.1.certificate]),
            chip,
            key,
        }
    }

    /// An enclave beside a machine.
    pub(super) fn nitro(&self) -> Nitro {
        let key = key();
        let mut params = params("module");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let issuer = self.aws.1.issuer();
        let certificate = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Nitro {
            key,
            certificate,
            bundle: [&self.aws.0, &self.aws.1].map(|authority| authority.certificate.clone()),
        }
    }
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = (authority(name), key());
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn below(parent: &Self, name: &str) -> Self {
        let (params, key) = (authority(name), key());
        let certificate = params.signed_by(&key, &parent.issuer()).unwrap();
        Self {
            certificate: certificate.der().to_vec(),
            params,
            key,
        }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::try_from(self.key.serialize_der()).unwrap();
        Issuer::new(self.params.clone(), key)
    }
}

/// A confidential VM of AMD SEV-SNP.
pub(super) struct Snp {
    key: KeyPair,
    chip: u8,
    pub(super) certificates: Vec<u8>,
}

/// What is wrong with a report, if anything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SnpLies {
    pub(super) debug: bool,
    pub(super) vmpl: u8,
    pub(super) measurement: u8,
}

impl Snp {
    /// Signs over what was collected before.
    pub(super) fn collect(&self, base: &Base, prior: &EvidenceDigest) -> EvidenceItem {
        self.collect_lying(base, prior, SnpLies::default())
    }

    pub(super) fn collect_lying(
        &self,
        base: &Base,
        prior: &EvidenceDigest,
        lies: SnpLies,
    ) -> EvidenceItem {
        let binding = base.device(EvidenceKind::SevSnp, 0, prior);
        self.report(binding.report_data(), lies)
    }

    pub(super) fn report(&self, report_data: [u8; 64], lies: SnpLies) -> EvidenceItem {
        let mut report = vec![0; 1184];
        report[0x00] = 3;
        report[0x0a] = 0x03 | (u8::from(lies.debug) << 3);
        report[0x30] = lies.vmpl;
        report[0x34] = 1;
        report[0x38..0x40].copy_from_slice(&[4, 1, 0, 0, 0, 0, 23, 220]);
        report[0x50..0x90].copy_from_slice(&report_data);
        report[0x90..0xc0].fill(0xaa ^ lies.measurement);
        report[0x160..0x180].fill(0xff);
        report[0x180..0x188].copy_from_slice(&[3, 0, 0, 0, 0, 0, 22, 210]);
        report[0x188..0x18b].copy_from_slice(&[0x19, 0x01, 0x01]);
        report[0x1a0..0x1e0].fill(self.chip);
        report[0x1e0..0x1e8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        report[0x1f0..0x1f8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        let signature = sign(&self.key, &report[..0x2a0]);
        for (at, half) in [(0x2a0, &signature[..48]), (0x2e8, &signature[48..])] {
            let little: Vec<u8> = half.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little);
        }
        EvidenceItem {
            index: 0,
            body: EvidenceBody::SevSnp(SevSnpEvidence {
                report,
                certificates: self.certificates.clone(),
            }),
        }
    }
}

/// An enclave of AWS Nitro.
pub(super) struct Nitro {
    key: KeyPair,
    certificate: Vec<u8>,
    bundle: [Vec<u8>; 2],
}

impl Nitro {
    pub(super) fn collect(&self, base: &Base) -> EvidenceItem {
        let binding = base.device(EvidenceKind::Nitro, 0, &EvidenceDigest::empty());
        let mut pcrs = vec![0xa2, 0x00];
        put_bytes(&mut pcrs, &[0xaa; 48]);
        pcrs.push(0x01);
        put_bytes(&mut pcrs, &[0xbb; 48]);
        let ms = vouchsafe_api::convert::unix_ms(now());
        let mut bundle = vec![0x82];
        self.bundle
            .iter()
            .for_each(|der| put_bytes(&mut bundle, der));
        let mut nonce = Vec::new();
        put_bytes(&mut nonce, binding.as_bytes());
        let mut certificate = Vec::new();
        put_bytes(&mut certificate, &self.certificate);
        let mut module = Vec::new();
        put_text(&mut module, MODULE);
        let mut sha384 = Vec::new();
        put_text(&mut sha384, "SHA384");
        let fields: [(&str, Vec<u8>); 8] = [
            ("module_id", module),
            ("digest", sha384),
            ("timestamp", [&[0x1b][..], &ms.to_be_bytes()].concat()),
            ("pcrs", pcrs),
            ("user_data", vec![0xf6]),
            ("nonce", nonce),
            ("cabundle", bundle),
            ("certificate", certificate),
        ];
        let mut payload = vec![0xa0 | u8::try_from(fields.len()).unwrap()];
        for (name, value) in fields {
            put_text(&mut payload, name);
            payload.extend(value);
        }
        let protected = [0xa1, 0x01, 0x38, 0x22];
        let mut signed = b"\x84\x6aSignature1".to_vec();
        put_bytes(&mut signed, &protected);
        signed.push(0x40);
        put_bytes(&mut signed, &payload);
        let signature = sign(&self.key, &signed);
        let mut document = vec![0x84];
        put_bytes(&mut document, &protected);
        document.push(0xa0);
        put_bytes(&mut document, &payload);
        put_bytes(&mut document, &signature);
        EvidenceItem {
            index: 0,
            body: EvidenceBody::Nitro(NitroEvidence { document }),
        }
    }
}

pub(super) const INSTANCE: &str = "i-0123456789abcdef0";
const MODULE: &str = "i-0123456789abcdef0-enc0123456789abcdef";

/// The host's table of certificates: GUID, offset, length.
fn table(certificates: &[&[u8]]) -> Vec<u8> {
    let mut offset = 24 * (certificates.len() + 1);
    let mut out = Vec::new();
    for (number, der) in (1_u8..).zip(certificates) {
        out.extend([number; 16]);
        out.extend(u32::try_from(offset).unwrap().to_le_bytes());
        out.extend(u32::try_from(der.len()).unwrap().to_le_bytes());
        offset += der.len();
    }
    out.extend([0; 24]);
    certificates
        .iter()
        .for_each(|der| out.extend_from_slice(der));
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, 0x40, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    head(out, 0x60, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// The head of a string of CBOR in its shortest form.
fn head(out: &mut Vec<u8>, major: u8, length: usize) {
    match length {
        0..24 => out.push(major | u8::try_from(length).unwrap()),
        24..256 => out.extend([major | 24, u8::try_from(length).unwrap()]),
        _ => {
            out.push(major | 25);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der());
    let signature = pair.unwrap().sign(&SystemRandom::new(), message).unwrap();
    signature.as_ref().to_vec()
}
