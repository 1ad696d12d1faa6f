//! Opening a flow on either lane: a CONNECT stream of a shared connection, or a connection of its own with a preamble.

use std::rc::Rc;

use http::{HeaderValue, Method, Request, StatusCode};
use vouchsafe_config::policy::{self, Lane, Port, Protocol};

use crate::http::pool::Held;
use crate::io::{Io, Transport};
use crate::lane::FLOW_FIELD;
use crate::lane::flow::LaneFlow;
use crate::lane::preamble::{FlowProtocol, Preamble};
use crate::outbound::Outbound;
use crate::outbound::habit::Tally;
use crate::outbound::pool::{Opened, PeerLane};
use crate::reason::{self, Reason};
use crate::record::Record;
use crate::registry::LaneKind;
use crate::registry::live::StreamGuard;
use crate::relay::relay_telling;
use crate::tls::Offer;
use crate::worker::Registered;

/// A byte stream to the workload's port.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) io: Io,
    /// What keeps the way open.
    way: Way,
}

#[derive(Debug)]
enum Way {
    Stream(Rc<PeerLane>, StreamGuard),
    Own(Registered),
}

impl Flow {
    /// The stream for HTTP/1.1, and what keeps its way open.
    pub(crate) fn into_http1(self) -> (Io, Held) {
        let held = match self.way {
            Way::Stream(lane, guard) => Held {
                _lane: Some((lane, guard)),
                ..Held::default()
            },
            Way::Own(registered) => Held {
                registered: Some(registered),
                ..Held::default()
            },
        };
        (self.io, held)
    }

    /// Copies between the opener and the flow until both are done, or the flow must end. Whether it ended by itself; if
    /// not, the record knows why.
    pub(crate) async fn relay(
        &mut self,
        opener: &mut Io,
        record: &mut Record,
        tally: Tally<'_>,
    ) -> bool {
        let passed = |piece| tally.passed(piece);
        let cut = record.cut();
        let ended = tokio::select! {
            biased;
            why = cut => Err(why.reason),
            ended = relay_telling(opener, &mut self.io, &record.bytes, &passed) => {
                ended.map_err(|_| reason::UPSTREAM_CLOSED)
            }
        };
        ended.map_err(|reason| record.failed(reason)).is_ok()
    }
}

impl Outbound {
    /// Opens a flow to a port, after asking policy whether its server may be called.
    ///
    /// # Errors
    /// The bounded reason why there is none.
    pub(crate) async fn open_flow(
        &self,
        port: &Port,
        protocol: FlowProtocol,
        request: Option<&policy::Request<'_>>,
        record: &mut Record,
    ) -> Result<Flow, Reason> {
        let offer = match (self.lane(port), port.protocol) {
            (Lane::Dedicated, Protocol::Tcp) => Offer::DedicatedTcp,
            (Lane::Dedicated, Protocol::Http) => Offer::DedicatedHttp,
            (Lane::Shared | Lane::Auto, Protocol::Tcp) => Offer::SharedTcp,
            // Of its own choice the sidecar gives an upgrade a connection of its own (DESIGN §6).
            (Lane::Auto, Protocol::Http) => Offer::DedicatedHttp,
            (Lane::Shared, Protocol::Http) => Offer::SharedHttp,
        };
        let mut opened = self.acquire(offer).await?;
        self.bind(&mut opened, port).await;
        record.judge(opened.live(), request)?;
        let preamble = Preamble {
            protocol,
            port: port.name.clone(),
            number: self.number(port),
        };
        match opened {
            Opened::Lane(lane) if lane.kind == LaneKind::Shared => {
                let deadline = self.worker.parts.config.limits.handshake;
                tokio::time::timeout(deadline, open_stream(lane, &preamble))
                    .await
                    .unwrap_or(Err(reason::CONNECT_TIMEOUT))
            }
            // HTTP/2 of a server without our sidecar has no place for a flow.
            Opened::Lane(_) => Err(reason::PORT_PROTOCOL),
            Opened::Direct(direct) => {
                let mut direct = direct;
                if direct.takes_preamble {
                    direct.write_preamble(&preamble).await?;
                }
                Ok(Flow {
                    io: direct.io,
                    way: Way::Own(direct.registered),
                })
            }
        }
    }
}

async fn open_stream(lane: Rc<PeerLane>, preamble: &Preamble) -> Result<Flow, Reason> {
    let guard = lane.live.stream();
    let authority = format!("{}:{}", preamble.port, preamble.number);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = authority.parse().map_err(|_| reason::UNKNOWN_PORT)?;
    request.headers_mut().insert(
        FLOW_FIELD,
        HeaderValue::from_static(preamble.protocol.as_str()),
    );
    let mut send = lane.send.clone().ready().await.map_err(|_| {
        lane.close();
        reason::UPSTREAM_CLOSED
    })?;
    let (response, stream) = send
        .send_request(request, false)
        .map_err(|_| reason::UPSTREAM_CLOSED)?;
    let response = response.await.map_err(|_| reason::UPSTREAM_CLOSED)?;
    if response.status() != StatusCode::OK {
        return Err(reason::REFUSED_BY_PEER);
    }
    let flow = LaneFlow::new(stream, response.into_body());
    Ok(Flow {
        io: Io::new(Transport::Flow(Box::new(flow))),
        way: Way::Stream(lane, guard),
    })
}
