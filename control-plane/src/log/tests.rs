use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use vouchsafe_api::convert::record::standing::StandingChange;
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_attestation::revision::Revision;

use super::*;

fn entry(sequence: u64) -> RecordEntry {
    RecordEntry {
        time: UNIX_EPOCH + Duration::from_secs(1_800_000_000 + sequence),
        event: Event::PolicyChanged {
            revision: Revision { epoch: 1, sequence },
            root: [7; 32],
            documents: 3,
        },
    }
}

async fn written(count: u64) -> (tempfile::TempDir, std::path::PathBuf, Head) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records");
    let (log, _) = Log::open(&path).unwrap();
    for sequence in 1..=count {
        log.append(entry(sequence)).await.unwrap();
    }
    let head = log.head();
    (folder, path, head)
}

#[tokio::test]
async fn records_come_back_in_order_and_the_chain_goes_on_after_a_restart() {
    let (_folder, path, head) = written(3).await;
    let (log, opened) = Log::open(&path).unwrap();
    assert_eq!(
        opened,
        Opened {
            head,
            torn_bytes: 0
        }
    );
    let head = log.append(entry(4)).await.unwrap();
    assert_eq!(verify(&path, &head).unwrap(), head);
    let read = read(&path, 2, 10).unwrap();
    let entries: Vec<RecordEntry> = read
        .iter()
        .map(|record| RecordEntry::decode(&record.leaf).unwrap())
        .collect();
    assert_eq!(entries, [entry(2), entry(3), entry(4)]);
}

#[tokio::test]
async fn entries_that_wait_together_are_all_recorded() {
    let (_folder, path, _) = written(0).await;
    let (log, _) = Log::open(&path).unwrap();
    let appends = (1..=200).map(|sequence| {
        let log = log.clone();
        tokio::spawn(async move { log.append(entry(sequence)).await.unwrap().records })
    });
    let mut numbers = Vec::new();
    for append in appends.collect::<Vec<_>>() {
        numbers.push(append.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    assert_eq!(verify(&path, &log.head()).unwrap().records, 200);
}

#[tokio::test]
async fn any_flipped_bit_is_found() {
    let (_folder, path, head) = written(3).await;
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        assert!(verify(&path, &head).is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn a_dropped_and_a_swapped_record_are_found() {
    let (_folder, path, head) = written(3).await;
    let whole = fs::read(&path).unwrap();
    let header = 24;
    let size = (whole.len() - header) / 3;
    let record = |number: usize| &whole[header + number * size..header + (number + 1) * size];
    let start = &whole[..header];
    let dropped = [start, record(0), record(2)].concat();
    let swapped = [start, record(1), record(0), record(2)].concat();
    for changed in [dropped, swapped] {
        fs::write(&path, &changed).unwrap();
        assert!(matches!(verify(&path, &head), Err(LogError::Broken { .. })));
        assert!(
            Log::open(&path).is_err(),
            "the control plane does not start on it"
        );
    }
}

#[tokio::test]
async fn a_cut_end_shows_against_the_head_that_was_kept() {
    let (_folder, path, head) = written(3).await;
    let whole = fs::read(&path).unwrap();
    let size = (whole.len() - 24) / 3;
    fs::write(&path, &whole[..whole.len() - size]).unwrap();
    assert!(matches!(
        verify(&path, &head),
        Err(LogError::CutOff { found: 2, kept: 3 })
    ));
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        verify(&path, &head),
        Err(LogError::CutOff { found: 0, kept: 3 })
    ));
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
    let (_folder, path, _) = written(2).await;
    let whole = fs::read(&path).unwrap();
    let size = (whole.len() - 24) / 2;
    for torn in 1..size {
        fs::write(&path, &whole[..whole.len() - torn]).unwrap();
        let (log, opened) = Log::open(&path).unwrap();
        assert_eq!(opened.head.records, 1, "{torn}");
        assert_eq!(opened.torn_bytes, (size - torn) as u64, "{torn}");
        assert_eq!(log.append(entry(9)).await.unwrap().records, 2);
    }
}

#[tokio::test]
async fn an_entry_with_more_text_than_a_leaf_holds_is_recorded_and_read_at_the_next_start() {
    let (_folder, path, _) = written(1).await;
    let (log, _) = Log::open(&path).unwrap();
    let change = StandingChange {
        workload: "inference/llm".into(),
        instance: [1; 16],
        standing: "revoked".into(),
        reason: "ima_file".into(),
        detail: "x".repeat(5000),
        evidence_sha256: [2; 32],
        difference: vec!["x".repeat(5000); 17],
    };
    let event = Event::StandingChanged(Box::new(change));
    let entry = RecordEntry {
        time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        event,
    };
    let head = log.append(entry).await.unwrap();
    let (_, opened) = Log::open(&path).unwrap();
    assert_eq!(opened.head, head);
}
