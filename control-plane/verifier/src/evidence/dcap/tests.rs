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

use super::*;
use crate::judgement::{BindingState, Judgement, Status};

const REPORT_DATA: [u8; 64] = [7; 64];

/// A platform whose quote and endorsements are as they should be until a test says otherwise.
struct Machine {
    tee: Tee,
    body: Vec<u8>,
    header: Vec<u8>,
    qe: Vec<u8>,
    quote_by_other: bool,
    qe_by_other: bool,
    key_unbound: bool,
    root_is_other: bool,
    pck_by_other: bool,
    pck_until: u64,
    extension: Vec<u8>,
    tcb_info: String,
    qe_identity: String,
    tcb_info_by_other: bool,
    qe_identity_by_other: bool,
    signer_name: &'static str,
    revoked: &'static str,
    crl_until: u64,
    crl_by_other: bool,
    trailing: Vec<u8>,
    rules: Rules,
    now: u64,
}

impl Machine {
    fn tdx() -> Self {
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
            pck_until: 4000,
            extension: extension(&[7, 7], 11),
            tcb_info,
            qe_identity,
            tcb_info_by_other: false,
            qe_identity_by_other: false,
            signer_name: "Intel SGX TCB Signing",
            revoked: "",
            crl_until: 4000,
            crl_by_other: false,
            trailing: Vec::new(),
            rules: Rules::default(),
            now: 2000,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut machine = Self::tdx();
        change(&mut machine);
        machine
    }

    fn judge(&self) -> Judgement {
        let root = Authority::new("root", 1);
        let other = Authority::new("root", 1);
        let platform = Authority::new("platform", 2);
        let root_der = root.certify(&root, 4000);
        let platform_der = platform.certify(&root, 4000);
        let mut pck = params("pck", 3, self.pck_until);
        let oid: Vec<u64> = "1.2.840.113741.1.13.1"
            .split('.')
            .map(|arc| arc.parse().unwrap())
            .collect();
        pck.custom_extensions
            .push(CustomExtension::from_oid_content(
                &oid,
                self.extension.clone(),
            ));
        let pck_key = key();
        let parent = if self.pck_by_other {
            Authority::new("platform", 2)
        } else {
            platform.copy()
        };
        let pck_der = pck
            .signed_by(&pck_key, &parent.issuer())
            .unwrap()
            .der()
            .to_vec();
        let signer_key = key();
        let signer = params(self.signer_name, 4, 4000);
        let signer_der = signer
            .signed_by(&signer_key, &root.issuer())
            .unwrap()
            .der()
            .to_vec();
        let signers = pem(&[signer_der, root_der.clone()]);
        let other_key = key();
        let by = |is_other: bool| if is_other { &other_key } else { &signer_key };
        let crl_issuer = if self.crl_by_other { &other } else { &root };
        let collateral = Collateral {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: self.crl(crl_issuer, "root"),
            pck_crl: self.crl(&platform, "platform"),
            tcb_info_issuer_chain: signers.clone(),
            tcb_info: self.tcb_info.clone(),
            tcb_info_signature: hex::encode(sign(
                by(self.tcb_info_by_other),
                self.tcb_info.as_bytes(),
            )),
            qe_identity_issuer_chain: signers,
            qe_identity: self.qe_identity.clone(),
            qe_identity_signature: hex::encode(sign(
                by(self.qe_identity_by_other),
                self.qe_identity.as_bytes(),
            )),
        };
        let chain = pem(&[pck_der, platform_der, root_der.clone()]);
        let quote = self.quote(&pck_key, &chain);
        let pinned = if self.root_is_other {
            other.certify(&other, 4000)
        } else {
            root_der
        };
        let case = Case {
            tee: self.tee,
            quote: &quote,
            collateral: Some(&collateral),
            event_log: None,
            rules: &self.rules,
            root: &pinned,
            now: time(self.now),
        };
        let mut ledger = Ledger::default();
        case.judge(Bound::ReportData(&REPORT_DATA), &mut ledger);
        ledger.conclude(BindingState::Checked)
    }

    fn quote(&self, pck: &KeyPair, chain: &str) -> Vec<u8> {
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
        let mut data = [signature.as_slice(), &public].concat();
        put(&mut data, 6, &certified);
        let size = u32::try_from(data.len()).unwrap().to_le_bytes();
        [signed.as_slice(), &size, &data, &self.trailing].concat()
    }

    fn crl(&self, issuer: &Authority, name: &str) -> String {
        let serial = match self.revoked {
            "platform" if name == "root" => Some(2_u64),
            "signer" if name == "root" => Some(4),
            "pck" if name == "platform" => Some(3),
            _ => None,
        };
        let revoked = serial.map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: time(1500).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time(1500).into(),
            next_update: time(self.crl_until).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        hex::encode(params.signed_by(&issuer.issuer()).unwrap().der())
    }
}

