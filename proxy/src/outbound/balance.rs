//! Which endpoint of a workload is called next: in turn, and the next one where one can't be reached.

use std::rc::Rc;

use crate::outbound::Outbound;

/// Most endpoints that one request or flow tries.
pub(crate) const ATTEMPTS: usize = 3;

impl Outbound {
    /// Endpoints (`host:port`) in the order in which to try them.
    pub(crate) fn endpoints(&self) -> Vec<Rc<str>> {
        let mut endpoints: Vec<Rc<str>> = if self.declared.endpoints.is_empty() {
            let epoch = self.worker.parts.state.policy.load();
            let workloads = epoch.endpoints.iter();
            workloads
                .filter(|known| known.workload == self.declared.to)
                .flat_map(|known| &known.listeners)
                .filter(|(_, ports)| ports.iter().any(|port| port == self.declared.port.as_str()))
                .map(|(address, _)| Rc::from(address.as_str()))
                .collect()
        } else {
            let declared = self.declared.endpoints.iter();
            declared.map(|address| Rc::from(address.as_str())).collect()
        };
        if !endpoints.is_empty() {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            let start = turn % endpoints.len();
            endpoints.rotate_left(start);
        }
        endpoints.truncate(ATTEMPTS);
        endpoints
    }
}
