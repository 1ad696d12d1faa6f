//! A device of our own, in which every input of every check can be turned.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};

use super::xml::Element;
use super::*;
use crate::judgement::{BindingState, Judgement, Status};

const NONCE: [u8; 32] = [5; 32];
const FIRMWARE: [u8; 48] = [0xf0; 48];

struct Gpu {
    measurements: Vec<(u8, Vec<u8>)>,
    fields: Vec<(u16, Vec<u8>)>,
    request: [u8; 4],
    blocks: u8,
    signed_by_other: bool,
    leaf_by_other: bool,
    leaf_is_authority: bool,
    root_is_other: bool,
    certificates: usize,
    certified: Vec<u8>,
    driver_rim: String,
    vbios_rim: String,
    rim_by_other: bool,
    rim_root_is_other: bool,
    rim_is_edited: bool,
    rim_until: u64,
    rims: usize,
    rules: Rules,
    now: u64,
}

impl Gpu {
    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut gpu = Self {
            measurements: (1..=3).map(|index| (index, vec![index; 48])).collect(),
            fields: vec![
                (3, b"570.1\0".to_vec()),
                (6, vec![0, 0x9f, 0, 0x96, 1, 0, 0, 0]),
                (20, FIRMWARE.to_vec()),
            ],
            request: [0x11, 0xe0, 1, 0xff],
            blocks: 3,
            signed_by_other: false,
            leaf_by_other: false,
            leaf_is_authority: false,
            root_is_other: false,
            certificates: 3,
            certified: FIRMWARE.to_vec(),
            driver_rim: manifest("570.1", &[(0, "True", &[9, 1]), (2, "False", &[8])]),
            vbios_rim: manifest("96.00.9F.00.01", &[(1, "True", &[2])]),
            rim_by_other: false,
            rim_root_is_other: false,
            rim_is_edited: false,
            rim_until: 4000,
            rims: 2,
            rules: Rules::default(),
            now: 2000,
        };
        change(&mut gpu);
        gpu
    }

    fn judge(&self) -> Judgement {
        let (root, other) = (Authority::new("root"), Authority::new("root"));
        let issuer = Authority::new("issuer");
        let leaf_key = key();
        let mut params = params("leaf", 4000);
        if self.leaf_is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let tcb_info = [FWID_PREFIX, &self.certified].concat();
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(
                &[2, 23, 133, 5, 4, 1],
                tcb_info,
            ));
        let other_issuer = Authority::new("issuer");
        let parent = if self.leaf_by_other {
            &other_issuer
        } else {
            &issuer
        };
        let leaf = params
            .signed_by(&leaf_key, &parent.issuer())
            .unwrap()
            .der()
            .to_vec();
        let chain = [leaf, issuer.certify(&root), root.itself.clone()];
        let chain = chain.into_iter().take(self.certificates).collect();
        let other_key = key();
        let report = self.report(if self.signed_by_other {
            &other_key
        } else {
            &leaf_key
        });
        let device = Device {
            report: &report,
            chain,
        };
        let rims = [&self.driver_rim, &self.vbios_rim].map(|text| self.sign_rim(text, &root));
        let rims: Vec<&[u8]> = rims.iter().take(self.rims).map(String::as_bytes).collect();
        let (own, foreign) = (&root.itself, &other.itself);
        let roots = Roots {
            device: if self.root_is_other { foreign } else { own },
            rim: if self.rim_root_is_other { foreign } else { own },
        };
        let mut ledger = Ledger::default();
        let now = time(self.now);
        device.judge(&rims, Some(&NONCE), &self.rules, roots, now, &mut ledger);
        ledger.conclude(BindingState::Checked)
    }

    fn report(&self, key: &KeyPair) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, digest) in &self.measurements {
            let length = u16::try_from(digest.len()).unwrap();
            record.extend([*index, 1]);
            record.extend((length + 3).to_le_bytes());
            record.push(1);
            record.extend(length.to_le_bytes());
            record.extend(digest);
        }
        let mut opaque = Vec::new();
        for (field, value) in &self.fields {
            opaque.extend(field.to_le_bytes());
            opaque.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            opaque.extend(value);
        }
        let mut report = self.request.to_vec();
        report.extend(NONCE);
        report.push(0);
        report.extend([0x11, 0x60, 0, 0, self.blocks]);
        report.extend(&u32::try_from(record.len()).unwrap().to_le_bytes()[..3]);
        report.extend(record);
        report.extend([6; 32]);
        report.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        report.extend(opaque);
        let signature = sign(key, &report);
        report.extend(signature);
        report
    }

    /// Signs a manifest as NVIDIA does: digest of the document, then a signature over `SignedInfo`.
    fn sign_rim(&self, text: &str, root: &Authority) -> String {
        let key = key();
        let leaf = params("rim", self.rim_until)
            .signed_by(&key, &root.issuer())
            .unwrap();
        let chain: String = [leaf.der().to_vec(), root.itself.clone()]
            .iter()
            .map(|der| {
                format!(
                    "<ds:X509Certificate>{}</ds:X509Certificate>",
                    STANDARD.encode(der)
                )
            })
            .collect();
        let document = Element::parse(format!("{text}</SoftwareIdentity>").as_bytes()).unwrap();
        let digest = digest::digest(&digest::SHA384, &document.canonical());
        let info = format!(
            "<ds:SignedInfo><ds:CanonicalizationMethod Algorithm=\"{C14N}\"/><ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"/><ds:Reference URI=\"\"><ds:Transforms><ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/><ds:Transform Algorithm=\"{C14N}\"/></ds:Transforms><ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"/><ds:DigestValue>{}</ds:DigestValue></ds:Reference></ds:SignedInfo>",
            STANDARD.encode(digest)
        );
        let signature = |value: &str| {
            format!(
                "{text}<ds:Signature xmlns:ds=\"{DSIG}\">{info}<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{chain}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>"
            )
        };
        let unsigned = Element::parse(signature("").as_bytes()).unwrap();
        let info_element = unsigned
            .only(DSIG, "Signature")
            .unwrap()
            .only(DSIG, "SignedInfo")
            .unwrap();
        let other = self::key();
        let value = sign(
            if self.rim_by_other { &other } else { &key },
            &info_element.canonical(),
        );
        let signed = signature(&STANDARD.encode(value));
        if self.rim_is_edited {
            signed.replacen("name=\"m\"", "name=\"n\"", 1)
        } else {
            signed
        }
    }
}

