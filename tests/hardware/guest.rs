//! Guests of SEV-SNP and TDX, through a configfs-tsm like the kernel's.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use rustix::io::Errno;
use vouchsafe_config::proxy::Tsm;
use vouchsafe_proxy::attester::device_thread::DeviceThreadError;
use vouchsafe_proxy::attester::tsm::processor::processor_of;
use vouchsafe_proxy::attester::tsm::{Provider, TsmAttester, TsmError};
use vouchsafe_tests::configfs::{Asked, Configfs, Made};
use vouchsafe_tests::wait;
use vouchsafe_verifier::dossier::{Expected, Kind};
use vouchsafe_verifier::judgement::{Status, Value};

use crate::support::{judge, vector};

const SNP: &str = "snp/milan-v2-vcek";
const TDX: &str = "tdx/v4-uptodate-dstack";
/// 2025-06-01T00:00:00Z and a month later, when the cases' endorsements are good.
const SNP_THEN: u64 = 1_748_736_000;
const TDX_THEN: u64 = 1_751_328_000;

fn config(configfs: &Configfs) -> Tsm {
    Tsm {
        path: configfs.path(),
        privilege_level: None,
        event_log: None,
    }
}

async fn open(provider: Provider, configfs: &Configfs) -> Result<TsmAttester, TsmError> {
    TsmAttester::open(provider, &config(configfs)).await
}

/// A report of a real machine over other report data, so that nobody signed it.
fn snp_report(report_data: &[u8]) -> Vec<u8> {
    let mut report = vector(&format!("{SNP}/report.bin"));
    report[0x50..0x90].copy_from_slice(report_data);
    report
}

fn snp(asked: &Asked) -> Result<Made, Errno> {
    Ok(Made {
        outblob: snp_report(&asked.inblob),
        auxblob: b"certificates".to_vec(),
    })
}

#[tokio::test]
async fn what_a_real_snp_guest_said_is_collected_and_believed() {
    if !Configfs::is_possible() {
        return;
    }
    let real = vector(&format!("{SNP}/report.bin"));
    let report_data: [u8; 64] = real[0x50..0x90].try_into().unwrap();
    let served = real.clone();
    let configfs = Configfs::mount("sev_guest", move |_| {
        Ok(Made {
            outblob: served.clone(),
            auxblob: Vec::new(),
        })
    })
    .unwrap();
    let attester = open(Provider::SevSnp, &configfs).await.unwrap();
    let said = attester.report(&report_data).await.unwrap();
    assert!(said.certificates.is_empty() && said.event_log.is_empty());
    let vek = vector(&format!("{SNP}/vek.der"));
    let files = [("report.bin", said.report.as_slice()), ("vek.der", &vek)];
    let expected = Expected::ReportData(report_data);
    let judgement = judge(Kind::SevSnp, &files, expected, SNP_THEN);
    assert!(
        matches!(judgement.status, Status::Affirming | Status::Warning),
        "{judgement:#?}"
    );
    let other = judge(
        Kind::SevSnp,
        &files,
        Expected::ReportData([7; 64]),
        SNP_THEN,
    );
    assert_eq!(other.status, Status::Contraindicated);
    // The kernel would have to be asked for this very data.
    let error = attester.report(&[7; 64]).await.unwrap_err();
    assert!(matches!(error, TsmError::OtherReportData), "{error}");
    assert!(configfs.entries().is_empty());
}

