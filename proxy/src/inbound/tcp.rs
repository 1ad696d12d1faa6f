//! Opaque flows to the local application.

use std::rc::Rc;

use crate::inbound::{Door, PeerConnection};
use crate::io::Io;
use crate::reason::{DOWNSTREAM_CLOSED, Reason};
use crate::record::Record;
use crate::relay::relay;

/// A flow that policy admitted and the application accepted.
#[derive(Debug)]
pub(crate) struct AdmittedFlow {
    application: Io,
    record: Record,
}

/// Why a flow is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlowRefusal {
    /// By policy.
    Denied(Reason),
    /// The application can't be reached.
    Unavailable(Reason),
}

impl PeerConnection {
    /// Asks policy, then connects to the application.
    pub(crate) async fn admit_flow(
        self: &Rc<Self>,
        door: &Door,
    ) -> Result<Box<AdmittedFlow>, FlowRefusal> {
        let worker = &self.inbound.worker;
        let mut record = Record::flow(worker, &self.live, &door.port.name, door.number);
        record
            .judge(&self.live, None)
            .map_err(FlowRefusal::Denied)?;
        match door.application.connect().await {
            // Boxed, for it is handed from phase to phase, and each would have room for it.
            Ok(application) => Ok(Box::new(AdmittedFlow {
                application,
                record,
            })),
            Err(reason) => {
                record.failed(reason);
                Err(FlowRefusal::Unavailable(reason))
            }
        }
    }

    /// Serves an opaque flow that needs no answer of ours.
    pub(crate) async fn relay(self: &Rc<Self>, io: Box<Io>, door: &Door) {
        self.is_for(door);
        match Box::pin(self.admit_flow(door)).await {
            Ok(flow) => flow.run(io).await,
            // The opener learns it by a reset: there is no place for words in its protocol.
            Err(_) => io.abort(),
        }
    }
}

impl AdmittedFlow {
    /// Copies until both ends are done.
    pub(crate) async fn run(mut self: Box<Self>, mut io: Box<Io>) {
        let ended = tokio::select! {
            biased;
            why = self.record.cut() => Err(why.reason),
            ended = relay(&mut io, &mut self.application, &self.record.bytes) => {
                ended.map_err(|_| DOWNSTREAM_CLOSED)
            }
        };
        match ended {
            Ok(()) => self.record.finish(),
            Err(reason) => {
                self.record.failed(reason);
                io.abort();
                self.application.abort();
            }
        }
    }
}
