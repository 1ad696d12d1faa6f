//! What any engine of [`Store`] must do. One suite, run against each.

use std::sync::Arc;

use super::{Change, Expect, Store, StoreError, Write};

/// Runs all rules against an empty store.
pub(crate) async fn run<S: Store>(store: Arc<S>) {
    conditions_are_exact(&*store).await;
    transactions_are_all_or_nothing(&*store).await;
    of_many_claims_exactly_one_wins(&store).await;
    lists_are_ordered_and_stop_at_the_prefix(&*store).await;
    a_watch_shows_every_change_once_and_in_order(&store).await;
}

async fn conditions_are_exact<S: Store>(store: &S) {
    let first = store
        .put_if("c/1", b"a".to_vec(), Expect::Absent)
        .await
        .unwrap();
    assert_conflict(store.put_if("c/1", b"b".to_vec(), Expect::Absent).await);
    assert_conflict(
        store
            .put_if("c/1", b"b".to_vec(), Expect::Revision(first + 1))
            .await,
    );
    let second = store
        .put_if("c/1", b"b".to_vec(), Expect::Revision(first))
        .await
        .unwrap();
    assert!(second > first);
    assert_conflict(store.delete_if("c/1", Expect::Revision(first)).await);
    store
        .delete_if("c/1", Expect::Revision(second))
        .await
        .unwrap();
    assert_eq!(store.get("c/1").await.unwrap(), None);
}

async fn transactions_are_all_or_nothing<S: Store>(store: &S) {
    let write = |key: &str, expect| Write {
        key: key.to_owned(),
        expect,
        value: Some(b"x".to_vec()),
    };
    store
        .txn(vec![write("t/held", Expect::Absent)])
        .await
        .unwrap();
    let result = store
        .txn(vec![
            write("t/new", Expect::Absent),
            write("t/held", Expect::Absent),
        ])
        .await;
    assert_conflict(result);
    assert_eq!(store.get("t/new").await.unwrap(), None);
}

async fn of_many_claims_exactly_one_wins<S: Store>(store: &Arc<S>) {
    let claims = (0..32u8).map(|claimant| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            store
                .put_if("claim", vec![claimant], Expect::Absent)
                .await
                .is_ok()
        })
    });
    let mut winners = 0;
    for claim in claims.collect::<Vec<_>>() {
        winners += usize::from(claim.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn lists_are_ordered_and_stop_at_the_prefix<S: Store>(store: &S) {
    for key in ["l/b", "l/a", "l0", "l/c", "k/z"] {
        store.put_if(key, vec![], Expect::Any).await.unwrap();
    }
    let (found, revision) = store.list("l/").await.unwrap();
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["l/a", "l/b", "l/c"]);
    assert!(
        found.iter().all(|(_, entry)| entry.revision <= revision),
        "a list is never newer than the revision it names"
    );
}

async fn a_watch_shows_every_change_once_and_in_order<S: Store>(store: &Arc<S>) {
    let (_, from) = store.list("").await.unwrap();
    let before = store
        .put_if("w/1", b"1".to_vec(), Expect::Any)
        .await
        .unwrap();
    let mut watch = store.watch(from);
    let after = store.delete_if("w/1", Expect::Any).await.unwrap();
    let expected = [
        Change {
            revision: before,
            key: "w/1".into(),
            value: Some(b"1".to_vec()),
        },
        Change {
            revision: after,
            key: "w/1".into(),
            value: None,
        },
    ];
    for change in expected {
        assert_eq!(watch.recv().await.unwrap().unwrap(), change);
    }
    // Whoever resumes from the middle sees the rest, whatever happened meanwhile.
    let mut resumed = store.watch(before);
    assert_eq!(resumed.recv().await.unwrap().unwrap().revision, after);
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Conflict(_))),
        "expected a conflict, found {result:?}"
    );
}
