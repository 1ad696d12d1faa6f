//! AMD SEV-SNP: an attestation report, and the vendor's chain from a pinned root to the key that signed it.
//!
//! # What is checked
//! The report is read from its very bytes ([`report`]). The chain ARK → ASK → VCEK, or ARK → ASVK → VLEK, ends in a root
//! that is compiled in ([`chain`]), with dates and AMD's revocation list. The certificate's extensions must name the
//! reported TCB and the chip. Only then the guest is judged: debug, migration, privilege level, versions, measurement.
//!
//! # Why
//! The product comes from CPUID where the report has it, and must agree with the chain; version 2 has none, and there
//! the chain alone says it, which is ambiguous on Turin (its TCB has another layout), so that combination is refused.
//! Floors are demanded of the reported, committed and launch TCB: firmware above the committed one can be rolled back.
//!
//! Source: AMD 56860 rev. 1.58; AMD 57230 (VCEK and KDS) rev. 0.51.

pub mod chain;
pub(crate) mod endorsed;
pub mod report;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use self::chain::{Endorsements, Vek, VekKind};
use self::report::{Report, SigningKey, Tcb};
use crate::judgement::{Bound, Ledger};

/// A family of processors with roots of its own. Bergamo and Siena belong to Genoa.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// Zen 3.
    Milan,
    /// Zen 4.
    Genoa,
    /// Zen 5.
    Turin,
}

impl Product {
    /// All products.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// AMD's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// By family and model of CPUID, the extended parts added.
    pub fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }
}

/// What a guest must be.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted measurements; empty accepts any.
    pub measurements: Vec<[u8; 48]>,
    /// Accepted host data; empty accepts any.
    pub host_data: Vec<[u8; 32]>,
    /// Accepted digests of the identity key; empty accepts any.
    pub id_key_digests: Vec<[u8; 48]>,
    /// Accepted chips; empty accepts any.
    pub chip_ids: Vec<[u8; 64]>,
    /// Oldest versions.
    pub tcb: Tcb,
    /// Oldest guest.
    pub guest_svn: u32,
    /// Highest number of the privilege level: 0 unless something below the guest's kernel is trusted to report.
    pub max_vmpl: u32,
    /// Accept a key that AMD gave to a cloud provider, which names no chip.
    pub accept_vlek: bool,
    /// Accept guests that the host may read.
    pub danger_accept_debug: bool,
    /// Accept guests that a migration agent may move.
    pub danger_accept_migration: bool,
    /// Demand that the platform checked memory for aliases.
    pub require_alias_check: bool,
    /// Demand a valid revocation list.
    pub require_crl: bool,
}

