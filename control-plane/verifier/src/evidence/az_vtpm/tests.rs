//! A machine of our own above either hardware, in which every input of every check can be turned.

use std::sync::LazyLock;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::checks::CHECKS;
use super::*;
use crate::evidence::dcap::checks::CHECKS as DCAP_CHECKS;
use crate::evidence::dcap::tests::machine::Machine as TdxMachine;
use crate::evidence::sev_snp::checks::CHECKS as SEV_SNP_CHECKS;
use crate::evidence::sev_snp::tests::machine::{Machine as SnpMachine, NOW, time};
use crate::judgement::flips::{Flip, assert_table_above};
use crate::judgement::{BindingState, Judgement};

const NONCE: &[u8] = b"challenge";

/// Made once: RSA keys take their time.
static KEYS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        AsDer::<Pkcs8V1Der<'_>>::as_der(&key)
            .unwrap()
            .as_ref()
            .to_vec()
    })
});

/// Whose evidence is as it should be until a test says otherwise.
struct Machine {
    below: Below,
    /// What the paravisor says the hardware is.
    hardware: u32,
    runtime: String,
    hcl_header: Vec<u8>,
    hashed_runtime: Option<String>,
    magic: u32,
    nonce: &'static [u8],
    selected: u32,
    pcrs: Option<Vec<Vec<u8>>>,
    quoted: Vec<Vec<u8>>,
    event_log: Option<Vec<u8>>,
    signed_by_other: bool,
    rules: Rules,
}

enum Below {
    Snp,
    Tdx,
    TdxWithoutQuote,
}

impl Machine {
    fn new(below: Below) -> Self {
        let key = KeyPair::from_pkcs8(&KEYS[0]).unwrap();
        let modulus = key
            .public_key()
            .modulus()
            .big_endian_without_leading_zero()
            .to_vec();
        let exponent = key
            .public_key()
            .exponent()
            .big_endian_without_leading_zero()
            .to_vec();
        let runtime = format!(
            r#"{{"keys":[{{"kid":"HCLAkPub","kty":"RSA","e":"{}","n":"{}"}},{{"kid":"HCLEkPub","kty":"RSA"}}],"vm-configuration":{{"console-enabled":true,"secure-boot":false,"vmUniqueId":"A-1"}},"user-data":"00"}}"#,
            URL_SAFE_NO_PAD.encode(exponent),
            URL_SAFE_NO_PAD.encode(modulus),
        );
        let hardware = match below {
            Below::Snp => 2,
            Below::Tdx | Below::TdxWithoutQuote => 4,
        };
        let pcrs: Vec<_> = (0..24).map(|_| vec![0; 32]).collect();
        Self {
            below,
            hardware,
            runtime,
            hcl_header: b"HCLA\x02\0\0\0\0\0\0\0\x02\0\0\0".to_vec(),
            hashed_runtime: None,
            magic: 0xff54_4347,
            nonce: NONCE,
            selected: 0x00ff_ffff,
            pcrs: Some(pcrs.clone()),
            quoted: pcrs,
            event_log: None,
            signed_by_other: false,
            rules: Rules::default(),
        }
    }

    fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn judge(&self) -> Judgement {
        let hashed = self.hashed_runtime.as_ref().unwrap_or(&self.runtime);
        let mut report_data = [0; 64];
        report_data[..32].copy_from_slice(digest::digest(&SHA256, hashed.as_bytes()).as_ref());
        match self.below {
            Below::Snp => {
                let mut machine = SnpMachine::milan();
                machine.report[0x50..0x90].copy_from_slice(&report_data);
                machine.attest(|report, endorsements| {
                    self.judge_above(report, &Vouching::SevSnp(endorsements, &machine.rules))
                })
            }
            Below::Tdx => {
                let mut machine = TdxMachine::tdx();
                machine.body[520..].copy_from_slice(&report_data);
                machine.attest(|case| self.judge_above(&[], &Vouching::Tdx(Some(case))))
            }
            Below::TdxWithoutQuote => self.judge_above(&[], &Vouching::Tdx(None)),
        }
    }

