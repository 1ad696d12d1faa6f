//! A hierarchy of our own, in which every input of every check can be turned.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, RevokedCertParams,
    SerialNumber,
};

use super::super::chain::Endorsements;
use super::super::report::Report;
use super::super::{Product, Rules, judge};
use crate::judgement::{BindingState, Bound, Judgement, Ledger};

pub(crate) const REPORT_DATA: [u8; 64] = [7; 64];
pub(crate) const CHIP: [u8; 64] = [9; 64];
/// In days after 2020.
pub(crate) const NOW: u64 = 2000;

/// A machine whose chain and report are as they should be until a test says otherwise.
pub(crate) struct Machine {
    pub(crate) product: Product,
    pub(crate) root_name: &'static str,
    pub(crate) issuer_name: &'static str,
    pub(crate) vek_name: &'static str,
    pub(crate) vek_issuer_name: Option<&'static str>,
    pub(crate) issuer_is_ca: bool,
    pub(crate) issuer_signed_by_other: bool,
    pub(crate) vek_signed_by_other: bool,
    pub(crate) vek_dates: [u64; 2],
    pub(crate) issuer_dates: [u64; 2],
    pub(crate) root_dates: [u64; 2],
    pub(crate) extensions: Vec<(&'static str, Vec<u8>)>,
    pub(crate) report: Vec<u8>,
    pub(crate) signed_by_other: bool,
    pub(crate) crl: Option<Crl>,
    pub(crate) rules: Rules,
    pub(crate) is_runtime_data: bool,
}

#[derive(Clone)]
pub(crate) struct Crl {
    pub(crate) revokes_issuer: bool,
    pub(crate) dates: [u64; 2],
    pub(crate) is_cached: bool,
    pub(crate) is_of_other: bool,
    /// Of an authority of another name.
    pub(crate) is_of_stranger: bool,
    pub(crate) is_cut: bool,
}

pub(crate) const CRL: Crl = Crl {
    revokes_issuer: false,
    dates: [1500, 4000],
    is_cached: false,
    is_of_other: false,
    is_of_stranger: false,
    is_cut: false,
};

pub(crate) const OLD_CRL: Crl = Crl {
    dates: [1500, 1999],
    ..CRL
};

impl Machine {
    pub(crate) fn milan() -> Self {
        let mut report = vec![0; Report::BYTES];
        report[0x00] = 3;
        report[0x0a] = 0x03;
        report[0x34] = 1;
        report[0x38..0x40].copy_from_slice(&[4, 1, 0, 0, 0, 0, 23, 220]);
        report[0x50..0x90].copy_from_slice(&REPORT_DATA);
        report[0x90..0xc0].fill(0xaa);
        report[0xc0..0xe0].fill(0xbb);
        report[0xe0..0x110].fill(0xcc);
        report[0x160..0x180].fill(0xff);
        report[0x180..0x188].copy_from_slice(&[3, 0, 0, 0, 0, 0, 22, 210]);
        report[0x188..0x18b].copy_from_slice(&[0x19, 0x01, 0x01]);
        report[0x1a0..0x1e0].copy_from_slice(&CHIP);
        report[0x1e0..0x1e8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        report[0x1f0..0x1f8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 22, 215]);
        Self {
            product: Product::Milan,
            root_name: "ARK-Milan",
            issuer_name: "SEV-Milan",
            vek_name: "SEV-VCEK",
            vek_issuer_name: None,
            issuer_is_ca: true,
            issuer_signed_by_other: false,
            vek_signed_by_other: false,
            vek_dates: [1000, 4000],
            issuer_dates: [1000, 4000],
            root_dates: [1000, 4000],
            extensions: vec![
                ("3.1", vec![2, 1, 3]),
                ("3.2", vec![2, 1, 0]),
                ("3.3", vec![2, 1, 22]),
                ("3.8", vec![2, 2, 0, 210]),
                ("4", CHIP.to_vec()),
            ],
            report,
            signed_by_other: false,
            crl: None,
            rules: Rules::default(),
            is_runtime_data: false,
        }
    }

