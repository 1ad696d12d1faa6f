//! A hierarchy of our own, in which every input of every check can be turned.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, RevokedCertParams,
    SerialNumber,
};

use super::chain::Endorsements;
use super::report::{Report, Tcb};
use super::{Product, Rules, judge};
use crate::judgement::{BindingState, Bound, Judgement, Ledger, Status};

const REPORT_DATA: [u8; 64] = [7; 64];
const CHIP: [u8; 64] = [9; 64];

/// A machine whose chain and report are as they should be until a test says otherwise.
struct Machine {
    product: Product,
    root_name: &'static str,
    issuer_name: &'static str,
    vek_name: &'static str,
    vek_issuer_name: Option<&'static str>,
    issuer_is_ca: bool,
    issuer_signed_by_other: bool,
    vek_signed_by_other: bool,
    vek_until: u64,
    issuer_until: u64,
    root_until: u64,
    extensions: Vec<(&'static str, Vec<u8>)>,
    report: Vec<u8>,
    signed_by_other: bool,
    crl: Option<Crl>,
    rules: Rules,
    now: u64,
}

#[derive(Default)]
struct Crl {
    revokes_issuer: bool,
    until: u64,
    cached: bool,
    is_of_other: bool,
}

impl Machine {
    fn milan() -> Self {
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
            vek_until: 4000,
            issuer_until: 4000,
            root_until: 4000,
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
            now: 2000,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut machine = Self::milan();
        change(&mut machine);
        machine
    }

    fn judge(&self) -> Judgement {
        let root = authority(self.root_name, self.root_until, true);
        let other = authority("other", 4000, true);
        let issuer = authority(self.issuer_name, self.issuer_until, self.issuer_is_ca);
        let issuer_parent = if self.issuer_signed_by_other {
            &other
        } else {
            &root
        };
        let issuer_der = issuer.certify(&issuer_parent.renamed(self.root_name));
        let vek_key = key();
        let mut params = params(self.vek_name, self.vek_until);
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
            revocation_list(crl, &signer.renamed(self.root_name))
        });
        let cached = self.crl.as_ref().is_some_and(|crl| crl.cached);
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
        let mut ledger = Ledger::default();
        let now = time(self.now);
        judge(
            &report,
            &endorsements,
            Bound::ReportData(&REPORT_DATA),
            &self.rules,
            now,
            &mut ledger,
        );
        ledger.conclude(BindingState::Checked)
    }
}

struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    fn renamed(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = self.params.clone();
        params.distinguished_name.push(DnType::CommonName, name);
        Issuer::new(params, KeyPair::try_from(self.key.serialize_der()).unwrap())
    }

    fn certify(&self, issuer: &Issuer<'_, KeyPair>) -> Vec<u8> {
        self.params
            .signed_by(&self.key, issuer)
            .unwrap()
            .der()
            .to_vec()
    }
}

fn authority(name: &str, until: u64, is_ca: bool) -> Authority {
    let mut params = params(name, until);
    params.serial_number = Some(SerialNumber::from(0x0002_0001));
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Authority { key: key(), params }
}

fn params(name: &str, until: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(1000).into();
    params.not_after = time(until).into();
    params
}

