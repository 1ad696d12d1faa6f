//! Every check with each input turned.

pub(crate) mod machine;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::machine::{
    Crl, Machine, NOW, PCK_SERIAL, PLATFORM_SERIAL, SIGNER_SERIAL, Signer, extension, replace, time,
};
use super::chain::pem;
use super::checks::CHECKS;
use super::*;
use crate::judgement::flips::{Flip, assert_table};

fn flip(
    check: &'static str,
    reason: &'static str,
    machine: Machine,
    change: impl FnOnce(&mut Machine),
) -> Flip {
    Flip {
        check,
        reason,
        follows: &[],
        judgement: machine.changed(change).judge(),
    }
}

fn tdx(check: &'static str, reason: &'static str, change: impl FnOnce(&mut Machine)) -> Flip {
    flip(check, reason, Machine::tdx(), change)
}

fn sgx(check: &'static str, reason: &'static str, change: impl FnOnce(&mut Machine)) -> Flip {
    flip(check, reason, Machine::sgx(), change)
}

/// With what can't hold either.
fn follow(follows: &'static [&'static str], flip: Flip) -> Flip {
    Flip { follows, ..flip }
}

/// Negative tests 15 to 20, 38 and 39 of the reference are among these.
#[test]
fn every_check_notices_its_input_alone() {
    let mut flips = flips_of_the_quote();
    flips.extend(flips_of_the_texts());
    flips.extend(flips_of_the_lists());
    flips.extend(flips_of_the_levels());
    flips.extend(flips_of_the_trust_domain());
    flips.extend(flips_of_the_enclave());
    let sources = [
        include_str!("mod.rs"),
        include_str!("chain.rs"),
        include_str!("enclave.rs"),
        include_str!("revocation.rs"),
        include_str!("tcb.rs"),
        include_str!("td.rs"),
    ];
    let good = good().map(|machine| machine.judge());
    assert_table(CHECKS, &good, &flips, &sources);
}

fn good() -> [Machine; 14] {
    let statuses = |machine: Machine, statuses: &[TcbStatus]| {
        machine.changed(|m| m.rules.accepted_statuses = statuses.to_vec())
    };
    let td = Machine::tdx;
    [
        td(),
        Machine::tdx_1_5(),
        Machine::sgx(),
        td().changed(|m| m.trailing = vec![0; 70]),
        td().changed(|m| m.write_chain = |chain| pem(chain, "\r\n")),
        td().changed(|m| m.write_chain = |chain| pem(chain, "\n") + "\0"),
        td().changed(|m| m.write_chain = |chain| pem(chain, "\n").trim_end().to_owned()),
        td().changed(|m| {
            m.platform_name = "Intel SGX PCK Processor CA";
            m.root_crl.write = |der| STANDARD.encode(der);
            m.pck_crl.write = |der| {
                let text = STANDARD.encode(der);
                format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
            };
        }),
        td().changed(meet_every_rule),
        Machine::sgx().changed(|m| {
            m.rules.mrenclave = vec![[0xaa; 32]];
            m.rules.mrsigner = vec![[0xbb; 32]];
            m.rules.isv_prod_ids = vec![[0, 3]];
            m.rules.min_isv_svn = 4;
            m.rules.enclave_flags = Some(Bits { mask: 7, value: 5 });
        }),
        // Of version 2, which names each component.
        Machine::sgx().changed(|m| {
            replace(&mut m.tcb_info, "\"version\":3", "\"version\":2");
            let components: String = (1..=16)
                .map(|number| {
                    format!(
                        "\"sgxtcbcomp{number:02}svn\":{},",
                        if number < 3 { 7 } else { 0 }
                    )
                })
                .collect();
            let from = m.tcb_info.find("\"sgxtcbcomponents\"").unwrap();
            let to = m.tcb_info.find("\"pcesvn\"").unwrap();
            m.tcb_info.replace_range(from..to, &components);
        }),
        statuses(
            td().changed(|m| m.extension = extension(&[6, 7], 11)),
            &[TcbStatus::ConfigurationNeeded],
        ),
        statuses(td().changed(|m| m.body[0] = 3), &[TcbStatus::OutOfDate]),
        td().changed(|m| {
            m.rules.danger_accept_debug = true;
            m.rules.danger_accept_profiling = true;
            m.rules.danger_accept_reserved = true;
            m.rules.danger_accept_migration = true;
            m.rules.danger_accept_sept_ve = true;
            m.body[120..128].copy_from_slice(&[0xff, 1, 0, 0x20, 0, 0, 0, 0]);
        }),
    ]
}

