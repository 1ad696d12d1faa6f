//! Makes devices, manifests and answers of our own, in which every input of every check can be turned and signed again.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CustomExtension, DnType, IsCa, KeyPair, SerialNumber};

use super::*;
use crate::judgement::{BindingState, Judgement};
use crate::ocsp::maker::{Answerer, Authority, key, params, sign_fixed, time};

pub(super) const NONCE: [u8; 32] = [5; 32];
pub(super) const FIRMWARE: [u8; 48] = [0xf0; 48];
pub(super) const DRIVER: &str = "570.1";
pub(super) const VBIOS: &str = "96.00.9F.00.01";
const CHIP: [u8; 9] = [0x41, 1, 2, 3, 4, 5, 6, 7, 8];
pub(super) const PDI: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Turns an answer of OCSP.
pub(super) type Turn = fn(&mut Answerer);

/// A device, and all that it is judged by.
pub(crate) struct Maker {
    pub(super) measurements: Vec<(u8, Vec<u8>)>,
    pub(super) fields: Vec<(u16, Vec<u8>)>,
    pub(super) request: [u8; 4],
    pub(super) response: [u8; 2],
    pub(super) blocks: u8,
    pub(super) form: u8,
    pub(super) trailing: usize,
    pub(super) signed_by_other: bool,
    pub(super) model: &'static str,
    pub(super) leaf_name: &'static str,
    pub(super) leaf_by_other: bool,
    pub(super) leaf_is_authority: bool,
    pub(super) leaf_until: u64,
    pub(super) leaf_is_critical: bool,
    pub(super) issuer_depth: Option<u8>,
    pub(super) root_is_other: bool,
    pub(super) certificates: usize,
    pub(super) tcb_info: Vec<u8>,
    pub(super) stated: Stated,
    pub(super) rims: Vec<RimMaker>,
    pub(super) cached_rims: Vec<RimMaker>,
    /// About the chip, the issuer, and the signers of manifests: made as turned here; `None` makes none.
    pub(super) answers: Option<Turn>,
    /// Whether each is given, or of a cache.
    pub(super) chip_answers: Vec<(bool, Turn)>,
    /// What the device was asked with.
    pub(crate) asked: [u8; 32],
    /// Numbers of the chip's certificate: a model's byte, then the device's own number.
    pub(crate) chip: [u8; 9],
    pub(super) nonce: Vec<u8>,
    pub(super) rules: Rules,
    pub(super) now: u64,
}

/// `TcbInfo` as Hopper writes it.
pub(super) fn tcb_info(digest: &[u8]) -> Vec<u8> {
    let algorithm = element(0x06, SHA384);
    let firmware = element(0x30, &[algorithm, element(0x04, digest)].concat());
    element(0x30, &[element(0x02, &[1]), firmware].concat())
}

impl Maker {
    pub(crate) fn gpu() -> Self {
        Self {
            measurements: (1..=3).map(|index| (index, vec![index; 48])).collect(),
            fields: vec![
                (3, format!("{DRIVER}\0").into_bytes()),
                (6, vec![0, 0x9f, 0, 0x96, 1, 0, 0, 0]),
                (11, vec![0x55]),
                (20, FIRMWARE.to_vec()),
                (21, vec![0x55]),
            ],
            request: [0x11, 0xe0, 1, 0xff],
            response: [0x11, 0x60],
            blocks: 3,
            form: 1,
            trailing: 0,
            signed_by_other: false,
            model: "GH100 A01 GSP BROM",
            leaf_name: "GH100 A01 GSP FMC LF",
            leaf_by_other: false,
            leaf_is_authority: false,
            leaf_until: 4000,
            leaf_is_critical: false,
            issuer_depth: Some(1),
            root_is_other: false,
            certificates: 4,
            tcb_info: tcb_info(&FIRMWARE),
            stated: Stated::default(),
            rims: vec![
                RimMaker::new(DRIVER, &[(0, "True", &[9, 1]), (2, "False", &[8])]),
                RimMaker::new(VBIOS, &[(1, "True", &[2])]),
            ],
            cached_rims: Vec::new(),
            answers: None,
            chip_answers: Vec::new(),
            asked: NONCE,
            chip: CHIP,
            nonce: NONCE.to_vec(),
            rules: Rules::default(),
            now: 2000,
        }
    }