const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";

/// A manifest without signature and end.
fn manifest(version: &str, resources: &[(u8, &str, &[u8])]) -> String {
    let mut out = format!(
        "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" xmlns:h=\"http://www.w3.org/2001/04/xmlenc#sha384\"><Meta colloquialVersion=\"{version}\" product=\"X\"/><Payload>"
    );
    for (index, active, bytes) in resources {
        let count = bytes.len();
        let hashes: String = bytes
            .iter()
            .enumerate()
            .map(|(number, byte)| format!(" h:Hash{number}=\"{}\"", hex::encode([*byte; 48])))
            .collect();
        out.push_str(&format!(
            "<Resource type=\"Measurement\" index=\"{index}\" active=\"{active}\" alternatives=\"{count}\"{hashes} name=\"m\" size=\"48\"/>"
        ));
    }
    out + "</Payload>"
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Signed by itself; ECDSA is randomised, so a root is made once.
    itself: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = params(name, 4000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = key();
        let itself = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            params,
            key,
            itself,
        }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::try_from(self.key.serialize_der()).unwrap();
        Issuer::new(self.params.clone(), key)
    }

    fn certify(&self, parent: &Self) -> Vec<u8> {
        self.params
            .signed_by(&self.key, &parent.issuer())
            .unwrap()
            .der()
            .to_vec()
    }
}

fn params(name: &str, until: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(1000).into();
    params.not_after = time(until).into();
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der()).unwrap();
    pair.sign(&SystemRandom::new(), message)
        .unwrap()
        .as_ref()
        .to_vec()
}

fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}

#[test]
fn device_as_it_should_be_is_affirmed() {
    let judgement = Gpu::with(|_| {}).judge();
    assert_eq!(
        (judgement.status, judgement.reason),
        (Status::Affirming, "verified"),
        "{judgement:#?}"
    );
}

#[test]
fn every_check_fails_by_itself() {
    let cases: Vec<(&str, Gpu)> = vec![
        ("report_malformed", Gpu::with(|g| g.request[0] = 0x12)),
        ("report_malformed", Gpu::with(|g| g.request[1] = 0xe1)),
        ("report_malformed", Gpu::with(|g| g.blocks = 2)),
        ("report_malformed", Gpu::with(|g| g.blocks = 4)),
        ("report_malformed", Gpu::with(|g| g.measurements[0].0 = 2)),
        (
            "report_malformed",
            Gpu::with(|g| g.fields.push((3, b"570.1\0".to_vec()))),
        ),
        ("root_not_pinned", Gpu::with(|g| g.root_is_other = true)),
        ("chain_incomplete", Gpu::with(|g| g.leaf_by_other = true)),
        ("chain_incomplete", Gpu::with(|g| g.certificates = 2)),
        (
            "chain_incomplete",
            Gpu::with(|g| g.leaf_is_authority = true),
        ),
        ("certificate_expired", Gpu::with(|g| g.now = 4001)),
        ("certificate_not_yet_valid", Gpu::with(|g| g.now = 999)),
        ("report_signature", Gpu::with(|g| g.signed_by_other = true)),
        ("firmware_id_mismatch", Gpu::with(|g| g.certified[0] = 0)),
        (
            "firmware_id_mismatch",
            Gpu::with(|g| g.certified = vec![0; 48]),
        ),
        (
            "firmware_id_missing",
            Gpu::with(|g| {
                g.fields.pop();
                g.rules.require_firmware_id = true;
            }),
        ),
        (
            "driver",
            Gpu::with(|g| g.rules.drivers = vec!["570.2".into()]),
        ),
        (
            "vbios",
            Gpu::with(|g| g.rules.vbios = vec!["96.00.9F.00.02".into()]),
        ),
        ("rim_missing", Gpu::with(|g| g.rims = 1)),
        ("rim_missing", Gpu::with(|g| g.rims = 0)),
        (
            "rim_missing",
            Gpu::with(|g| g.fields[0].1 = b"570.2\0".to_vec()),
        ),
        (
            "rim_root_not_pinned",
            Gpu::with(|g| g.rim_root_is_other = true),
        ),
        ("rim_certificate_expired", Gpu::with(|g| g.rim_until = 1999)),
        ("rim_signature", Gpu::with(|g| g.rim_by_other = true)),
        ("rim_digest", Gpu::with(|g| g.rim_is_edited = true)),
        (
            "rim_overlap",
            Gpu::with(|g| g.vbios_rim = manifest("96.00.9F.00.01", &[(0, "True", &[1])])),
        ),
        (
            "measurement_mismatch",
            Gpu::with(|g| g.measurements[1].1 = vec![7; 48]),
        ),
        (
            "measurement_mismatch",
            Gpu::with(|g| {
                g.measurements.remove(1);
                g.blocks = 2;
            }),
        ),
    ];
    for (reason, gpu) in cases {
        let judgement = gpu.judge();
        assert_ne!(judgement.status, Status::Affirming, "{reason}");
        assert_eq!(judgement.reason, reason, "{judgement:#?}");
    }
}
