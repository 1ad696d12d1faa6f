//! Which endpoint of a workload is called next: in turn, and the next one where one can't be reached.

use std::rc::Rc;
use std::sync::Arc;

use crate::outbound::Outbound;
use crate::outbound::pool::Target;
use crate::state::PolicyEpoch;

/// Endpoints of one workload, as long as the mesh state that names them is in force.
#[derive(Debug)]
pub(crate) struct Endpoints {
    policy: Arc<PolicyEpoch>,
    targets: Rc<[Rc<Target>]>,
}

impl Outbound {
    /// Endpoints in the order in which to try them.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Rc<Target>> {
        let targets = self.all_targets();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let count = targets.len();
        (0..count.min(ATTEMPTS)).filter_map(move |attempt| {
            let index = turn.wrapping_add(attempt) % count;
            targets.get(index).map(Rc::clone)
        })
    }

    fn all_targets(&self) -> Rc<[Rc<Target>]> {
        let policy = self.worker.parts.state.policy.load();
        let mut held = self.endpoints.borrow_mut();
        if let Some(held) = held.as_ref()
            && Arc::ptr_eq(&held.policy, &policy)
        {
            return Rc::clone(&held.targets);
        }
        let target = |address: &String| self.lanes.target(&self.expected, address);
        let targets: Rc<[Rc<Target>]> = if self.declared.endpoints.is_empty() {
            let workloads = policy.endpoints.iter();
            workloads
                .filter(|known| known.workload == self.declared.to)
                .flat_map(|known| &known.listeners)
                .filter(|(_, ports)| ports.iter().any(|port| port == self.declared.port.as_str()))
                .map(|(address, _)| target(address))
                .collect()
        } else {
            self.declared.endpoints.iter().map(target).collect()
        };
        *held = Some(Endpoints {
            policy: Arc::clone(&policy),
            targets: Rc::clone(&targets),
        });
        targets
    }
}

/// Most endpoints that one request or flow tries.
const ATTEMPTS: usize = 3;