    pub(crate) fn switch() -> Self {
        let mut switch = Self::gpu();
        switch.fields = vec![
            (6, VBIOS.as_bytes().to_vec()),
            (22, PDI.to_vec()),
            (26, vec![0; 16]),
        ];
        switch.model = "LS_10 A01 FSP BROM";
        let mut rim = RimMaker::new(VBIOS, &[(1, "True", &[2])]);
        (rim.product, rim.edition) = ("LS10", "SWITCH");
        switch.rims = vec![rim];
        switch
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Sets a field of the opaque data.
    pub(crate) fn set(&mut self, field: u16, value: &[u8]) {
        self.fields.retain(|(held, _)| *held != field);
        self.fields.push((field, value.to_vec()));
    }

    pub(super) fn without(&mut self, field: u16) {
        self.fields.retain(|(held, _)| *held != field);
    }

    pub(super) fn judge(&self) -> Judgement {
        let made = self.make();
        let roots = Roots {
            device: &made.root,
            rim: &made.root,
        };
        made.judge(self, roots)
    }

    pub(crate) fn make(&self) -> Made {
        self.make_below(&Authority::root("root"))
    }

    /// Several devices of one vendor have one root.
    pub(crate) fn make_below(&self, root: &Authority) -> Made {
        let other = Authority::root("root");
        let issuer = root.below("issuer", None, self.issuer_depth);
        let mut chip = issuer.below(self.model, Some(&self.chip), None);
        if self.leaf_by_other {
            chip.key = key();
        }
        let leaf_key = key();
        let mut leaf_params = params(self.leaf_name, self.leaf_until);
        leaf_params.serial_number = Some(SerialNumber::from_slice(&[7, 7]));
        if self.leaf_is_authority {
            leaf_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        if !self.tcb_info.is_empty() {
            let extension =
                CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 1], self.tcb_info.clone());
            leaf_params.custom_extensions.push(extension);
        }
        if self.leaf_is_critical {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            unknown.set_criticality(true);
            leaf_params.custom_extensions.push(unknown);
        }
        let leaf = chip.certify(&leaf_params, &leaf_key);
        let chain = [&leaf, &chip.der, &issuer.der, &root.der];
        let chain = chain.into_iter().take(self.certificates).cloned().collect();
        let stranger = key();
        let report = self.report(if self.signed_by_other {
            &stranger
        } else {
            &leaf_key
        });
        let mut answers = Vec::new();
        let sign_all = |rims: &[RimMaker], answers: &mut Vec<Vec<u8>>| -> Vec<String> {
            rims.iter()
                .map(|rim| {
                    let signer = rim.signer();
                    let parent = if rim.signer_is_of_other { &other } else { root };
                    let leaf = parent.certify(&signer.0, &signer.1);
                    if let Some(change) = self.answers {
                        answers.push(answer(change, &leaf, root));
                    }
                    rim.sign(&signer.1, &[leaf, root.der.clone()])
                })
                .collect()
        };
        let rims = sign_all(&self.rims, &mut answers);
        let cached_rims = sign_all(&self.cached_rims, &mut answers);
        if let Some(change) = self.answers {
            answers.push(answer(change, &issuer.der, root));
            if self.chip_answers.is_empty() {
                answers.push(answer(change, &chip.der, &issuer));
            }
        }
        let mut cached_answers = Vec::new();
        for (is_given, change) in &self.chip_answers {
            let answer = answer(*change, &chip.der, &issuer);
            if *is_given {
                answers.push(answer);
            } else {
                cached_answers.push(answer);
            }
        }
        Made {
            report,
            chain,
            rims,
            cached_rims,
            answers,
            cached_answers,
            root: if self.root_is_other {
                other.der
            } else {
                root.der.clone()
            },
        }
    }

    fn report(&self, key: &KeyPair) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, digest) in &self.measurements {
            let length = u16::try_from(digest.len()).unwrap();
            record.extend([*index, self.form]);
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
        report.extend(self.asked);
        report.push(0);
        report.extend(self.response);
        report.extend([0, 0, self.blocks]);
        report.extend(&u32::try_from(record.len()).unwrap().to_le_bytes()[..3]);
        report.extend(record);
        report.extend([6; 32]);
        report.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        report.extend(opaque);
        let signature = sign_fixed(key, &report);
        report.extend(signature);
        report.extend(vec![0; self.trailing]);
        report
    }
}