#[tokio::test]
async fn what_a_real_trust_domain_said_is_collected_with_its_log_and_believed() {
    if !Configfs::is_possible() {
        return;
    }
    let real = vector(&format!("{TDX}/quote.bin"));
    let report_data: [u8; 64] = real[568..632].try_into().unwrap();
    let served = real.clone();
    let configfs = Configfs::mount("tdx_guest", move |_| {
        Ok(Made {
            outblob: served.clone(),
            auxblob: Vec::new(),
        })
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("CCEL");
    std::fs::write(&log, [[1; 100].as_slice(), &[0xff; 4000]].concat()).unwrap();
    let config = Tsm {
        event_log: Some(log),
        ..config(&configfs)
    };
    let attester = TsmAttester::open(Provider::Tdx, &config).await.unwrap();
    let said = attester.report(&report_data).await.unwrap();
    assert_eq!(said.report, real);
    assert_eq!(said.event_log.len(), 164);
    let collateral = vector(&format!("{TDX}/collateral.json"));
    let files = [
        ("quote.bin", said.report.as_slice()),
        ("collateral.json", &collateral),
    ];
    let expected = Expected::ReportData(report_data);
    let judgement = judge(Kind::Tdx, &files, expected, TDX_THEN);
    assert!(
        matches!(judgement.status, Status::Affirming | Status::Warning),
        "{judgement:#?}"
    );
    let error = attester.report(&[7; 64]).await.unwrap_err();
    assert!(matches!(error, TsmError::OtherReportData), "{error}");
}

#[tokio::test]
async fn the_kernel_is_asked_for_exactly_our_data_at_the_configured_level() {
    if !Configfs::is_possible() {
        return;
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let configfs = Configfs::mount("sev_guest", move |asked| {
        seen.lock().unwrap().push(asked.clone());
        snp(asked)
    })
    .unwrap();
    let config = Tsm {
        privilege_level: Some(2),
        ..config(&configfs)
    };
    let attester = TsmAttester::open(Provider::SevSnp, &config).await.unwrap();
    for byte in [7, 8] {
        let said = attester.report(&[byte; 64]).await.unwrap();
        assert_eq!(said.report, snp_report(&[byte; 64]));
        assert_eq!(said.certificates, b"certificates");
    }
    let asked = asked.lock().unwrap();
    let [first, second] = asked.as_slice() else {
        panic!("asked twice: {asked:?}")
    };
    assert_eq!(
        (first.inblob.as_slice(), first.privlevel),
        (&[7; 64][..], Some(2))
    );
    assert_eq!(second.inblob, [8; 64]);
    assert_ne!(first.entry, second.entry, "each request has its own entry");
    assert!(configfs.entries().is_empty());
}

#[tokio::test]
async fn a_level_that_the_guest_does_not_have_is_said() {
    if !Configfs::is_possible() {
        return;
    }
    let configfs = Configfs::mount("sev_guest", snp).unwrap();
    let config = Tsm {
        privilege_level: Some(0),
        ..config(&configfs)
    };
    let attester = TsmAttester::open(Provider::SevSnp, &config).await.unwrap();
    let error = attester.report(&[7; 64]).await.unwrap_err();
    assert!(error.to_string().contains("configured `vmpl`"), "{error}");
    assert!(configfs.entries().is_empty());
}

#[tokio::test]
async fn an_entry_that_another_process_wrote_into_is_given_up_for_a_new_one() {
    if !Configfs::is_possible() {
        return;
    }
    let root = Arc::new(Mutex::new(None::<std::path::PathBuf>));
    let requests = Arc::new(AtomicU32::new(0));
    let (found, count) = (Arc::clone(&root), Arc::clone(&requests));
    let configfs = Configfs::mount("sev_guest", move |asked| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            let root = found.lock().unwrap().clone().unwrap();
            let inblob = root.join(&asked.entry).join("inblob");
            std::fs::OpenOptions::new()
                .write(true)
                .open(inblob)
                .and_then(|mut file| std::io::Write::write_all(&mut file, &[9; 64]))
                .unwrap();
        }
        snp(asked)
    })
    .unwrap();
    *root.lock().unwrap() = Some(configfs.path());
    let attester = open(Provider::SevSnp, &configfs).await.unwrap();
    let said = attester.report(&[7; 64]).await.unwrap();
    assert_eq!(said.report, snp_report(&[7; 64]));
    // Ours, ours again because it was written into before the certificates were read, and the new entry's.
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    assert!(configfs.entries().is_empty());
}

#[tokio::test]
async fn a_busy_interface_and_an_empty_quote_are_asked_again() {
    if !Configfs::is_possible() {
        return;
    }
    let requests = AtomicU32::new(0);
    let configfs = Configfs::mount("tdx_guest", move |asked| {
        let mut quote = vec![0; 5000];
        quote[0] = 4;
        quote[568..632].copy_from_slice(&asked.inblob);
        match requests.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Errno::BUSY),
            1 => Err(Errno::TIMEDOUT),
            2 => Ok(Made::default()),
            _ => Ok(Made {
                outblob: quote,
                auxblob: Vec::new(),
            }),
        }
    })
    .unwrap();
    let attester = open(Provider::Tdx, &configfs).await.unwrap();
    attester.report(&[7; 64]).await.unwrap();
    assert!(configfs.entries().is_empty());
}