fn revocation_list(crl: &Crl, issuer: &Issuer<'_, KeyPair>) -> Vec<u8> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(0x0002_0001),
        revocation_time: time(1500).into(),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: time(1500).into(),
        next_update: time(crl.until).into(),
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

fn sign(report: &[u8], key: &KeyPair) -> Vec<u8> {
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

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

/// Days after 2020, so that every form of ASN.1 time can say it.
fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}

#[test]
fn machine_as_it_should_be_is_affirmed() {
    let judgement = Machine::milan().judge();
    assert_eq!(
        (judgement.status, judgement.reason),
        (Status::Affirming, "verified"),
        "{judgement:#?}"
    );
}

#[test]
fn every_check_fails_by_itself() {
    let cases: Vec<(&str, Machine)> = vec![
        ("report_malformed", Machine::with(|m| m.report[0] = 6)),
        ("report_malformed", Machine::with(|m| m.report[0] = 1)),
        ("report_malformed", Machine::with(|m| m.report[0x34] = 2)),
        ("report_malformed", Machine::with(|m| m.report[0x330] = 1)),
        ("report_malformed", Machine::with(|m| m.report[0x2d0] = 1)),
        ("product_unknown", Machine::with(|m| m.report[0x188] = 0x17)),
        (
            "product_mismatch",
            Machine::with(|m| m.report[0x189] = 0x11),
        ),
        (
            "product_mismatch",
            Machine::with(|m| {
                m.product = Product::Turin;
                m.issuer_name = "SEV-Turin";
                m.report[0] = 2;
            }),
        ),
        (
            "endorsement_missing",
            Machine::with(|m| m.vek_name = "SEV-OTHER"),
        ),
        (
            "vek_issuer_unknown",
            Machine::with(|m| m.vek_issuer_name = Some("SEV-Nobody")),
        ),
        ("vek_expired", Machine::with(|m| m.vek_until = 1999)),
        ("vek_not_yet_valid", Machine::with(|m| m.now = 999)),
        ("ask_expired", Machine::with(|m| m.issuer_until = 1999)),
        ("ark_expired", Machine::with(|m| m.root_until = 1999)),
        (
            "vek_signature",
            Machine::with(|m| m.vek_signed_by_other = true),
        ),
        ("vek_signature", Machine::with(|m| m.issuer_is_ca = false)),
        (
            "ask_signature",
            Machine::with(|m| m.issuer_signed_by_other = true),
        ),
        (
            "vek_role",
            Machine::with(|m| m.issuer_name = "SEV-VLEK-Milan"),
        ),
        (
            "signing_key_mismatch",
            Machine::with(|m| m.report[0x48] = 1 << 2),
        ),
        (
            "signing_key_mismatch",
            Machine::with(|m| m.report[0x48] = 7 << 2),
        ),
        ("chip_key_masked", Machine::with(|m| m.report[0x48] = 2)),
        (
            "report_signature",
            Machine::with(|m| m.signed_by_other = true),
        ),
        ("vek_tcb_mismatch", Machine::with(|m| m.report[0x187] = 209)),
        (
            "vek_tcb_mismatch",
            Machine::with(|m| m.extensions[2].1 = vec![2, 1, 21]),
        ),
        (
            "vek_tcb_mismatch",
            Machine::with(|m| drop(m.extensions.remove(3))),
        ),
        (
            "vek_tcb_mismatch",
            Machine::with(|m| m.extensions.push(("3.1", vec![2, 1, 3]))),
        ),
        ("hwid_mismatch", Machine::with(|m| m.report[0x1a0] ^= 1)),
        (
            "hwid_mismatch",
            Machine::with(|m| m.report[0x1a0..0x1e0].fill(0)),
        ),
        (
            "hwid_mismatch",
            Machine::with(|m| drop(m.extensions.remove(4))),
        ),
        ("tcb_order", Machine::with(|m| m.report[0x1e7] = 200)),
        ("tcb_order", Machine::with(|m| m.report[0x3f] = 200)),
        (
            "report_data_mismatch",
            Machine::with(|m| m.report[0x8f] ^= 0x80),
        ),
        ("debug_enabled", Machine::with(|m| m.report[0x0a] |= 1 << 3)),
        (
            "migration_allowed",
            Machine::with(|m| m.report[0x0a] |= 1 << 2),
        ),
        ("migration_allowed", Machine::with(|m| m.report[0x160] = 0)),
        ("vmpl", Machine::with(|m| m.report[0x30] = 1)),
        (
            "vmpl",
            Machine::with(|m| {
                m.rules.max_vmpl = u32::MAX;
                m.report[0x30..0x34].fill(0xff);
            }),
        ),
        (
            "measurement",
            Machine::with(|m| m.rules.measurements = vec![[1; 48], [2; 48]]),
        ),
        (
            "host_data",
            Machine::with(|m| m.rules.host_data = vec![[1; 32]]),
        ),
        (
            "id_key_digest",
            Machine::with(|m| m.rules.id_key_digests = vec![[1; 48]]),
        ),
        ("guest_svn", Machine::with(|m| m.rules.guest_svn = 1)),
        (
            "alias_check",
            Machine::with(|m| m.rules.require_alias_check = true),
        ),
        (
            "chip_id",
            Machine::with(|m| m.rules.chip_ids = vec![[1; 64]]),
        ),
        ("crl_missing", Machine::with(|m| m.rules.require_crl = true)),
        (
            "crl_expired",
            Machine::with(|m| {
                m.crl = Some(Crl {
                    until: 1999,
                    ..Crl::default()
                })
            }),
        ),
        (
            "crl_signature",
            Machine::with(|m| {
                m.crl = Some(Crl {
                    until: 4000,
                    is_of_other: true,
                    ..Crl::default()
                })
            }),
        ),
        (
            "ask_revoked",
            Machine::with(|m| {
                m.crl = Some(Crl {
                    until: 4000,
                    revokes_issuer: true,
                    ..Crl::default()
                })
            }),
        ),
        (
            "ask_revoked",
            Machine::with(|m| {
                m.crl = Some(Crl {
                    until: 1999,
                    revokes_issuer: true,
                    cached: true,
                    ..Crl::default()
                });
            }),
        ),
    ];
    for (reason, machine) in cases {
        let judgement = machine.judge();
        assert_ne!(judgement.status, Status::Affirming, "{reason}");
        assert_eq!(judgement.reason, reason, "{judgement:#?}");
    }
}

#[test]
fn floors_hold_for_reported_committed_and_launch_tcb() {
    let floor = |snp, microcode| Tcb {
        snp,
        microcode,
        ..Tcb::default()
    };
    let check = |floor, launch, expected| {
        let mut machine = Machine::milan();
        machine.rules.tcb = floor;
        machine.report[0x1f7] = launch;
        assert_eq!(machine.judge().reason, expected);
    };
    check(floor(22, 210), 215, "verified");
    check(floor(22, 211), 215, "tcb_too_old");
    check(floor(23, 0), 215, "tcb_too_old");
    check(floor(22, 210), 209, "tcb_too_old");
}

#[test]
fn rules_that_are_met_affirm() {
    let machine = Machine::with(|m| {
        m.report[0x40] = 1 << 5;
        m.rules = Rules {
            measurements: vec![[1; 48], [0xaa; 48]],
            host_data: vec![[0xbb; 32]],
            id_key_digests: vec![[0xcc; 48]],
            chip_ids: vec![CHIP],
            tcb: Tcb {
                snp: 22,
                ..Tcb::default()
            },
            require_alias_check: true,
            require_crl: true,
            ..Rules::default()
        };
        m.crl = Some(Crl {
            until: 4000,
            ..Crl::default()
        });
    });
    assert_eq!(machine.judge().reason, "verified");
}

#[test]
fn providers_key_needs_a_rule_and_names_no_chip() {
    let vlek = |change: fn(&mut Machine)| {
        Machine::with(|m| {
            m.vek_name = "SEV-VLEK";
            m.issuer_name = "SEV-VLEK-Milan";
            m.report[0x48] = 1 << 2;
            m.report[0x1a0..0x1e0].fill(0);
            m.extensions.truncate(4);
            m.rules.accept_vlek = true;
            change(m);
        })
        .judge()
        .reason
    };
    assert_eq!(vlek(|_| {}), "verified");
    assert_eq!(vlek(|m| m.rules.accept_vlek = false), "vlek_not_accepted");
    assert_eq!(vlek(|m| m.report[0x1a0] = 1), "hwid_mismatch");
    assert_eq!(
        vlek(|m| m.extensions.push(("4", CHIP.to_vec()))),
        "hwid_mismatch"
    );
    assert_eq!(vlek(|m| m.issuer_name = "SEV-Milan"), "vek_role");
}

#[test]
fn amds_revocation_list_names_the_old_genoa_ask_only() {
    use crate::evidence::x509;
    let crl = x509::parse_crl(include_bytes!(
        "../../../testdata/snp/crl-genoa-revoked-ask/crl.der"
    ))
    .unwrap();
    assert!(x509::is_revoked(&crl, &[0x02, 0x00, 0x01]));
    assert!(x509::is_revoked(&crl, &[0x00, 0x02, 0x00, 0x01]));
    assert!(!x509::is_revoked(&crl, &[0x02, 0x00, 0x02]));
}

#[test]
fn products_are_known_by_family_and_model() {
    assert_eq!(Product::from_cpuid(0x19, 0x01), Some(Product::Milan));
    assert_eq!(Product::from_cpuid(0x19, 0x11), Some(Product::Genoa));
    assert_eq!(Product::from_cpuid(0x19, 0xa0), Some(Product::Genoa));
    assert_eq!(Product::from_cpuid(0x1a, 0x02), Some(Product::Turin));
    assert_eq!(Product::from_cpuid(0x19, 0x20), None);
    assert_eq!(Product::from_cpuid(0x1a, 0x12), None);
}