/// Judges a report. `expected` is what the report data must be; [`Bound::Nothing`] looks without a binding.
pub(crate) fn judge(
    report: &[u8],
    endorsements: &Endorsements<'_>,
    expected: Bound<'_>,
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Option<Report> {
    let report = ledger.succeed("report_format", "report_malformed", Report::parse(report))?;
    claims_of(&report, ledger);
    let named = product_of(&report, ledger)?;
    let Some(vek) = chain::select(endorsements, &report, now, ledger) else {
        judge_guest(&report, expected, rules, ledger);
        return None;
    };
    let product = check_product(&report, named, &vek, ledger);
    chain::check(&vek, endorsements, rules.require_crl, now, ledger);
    check_signing_key(&report, &vek, ledger);
    check_signature(&report, &vek, ledger);
    check_reported_tcb(&report, &vek, product, ledger);
    check_chip(&report, &vek, ledger);
    check_tcb_order(&report, product, ledger);
    judge_guest(&report, expected, rules, ledger);
    check_tcb_floor(&report, product, &rules.tcb, ledger);
    check_vlek(&vek, rules, ledger);
    if rules.chip_ids.is_empty() {
        ledger.skip("chip_id", "no chip is named");
    } else {
        let known = rules.chip_ids.contains(&report.chip_id());
        ledger.require("chip_id", "chip_id", known, hex::encode(report.chip_id()));
    }
    Some(report)
}

/// What needs no endorsement.
fn judge_guest(report: &Report, expected: Bound<'_>, rules: &Rules, ledger: &mut Ledger) {
    expected.check(&report.report_data(), ledger);
    check_debug(report, rules, ledger);
    check_migration(report, rules, ledger);
    check_vmpl(report, rules, ledger);
    check_reference_values(report, rules, ledger);
    check_platform(report, rules, ledger);
}

fn claims_of(report: &Report, ledger: &mut Ledger) {
    ledger.claim("report_version", report.version());
    ledger.claim("guest_svn", report.guest_svn());
    ledger.claim("measurement", hex::encode(report.measurement()));
    ledger.claim("host_data", hex::encode(report.host_data()));
    ledger.claim("report_data", hex::encode(report.report_data()));
    ledger.claim("id_key_digest", hex::encode(report.id_key_digest()));
    ledger.claim("author_key_digest", hex::encode(report.author_key_digest()));
    ledger.claim("family_id", hex::encode(report.family_id()));
    ledger.claim("image_id", hex::encode(report.image_id()));
    ledger.claim("chip_id", hex::encode(report.chip_id()));
    ledger.claim("report_id", hex::encode(report.report_id()));
    ledger.claim("vmpl", report.vmpl());
    ledger.claim("policy", format!("{:#x}", report.policy().0));
    ledger.claim("debug", report.policy().allows_debug());
    ledger.claim("migration", report.policy().allows_migration());
    ledger.claim("smt_allowed", report.policy().allows_smt());
    ledger.claim("single_socket", report.policy().is_single_socket());
    ledger.claim("smt", report.is_smt_enabled());
    ledger.claim("alias_check", report.is_alias_check_complete());
    if let Some((launch, current)) = report.mitigations() {
        ledger.claim("launch_mitigations", launch);
        ledger.claim("current_mitigations", current);
    }
}

fn product_of(report: &Report, ledger: &mut Ledger) -> Option<Option<Product>> {
    let Some((family, model, stepping)) = report.cpuid() else {
        return Some(None);
    };
    let product = Product::from_cpuid(family, model);
    let detail = format!("family {family:#x} model {model:#x} stepping {stepping}");
    ledger
        .require("cpuid", "product_unknown", product.is_some(), detail)
        .then_some(product)
}

fn check_product(
    report: &Report,
    named: Option<Product>,
    vek: &Vek<'_>,
    ledger: &mut Ledger,
) -> Product {
    let (holds, detail) = match named {
        Some(named) => (
            named == vek.product,
            format!("report {}, chain {}", named.as_str(), vek.product.as_str()),
        ),
        None => (
            vek.product != Product::Turin,
            format!(
                "chain {}; reports of version {} do not say",
                vek.product.as_str(),
                report.version()
            ),
        ),
    };
    ledger.require("product", "product_mismatch", holds, detail);
    let product = named.unwrap_or(vek.product);
    ledger.claim("product", product.as_str());
    let tcb = report.reported_tcb(product);
    if let Some(fmc) = tcb.fmc {
        ledger.claim("tcb.fmc", fmc);
    }
    ledger.claim("tcb.bootloader", tcb.bootloader);
    ledger.claim("tcb.tee", tcb.tee);
    ledger.claim("tcb.snp", tcb.snp);
    ledger.claim("tcb.microcode", tcb.microcode);
    product
}

fn check_signing_key(report: &Report, vek: &Vek<'_>, ledger: &mut Ledger) {
    let (holds, word) = match (report.signing_key(), vek.kind) {
        (SigningKey::Vcek, VekKind::Vcek) => (true, "vcek"),
        (SigningKey::Vlek, VekKind::Vlek) => (true, "vlek"),
        (SigningKey::Vcek, VekKind::Vlek) => (false, "vcek"),
        (SigningKey::Vlek, VekKind::Vcek) => (false, "vlek"),
        (SigningKey::None, VekKind::Vcek | VekKind::Vlek) => (false, "none"),
    };
    ledger.claim("signing_key", word);
    let detail = format!("the report says `{word}`");
    ledger.require("signing_key", "signing_key_mismatch", holds, detail);
    let masked = report.is_chip_key_masked();
    ledger.require("chip_key", "chip_key_masked", !masked, "");
}

fn check_signature(report: &Report, vek: &Vek<'_>, ledger: &mut Ledger) {
    let holds = vek.key.as_ref().is_some_and(|key| {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
            .verify(report.signed(), &report.signature())
            .is_ok()
    });
    let detail = "ECDSA P-384 by the endorsement key over the first 672 bytes";
    ledger.require("report_signature", "report_signature", holds, detail);
}

/// The key is derived from the reported versions; AMD says in the certificate which these are.
fn check_reported_tcb(report: &Report, vek: &Vek<'_>, product: Product, ledger: &mut Ledger) {
    let reported = report.reported_tcb(product);
    let detail = match &vek.tcb {
        Some(tcb) => format!("report: {reported}; certificate: {tcb}"),
        None => "the certificate names no versions".to_owned(),
    };
    let holds = vek.tcb == Some(reported);
    ledger.require("vek_tcb", "vek_tcb_mismatch", holds, detail);
}

fn check_chip(report: &Report, vek: &Vek<'_>, ledger: &mut Ledger) {
    match (vek.kind, &vek.hardware_id) {
        (VekKind::Vlek, None) => {
            let masked = report.chip_id() == [0; 64];
            ledger.require("hwid", "hwid_mismatch", masked, "a VLEK names no chip");
        }
        (VekKind::Vcek, Some(id)) => {
            let mut padded = [0; 64];
            let fits = padded
                .get_mut(..id.len())
                .map(|head| head.copy_from_slice(id))
                .is_some();
            let holds = fits && padded == report.chip_id();
            ledger.require("hwid", "hwid_mismatch", holds, hex::encode(id));
        }
        (VekKind::Vlek, Some(_)) | (VekKind::Vcek, None) => {
            ledger.require("hwid", "hwid_mismatch", false, "extension out of place");
        }
    }
    if let Some(csp) = &vek.csp_id {
        ledger.claim("csp_id", csp.clone());
    }
}

/// The firmware never reports more than it committed, nor commits more than it runs.
fn check_tcb_order(report: &Report, product: Product, ledger: &mut Ledger) {
    let reported = report.reported_tcb(product);
    let committed = report.committed_tcb(product);
    let current = report.current_tcb(product);
    let holds = committed.is_at_least(&reported) && current.is_at_least(&committed);
    let detail = format!("reported: {reported}; committed: {committed}; current: {current}");
    ledger.require("tcb_order", "tcb_order", holds, detail);
}

fn check_tcb_floor(report: &Report, product: Product, floor: &Tcb, ledger: &mut Ledger) {
    if *floor == Tcb::default() {
        ledger.skip("tcb_floor", "no floor is named");
        return;
    }
    let levels = [
        ("reported", report.reported_tcb(product)),
        ("committed", report.committed_tcb(product)),
        ("launch", report.launch_tcb(product)),
    ];
    let low = levels.iter().find(|(_, tcb)| !tcb.is_at_least(floor));
    let detail = low.map_or_else(String::new, |(name, tcb)| {
        format!("{name}: {tcb}; floor: {floor}")
    });
    ledger.require("tcb_floor", "tcb_too_old", low.is_none(), detail);
}

fn check_debug(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let holds = rules.danger_accept_debug || !report.policy().allows_debug();
    ledger.require("debug", "debug_enabled", holds, "guest policy bit 19");
}

fn check_migration(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let agent = report.report_id_of_migration_agent() != [0xff; 32];
    let holds = rules.danger_accept_migration || !(report.policy().allows_migration() || agent);
    let detail = "guest policy bit 18, and whether a migration agent is bound";
    ledger.require("migration", "migration_allowed", holds, detail);
}

fn check_vmpl(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let detail = format!("{}, at most {} is accepted", report.vmpl(), rules.max_vmpl);
    // 0xffffffff marks a report that the host asked for.
    let holds = report.vmpl() <= rules.max_vmpl.min(3);
    ledger.require("vmpl", "vmpl", holds, detail);
}

fn check_vlek(vek: &Vek<'_>, rules: &Rules, ledger: &mut Ledger) {
    let holds = rules.accept_vlek || vek.kind == VekKind::Vcek;
    let detail = match vek.kind {
        VekKind::Vcek => "the chip's own key",
        VekKind::Vlek => "a key of the cloud provider, which names no chip",
    };
    ledger.require("vlek", "vlek_not_accepted", holds, detail);
}

fn check_reference_values(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    among(
        "measurement",
        &rules.measurements,
        &report.measurement(),
        ledger,
    );
    among("host_data", &rules.host_data, &report.host_data(), ledger);
    among(
        "id_key_digest",
        &rules.id_key_digests,
        &report.id_key_digest(),
        ledger,
    );
    let detail = format!("{}, at least {}", report.guest_svn(), rules.guest_svn);
    let holds = report.guest_svn() >= rules.guest_svn;
    ledger.require("guest_svn", "guest_svn", holds, detail);
}

fn among<const N: usize>(
    name: &'static str,
    accepted: &[[u8; N]],
    found: &[u8; N],
    ledger: &mut Ledger,
) {
    if accepted.is_empty() {
        ledger.skip(name, "no reference value is named");
    } else {
        ledger.require(name, name, accepted.contains(found), hex::encode(found));
    }
}

fn check_platform(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let done = report.is_alias_check_complete();
    if rules.require_alias_check {
        ledger.require("alias_check", "alias_check", done, "platform info bit 5");
    } else {
        ledger.skip("alias_check", format!("complete: {done}"));
    }
}
