//! What needs no kernel: shapes of reports, plain folders, errors. The kernel's behaviour is emulated in the suite of
//! the whole system.

use super::*;

fn config(path: &Path) -> Tsm {
    Tsm {
        path: path.to_owned(),
        privilege_level: None,
        event_log: None,
    }
}

#[test]
fn report_data_is_found_where_each_maker_puts_it() {
    #[track_caller]
    fn check(provider: Provider, length: usize, head: &[u8], at: usize) {
        let mut report = vec![0; length];
        report[..head.len()].copy_from_slice(head);
        report[at..at + 64].fill(7);
        assert_eq!(report_data_of(provider, &report), Some(&[7; 64]));
    }
    check(Provider::SevSnp, 1184, &[5], 0x50);
    check(Provider::Tdx, 5000, &[4, 0], 48 + 520);
    check(Provider::Tdx, 8000, &[5, 0], 54 + 520);
}

#[test]
fn what_is_no_report_has_no_report_data() {
    for length in (0..1184).chain([1185, 4000]) {
        assert_eq!(report_data_of(Provider::SevSnp, &vec![0; length]), None);
    }
    let mut quote = vec![0; 54 + 520 + 64];
    for version in [0, 3, 6, 255] {
        quote[0] = version;
        assert_eq!(report_data_of(Provider::Tdx, &quote), None);
    }
    quote[0] = 5;
    for length in 0..quote.len() {
        assert_eq!(report_data_of(Provider::Tdx, &quote[..length]), None);
    }
    assert!(report_data_of(Provider::Tdx, &quote).is_some());
}

#[tokio::test]
async fn a_kernel_without_the_interface_is_told_which_one_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join("report"));
    let error = TsmAttester::open(Provider::SevSnp, &config)
        .await
        .unwrap_err();
    assert!(matches!(error, TsmError::NoInterface(_)), "{error:?}");
    assert!(error.to_string().contains("Linux 6.7"), "{error}");
}

#[test]
fn a_folder_that_is_not_the_kernels_gives_no_report_and_keeps_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let error = request(Provider::Tdx, &config(folder.path()), &[7; 64]).unwrap_err();
    let TsmError::System { operation, source } = error else {
        panic!("{error:?}");
    };
    assert_eq!(operation, "provider");
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn an_attribute_is_never_created() {
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::create(folder.path()).unwrap();
    assert!(entry.write("inblob", &[7; 64]).is_err());
    drop(entry);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn the_event_log_is_cut_behind_its_events_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("CCEL");
    let config = Tsm {
        event_log: Some(path.clone()),
        ..config(folder.path())
    };
    let read = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        event_log(&config)
    };
    let events = [1, 2, 0xff, 3];
    assert_eq!(read(&events).unwrap(), events);
    let table = [events.as_slice(), &[0xff; 4096]].concat();
    assert_eq!(read(&table).unwrap(), table[..4 + 64]);
    assert_eq!(read(&[0xff; 4096]).unwrap(), [0xff; 64]);
    assert!(read(&[1; MAX_EVENT_LOG + 1]).is_err());
    std::fs::remove_file(&path).unwrap();
    let error = event_log(&config).unwrap_err();
    assert!(error.to_string().contains("CCEL"), "{error}");
}

#[test]
fn only_what_may_pass_is_asked_again_and_not_for_ever() {
    let errors = |errno: Errno| TsmError::failed("outblob", errno.into());
    for passing in [
        errors(Errno::BUSY),
        errors(Errno::AGAIN),
        errors(Errno::INTR),
        errors(Errno::TIMEDOUT),
        TsmError::Raced,
        TsmError::Empty,
    ] {
        assert!(passing.is_passing(), "{passing}");
    }
    for lasting in [
        errors(Errno::INVAL),
        errors(Errno::NOTTY),
        TsmError::OtherReportData,
        TsmError::NoProvider,
    ] {
        assert!(!lasting.is_passing(), "{lasting}");
    }
    let ask_until = |until: Instant| {
        let mut asked = 0;
        let outcome = retry(until, || {
            asked += 1;
            if asked < 3 {
                Err(TsmError::Raced)
            } else {
                Ok(())
            }
        });
        (asked, outcome.is_ok())
    };
    assert_eq!(ask_until(Instant::now()), (1, false));
    assert_eq!(
        ask_until(Instant::now() + Duration::from_secs(600)),
        (3, true)
    );
}