fn meet_every_rule(m: &mut Machine) {
    m.rules.mrtd = vec![[1; 48], [0xaa; 48]];
    m.rules.mrseam = vec![[0; 48]];
    m.rules.mrconfigid = vec![[0; 48]];
    m.rules.mrowner = vec![[0; 48]];
    m.rules.mrownerconfig = vec![[0; 48]];
    m.rules.rtmrs = std::array::from_fn(|_| vec![[0; 48]]);
    m.rules.td_attributes = Some(Bits {
        mask: 1 << 28 | 1 << 30,
        value: 1 << 28,
    });
    m.rules.xfam = Some(Bits { mask: 3, value: 0 });
    m.rules.ppids = vec![[1; 16]];
    m.rules.platform_instance_ids = vec![[0; 16]];
    m.rules.accepted_advisories = Some(vec!["INTEL-SA-1".into()]);
    m.rules.min_tcb_evaluation_data_number = 17;
    m.rules.min_tcb_date = Some(time(1533));
    m.rules.require_event_log = true;
    m.event_log = Some(EMPTY_LOG.to_vec());
}

fn flips_of_the_quote() -> Vec<Flip> {
    let mut flips = vec![
        tdx("quote_format", "quote_malformed", |m| m.left[0] = 1),
        tdx("quote_format", "quote_malformed", |m| m.left[1] = 1),
        tdx("quote_format", "quote_malformed", |m| m.header[0] = 6),
        tdx("quote_format", "quote_malformed", |m| m.header[2] = 3),
        tdx("quote_format", "quote_malformed", |m| m.header[12] = 0),
        tdx("pck_chain_format", "pck_chain_malformed", |m| {
            m.write_chain = |chain| pem(chain, "\n") + "\n";
        }),
        tdx("pck_chain_format", "pck_chain_malformed", |m| {
            m.write_chain = |_| String::new()
        }),
        tdx("pck_certificates", "pck_chain_malformed", |m| {
            m.write_chain = |chain| pem(&[chain, &[vec![0x30, 0]]].concat(), "\n");
        }),
        tdx("pck_chain", "chain_signature", |m| m.pck_by_other = true),
        tdx("pck_chain", "certificate_expired", |m| {
            m.pck_dates[1] = NOW - 1
        }),
        tdx("pck_chain", "certificate_not_yet_valid", |m| {
            m.pck_dates[0] = NOW + 1
        }),
        tdx("pck_role", "pck_role", |m| {
            m.pck_name = "Intel SGX TCB Signing"
        }),
        tdx("pck_role", "pck_role", |m| {
            m.platform_name = "Intel SGX Other CA"
        }),
        tdx("qe_report_signature", "qe_report_signature", |m| {
            m.qe_by_other = true
        }),
        tdx("pck_extension", "pck_extension", |m| {
            m.extension = vec![0x30, 0]
        }),
        tdx("ppid", "ppid", |m| m.rules.ppids = vec![[2; 16]]),
        tdx("platform_instance_id", "platform_instance_id", |m| {
            m.rules.platform_instance_ids = vec![[2; 16]];
        }),
        tdx("attestation_key", "attestation_key", |m| {
            m.key_unbound = true
        }),
        tdx("quote_signature", "quote_signature", |m| {
            m.quote_by_other = true
        }),
        tdx("binding", "report_data_mismatch", |m| m.body[583] ^= 1),
        sgx("binding", "report_data_mismatch", |m| m.body[383] ^= 1),
        tdx("runtime_data", "runtime_data_mismatch", |m| {
            m.is_runtime_data = true;
            m.body[520] ^= 1;
        }),
        tdx("trailing", "trailing_data", |m| m.trailing = vec![0, 1]),
        tdx("collateral", "endorsement_missing", |m| {
            m.has_collateral = false
        }),
    ];
    // The pinned root is that of all three chains, and the texts are of one kind.
    let below_root = &[
        "tcb_info_chain",
        "tcb_info_signature",
        "qe_identity_chain",
        "qe_identity_signature",
    ];
    let of_the_kind = &["tcb_info_kind", "qe_identity_kind"];
    flips.extend([
        follow(
            below_root,
            tdx("pck_chain", "root_not_pinned", |m| m.root_is_other = true),
        ),
        follow(
            of_the_kind,
            tdx("tee", "tee_mismatch", |m| m.tee = Tee::Sgx),
        ),
    ]);
    flips
}