#[tokio::test]
async fn what_the_firmware_refuses_is_said_at_once() {
    if !Configfs::is_possible() {
        return;
    }
    for (errno, words) in [
        (Errno::NOTTY, "reboot it"),
        (Errno::INVAL, "the kernel refused `outblob`"),
        (Errno::NXIO, "the kernel refused `outblob`"),
    ] {
        let requests = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&requests);
        let configfs = Configfs::mount("sev_guest", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Err(errno)
        })
        .unwrap();
        let attester = open(Provider::SevSnp, &configfs).await.unwrap();
        let error = attester.report(&[7; 64]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        assert!(configfs.entries().is_empty());
    }
}

#[tokio::test]
async fn a_report_of_another_shape_or_length_does_not_leave() {
    if !Configfs::is_possible() {
        return;
    }
    for (length, words) in [(1183, "can't be read"), (40_000, "refused `outblob`")] {
        let configfs = Configfs::mount("sev_guest", move |asked| {
            let mut outblob = snp_report(&asked.inblob);
            outblob.resize(length, 0);
            Ok(Made {
                outblob,
                auxblob: Vec::new(),
            })
        })
        .unwrap();
        let attester = open(Provider::SevSnp, &configfs).await.unwrap();
        let error = attester.report(&[7; 64]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(configfs.entries().is_empty());
    }
}

#[tokio::test]
async fn a_machine_of_another_make_does_not_start() {
    if !Configfs::is_possible() {
        return;
    }
    let nothing = Configfs::mount_without_provider().unwrap();
    let error = open(Provider::SevSnp, &nothing).await.unwrap_err();
    assert!(matches!(error, TsmError::NoProvider), "{error}");
    let tdx = Configfs::mount("tdx_guest", snp).unwrap();
    let error = open(Provider::SevSnp, &tdx).await.unwrap_err();
    assert!(matches!(error, TsmError::OtherProvider { .. }), "{error}");
    assert!(
        error.to_string().contains("`attester` in proxy.yaml"),
        "{error}"
    );
    let arm = Configfs::mount("arm_cca_guest", snp).unwrap();
    let error = open(Provider::SevSnp, &arm).await.unwrap_err();
    assert!(error.to_string().contains("arm_cca_guest"), "{error}");
    assert!(tdx.entries().is_empty() && arm.entries().is_empty());
}

#[tokio::test]
async fn a_read_that_hangs_holds_nobody_up_and_leaves_no_entry() {
    if !Configfs::is_possible() {
        return;
    }
    let (let_go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let configfs = Configfs::mount("sev_guest", move |asked| {
        // Returns when the sender is gone.
        let _gone = held.lock().unwrap().recv();
        snp(asked)
    })
    .unwrap();
    let attester = open(Provider::SevSnp, &configfs).await.unwrap();
    // Time goes on by itself as soon as there is nothing but the kernel to wait for.
    tokio::time::pause();
    let error = attester.report(&[7; 64]).await.unwrap_err();
    assert!(
        matches!(error, TsmError::Thread(DeviceThreadError::Hung { .. })),
        "{error}"
    );
    let error = attester.report(&[7; 64]).await.unwrap_err();
    assert!(
        matches!(error, TsmError::Thread(DeviceThreadError::Busy(_))),
        "{error}"
    );
    wait::until("the entry to be in use", || {
        (configfs.entries().len() == 1).then_some(())
    });
    drop(let_go);
    wait::until("the entry to be removed", || {
        configfs.entries().is_empty().then_some(())
    });
}

/// What `collect` pins is what evidence proves.
#[test]
fn a_real_quote_names_the_processor_that_the_verifier_claims() {
    let mut named = 0;
    for case in [
        "tdx/v4-uptodate-dstack",
        "tdx/v4-gcp-padded-8000",
        "tdx/v4-spr-e4-google",
        "tdx/v4-debug",
        "tdx/v5-outofdate-azure",
    ] {
        let quote = vector(&format!("{case}/quote.bin"));
        let files = [("quote.bin", quote.as_slice())];
        let judgement = judge(Kind::Tdx, &files, Expected::ReportData([7; 64]), TDX_THEN);
        let claimed = |claim: &str| match judgement.claims.get(claim) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let found = processor_of(&quote).unwrap_or_else(|| panic!("{case} names no processor"));
        assert_eq!(found.ppid.map(hex::encode), claimed("ppid"), "{case}");
        let machine = found.platform_instance_id.map(hex::encode);
        assert_eq!(machine, claimed("platform_instance_id"), "{case}");
        named += usize::from(machine.is_some());
    }
    assert!(named > 0, "no case has a machine of several processors");
}