fn answer(change: Turn, certificate: &[u8], issuer: &Authority) -> Vec<u8> {
    let mut answerer = Answerer::default();
    change(&mut answerer);
    answerer.answer(certificate, issuer)
}

/// What a [`Maker`] made.
pub(crate) struct Made {
    pub(crate) report: Vec<u8>,
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) rims: Vec<String>,
    pub(super) cached_rims: Vec<String>,
    pub(super) answers: Vec<Vec<u8>>,
    pub(super) cached_answers: Vec<Vec<u8>>,
    pub(super) root: Vec<u8>,
}

impl Made {
    pub(super) fn judge(&self, maker: &Maker, roots: Roots<'_>) -> Judgement {
        let device = Device {
            report: &self.report,
            chain: self.chain.clone(),
            stated: maker.stated.clone(),
        };
        let endorsements = Endorsements {
            given_rims: self.rims.iter().map(String::as_bytes).collect(),
            cached_rims: self.cached_rims.iter().map(String::as_bytes).collect(),
            given_responses: self.answers.clone(),
            cached_responses: self.cached_answers.clone(),
        };
        let terms = Terms {
            endorsements: &endorsements,
            expected: Some(&maker.nonce),
            rules: &maker.rules,
            roots,
            now: time(maker.now),
        };
        let mut ledger = Ledger::default();
        judge(&[device], terms, &mut ledger);
        ledger.conclude(BindingState::Checked)
    }
}

/// A manifest.
pub(super) struct RimMaker {
    pub(super) version: String,
    pub(super) product: &'static str,
    pub(super) edition: &'static str,
    resources: String,
    pub(super) signer_name: &'static str,
    pub(super) until: u64,
    pub(super) by_other: bool,
    pub(super) signer_is_of_other: bool,
    /// Edits what was signed.
    pub(super) edit: fn(String) -> String,
}

impl RimMaker {
    pub(super) fn new(version: &str, resources: &[(u8, &str, &[u8])]) -> Self {
        let resources = resources.iter().map(|(index, active, bytes)| {
            let count = bytes.len();
            let hashes: String = bytes
                .iter()
                .enumerate()
                .map(|(number, byte)| format!(" h:Hash{number}=\"{}\"", hex::encode([*byte; 48])))
                .collect();
            format!(
                "<Resource type=\"Measurement\" index=\"{index}\" active=\"{active}\" alternatives=\"{count}\"{hashes} name=\"m\" size=\"48\"/>"
            )
        });
        Self {
            version: version.to_owned(),
            product: "GH100",
            edition: "GPU",
            resources: resources.collect(),
            signer_name: "signer",
            until: 4000,
            by_other: false,
            signer_is_of_other: false,
            edit: |text| text,
        }
    }

    fn signer(&self) -> (rcgen::CertificateParams, KeyPair) {
        let mut params = params("", self.until);
        params
            .distinguished_name
            .push(DnType::CommonName, self.signer_name);
        (params, key())
    }

    /// Signs as NVIDIA does: digest of the document, then a signature over `SignedInfo`.
    fn sign(&self, key: &KeyPair, chain: &[Vec<u8>]) -> String {
        let (version, product, edition) = (&self.version, self.product, self.edition);
        let text = format!(
            "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" xmlns:h=\"http://www.w3.org/2001/04/xmlenc#sha384\"><Meta colloquialVersion=\"{version}\" product=\"{product}\" edition=\"{edition}\"/><Payload>{}</Payload>",
            self.resources
        );
        let chain: String = chain
            .iter()
            .map(|der| {
                let text = STANDARD.encode(der);
                format!("<ds:X509Certificate>{text}</ds:X509Certificate>")
            })
            .collect();
        let document =
            xml::Element::parse(format!("{text}</SoftwareIdentity>").as_bytes()).unwrap();
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
        let unsigned = xml::Element::parse(signature("").as_bytes()).unwrap();
        let info_element = unsigned
            .only(DSIG, "Signature")
            .unwrap()
            .only(DSIG, "SignedInfo")
            .unwrap();
        let other = self::key();
        let signer = if self.by_other { &other } else { key };
        let value = sign_fixed(signer, &info_element.canonical());
        (self.edit)(signature(&STANDARD.encode(value)))
    }
}

const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
