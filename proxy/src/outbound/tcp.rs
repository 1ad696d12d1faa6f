//! Opaque flows of the local application.

use std::rc::Rc;

use vouchsafe_config::policy::Port;

use crate::io::Io;
use crate::lane::preamble::FlowProtocol;
use crate::outbound::AppConnection;
use crate::record::Record;

impl AppConnection {
    /// Copies between the application and the workload that it calls.
    pub(crate) async fn relay(self: &Rc<Self>, mut io: Io, port: &Port) {
        let outbound = &self.outbound;
        let number = outbound.number(port);
        let mut record = Record::flow(&outbound.worker, &self.live, &port.name, number);
        let open = outbound.open_flow(port, FlowProtocol::Tcp, None, &mut record);
        let opened = Box::pin(open).await;
        let mut upstream = match opened {
            Ok(upstream) => upstream,
            Err(reason) => {
                record.failed(reason);
                io.abort();
                return;
            }
        };
        if upstream.relay(&mut io, &mut record).await {
            record.finish();
        } else {
            io.abort();
            upstream.io.abort();
        }
    }
}
