//! AMD SEV-SNP: an attestation report, and the vendor's chain from a pinned root to the key that signed it.
//!
//! # What is checked
//! The report is read from its very bytes ([`report`]). The chain ARK → ASK → VCEK, or ARK → ASVK → VLEK, ends in a root
//! that is compiled in ([`chain`]), with dates and AMD's revocation list. The certificate's extensions must name the
//! reported TCB and the chip. Only then the guest is judged : debug, migration, privilege level, versions,
//! measurement. [`checks`] lists all.
//!
//! # Why
//! The product comes from CPUID where the report has it, and must agree with the chain; version 2 has none, and there
//! the chain alone says it, which is ambiguous on Turin (its TCB has another layout), so that combination is refused.
//! Floors are demanded of the reported, committed, current and launch TCB: firmware above the committed one can be rolled
//! back.
//!
//! Source: AMD 56860 rev. 1.58; AMD 57230 (VCEK and KDS) rev. 0.51.

pub mod chain;
pub mod checks;
pub(crate) mod endorsed;
mod guest;
pub mod report;
#[cfg(test)]
pub(crate) mod tests;

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

/// What a guest must be. The default demands what is good for everybody and names no reference value.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted measurements; empty accepts any.
    pub measurements: Vec<[u8; 48]>,
    /// Accepted host data; empty accepts any.
    pub host_data: Vec<[u8; 32]>,
    /// Accepted digests of the identity key; empty accepts any.
    pub id_key_digests: Vec<[u8; 48]>,
    /// Accepted digests of the key that signed the identity key; empty accepts any.
    pub author_key_digests: Vec<[u8; 48]>,
    /// Accepted families, as the launch named them; empty accepts any.
    pub family_ids: Vec<[u8; 16]>,
    /// Accepted images, as the launch named them; empty accepts any.
    pub image_ids: Vec<[u8; 16]>,
    /// Accepted chips; empty accepts any.
    pub chip_ids: Vec<[u8; 64]>,
    /// Accepted cloud providers whose keys sign (`accept_vlek`); empty accepts any.
    pub csp_ids: Vec<String>,
    /// Oldest versions, demanded of the reported, committed, current and launch TCB alike.
    pub tcb: Tcb,
    /// Oldest guest.
    pub guest_svn: u32,
    /// Highest number of the privilege level: 0 unless something below the guest's kernel is trusted to report.
    pub max_vmpl: u32,
    /// Oldest firmware interface that the guest's policy may accept: major and minor.
    pub min_abi: (u8, u8),
    /// Mitigations, as bits, that must have been there at launch and be there now; reports before version 5 have none.
    pub required_mitigations: u64,
    /// Accept a key that AMD gave to a cloud provider, which names no chip.
    pub accept_vlek: bool,
    /// Accept a report that hides the chip, although the chip's own key signed.
    pub accept_masked_chip_id: bool,
    /// Accept guests that the host may read.
    pub danger_accept_debug: bool,
    /// Accept guests that a migration agent may move.
    pub danger_accept_migration: bool,
    /// Accept reserved fields that are not zero.
    pub danger_accept_reserved: bool,
    /// Refuse bits of guest policy and platform info that are not known here; later firmware adds some.
    pub refuse_unknown_bits: bool,
    /// Demand a guest that runs without simultaneous multithreading.
    pub forbid_smt: bool,
    /// Demand a guest that stays on one socket.
    pub require_single_socket: bool,
    /// Demand a guest without memory behind CXL.
    pub forbid_cxl: bool,
    /// Demand that the platform checked memory for aliases (CVE-2024-21944, BadRAM).
    pub require_alias_check: bool,
    /// Demand that the host can't read ciphertext.
    pub require_ciphertext_hiding: bool,
    /// Demand that the host has no power meter.
    pub require_power_meter_disabled: bool,
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
    guest::claims_of(&report, ledger);
    let named = product_of(&report, ledger)?;
    let Some(vek) = chain::select(endorsements, &report, now, ledger) else {
        guest::judge(&report, expected, rules, ledger);
        return None;
    };
    let product = check_product(&report, named, &vek, ledger);
    chain::check(&vek, endorsements, rules.require_crl, now, ledger);
    check_signing_key(&report, &vek, ledger);
    check_signature(&report, &vek, ledger);
    check_reported_tcb(&report, &vek, product, ledger);
    check_chip(&report, &vek, rules, ledger);
    check_tcb_floors(&report, product, &rules.tcb, ledger);
    check_tcb_order(&report, product, ledger);
    check_reserved(&report, product, rules, ledger);
    guest::judge(&report, expected, rules, ledger);
    check_vlek(&vek, rules, ledger);
    if rules.chip_ids.is_empty() {
        ledger.skip("chip_id", "no chip is named");
    } else {
        let known = rules.chip_ids.contains(&report.chip_id());
        ledger.require("chip_id", "chip_id", known, hex::encode(report.chip_id()));
    }
    Some(report)
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
    claim_tcb(TCB, &report.reported_tcb(product), ledger);
    claim_tcb(COMMITTED_TCB, &report.committed_tcb(product), ledger);
    claim_tcb(CURRENT_TCB, &report.current_tcb(product), ledger);
    claim_tcb(LAUNCH_TCB, &report.launch_tcb(product), ledger);
    product
}