fn put(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(bytes);
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str, serial: u64) -> Self {
        let mut params = params(name, serial, 4000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key: key() }
    }

    fn copy(&self) -> Self {
        Self {
            params: self.params.clone(),
            key: KeyPair::try_from(self.key.serialize_der()).unwrap(),
        }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let copy = self.copy();
        Issuer::new(copy.params, copy.key)
    }

    fn certify(&self, parent: &Self, until: u64) -> Vec<u8> {
        let mut params = self.params.clone();
        params.not_after = time(until).into();
        params
            .signed_by(&self.key, &parent.issuer())
            .unwrap()
            .der()
            .to_vec()
    }
}

fn params(name: &str, serial: u64, until: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = time(1000).into();
    params.not_after = time(until).into();
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn pair(key: &KeyPair) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap()
}

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    pair(key)
        .sign(&SystemRandom::new(), message)
        .unwrap()
        .as_ref()
        .to_vec()
}

/// Days after 2020.
fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, length[0], length[1]], content].concat()
}

/// The extension of a PCK certificate.
fn extension(components: &[u8], pce_svn: u8) -> Vec<u8> {
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

#[test]
fn machine_as_it_should_be_is_affirmed() {
    let judgement = Machine::tdx().judge();
    assert_eq!(
        (judgement.status, judgement.reason),
        (Status::Affirming, "verified"),
        "{judgement:#?}"
    );
    let padded = Machine::with(|m| m.trailing = vec![0; 70]).judge();
    assert_eq!(padded.reason, "verified");
}

#[test]
fn every_check_fails_by_itself() {
    fn replace(text: &mut String, from: &str, to: &str) {
        assert!(text.contains(from), "{from}");
        *text = text.replacen(from, to, 1);
    }
    let cases: Vec<(&str, Machine)> = vec![
        ("quote_malformed", Machine::with(|m| m.header[0] = 6)),
        ("quote_malformed", Machine::with(|m| m.header[2] = 3)),
        ("quote_malformed", Machine::with(|m| m.header[12] = 0)),
        ("tee_mismatch", Machine::with(|m| m.tee = Tee::Sgx)),
        ("root_not_pinned", Machine::with(|m| m.root_is_other = true)),
        ("chain_signature", Machine::with(|m| m.pck_by_other = true)),
        ("certificate_expired", Machine::with(|m| m.pck_until = 1999)),
        ("certificate_not_yet_valid", Machine::with(|m| m.now = 999)),
        (
            "qe_report_signature",
            Machine::with(|m| m.qe_by_other = true),
        ),
        (
            "pck_extension",
            Machine::with(|m| m.extension = vec![0x30, 0]),
        ),
        ("attestation_key", Machine::with(|m| m.key_unbound = true)),
        (
            "quote_signature",
            Machine::with(|m| m.quote_by_other = true),
        ),
        ("debug_enabled", Machine::with(|m| m.body[120] = 1)),
        (
            "tcb_info_signature",
            Machine::with(|m| m.tcb_info_by_other = true),
        ),
        (
            "tcb_info_signature",
            Machine::with(|m| m.signer_name = "pck"),
        ),
        (
            "tcb_info_malformed",
            Machine::with(|m| replace(&mut m.tcb_info, "{\"svn\":7},", "")),
        ),
        (
            "tcb_info_kind",
            Machine::with(|m| replace(&mut m.tcb_info, "\"TDX\"", "\"SGX\"")),
        ),
        (
            "fmspc_mismatch",
            Machine::with(|m| replace(&mut m.tcb_info, "00806F050000", "90C06F000000")),
        ),
        (
            "fmspc_mismatch",
            Machine::with(|m| replace(&mut m.tcb_info, "\"pceId\":\"0000\"", "\"pceId\":\"0001\"")),
        ),
        (
            "tcb_info_expired",
            Machine::with(|m| replace(&mut m.tcb_info, "2028", "2023")),
        ),
        (
            "tcb_info_not_yet_valid",
            Machine::with(|m| replace(&mut m.tcb_info, "2022", "2027")),
        ),
        (
            "qe_identity_signature",
            Machine::with(|m| m.qe_identity_by_other = true),
        ),
        (
            "qe_identity_kind",
            Machine::with(|m| replace(&mut m.qe_identity, "TD_QE", "QE")),
        ),
        (
            "qe_identity_expired",
            Machine::with(|m| replace(&mut m.qe_identity, "2028", "2023")),
        ),
        (
            "qe_identity_not_yet_valid",
            Machine::with(|m| replace(&mut m.qe_identity, "2022", "2027")),
        ),
        ("root_crl_expired", Machine::with(|m| m.crl_until = 1999)),
        ("crl_signature", Machine::with(|m| m.crl_by_other = true)),
        (
            "certificate_revoked",
            Machine::with(|m| m.revoked = "platform"),
        ),
        (
            "certificate_revoked",
            Machine::with(|m| m.revoked = "signer"),
        ),
        ("certificate_revoked", Machine::with(|m| m.revoked = "pck")),
        (
            "tcb_evaluation_too_old",
            Machine::with(|m| m.rules.min_tcb_evaluation_data_number = 18),
        ),
        ("qe_identity_mismatch", Machine::with(|m| m.qe[16] = 1)),
        ("qe_identity_mismatch", Machine::with(|m| m.qe[48] = 0x13)),
        ("qe_identity_mismatch", Machine::with(|m| m.qe[128] = 0)),
        ("qe_identity_mismatch", Machine::with(|m| m.qe[256] = 1)),
        ("qe_tcb_no_match", Machine::with(|m| m.qe[258] = 2)),
        ("tcb_out_of_date", Machine::with(|m| m.qe[258] = 3)),
        (
            "tcb_no_match",
            Machine::with(|m| m.extension = extension(&[4, 4], 11)),
        ),
        (
            "tcb_no_match",
            Machine::with(|m| m.extension = extension(&[7, 7], 10)),
        ),
        ("tcb_no_match", Machine::with(|m| m.body[2] = 4)),
        (
            "tcb_configuration_needed",
            Machine::with(|m| m.extension = extension(&[7, 6], 11)),
        ),
        ("tcb_configuration_needed", Machine::with(|m| m.body[2] = 6)),
        (
            "tcb_out_of_date_configuration_needed",
            Machine::with(|m| {
                m.extension = extension(&[6, 6], 11);
                m.body[0] = 3;
            }),
        ),
        (
            "tcb_revoked",
            Machine::with(|m| {
                m.extension = extension(&[5, 5], 11);
                m.rules.accepted_statuses.push(TcbStatus::Revoked);
            }),
        ),
        ("tcb_out_of_date", Machine::with(|m| m.body[0] = 3)),
        ("tdx_module_tcb_no_match", Machine::with(|m| m.body[0] = 1)),
        ("tdx_module_mismatch", Machine::with(|m| m.body[1] = 2)),
        ("tdx_module_mismatch", Machine::with(|m| m.body[64] = 1)),
        ("tdx_module_mismatch", Machine::with(|m| m.body[112] = 1)),
        (
            "advisory_not_accepted",
            Machine::with(|m| m.rules.accepted_advisories = Some(Vec::new())),
        ),
        ("sept_ve_disable", Machine::with(|m| m.body[123] = 0)),
        ("mrtd", Machine::with(|m| m.rules.mrtd = vec![[1; 48]])),
        ("mrseam", Machine::with(|m| m.rules.mrseam = vec![[1; 48]])),
        (
            "mrconfigid",
            Machine::with(|m| m.rules.mrconfigid = vec![[1; 48]]),
        ),
        ("rtmr2", Machine::with(|m| m.rules.rtmrs[2] = vec![[1; 48]])),
        (
            "event_log_missing",
            Machine::with(|m| m.rules.require_event_log = true),
        ),
        ("report_data_mismatch", Machine::with(|m| m.body[583] ^= 1)),
        ("trailing_data", Machine::with(|m| m.trailing = vec![0, 1])),
    ];
    for (reason, machine) in cases {
        let judgement = machine.judge();
        assert_ne!(judgement.status, Status::Affirming, "{reason}");
        assert_eq!(judgement.reason, reason, "{judgement:#?}");
    }
}

#[test]
fn rules_that_are_met_affirm() {
    let machine = Machine::with(|m| {
        m.rules.mrtd = vec![[1; 48], [0xaa; 48]];
        m.rules.rtmrs[3] = vec![[0; 48]];
        m.rules.accepted_advisories = Some(vec!["INTEL-SA-1".into()]);
        m.rules.min_tcb_evaluation_data_number = 17;
        m.rules.accepted_statuses = vec![TcbStatus::ConfigurationNeeded];
        m.extension = extension(&[6, 7], 11);
    });
    assert_eq!(machine.judge().reason, "verified");
}

#[test]
fn service_trust_domain_needs_a_rule() {
    let with = |is_accepted| {
        let mut machine = Machine::tdx();
        machine.header[0] = 5;
        machine.header.extend([3, 0, 0x88, 2, 0, 0]);
        machine.body.extend([0; 16]);
        machine.body.extend([1; 48]);
        machine.rules.danger_accept_service_td = is_accepted;
        machine.judge().reason
    };
    assert_eq!(with(false), "service_td");
    assert_eq!(with(true), "verified");
}
