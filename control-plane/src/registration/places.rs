//! Where live instances are reached: what policy declares of what they claim, and no more than receivers take.
//!
//! A sidecar says itself behind which listeners its ports are. Whatever it says, the mesh state that is made of it can be
//! applied: one that receivers refuse would keep every change from all callers of a workload.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_api::convert::mesh_state::{MAX_CONTENT_BYTES, MAX_WORKLOAD_ENDPOINTS};
use vouchsafe_attestation::name::{Name, WorkloadName};

use super::{Instance, Registry};
use crate::refusal::Refused;

/// Where workloads are reached.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// By workload; sorted, so that equal states look equal.
    pub endpoints: BTreeMap<WorkloadName, Vec<Endpoint>>,
    /// Endpoints for which there is no room.
    pub left_out: usize,
}

impl Registry {
    /// Where live instances are reached, by the ports that `declares` says a workload has.
    pub fn places(
        &self,
        now: SystemTime,
        declares: impl Fn(&WorkloadName, &Name) -> bool,
    ) -> Places {
        let inner = self.lock();
        let mut found: BTreeMap<&WorkloadName, Vec<(&Instance, Endpoint)>> = BTreeMap::new();
        let is_trusted = |one: &&Instance| one.is_trusted(now) && inner.withdrawal(one).is_none();
        for instance in inner.instances.values().filter(is_trusted) {
            let claimed = instance.endpoints.iter();
            let declared = claimed.filter_map(|endpoint| {
                let mut seen = HashSet::new();
                let ports = endpoint.ports.iter();
                let ports = ports.filter(|port| declares(&instance.workload, port));
                let ports: Vec<Name> = ports.filter(|port| seen.insert(*port)).cloned().collect();
                (!ports.is_empty()).then(|| Endpoint {
                    listener: endpoint.listener.clone(),
                    ports,
                })
            });
            let held = found.entry(&instance.workload).or_default();
            held.extend(declared.map(|endpoint| (instance, endpoint)));
        }
        let mut places = Places::default();
        for (workload, mut claimed) in found {
            if !fits(claimed.iter().map(|(_, endpoint)| endpoint)) {
                places.left_out += cut(&mut claimed);
            }
            let mut endpoints: Vec<Endpoint> = claimed.into_iter().map(|(_, one)| one).collect();
            endpoints.sort_by(|a, b| (&a.listener, &a.ports).cmp(&(&b.listener, &b.ports)));
            endpoints.dedup();
            if !endpoints.is_empty() {
                places.endpoints.insert(workload.clone(), endpoints);
            }
        }
        places
    }

    /// Instances of a workload on a machine: those that peers may talk to, and all with a certificate that has not ended.
    pub(crate) fn crowd(
        &self,
        workload: &WorkloadName,
        machine: &str,
        now: SystemTime,
    ) -> (usize, usize) {
        let inner = self.lock();
        let own = inner.instances.values().filter(|one| {
            one.is_certified(now) && one.hardware == machine && one.workload == *workload
        });
        own.fold((0, 0), |(live, all), one| {
            (live + usize::from(one.is_trusted(now)), all + 1)
        })
    }
}

/// Why a machine gets no further instance of a workload.
pub(crate) fn too_many((live, all): (usize, usize)) -> Option<Refused> {
    let refused = |found, most, what| {
        Refused::new(
            "too_many_instances",
            "stop sidecars of this workload on this machine, or wait until certificates of earlier ones have ended",
            format!("the machine has {found} {what} of this workload, at most {most} are allowed"),
        )
    };
    if live >= MOST_LIVE {
        return Some(refused(live, MOST_LIVE, "live instances"));
    }
    (all >= MOST_CERTIFIED).then(|| refused(all, MOST_CERTIFIED, "instances with certificates"))
}

/// Whether receivers take so many.
fn fits<'e>(endpoints: impl Iterator<Item = &'e Endpoint>) -> bool {
    let sizes = endpoints.map(size);
    let (count, bytes) = sizes.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one));
    count <= MAX_WORKLOAD_ENDPOINTS && bytes <= MAX_CONTENT_BYTES
}

/// What one takes of the content, at most.
fn size(endpoint: &Endpoint) -> usize {
    let ports = endpoint
        .ports
        .iter()
        .map(|port| port.as_str().len() + FRAMING);
    endpoint.listener.len() + ports.sum::<usize>() + 2 * FRAMING
}

