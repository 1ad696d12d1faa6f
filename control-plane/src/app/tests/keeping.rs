//! What the keeper does when something fails in between: nothing that changed is lost, nothing is told before it is kept.

use vouchsafe_api::convert::mesh_state::ResourceName;
use vouchsafe_api::convert::record::refusals::RefusalsSummed;

use super::*;
use crate::policy::PANICS;
use crate::store::Store;

impl Factory {
    fn knows_the_other_rule(&self) -> bool {
        let state = Arc::clone(&self.control_plane().mesh.borrow().state);
        state.policy.set.access_policies().count() == 2
    }

    fn policy_folder(&self) -> PathBuf {
        self.data().join("../policy")
    }
}

#[tokio::test]
async fn a_policy_that_could_not_be_published_once_is_tried_again() {
    let factory = Factory::start(POLICY).await;
    let store = factory.control_plane().registry.store();
    store.fail_once("mesh/revision");
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    eventually("the failure to be told", || async {
        let metrics = factory.metrics().await;
        metrics.contains("vouchsafe_policy_loads_total{outcome=\"refused\"} 1")
    })
    .await;
    // The folder does not change again, and the policy is in force all the same.
    eventually("the policy to be in force", || async {
        factory.knows_the_other_rule() && factory.status().await.policy_error.is_empty()
    })
    .await;
    factory.stop().await;
}

#[tokio::test]
async fn a_loader_that_panics_does_not_lose_the_folder() {
    let factory = Factory::start(POLICY).await;
    let marker = factory.policy_folder().join(PANICS);
    fs::write(&marker, "").unwrap();
    eventually("the panic to be told", || async {
        let error = factory.status().await.policy_error;
        error.contains("could not be read")
    })
    .await;
    fs::remove_file(&marker).unwrap();
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    eventually("the policy to be in force", || async {
        factory.knows_the_other_rule() && factory.status().await.policy_error.is_empty()
    })
    .await;
    factory.stop().await;
}

#[tokio::test]
async fn what_turned_bad_is_in_the_store_before_anybody_is_told() {
    let factory = Factory::start(POLICY).await;
    let issued = factory.attest(&Sidecar::new("dev/api", "laptop")).await;
    let instance = issued.unwrap().instance;
    let control_plane = factory.control_plane();
    let registry = &control_plane.registry;
    let mut mesh = control_plane.mesh.clone();
    // Whoever revokes gets no further than memory: his own writing does not begin.
    let held = registry.hold_queue().await;
    tokio::select! {
        biased;
        revoked = registry.revoke(&instance, "image", now(), |_| true) => panic!("{revoked:?}"),
        () = std::future::ready(()) => {}
    }
    assert!(registry.is_revoked(&instance));
    drop(held);
    let workload = "dev/api".parse().unwrap();
    let name = ResourceName::Trust(instance).to_string();
    let is_told = |state: &crate::mesh::MeshState| {
        let resources = state.slice(&workload).resources();
        resources.iter().any(|one| one.name == name)
    };
    let told = mesh.wait_for(|published| is_told(&published.state));
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    drop(told.unwrap().unwrap());
    let stored = registry.store().get(&format!("instances/{instance}")).await;
    let stored = String::from_utf8(stored.unwrap().unwrap().value).unwrap();
    assert!(stored.contains("\"state\":\"revoked\""), "{stored}");
    factory.stop().await;
}

#[tokio::test]
async fn strangers_who_are_refused_again_and_again_fill_no_disk_and_known_instances_are_told_each()
{
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain, key);
    let stranger = Sidecar::new("dev/api", "stolen");
    let single = |factory: &Factory, wanted: &str| {
        let records = factory.records().into_iter();
        let refused = records.filter(
            |record| matches!(&record.event, Event::Refused(refused) if refused.reason == wanted),
        );
        refused.count()
    };
    for _ in 0..40 {
        let refused = factory.attest(&stranger).await.map(|_| ());
        assert_eq!(reason(refused), "not_a_member");
    }
    assert_eq!(single(&factory, "not_a_member"), 20);
    let renewal = Sidecar {
        purpose: Purpose::Renew,
        broken_request: true,
        ..sidecar
    };
    for _ in 0..30 {
        let refused = factory.attest_with_key(&renewal, Some(&svid)).await;
        assert_eq!(reason(refused.map(|_| ())), "certificate_request");
    }
    assert_eq!(single(&factory, "certificate_request"), 30);
    // Who looks at metrics sees each.
    let metrics = factory.metrics().await;
    let expected = "vouchsafe_refused_total{reason=\"not_a_member\"} 40";
    assert!(metrics.contains(expected), "{metrics}");
    // What was not told one by one is summed, at the latest when the control plane ends.
    let data = factory.data();
    let folder = factory.stop().await;
    let (path, _) = record(&data).unwrap();
    let records = crate::log::read(&path, 1, usize::MAX).unwrap();
    let sums = records.iter().filter_map(|record| {
        match RecordEntry::decode(&record.leaf).unwrap().event {
            Event::RefusalsSummed(sum) => Some(*sum),
            _ => None,
        }
    });
    let sums: Vec<RefusalsSummed> = sums.collect();
    let [sum] = sums.as_slice() else {
        panic!("one sum: {sums:?}");
    };
    let network = (sum.reason.as_str(), sum.network.as_str(), sum.count);
    assert_eq!(network, ("not_a_member", "127.0.0.0/24", 20));
    assert!(sum.first <= sum.last);
    drop(folder);
}