fn flips_of_the_texts() -> Vec<Flip> {
    let unsigned = &["tcb_info_signature"];
    let unsigned_identity = &["qe_identity_signature"];
    let mut flips = vec![
        tdx("tcb_info_signature", "tcb_info_signature", |m| {
            m.tcb_info_by_other = true
        }),
        tdx("tcb_info_signature", "tcb_info_signature", |m| {
            m.tcb_signer.name = "pck"
        }),
        tdx("tcb_info_format", "tcb_info_malformed", |m| {
            replace(&mut m.tcb_info, "{\"svn\":7},", "");
        }),
        tdx("tcb_info_kind", "tcb_info_kind", |m| {
            replace(&mut m.tcb_info, "\"TDX\"", "\"SGX\"");
        }),
        tdx("tcb_info_kind", "tcb_info_kind", |m| {
            replace(&mut m.tcb_info, "\"version\":3", "\"version\":4");
        }),
        tdx("tcb_info_kind", "tcb_info_kind", |m| {
            replace(&mut m.tcb_info, "\"tcbType\":0", "\"tcbType\":1");
        }),
        tdx("fmspc", "fmspc_mismatch", |m| {
            replace(&mut m.tcb_info, "00806F050000", "90C06F000000");
        }),
        tdx("fmspc", "fmspc_mismatch", |m| {
            replace(&mut m.tcb_info, "\"pceId\":\"0000\"", "\"pceId\":\"0001\"");
        }),
        tdx("tcb_info_dates", "tcb_info_expired", |m| {
            replace(&mut m.tcb_info, "2028", "2023")
        }),
        tdx("tcb_info_dates", "tcb_info_not_yet_valid", |m| {
            replace(&mut m.tcb_info, "2022", "2027");
        }),
        tdx("tcb_info_dates", "tcb_info_dates", |m| {
            replace(&mut m.tcb_info, "2022-", "2022/")
        }),
        tdx("qe_identity_signature", "qe_identity_signature", |m| {
            m.qe_identity_by_other = true
        }),
        tdx("qe_identity_signature", "qe_identity_signature", |m| {
            m.qe_signer.name = "pck"
        }),
        tdx("qe_identity_format", "qe_identity_malformed", |m| {
            replace(&mut m.qe_identity, "\"isvprodid\":2", "\"isvprodid\":-2");
        }),
        tdx("qe_identity_kind", "qe_identity_kind", |m| {
            replace(&mut m.qe_identity, "TD_QE", "QE");
        }),
        tdx("qe_identity_dates", "qe_identity_expired", |m| {
            replace(&mut m.qe_identity, "2028", "2023");
        }),
        tdx("qe_identity_dates", "qe_identity_not_yet_valid", |m| {
            replace(&mut m.qe_identity, "2022", "2027");
        }),
        tdx("qe_identity_dates", "qe_identity_dates", |m| {
            replace(&mut m.qe_identity, "2028-", "2028/");
        }),
    ];
    type Turn = (&'static str, fn(&mut Signer));
    let turns: [Turn; 4] = [
        ("root_not_pinned", |signer| signer.below_other = true),
        ("chain_signature", |signer| signer.by_other = true),
        ("certificate_not_yet_valid", |signer| {
            signer.dates[0] = NOW + 1
        }),
        ("certificate_expired", |signer| signer.dates[1] = NOW - 1),
    ];
    for (reason, turn) in turns {
        let flip = tdx("tcb_info_chain", reason, |m| turn(&mut m.tcb_signer));
        flips.push(follow(unsigned, flip));
        let flip = tdx("qe_identity_chain", reason, |m| turn(&mut m.qe_signer));
        flips.push(follow(unsigned_identity, flip));
    }
    flips
}

fn flips_of_the_lists() -> Vec<Flip> {
    let mut flips = vec![
        tdx("root_crl", "root_crl_expired", |m| {
            m.root_crl.dates[1] = NOW - 1
        }),
        tdx("root_crl", "root_crl_not_yet_valid", |m| {
            m.root_crl.dates[0] = NOW + 1
        }),
        tdx("pck_crl", "pck_crl_expired", |m| {
            m.pck_crl.dates[1] = NOW - 1
        }),
        tdx("pck_crl", "pck_crl_not_yet_valid", |m| {
            m.pck_crl.dates[0] = NOW + 1
        }),
    ];
    for (name, crl, revokes) in [
        (
            "root_crl",
            (|m| &mut m.root_crl) as fn(&mut Machine) -> &mut Crl,
            PLATFORM_SERIAL,
        ),
        ("root_crl", |m| &mut m.root_crl, SIGNER_SERIAL),
        ("pck_crl", |m| &mut m.pck_crl, PCK_SERIAL),
    ] {
        flips.extend([
            tdx(name, "certificate_revoked", |m| {
                crl(m).revokes = Some(revokes)
            }),
            tdx(name, "crl_signature", |m| crl(m).by_other = true),
            tdx(name, "crl_missing", |m| crl(m).write = |_| String::new()),
            tdx(name, "crl_malformed", |m| {
                crl(m).write = |der| hex::encode(&der[1..])
            }),
        ]);
    }
    flips
}

fn flips_of_the_levels() -> Vec<Flip> {
    let mut flips = vec![
        tdx("tcb_evaluation", "tcb_evaluation_too_old", |m| {
            m.rules.min_tcb_evaluation_data_number = 18;
        }),
        tdx("tcb_evaluation", "tcb_evaluation_too_old", |m| {
            m.rules.min_tcb_evaluation_data_number = 17;
            replace(&mut m.qe_identity, "Number\":17", "Number\":16");
        }),
        tdx("qe_miscselect", "qe_identity_mismatch", |m| m.qe[16] = 1),
        tdx("qe_attributes", "qe_identity_mismatch", |m| m.qe[48] = 0x13),
        // Debug is refused also where the identity's mask forgets it.
        tdx("qe_attributes", "qe_identity_mismatch", |m| {
            m.qe[48] = 0x13;
            replace(&mut m.qe_identity, "\"FBFF", "\"F9FF");
        }),
        tdx("qe_signer", "qe_identity_mismatch", |m| m.qe[128] = 0),
        tdx("qe_product", "qe_identity_mismatch", |m| m.qe[256] = 1),
        tdx("qe_tcb", "qe_tcb_no_match", |m| m.qe[258] = 2),
        tdx("tcb_status", "tcb_out_of_date", |m| m.qe[258] = 3),
        tdx("tcb_level", "tcb_no_match", |m| {
            m.extension = extension(&[4, 4], 11)
        }),
        tdx("tcb_level", "tcb_no_match", |m| {
            m.extension = extension(&[7, 7], 10)
        }),
        tdx("tcb_level", "tcb_no_match", |m| m.body[2] = 4),
        tdx("tcb_date", "tcb_date_too_old", |m| {
            m.rules.min_tcb_date = Some(time(1534))
        }),
        tdx("tcb_status", "tcb_configuration_needed", |m| {
            m.extension = extension(&[7, 6], 11)
        }),
        tdx("tcb_status", "tcb_configuration_needed", |m| m.body[2] = 6),
        tdx("tcb_status", "tcb_out_of_date_configuration_needed", |m| {
            m.extension = extension(&[6, 6], 11);
            m.body[0] = 3;
        }),
        tdx("tcb_status", "tcb_revoked", |m| {
            m.extension = extension(&[5, 5], 11);
            m.rules.accepted_statuses.push(TcbStatus::Revoked);
        }),
        tdx("tcb_status", "tcb_out_of_date", |m| m.body[0] = 3),
        // Out of date without any advisory is out of date.
        tdx("tcb_status", "tcb_out_of_date", |m| {
            m.tcb_info = m.tcb_info.replace("\"INTEL-SA-1\"", "");
            m.rules.accepted_advisories = Some(Vec::new());
            m.body[0] = 3;
        }),
        tdx("tdx_module_tcb", "tdx_module_tcb_no_match", |m| {
            m.body[0] = 1
        }),
        tdx("tdx_module", "tdx_module_unknown", |m| m.body[1] = 2),
        tdx("seam_signer", "tdx_module_mismatch", |m| m.body[64] = 1),
        tdx("seam_attributes", "tdx_module_mismatch", |m| {
            m.body[112] = 1
        }),
        tdx("advisories", "advisory_not_accepted", |m| {
            m.rules.accepted_advisories = Some(Vec::new());
        }),
    ];
    // The module was updated below a trust domain: both versions count.
    for at in [0, 584] {
        let td = Machine::tdx_1_5;
        flips.extend([
            flip("tcb_status", "tcb_out_of_date", td(), |m| m.body[at] = 3),
            flip("tdx_module", "tdx_module_unknown", td(), |m| {
                m.body[at + 1] = 2
            }),
            flip("tcb_level", "tcb_no_match", td(), |m| m.body[at + 2] = 4),
        ]);
    }
    for (words, reason) in [
        ("SWHardeningNeeded", "tcb_sw_hardening_needed"),
        (
            "ConfigurationAndSWHardeningNeeded",
            "tcb_configuration_and_sw_hardening_needed",
        ),
    ] {
        flips.push(tdx("tcb_status", reason, |m| {
            m.extension = extension(&[6, 6], 11);
            replace(&mut m.tcb_info, "ConfigurationNeeded", words);
        }));
    }
    flips
}

fn flips_of_the_trust_domain() -> Vec<Flip> {
    let other = || vec![[1; 48]];
    vec![
        tdx("debug", "debug_enabled", |m| m.body[120] = 1),
        tdx("profiling", "profiling_enabled", |m| m.body[120] = 0x20),
        tdx("reserved", "reserved_bits", |m| m.body[121] = 1),
        tdx("sept_ve_disable", "sept_ve_disable", |m| m.body[123] = 0),
        tdx("migration", "migration_allowed", |m| m.body[123] |= 0x20),
        tdx("td_attributes", "td_attributes", |m| {
            m.rules.td_attributes = Some(Bits {
                mask: 1 << 30,
                value: 0,
            });
            m.body[123] |= 0x40;
        }),
        tdx("xfam", "xfam", |m| {
            m.rules.xfam = Some(Bits { mask: 3, value: 3 })
        }),
        flip("service_td", "service_td", Machine::tdx_1_5(), |m| {
            m.body[600] = 1
        }),
        flip("service_td", "service_td", Machine::tdx_1_5(), |m| {
            m.body[600] = 1;
            m.rules.mrservicetd = vec![[0; 48]];
        }),
        tdx("mrtd", "mrtd", |m| m.rules.mrtd = other()),
        tdx("mrseam", "mrseam", |m| m.rules.mrseam = other()),
        tdx("mrconfigid", "mrconfigid", |m| m.rules.mrconfigid = other()),
        tdx("mrowner", "mrowner", |m| m.rules.mrowner = other()),
        tdx("mrownerconfig", "mrownerconfig", |m| {
            m.rules.mrownerconfig = other()
        }),
        tdx("rtmr0", "rtmr0", |m| m.rules.rtmrs[0] = other()),
        tdx("rtmr1", "rtmr1", |m| m.rules.rtmrs[1] = other()),
        tdx("rtmr2", "rtmr2", |m| m.rules.rtmrs[2] = other()),
        tdx("rtmr3", "rtmr3", |m| m.rules.rtmrs[3] = other()),
        tdx("event_log", "event_log_missing", |m| {
            m.rules.require_event_log = true
        }),
        tdx("event_log", "event_log_malformed", |m| {
            m.event_log = Some(vec![0; 40])
        }),
        tdx("event_log", "event_log_malformed", |m| {
            m.event_log = Some(vec![0xff; 40])
        }),
        tdx("event_log_replay", "event_log_replay", |m| {
            m.event_log = Some(EMPTY_LOG.to_vec());
            m.body[328] = 1;
        }),
        tdx("event_log_replay", "event_log_replay", |m| {
            m.event_log = Some(EMPTY_LOG.to_vec());
            m.body[471] = 1;
        }),
    ]
}

fn flips_of_the_enclave() -> Vec<Flip> {
    vec![
        sgx("debug", "debug_enabled", |m| m.body[48] |= 2),
        sgx("mrenclave", "mrenclave", |m| {
            m.rules.mrenclave = vec![[1; 32]]
        }),
        sgx("mrsigner", "mrsigner", |m| m.rules.mrsigner = vec![[1; 32]]),
        sgx("isv_prod_id", "isv_prod_id", |m| {
            m.rules.isv_prod_ids = vec![[3, 0]]
        }),
        sgx("isv_svn", "isv_svn", |m| m.rules.min_isv_svn = 5),
        sgx("enclave_flags", "enclave_flags", |m| {
            m.rules.enclave_flags = Some(Bits {
                mask: 0x10,
                value: 0x10,
            });
        }),
        sgx("tcb_info_kind", "tcb_info_kind", |m| {
            replace(&mut m.tcb_info, "\"SGX\"", "\"TDX\"");
        }),
        sgx("tcb_status", "tcb_configuration_needed", |m| {
            m.extension = extension(&[6, 6], 11)
        }),
    ]
}

#[test]
fn service_trust_domain_needs_a_rule() {
    let bound = || Machine::tdx_1_5().changed(|m| m.body[600..].fill(1));
    let named = bound().changed(|m| m.rules.mrservicetd = vec![[1; 48]]);
    assert_eq!(named.judge().reason, "verified");
    let any = bound().changed(|m| m.rules.danger_accept_service_td = true);
    assert_eq!(any.judge().reason, "verified");
}

/// A log that only says that its digests are of SHA-384: every register is zero.
const EMPTY_LOG: &[u8] = b"\x01\0\0\0\x03\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0";
