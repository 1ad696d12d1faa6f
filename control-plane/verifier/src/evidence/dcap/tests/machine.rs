//! A platform of our own, in which every input of every check can be turned.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SerialNumber,
};

use super::super::chain::pem;
use super::super::*;
use crate::judgement::{BindingState, Judgement};

pub(crate) const REPORT_DATA: [u8; 64] = [7; 64];
/// In days after 2020.
pub(crate) const NOW: u64 = 2000;

/// A platform whose quote and endorsements are as they should be until a test says otherwise.
pub(crate) struct Machine {
    pub(crate) tee: Tee,
    pub(crate) body: Vec<u8>,
    pub(crate) header: Vec<u8>,
    pub(crate) qe: Vec<u8>,
    pub(crate) quote_by_other: bool,
    pub(crate) qe_by_other: bool,
    pub(crate) key_unbound: bool,
    pub(crate) root_is_other: bool,
    pub(crate) pck_by_other: bool,
    pub(crate) pck_dates: [u64; 2],
    pub(crate) pck_name: &'static str,
    pub(crate) platform_name: &'static str,
    pub(crate) write_chain: fn(&[Vec<u8>]) -> String,
    pub(crate) extension: Vec<u8>,
    pub(crate) tcb_info: String,
    pub(crate) qe_identity: String,
    pub(crate) tcb_info_by_other: bool,
    pub(crate) qe_identity_by_other: bool,
    pub(crate) tcb_signer: Signer,
    pub(crate) qe_signer: Signer,
    pub(crate) has_collateral: bool,
    pub(crate) root_crl: Crl,
    pub(crate) pck_crl: Crl,
    pub(crate) event_log: Option<Vec<u8>>,
    pub(crate) trailing: Vec<u8>,
    /// Bytes behind the last part of the certification data, and of the signature data.
    pub(crate) left: [usize; 2],
    pub(crate) rules: Rules,
    pub(crate) is_runtime_data: bool,
}

/// Who signs texts.
#[derive(Clone, Copy)]
pub(crate) struct Signer {
    pub(crate) name: &'static str,
    pub(crate) dates: [u64; 2],
    pub(crate) by_other: bool,
    pub(crate) below_other: bool,
}

/// A revocation list.
#[derive(Clone, Copy)]
pub(crate) struct Crl {
    pub(crate) revokes: Option<u64>,
    pub(crate) dates: [u64; 2],
    pub(crate) by_other: bool,
    pub(crate) write: fn(&[u8]) -> String,
}

pub(crate) const SIGNER: Signer = Signer {
    name: "Intel SGX TCB Signing",
    dates: [1000, 4000],
    by_other: false,
    below_other: false,
};
pub(crate) const CRL: Crl = Crl {
    revokes: None,
    dates: [1500, 4000],
    by_other: false,
    write: |der| hex::encode(der),
};
pub(crate) const PLATFORM_SERIAL: u64 = 2;
pub(crate) const PCK_SERIAL: u64 = 3;
pub(crate) const SIGNER_SERIAL: u64 = 4;