    fn judge_above(&self, report: &[u8], vouching: &Vouching<'_>) -> Judgement {
        let quote = VtpmQuote {
            message: self.message(),
            signature: sign(&KEYS[usize::from(self.signed_by_other)], &self.message()),
            pcrs: self.pcrs.clone(),
            event_log: self.event_log.clone(),
        };
        let mut ledger = Ledger::default();
        let hcl = self.hcl(report);
        judge(
            &hcl,
            &quote,
            vouching,
            Some(NONCE),
            &self.rules,
            time(NOW),
            &mut ledger,
        );
        ledger.conclude(BindingState::Checked)
    }

    fn hcl(&self, report: &[u8]) -> Vec<u8> {
        let mut hcl = self.hcl_header.clone();
        hcl.resize(32, 0);
        hcl.extend(report);
        hcl.resize(32 + 1184, 0);
        let length = u32::try_from(self.runtime.len()).unwrap();
        for field in [length + 20, 1, self.hardware, 1, length] {
            hcl.extend(field.to_le_bytes());
        }
        hcl.extend(self.runtime.as_bytes());
        hcl.resize(hcl.len() + 100, 0);
        hcl
    }

    fn message(&self) -> Vec<u8> {
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend([0x80, 0x18, 0, 0]);
        out.extend(u16::try_from(self.nonce.len()).unwrap().to_be_bytes());
        out.extend(self.nonce);
        // Clock, resets, restarts, safe, firmware.
        out.extend([0; 16]);
        out.push(1);
        out.extend([0; 8]);
        out.extend([0, 0, 0, 1, 0, 0x0b, 3]);
        out.extend(&self.selected.to_le_bytes()[..3]);
        let selected = (0..24).filter(|pcr| self.selected & 1 << pcr != 0);
        let values: Vec<u8> = selected.flat_map(|pcr| self.quoted[pcr].clone()).collect();
        out.extend([0, 32]);
        out.extend(digest::digest(&SHA256, &values).as_ref());
        out
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = KeyPair::from_pkcs8(key).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message,
        &mut signature,
    )
    .unwrap();
    signature
}

fn replace(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "{from}");
    *text = text.replacen(from, to, 1);
}

fn snp(check: &'static str, reason: &'static str, change: impl FnOnce(&mut Machine)) -> Flip {
    Flip {
        check,
        reason,
        follows: &[],
        judgement: Machine::new(Below::Snp).changed(change).judge(),
    }
}

/// Negative test 26 of the reference, a selection narrowed below a digest that is right, is among these.
#[test]
fn every_check_notices_its_input_alone() {
    let mut flips = flips_of_the_report();
    flips.extend(flips_of_the_quote());
    let good = [
        Machine::new(Below::Snp).judge(),
        Machine::new(Below::Tdx).judge(),
        Machine::new(Below::Snp).changed(|m| m.pcrs = None).judge(),
        Machine::new(Below::Tdx).changed(meet_every_rule).judge(),
    ];
    let below = [SEV_SNP_CHECKS, DCAP_CHECKS];
    assert_table_above(CHECKS, &below, &good, &flips, &[include_str!("mod.rs")]);
}

fn meet_every_rule(m: &mut Machine) {
    replace(
        &mut m.runtime,
        "\"secure-boot\":false",
        "\"secure-boot\":true",
    );
    replace(
        &mut m.runtime,
        "\"console-enabled\":true",
        "\"console-enabled\":false",
    );
    m.rules.require_secure_boot = true;
    m.rules.forbid_console = true;
    m.rules.require_pcrs = true;
    m.rules.require_event_log = true;
    m.rules.pcrs.insert(4, vec![[1; 32], [0; 32]]);
    m.event_log = Some(EMPTY_LOG.to_vec());
}

