//! Renewal without storms: many that come at once all get their certificates, and a forced renewal keeps its pace. Real
//! certificates, a real control plane.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_proxy::attester::simulated::Simulated;
use vouchsafe_proxy::attester::{Attester, Attesters};
use vouchsafe_proxy::clock::MeshClock;
use vouchsafe_proxy::svid::client::{AttestClient, Issuance};
use vouchsafe_proxy::svid::connection::ControlPlane;
use vouchsafe_tests::documents::{
    SIMULATED_DOMAIN, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

fn names(many: usize) -> Vec<String> {
    (0..many).map(|number| format!("n{number}")).collect()
}

/// A workload of each name, on a machine of that name.
fn documents(names: &[String]) -> String {
    let mut documents = vec![simulated_mesh(), simulated_profile("app/any", "any")];
    for name in names {
        documents.push(simulated_node(&format!("app/{name}")));
        documents.push(workload(&format!("app/{name}"), "any", name, &[]));
    }
    documents.join("---\n")
}

/// Records of certificates that were issued for a purpose.
fn issued(mesh: &Mesh, purpose: &str) -> Vec<Value> {
    let records = mesh.records().into_iter();
    records.filter(|one| one["purpose"] == purpose).collect()
}

/// What a sidecar attests with.
struct Attesting {
    client: AttestClient,
    attesters: Attesters,
}

impl Attesting {
    fn new(mesh: &Mesh, name: &str) -> Self {
        let clock = Arc::new(MeshClock::authenticated());
        let trust_domain: TrustDomain = SIMULATED_DOMAIN.parse().expect("a trust domain");
        let mut pin = [0; 32];
        hex::decode_to_slice(mesh.root_pin(), &mut pin).expect("a pin is a digest");
        let control_plane = ControlPlane::new(
            vec![mesh.listen().to_string()],
            vec![pin],
            trust_domain.clone(),
            Arc::clone(&clock),
        );
        Self {
            client: AttestClient {
                control_plane: Arc::new(control_plane),
                clock,
                trust_domain,
                workload: format!("app/{name}").parse().expect("a name"),
                join_token: None,
                endpoints: Vec::new(),
            },
            attesters: Attesters::new(vec![Attester::Simulated(Simulated {
                machine: name.to_owned(),
                image: "any".to_owned(),
            })]),
        }
    }

    /// Attests for as long as it takes, and comes back when it is told to, as a sidecar does.
    async fn attest(&self, purpose: Purpose, current: Option<&Issuance>) -> Issuance {
        let until = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            let svid = current.map(|issuance| &issuance.svid);
            let error = match self.client.attest(&self.attesters, purpose, svid).await {
                Ok(issuance) => return issuance,
                Err(error) => error,
            };
            assert!(tokio::time::Instant::now() < until, "{error:?}");
            let told = error.retry_after().unwrap_or(Duration::from_millis(100));
            tokio::time::sleep(told).await;
        }
    }
}

/// How often what a control plane refused stands in its record.
fn refused(mesh: &Mesh) -> usize {
    let records = mesh.records().into_iter();
    records.filter(|one| one["refused"] == true).count()
}

#[test]
fn a_hundred_that_renew_at_once_all_get_their_certificates() {
    const MANY: usize = 100;
    let names = names(MANY);
    let mesh = Mesh::start(&documents(&names));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let pairs = runtime.block_on(async {
        let (mut tasks, together) = (JoinSet::new(), Arc::new(Barrier::new(MANY)));
        for name in &names {
            let (attesting, together) = (Attesting::new(&mesh, name), Arc::clone(&together));
            tasks.spawn(async move {
                let first = attesting.attest(Purpose::Enroll, None).await;
                together.wait().await;
                let second = attesting.attest(Purpose::Renew, Some(&first)).await;
                (first, second)
            });
        }
        tasks.join_all().await
    });
    let (mut serials, mut instances) = (BTreeSet::new(), BTreeSet::new());
    for (first, second) in &pairs {
        assert_eq!(
            first.instance, second.instance,
            "a renewal keeps its instance"
        );
        assert_eq!(first.peer.id(), second.peer.id());
        instances.insert(first.instance);
        serials.extend([first, second].map(|one| one.peer.serial().to_string()));
    }
    assert_eq!((instances.len(), serials.len()), (MANY, 2 * MANY));
    assert_eq!(
        issued(&mesh, "renew").len(),
        MANY,
        "none is lost, none twice"
    );
    assert_eq!(refused(&mesh), 0);
}

#[test]
fn a_forced_renewal_of_many_keeps_its_pace() {
    const MANY: usize = 8;
    let names = names(MANY);
    let mesh = Mesh::start(&documents(&names));
    let start = |name: &String| {
        let spec = mesh.simulated(name, &format!("app/{name}"), name, "any");
        spec.start(mesh.path())
    };
    let mut sidecars: Vec<Sidecar> = names.iter().map(start).collect();
    sidecars.iter_mut().for_each(Sidecar::wait_ready);

    let too_fast = ["renew", "--all", "--over", "1ms", "--reason", "haste"];
    let refused = mesh.cli(&too_fast);
    assert!(!refused.success, "{refused:?}");
    assert!(refused.stderr.contains("take at least 1 s"), "{refused:?}");
    let command = [
        "renew",
        "--all",
        "--over",
        "12s",
        "--reason",
        "key ceremony",
    ];
    mesh.cli(&command).expect_success();
    wait::until("all to renew", || {
        (issued(&mesh, "renew").len() >= MANY).then_some(())
    });
    let records = mesh.records();
    let mut forced = { records.iter() }.filter(|one| one["kind"] == "renewal_forced");
    let (forced, another) = (forced.next().expect("a record"), forced.next());
    assert_eq!(another, None, "what was refused is announced");
    let number = |record: &Value, name: &str| record[name].as_u64().expect("milliseconds");
    let (start, end) = (number(forced, "start"), number(forced, "end"));
    assert_eq!(end - start, 12_000);
    let paced = PacedRenewal {
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(start),
        over: Duration::from_millis(end - start),
    };
    let (mut renewed, mut places) = (BTreeSet::new(), BTreeSet::new());
    for record in issued(&mesh, "renew") {
        let instance = record["instance"].as_str().expect("a number in hex");
        let bytes = hex::decode(instance).expect("a number in hex");
        let instance = InstanceId(bytes.try_into().expect("it is of this length"));
        let place = paced.place(instance);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(number(&record, "time"));
        assert!(at >= place, "{record} comes before its place {place:?}");
        assert!(renewed.insert(instance), "{record}: a second time");
        places.insert(place);
    }
    assert_eq!(renewed.len(), MANY);
    assert_eq!(places.len(), MANY, "two at one place");
}