impl Machine {
    pub(crate) fn tdx() -> Self {
        let mut body = vec![0; 584];
        body[..3].copy_from_slice(&[4, 1, 7]);
        body[123] = 0x10;
        body[136..184].fill(0xaa);
        body[520..].copy_from_slice(&REPORT_DATA);
        let mut header = vec![4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
        header.extend([
            0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f,
            0x06, 0x07,
        ]);
        header.extend([0; 20]);
        let mut qe = vec![0; 384];
        qe[48] = 0x11;
        qe[128..160].fill(0xdc);
        qe[256] = 2;
        qe[258] = 4;
        let component = |svn: u8| format!("{{\"svn\":{svn}}}");
        let list = |head: &[u8]| {
            let all = (0..16).map(|at| component(head.get(at).copied().unwrap_or(0)));
            all.collect::<Vec<_>>().join(",")
        };
        let level = |head: &[u8], tdx: &[u8], status: &str| {
            format!(
                r#"{{"tcb":{{"sgxtcbcomponents":[{}],"pcesvn":11,"tdxtcbcomponents":[{}]}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"{status}","advisoryIDs":["INTEL-SA-1"]}}"#,
                list(head),
                list(tdx)
            )
        };
        let zeros = "0".repeat(96);
        let module = format!(
            r#""mrsigner":"{zeros}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#
        );
        let tcb_info = format!(
            r#"{{"id":"TDX","version":3,"issueDate":"2022-01-01T00:00:00Z","nextUpdate":"2028-01-01T00:00:00Z","fmspc":"00806F050000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tdxModule":{{{module}}},"tdxModuleIdentities":[{{"id":"TDX_01",{module},"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":2}},"tcbStatus":"OutOfDate"}}]}}],"tcbLevels":[{},{},{}]}}"#,
            level(&[7, 7], &[5, 0, 7], "UpToDate"),
            level(&[6, 6], &[3, 0, 6], "ConfigurationNeeded"),
            level(&[5, 5], &[3, 0, 5], "Revoked"),
        );
        let qe_identity = format!(
            r#"{{"id":"TD_QE","version":2,"issueDate":"2022-01-01T00:00:00Z","nextUpdate":"2028-01-01T00:00:00Z","tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{}","isvprodid":2,"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":3}},"tcbStatus":"OutOfDate"}}]}}"#,
            "DC".repeat(32)
        );
        Self {
            tee: Tee::Tdx,
            body,
            header,
            qe,
            quote_by_other: false,
            qe_by_other: false,
            key_unbound: false,
            root_is_other: false,
            pck_by_other: false,
            pck_dates: [1000, 4000],
            pck_name: "Intel SGX PCK Certificate",
            platform_name: "Intel SGX PCK Platform CA",
            write_chain: |chain| pem(chain, "\n"),
            extension: extension(&[7, 7], 11),
            tcb_info,
            qe_identity,
            tcb_info_by_other: false,
            qe_identity_by_other: false,
            tcb_signer: SIGNER,
            qe_signer: SIGNER,
            has_collateral: true,
            root_crl: CRL,
            pck_crl: CRL,
            event_log: None,
            trailing: Vec::new(),
            left: [0, 0],
            rules: Rules::default(),
            is_runtime_data: false,
        }
    }

    /// A trust domain of TDX 1.5, in a quote of version 5.
    pub(crate) fn tdx_1_5() -> Self {
        let mut machine = Self::tdx();
        machine.header[0] = 5;
        machine.header.extend([3, 0, 0x88, 2, 0, 0]);
        let svn = machine.body[..16].to_vec();
        machine.body.extend(svn);
        machine.body.extend([0; 48]);
        machine
    }

    pub(crate) fn sgx() -> Self {
        let mut machine = Self::tdx();
        machine.tee = Tee::Sgx;
        machine.header[0] = 3;
        machine.header[4] = 0;
        machine.body = vec![0; 384];
        machine.body[48] = 5;
        machine.body[64..96].fill(0xaa);
        machine.body[128..160].fill(0xbb);
        machine.body[256] = 3;
        machine.body[258] = 4;
        machine.body[320..].copy_from_slice(&REPORT_DATA);
        machine.qe[256] = 1;
        replace(&mut machine.tcb_info, "\"TDX\"", "\"SGX\"");
        replace(&mut machine.qe_identity, "TD_QE", "QE");
        replace(
            &mut machine.qe_identity,
            "\"isvprodid\":2",
            "\"isvprodid\":1",
        );
        machine
    }

    pub(crate) fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn judge(&self) -> Judgement {
        let bound = if self.is_runtime_data {
            Bound::RuntimeData(&REPORT_DATA)
        } else {
            Bound::ReportData(&REPORT_DATA)
        };
        self.attest(|case| {
            let mut ledger = Ledger::default();
            case.judge(bound, &mut ledger);
            ledger.conclude(BindingState::Checked)
        })
    }

    /// Signs the quote and its endorsements, and gives both away.
    pub(crate) fn attest<T>(&self, give: impl FnOnce(Case<'_>) -> T) -> T {
        let root = Authority::new("root", 1);
        let other = Authority::new("root", 1);
        let platform = Authority::new(self.platform_name, PLATFORM_SERIAL);
        let root_der = root.self_signed.clone();
        let mut pck = params(self.pck_name, PCK_SERIAL, self.pck_dates);
        let oid = [1, 2, 840, 113_741, 1, 13, 1];
        let extension = CustomExtension::from_oid_content(&oid, self.extension.clone());
        pck.custom_extensions.push(extension);
        let pck_key = key();
        let stranger = Authority::new(self.platform_name, PLATFORM_SERIAL);
        let parent = if self.pck_by_other {
            &stranger
        } else {
            &platform
        };
        let pck_der = certify(&pck, &pck_key, parent);
        let chain = [pck_der, platform.certify(&root), root_der.clone()];
        let quote = self.quote(&pck_key, &(self.write_chain)(&chain));
        let collateral = self.collateral(&root, &other, &platform);
        let case = Case {
            tee: self.tee,
            quote: &quote,
            collateral: self.has_collateral.then_some(&collateral),
            event_log: self.event_log.as_deref(),
            rules: &self.rules,
            root: if self.root_is_other {
                &other.self_signed
            } else {
                &root_der
            },
            now: time(NOW),
        };
        give(case)
    }

    pub(crate) fn collateral(
        &self,
        root: &Authority,
        other: &Authority,
        platform: &Authority,
    ) -> Collateral {
        let sign_text = |signer: &Signer, text: &str, by_other: bool| {
            let signer_key = key();
            let params = params(signer.name, SIGNER_SERIAL, signer.dates);
            let issuer = if signer.by_other || signer.below_other {
                other
            } else {
                root
            };
            let leaf = certify(&params, &signer_key, issuer);
            let top = if signer.below_other { other } else { root };
            let used = if by_other { key() } else { signer_key };
            let signature = hex::encode(sign(&used, text.as_bytes()));
            (pem(&[leaf, top.self_signed.clone()], "\n"), signature)
        };
        let (tcb_chain, tcb_signature) =
            sign_text(&self.tcb_signer, &self.tcb_info, self.tcb_info_by_other);
        let (qe_chain, qe_signature) = sign_text(
            &self.qe_signer,
            &self.qe_identity,
            self.qe_identity_by_other,
        );
        let crl = |crl: &Crl, issuer: &Authority| {
            let der = revocation_list(crl, if crl.by_other { other } else { issuer });
            (crl.write)(&der)
        };
        Collateral {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: crl(&self.root_crl, root),
            pck_crl: crl(&self.pck_crl, platform),
            tcb_info_issuer_chain: tcb_chain,
            tcb_info: self.tcb_info.clone(),
            tcb_info_signature: tcb_signature,
            qe_identity_issuer_chain: qe_chain,
            qe_identity: self.qe_identity.clone(),
            qe_identity_signature: qe_signature,
        }
    }

    pub(crate) fn quote(&self, pck: &KeyPair, chain: &str) -> Vec<u8> {
        let attestation = key();
        let other = key();
        let public = pair(&attestation).public_key().as_ref()[1..].to_vec();
        let authentication = [9; 32];
        let mut qe = self.qe.clone();
        let bound = digest::digest(
            &digest::SHA256,
            &[public.as_slice(), &authentication].concat(),
        );
        qe[320..352].copy_from_slice(bound.as_ref());
        qe[320] ^= u8::from(self.key_unbound);
        let signed = [self.header.as_slice(), &self.body].concat();
        let signature = sign(
            if self.quote_by_other {
                &other
            } else {
                &attestation
            },
            &signed,
        );
        let qe_signature = sign(if self.qe_by_other { &other } else { pck }, &qe);
        let mut certified = [
            qe.as_slice(),
            &qe_signature,
            &32_u16.to_le_bytes(),
            &authentication,
        ]
        .concat();
        put(&mut certified, 5, chain.as_bytes());
        certified.extend(vec![0; self.left[0]]);
        let mut data = [signature.as_slice(), &public].concat();
        match self.header[0] {
            3 => data.extend(&certified),
            _ => put(&mut data, 6, &certified),
        }
        data.extend(vec![0; self.left[1]]);
        let size = u32::try_from(data.len()).unwrap().to_le_bytes();
        [signed.as_slice(), &size, &data, &self.trailing].concat()
    }
}

pub(crate) fn revocation_list(crl: &Crl, issuer: &Authority) -> Vec<u8> {
    let revoked = crl.revokes.map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: time(1500).into(),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: time(crl.dates[0]).into(),
        next_update: time(crl.dates[1]).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.into_iter().collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer.issuer()).unwrap().der().to_vec()
}

pub(crate) fn put(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(bytes);
}

/// Certificates of authorities are made once: the root is pinned to the byte.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    self_signed: Vec<u8>,
}

