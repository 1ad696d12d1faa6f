//! Opaque flows of the local application.

use std::rc::Rc;

use vouchsafe_config::policy::Port;

use crate::io::Io;
use crate::lane::preamble::FlowProtocol;
use crate::outbound::flow::Flow;
use crate::outbound::habit::Tally;
use crate::outbound::{AppConnection, Outbound};
use crate::record::Record;

impl AppConnection {
    /// Copies between the application and the workload that it calls.
    pub(crate) async fn relay(self: &Rc<Self>, mut io: Box<Io>, port: &Port) {
        let outbound = &self.outbound;
        let number = outbound.number(port);
        let mut record = Record::flow(&outbound.worker, &self.live, &port.name, number);
        let Some(mut upstream) = Box::pin(open(outbound, port, &mut record)).await else {
            io.abort();
            return;
        };
        if upstream
            .relay(&mut io, &mut record, Tally::new(outbound))
            .await
        {
            record.finish();
        } else {
            io.abort();
            upstream.io.abort();
        }
    }
}

async fn open(outbound: &Outbound, port: &Port, record: &mut Record) -> Option<Flow> {
    let opened = outbound.open_flow(port, FlowProtocol::Tcp, None, record);
    opened.await.map_err(|reason| record.failed(reason)).ok()
}