fn flips_of_the_report() -> Vec<Flip> {
    let follows = |follows, flip: Flip| Flip { follows, ..flip };
    vec![
        snp("hcl_format", "hcl_malformed", |m| m.hcl_header[0] = b'X'),
        snp("hcl_format", "hcl_malformed", |m| m.hcl_header[4] = 9),
        snp("hcl_format", "hcl_malformed", |m| m.hardware = 3),
        // Each report stands where the other's would.
        snp("hardware", "tee_mismatch", |m| m.hardware = 4),
        Flip {
            check: "td_quote",
            reason: "evidence_missing",
            follows: &[],
            judgement: Machine::new(Below::TdxWithoutQuote).judge(),
        },
        snp("runtime_format", "runtime_malformed", |m| {
            replace(&mut m.runtime, "\"keys\"", "\"Keys\"");
        }),
        snp("runtime_format", "runtime_malformed", |m| {
            replace(&mut m.runtime, "{\"keys\"", "{\"keys\":[],\"keys\"");
        }),
        snp("secure_boot", "secure_boot", |m| {
            m.rules.require_secure_boot = true
        }),
        snp("console", "console", |m| m.rules.forbid_console = true),
        snp("vtpm_key", "vtpm_key", |m| {
            replace(&mut m.runtime, "HCLAkPub", "HCLOther")
        }),
        snp("vtpm_key", "vtpm_key", |m| {
            replace(&mut m.runtime, "HCLEkPub", "HCLAkPub")
        }),
        follows(
            &[],
            snp("vtpm_key", "vtpm_key", |m| {
                replace(&mut m.runtime, "\"n\":\"", "\"n\":\"==")
            }),
        ),
    ]
}

fn flips_of_the_quote() -> Vec<Flip> {
    vec![
        snp("vtpm_quote_signature", "vtpm_quote_signature", |m| {
            m.signed_by_other = true
        }),
        snp("vtpm_quote_format", "vtpm_quote_malformed", |m| {
            m.magic += 1
        }),
        snp("binding", "nonce_mismatch", |m| m.nonce = b"challengf"),
        snp("binding", "nonce_mismatch", |m| m.nonce = b""),
        snp("pcr_values", "pcr_values_missing", |m| {
            m.rules.require_pcrs = true;
            m.pcrs = None;
        }),
        snp("pcr_values", "pcr_values_missing", |m| {
            m.rules.pcrs.insert(4, vec![[0; 32]]);
            m.pcrs = None;
        }),
        snp("pcr_values", "pcr_values_malformed", |m| {
            m.pcrs = Some(vec![vec![0; 31]]);
        }),
        snp("pcr_selection", "pcr_selection", |m| {
            m.selected &= !(1 << 4)
        }),
        snp("pcr_selection", "pcr_selection", |m| {
            drop(m.pcrs.as_mut().map(Vec::pop))
        }),
        snp("pcr_digest", "pcr_digest", |m| m.quoted[7][31] = 1),
        snp("pcrs", "pcrs", |m| {
            drop(m.rules.pcrs.insert(4, vec![[1; 32]]))
        }),
        snp("pcrs", "pcrs", |m| {
            drop(m.rules.pcrs.insert(24, vec![[0; 32]]))
        }),
        snp("event_log", "event_log_missing", |m| {
            m.rules.require_event_log = true
        }),
        snp("event_log", "event_log_malformed", |m| {
            m.event_log = Some(EMPTY_LOG[..40].to_vec())
        }),
        snp("event_log_replay", "event_log_replay", |m| {
            m.event_log = Some(EMPTY_LOG.to_vec());
            m.quoted[7][31] = 1;
            m.pcrs = Some(m.quoted.clone());
        }),
    ]
}

#[test]
fn runtime_data_that_the_report_does_not_vouch_for_is_refused() {
    for below in [Below::Snp, Below::Tdx] {
        let mut machine = Machine::new(below);
        let mut hashed = machine.runtime.clone();
        replace(&mut hashed, "A-1", "A-2");
        machine.hashed_runtime = Some(hashed);
        assert_eq!(machine.judge().reason, "runtime_data_mismatch");
    }
}

/// A log that only says that its digests are of SHA-256: every PCR is zero.
const EMPTY_LOG: &[u8] = b"\0\0\0\0\x03\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";