impl Authority {
    pub(crate) fn new(name: &str, serial: u64) -> Self {
        let mut params = params(name, serial, [1000, 4000]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key();
        let self_signed = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            params,
            key,
            self_signed,
        }
    }

    pub(crate) fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::try_from(self.key.serialize_der()).unwrap();
        Issuer::new(self.params.clone(), key)
    }

    pub(crate) fn certify(&self, parent: &Self) -> Vec<u8> {
        certify(&self.params, &self.key, parent)
    }
}

pub(crate) fn certify(params: &CertificateParams, key: &KeyPair, parent: &Authority) -> Vec<u8> {
    let certificate = params.signed_by(key, &parent.issuer()).unwrap();
    certificate.der().to_vec()
}

pub(crate) fn params(name: &str, serial: u64, [from, until]: [u64; 2]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = time(from).into();
    params.not_after = time(until).into();
    params
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn pair(key: &KeyPair) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap()
}

pub(crate) fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    pair(key)
        .sign(&SystemRandom::new(), message)
        .unwrap()
        .as_ref()
        .to_vec()
}

/// Days after 2020.
pub(crate) fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}

pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, length[0], length[1]], content].concat()
}

/// The extension of a PCK certificate.
pub(crate) fn extension(components: &[u8], pce_svn: u8) -> Vec<u8> {
    let entry = |number: &[u8], value: Vec<u8>| {
        let oid = [
            &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01][..],
            number,
        ]
        .concat();
        der(0x30, &[der(0x06, &oid), value].concat())
    };
    let mut tcb = Vec::new();
    for number in 1..=16_u8 {
        let svn = components
            .get(usize::from(number) - 1)
            .copied()
            .unwrap_or(0);
        tcb.extend(entry(&[2, number], vec![2, 1, svn]));
    }
    tcb.extend(entry(&[2, 17], vec![2, 1, pce_svn]));
    let fields = [
        entry(&[1], der(0x04, &[1; 16])),
        entry(&[2], der(0x30, &tcb)),
        entry(&[3], der(0x04, &[0; 2])),
        entry(&[4], der(0x04, &[0, 0x80, 0x6f, 5, 0, 0])),
    ];
    der(0x30, &fields.concat())
}

pub(crate) fn replace(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "{from}");
    *text = text.replacen(from, to, 1);
}