fn claim_tcb(
    [fmc, bootloader, tee, snp, microcode]: [&'static str; 5],
    tcb: &Tcb,
    ledger: &mut Ledger,
) {
    if let Some(version) = tcb.fmc {
        ledger.claim(fmc, version);
    }
    ledger.claim(bootloader, tcb.bootloader);
    ledger.claim(tee, tcb.tee);
    ledger.claim(snp, tcb.snp);
    ledger.claim(microcode, tcb.microcode);
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

fn check_chip(report: &Report, vek: &Vek<'_>, rules: &Rules, ledger: &mut Ledger) {
    match (vek.kind, &vek.hardware_id) {
        (VekKind::Vcek, Some(id)) if report.chip_id() == [0; 64] => {
            ledger.claim("vek_chip_id", hex::encode(id));
            let detail = "the report hides the chip; the certificate names it";
            let holds = rules.accept_masked_chip_id;
            ledger.require("hwid", "chip_id_masked", holds, detail);
        }
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

/// Each by itself: a host may report less than it runs, run more than it committed to, and have launched the guest on
/// something older than all of them.
fn check_tcb_floors(report: &Report, product: Product, floor: &Tcb, ledger: &mut Ledger) {
    let levels = [
        (
            "tcb_reported",
            "reported_tcb_too_old",
            report.reported_tcb(product),
        ),
        (
            "tcb_committed",
            "committed_tcb_too_old",
            report.committed_tcb(product),
        ),
        (
            "tcb_current",
            "current_tcb_too_old",
            report.current_tcb(product),
        ),
        (
            "tcb_launch",
            "launch_tcb_too_old",
            report.launch_tcb(product),
        ),
    ];
    for (name, reason, tcb) in levels {
        if *floor == Tcb::default() {
            ledger.skip(name, format!("no floor is named; found: {tcb}"));
        } else {
            let detail = format!("{tcb}; floor: {floor}");
            ledger.require(name, reason, tcb.is_at_least(floor), detail);
        }
    }
}

fn check_reserved(report: &Report, product: Product, rules: &Rules, ledger: &mut Ledger) {
    let wrong = report.reserved_in_use(product);
    let holds = rules.danger_accept_reserved || wrong.is_empty();
    ledger.require("reserved", "reserved_bits", holds, wrong.join(" "));
    let (policy, platform) = report.unknown_bits();
    let detail = format!("policy {policy:#x}, platform {platform:#x}");
    if rules.refuse_unknown_bits {
        let holds = (policy, platform) == (0, 0);
        ledger.require("unknown_bits", "unknown_bits", holds, detail);
    } else {
        ledger.skip("unknown_bits", detail);
    }
}

fn check_vlek(vek: &Vek<'_>, rules: &Rules, ledger: &mut Ledger) {
    let holds = rules.accept_vlek || vek.kind == VekKind::Vcek;
    let detail = match vek.kind {
        VekKind::Vcek => "the chip's own key",
        VekKind::Vlek => "a key of the cloud provider, which names no chip",
    };
    ledger.require("vlek", "vlek_not_accepted", holds, detail);
    if rules.csp_ids.is_empty() || vek.kind == VekKind::Vcek {
        ledger.skip("csp_id", "no provider is named, or none signed");
    } else {
        let known = { vek.csp_id.as_ref() }.is_some_and(|id| rules.csp_ids.contains(id));
        let detail = vek.csp_id.clone().unwrap_or_default();
        ledger.require("csp_id", "csp_id", known, detail);
    }
}

/// Names of claims: the reported versions have the short ones, since they are the ones that a chip proves by its key.
const TCB: [&str; 5] = [
    "tcb.fmc",
    "tcb.bootloader",
    "tcb.tee",
    "tcb.snp",
    "tcb.microcode",
];
const COMMITTED_TCB: [&str; 5] = [
    "committed_tcb.fmc",
    "committed_tcb.bootloader",
    "committed_tcb.tee",
    "committed_tcb.snp",
    "committed_tcb.microcode",
];
const CURRENT_TCB: [&str; 5] = [
    "current_tcb.fmc",
    "current_tcb.bootloader",
    "current_tcb.tee",
    "current_tcb.snp",
    "current_tcb.microcode",
];
const LAUNCH_TCB: [&str; 5] = [
    "launch_tcb.fmc",
    "launch_tcb.bootloader",
    "launch_tcb.tee",
    "launch_tcb.snp",
    "launch_tcb.microcode",
];