/// Leaves out what is too much: of the machines that have the most first. Says how many.
fn cut(claimed: &mut Vec<(&Instance, Endpoint)>) -> usize {
    let mut of_machine: HashMap<&str, usize> = HashMap::new();
    let mut numbered: Vec<(usize, &Instance, Endpoint)> = Vec::with_capacity(claimed.len());
    for (instance, endpoint) in claimed.drain(..) {
        let number = of_machine.entry(&instance.hardware).or_default();
        *number += 1;
        numbered.push((*number, instance, endpoint));
    }
    numbered.sort_by_key(|(number, _, _)| *number);
    let all = numbered.len();
    let (mut count, mut bytes) = (0, 0);
    let kept = numbered.into_iter().take_while(|(_, _, endpoint)| {
        count += 1;
        bytes += size(endpoint);
        count <= MAX_WORKLOAD_ENDPOINTS && bytes <= MAX_CONTENT_BYTES
    });
    claimed.extend(kept.map(|(_, instance, endpoint)| (instance, endpoint)));
    all - claimed.len()
}

/// More sidecars of one workload than anyone runs on one machine.
const MOST_LIVE: usize = 64;
/// One that is started again and again leaves certificates behind, and its peers hear of each that is not to be believed.
const MOST_CERTIFIED: usize = 1024;
/// Tag and length.
const FRAMING: usize = 6;

#[cfg(test)]
mod tests {
    use prost::Message;
    use vouchsafe_api::convert::mesh_state::workload_endpoints;
    use vouchsafe_api::v1;

    use super::super::tests::{instance, now, registry};
    use super::*;

    fn declared(_: &WorkloadName, port: &Name) -> bool {
        port.as_str().starts_with("openai")
    }

    fn endpoint(listener: String, ports: &[String]) -> Endpoint {
        Endpoint {
            listener,
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        }
    }

    #[tokio::test]
    async fn a_port_that_the_workload_does_not_declare_is_not_published() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path()).await;
        let mut one = instance(1);
        let ports = ["openai", "ssh", "openai"].map(str::to_owned);
        one.endpoints = vec![
            endpoint("10.0.0.1:1".to_owned(), &ports),
            endpoint("10.0.0.1:2".to_owned(), &ports[1..2]),
        ];
        registry.enroll(one, None).await.unwrap();
        let places = registry.places(now(), declared);
        let found: Vec<&Endpoint> = places.endpoints.values().flatten().collect();
        assert_eq!(found, [&endpoint("10.0.0.1:1".to_owned(), &ports[..1])]);
        assert_eq!(places.left_out, 0);
    }

    #[tokio::test]
    async fn what_one_machine_claims_leaves_the_others_in_a_state_that_receivers_take() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path()).await;
        let ports: Vec<String> = (0..64)
            .map(|port| format!("openai-{}-{port}", "x".repeat(50)))
            .collect();
        // Few of them with much to say, and many with little.
        for (listeners, ports, sidecars) in [(16, &ports[..], 120), (200, &ports[..1], 120)] {
            for number in 0..sidecars {
                let mut one = instance(number);
                one.hardware = match number {
                    7 => "good".to_owned(),
                    _ => "greedy".to_owned(),
                };
                one.endpoints = (0..listeners)
                    .map(|port| endpoint(format!("h{number}.example:{}", port + 1), ports))
                    .collect();
                registry.renew(one);
            }
            let places = registry.places(now(), declared);
            assert!(places.left_out > 0);
            let held = places.endpoints.values().next().unwrap();
            let good = held.iter().filter(|one| one.listener.starts_with("h7."));
            assert_eq!(good.count(), listeners);
            let wire = v1::Endpoints {
                endpoints: held.iter().cloned().map(Into::into).collect(),
            };
            assert!(wire.encoded_len() <= MAX_CONTENT_BYTES);
            assert!(workload_endpoints(wire).is_ok());
        }
    }

    #[tokio::test]
    async fn a_machine_has_a_bounded_number_of_instances_of_a_workload() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path()).await;
        for number in 0..5 {
            let mut one = instance(number);
            one.hardware = "same".to_owned();
            registry.enroll(one, None).await.unwrap();
        }
        let id = instance(1).id;
        registry
            .revoke(&id, "image", now(), |_| true)
            .await
            .unwrap();
        let workload = instance(1).workload;
        assert_eq!(registry.crowd(&workload, "same", now()), (4, 5));
        assert_eq!(registry.crowd(&workload, "other", now()), (0, 0));
        assert_eq!(too_many((MOST_LIVE - 1, MOST_CERTIFIED - 1)), None);
        for crowd in [(MOST_LIVE, MOST_LIVE), (0, MOST_CERTIFIED)] {
            assert_eq!(too_many(crowd).unwrap().reason, "too_many_instances");
        }
    }
}