    /// The other layout: a TCB that begins with the management controller, chips named by eight bytes, mitigations.
    pub(crate) fn turin() -> Self {
        let mut machine = Self::milan();
        machine.product = Product::Turin;
        machine.root_name = "ARK-Turin";
        machine.issuer_name = "SEV-Turin";
        let report = &mut machine.report;
        report[0x00] = 5;
        report[0x188..0x18b].copy_from_slice(&[0x1a, 0x02, 0x01]);
        report[0x1a8..0x1e0].fill(0);
        for at in [0x38, 0x180, 0x1e0, 0x1f0] {
            report[at..at + 8].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0, 81]);
        }
        report[0x1f8] = 7;
        report[0x200] = 3;
        machine.extensions = vec![
            ("3.9", vec![2, 1, 1]),
            ("3.1", vec![2, 1, 2]),
            ("3.2", vec![2, 1, 3]),
            ("3.3", vec![2, 1, 4]),
            ("3.8", vec![2, 1, 81]),
            ("4", CHIP[..8].to_vec()),
        ];
        machine
    }

    /// Signed by a key of a cloud provider.
    pub(crate) fn vlek() -> Self {
        let mut machine = Self::milan();
        machine.vek_name = "SEV-VLEK";
        machine.issuer_name = "SEV-VLEK-Milan";
        machine.report[0x48] = 1 << 2;
        machine.report[0x1a0..0x1e0].fill(0);
        machine.extensions.truncate(4);
        machine.extensions.push(("5", b"\x16\x05cloud".to_vec()));
        machine.rules.accept_vlek = true;
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
        self.attest(|report, endorsements| {
            let mut ledger = Ledger::default();
            judge(
                report,
                endorsements,
                bound,
                &self.rules,
                time(NOW),
                &mut ledger,
            );
            ledger.conclude(BindingState::Checked)
        })
    }

    /// Signs the report, and gives it away with its endorsements.
    pub(crate) fn attest<T>(&self, give: impl FnOnce(&[u8], &Endorsements<'_>) -> T) -> T {
        let root = authority(self.root_name, self.root_dates, true);
        let other = authority("other", [1000, 4000], true);
        let issuer = authority(self.issuer_name, self.issuer_dates, self.issuer_is_ca);
        let issuer_parent = if self.issuer_signed_by_other {
            &other
        } else {
            &root
        };
        let issuer_der = issuer.certify(&issuer_parent.renamed(self.root_name));
        let vek_key = key();
        let mut params = params(self.vek_name, self.vek_dates);
        for (oid, value) in &self.extensions {
            let arcs: Vec<u64> = format!("1.3.6.1.4.1.3704.1.{oid}")
                .split('.')
                .map(|arc| arc.parse().unwrap())
                .collect();
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&arcs, value.clone()));
        }
        let vek_parent = if self.vek_signed_by_other {
            &other
        } else {
            &issuer
        };
        let vek_der = params
            .signed_by(
                &vek_key,
                &vek_parent.renamed(self.vek_issuer_name.unwrap_or(self.issuer_name)),
            )
            .unwrap()
            .der()
            .to_vec();
        let root_der = root.certify(&root.renamed(self.root_name));
        let crl = self.crl.as_ref().map(|crl| {
            let signer = if crl.is_of_other { &other } else { &root };
            let name = match crl.is_of_stranger {
                true => "ARK-Stranger",
                false => self.root_name,
            };
            let mut der = revocation_list(crl, &signer.renamed(name));
            der.truncate(der.len() - usize::from(crl.is_cut));
            der
        });
        let cached = self.crl.as_ref().is_some_and(|crl| crl.is_cached);
        let lists: Vec<&[u8]> = crl.iter().map(Vec::as_slice).collect();
        let endorsements = Endorsements {
            certificates: vec![&vek_der, &issuer_der],
            crls: if cached { Vec::new() } else { lists.clone() },
            cached_crls: if cached { lists } else { Vec::new() },
            test_root: Some((self.product, &root_der)),
        };
        let report = sign(
            &self.report,
            if self.signed_by_other {
                &other.key
            } else {
                &vek_key
            },
        );
        give(&report, &endorsements)
    }
}

pub(crate) struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    pub(crate) fn renamed(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = self.params.clone();
        params.distinguished_name.push(DnType::CommonName, name);
        Issuer::new(params, KeyPair::try_from(self.key.serialize_der()).unwrap())
    }

    pub(crate) fn certify(&self, issuer: &Issuer<'_, KeyPair>) -> Vec<u8> {
        self.params
            .signed_by(&self.key, issuer)
            .unwrap()
            .der()
            .to_vec()
    }
}

pub(crate) fn authority(name: &str, dates: [u64; 2], is_ca: bool) -> Authority {
    let mut params = params(name, dates);
    params.serial_number = Some(SerialNumber::from(0x0002_0001));
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Authority { key: key(), params }
}

pub(crate) fn params(name: &str, [from, until]: [u64; 2]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(from).into();
    params.not_after = time(until).into();
    params
}

pub(crate) fn revocation_list(crl: &Crl, issuer: &Issuer<'_, KeyPair>) -> Vec<u8> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(0x0002_0001),
        revocation_time: time(1500).into(),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: time(crl.dates[0]).into(),
        next_update: time(crl.dates[1]).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: if crl.revokes_issuer {
            vec![revoked]
        } else {
            Vec::new()
        },
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .unwrap()
    .der()
    .to_vec()
}

pub(crate) fn sign(report: &[u8], key: &KeyPair) -> Vec<u8> {
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der()).unwrap();
    let signature = pair
        .sign(&SystemRandom::new(), &report[..Report::SIGNED_BYTES])
        .unwrap();
    let (r, s) = signature.as_ref().split_at(48);
    let mut report = report.to_vec();
    for (at, part) in [(0x2a0, r), (0x2e8, s)] {
        let mut part = part.to_vec();
        part.reverse();
        report[at..at + 48].copy_from_slice(&part);
    }
    report
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

/// Days after 2020, so that every form of ASN.1 time can say it.
pub(crate) fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}
