//! A control plane that was brought back from an older copy of its data: it stops until an operator says that he knows.

use vouchsafe_api::convert::mesh_state::Holding;
use vouchsafe_attestation::revision::Revision;

use super::revoking::revoke;
use super::*;

type Svid = (Vec<Vec<u8>>, Vec<u8>);

async fn enroll(factory: &Factory, workload: &'static str, machine: &'static str) -> Svid {
    let sidecar = Sidecar::new(workload, machine);
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    (issued.certificate_chain, key)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() => drop(fs::copy(entry.path(), target).unwrap()),
            _ => {}
        }
    }
    let mode = fs::metadata(from).unwrap().permissions();
    fs::set_permissions(to, mode).unwrap();
}

fn restored() -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: "restored".to_owned(),
        reason: "the disk was lost".to_owned(),
        max_drop: 100,
        max_drop_is_percent: true,
        ..v1::ChangeRequest::default()
    }
}

#[tokio::test]
async fn a_control_plane_that_its_sidecars_have_outrun_stops_until_an_operator_says_so() {
    let factory = Factory::start(POLICY).await;
    let svid = enroll(&factory, "dev/api", "laptop").await;
    let data = factory.data();
    let kept = data.with_file_name("kept");
    let factory = factory.restart_after(|| copy(&data, &kept)).await.unwrap();
    let connection = factory.connect(Some(&svid)).await;
    let mut watch = connection.watch().await;
    watch.settled().await;
    let more = format!("{POLICY}{}", harness::ANOTHER_RULE);
    for policy in [more.as_str(), POLICY] {
        factory.write_policy(policy);
        watch.change().await;
    }
    let held = watch.settled().await;
    drop((connection, watch));
    let back = || {
        fs::remove_dir_all(&data).unwrap();
        fs::rename(&kept, &data).unwrap();
    };
    let factory = factory.restart_after(back).await.unwrap();
    let made = Revision::from(factory.status().await.revision.unwrap());
    assert!(made < held.revision, "{made}");
    let connection = factory.connect(Some(&svid)).await;
    let mut watch = connection.subscribe(held).await.unwrap();
    eventually("the control plane to see it", || async {
        let metrics = factory.metrics().await;
        metrics.contains("vouchsafe_control_plane_outrun 1\n")
    })
    .await;
    let outrun = factory.status().await.outrun.unwrap();
    assert_eq!(outrun.revision, Some(held.revision.into()));
    assert_eq!((outrun.sidecars, outrun.of), (1, 1));
    // Nothing is issued, nothing is changed, and nothing that is in the folder comes in force.
    let refused = factory.attest(&Sidecar::new("dev/web", "other")).await;
    assert_eq!(reason(refused.map(|_| ())), "control_plane_unavailable");
    let refused = factory
        .change(revoke("{workload: [web]}"))
        .await
        .unwrap_err();
    assert!(refused.contains("vouchsafe restored"), "{refused}");
    factory.write_policy(&more);
    eventually("the folder to be refused", || async {
        factory.status().await.policy_error.contains("older copy")
    })
    .await;
    assert_eq!(
        Revision::from(factory.status().await.revision.unwrap()),
        made
    );
    // By an act of an operator what is there counts again.
    let taken = async {
        loop {
            // What comes below its own revision a sidecar refuses; the first of another epoch is all of its slice.
            let message = watch.next().await;
            if matches!(message, WatchResponse::Snapshot(_)) {
                return watch.take_in(message).await.unwrap();
            }
        }
    };
    let (answered, signed) = tokio::join!(factory.change(restored()), taken);
    let answered = answered.unwrap();
    assert!(answered.made, "{answered:?}");
    assert_eq!(answered.revision.map(Revision::from), Some(signed.revision));
    assert_eq!((held.revision.epoch, signed.revision.epoch), (1, 2));
    factory.verify(&signed);
    let act = factory.acts().remove(0);
    assert_eq!(
        (act.act.as_str(), act.reason.as_str()),
        ("restored", "the disk was lost")
    );
    let status = factory.status().await;
    assert_eq!((status.outrun, status.sidecars[0].behind), (None, 0));
    eventually("the folder to be in force", || async {
        factory.status().await.policy_error.is_empty()
    })
    .await;
    enroll(&factory, "dev/web", "other").await;
    let forced = v1::ChangeRequest {
        max_drop: 100,
        ..revoke("{workload: [web]}")
    };
    assert!(factory.change(forced).await.unwrap().made);
    drop((connection, watch));
    let factory = factory.restart().await.unwrap();
    assert_eq!(factory.status().await.revision.unwrap().epoch, 2);
    factory.stop().await;
}

#[tokio::test]
async fn one_sidecar_that_lies_about_what_it_holds_stops_nothing() {
    let factory = Factory::start(POLICY).await;
    let (api, web) = (
        enroll(&factory, "dev/api", "laptop").await,
        enroll(&factory, "dev/web", "other").await,
    );
    let (one, other) = (
        factory.connect(Some(&api)).await,
        factory.connect(Some(&web)).await,
    );
    let mut honest = one.watch().await;
    honest.settled().await;
    let liar = other.subscribe(Holding {
        revision: Revision {
            epoch: u64::MAX,
            sequence: u64::MAX,
        },
        slice_root: Some([7; 32]),
    });
    let liar = liar.await.unwrap();
    eventually("both to be connected", || async {
        let status = factory.status().await;
        status.sidecars.iter().filter(|one| one.connected).count() == 2
    })
    .await;
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    honest.change().await;
    assert_eq!(factory.status().await.outrun, None);
    drop(liar);
    factory.stop().await;
}
