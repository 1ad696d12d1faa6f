//! Requests of the local application.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{DenyReason, Lane, Port};

use crate::http::answer::Refusal;
use crate::http::head::{Added, RequestHead};
use crate::http::pool::{CloseLane, Held, Http1Pool, Http1Upstream, Http2Upstream};
use crate::http::{Doorway, Route, Upstream, Wanted};
use crate::lane::PORT_FIELD;
use crate::lane::preamble::{FlowProtocol, Preamble};
use crate::outbound::AppConnection;
use crate::outbound::pool::{Direct, Opened, PeerLane, into_lane};
use crate::reason::{self, Reason};
use crate::record::Record;
use crate::registry::LaneKind;
use crate::registry::live::Live;
use crate::tls::Offer;
use crate::worker::Worker;

/// Where the requests of one application connection go.
#[derive(Debug)]
pub(crate) struct RequestsOut {
    pub(crate) connection: Rc<AppConnection>,
    /// HTTP/2 of this connection's own, on the dedicated lane.
    pub(crate) own: RefCell<Option<Rc<PeerLane>>>,
}

impl CloseLane for PeerLane {
    fn close(&self) {
        Self::close(self);
    }
}

impl Doorway for RequestsOut {
    type Door = Port;

    fn worker(&self) -> &Rc<Worker> {
        &self.connection.outbound.worker
    }

    fn live(&self) -> &Rc<Live> {
        &self.connection.live
    }

    fn door(&self, _head: &RequestHead) -> Result<Rc<Port>, Refusal> {
        let outbound = &self.connection.outbound;
        let has_identity = outbound.worker.parts.state.identity.load().is_some();
        outbound.port().ok_or(if has_identity {
            // A sidecar is told only of doors that a rule opens to its workload: another is a denial, not an outage.
            Refusal::denied(DenyReason::UnknownDoor.into())
        } else {
            Refusal::unavailable(reason::NO_IDENTITY)
        })
    }

    fn name<'a>(&'a self, door: &'a Port) -> &'a Name {
        &door.name
    }

    fn number(&self, door: &Port) -> u16 {
        self.connection.outbound.number(door)
    }

    async fn route(
        &self,
        door: &Rc<Port>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Refusal> {
        let lane = self.connection.outbound.lane(door);
        // What is rare is boxed, so that not every request holds its state.
        let result = if wanted.upgrade {
            Box::pin(self.upgrade(door, wanted, record)).await
        } else if lane == Lane::Dedicated && wanted.is_http2 {
            Box::pin(self.dedicated_http2(door, wanted, record)).await
        } else if lane == Lane::Dedicated {
            self.dedicated_http1(door, wanted, record).await
        } else {
            self.shared(door, wanted, record).await
        };
        result.map_err(|failed| match failed {
            Unrouted::Denied(reason) => Refusal::denied(reason),
            Unrouted::Unavailable(reason) => Refusal::unavailable(reason),
        })
    }
}

/// Why a request has no route.
enum Unrouted {
    Denied(Reason),
    Unavailable(Reason),
}

impl From<Reason> for Unrouted {
    fn from(reason: Reason) -> Self {
        Self::Unavailable(reason)
    }
}

impl RequestsOut {
    async fn shared(
        &self,
        port: &Rc<Port>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Unrouted> {
        let outbound = &self.connection.outbound;
        // A server without our sidecar that speaks HTTP/1.1 alone has left warm connections here.
        if !wanted.fresh
            && let Some(pooled) = self.pooled(outbound.interop.as_ref(), port)
        {
            return self.pooled_route(pooled, wanted, record);
        }
        let mut opened = outbound.acquire(Offer::SharedHttp).await?;
        outbound.bind(&mut opened, port).await;
        judge(opened.live(), wanted, record)?;
        Ok(match opened {
            Opened::Lane(lane) => self.on_lane(&lane, port),
            Opened::Direct(direct) => self.direct_http1(*direct, &outbound.interop),
        })
    }

    async fn dedicated_http1(
        &self,
        port: &Rc<Port>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Unrouted> {
        let outbound = &self.connection.outbound;
        if !wanted.fresh
            && let Some(pooled) = self.pooled(outbound.dedicated.as_ref(), port)
        {
            return self.pooled_route(pooled, wanted, record);
        }
        let mut opened = outbound.acquire(Offer::DedicatedHttp).await?;
        outbound.bind(&mut opened, port).await;
        judge(opened.live(), wanted, record)?;
        Ok(match opened {
            Opened::Lane(lane) => self.on_lane(&lane, port),
            Opened::Direct(mut direct) => {
                Box::pin(self.write_preamble(&mut direct, port, FlowProtocol::Http1)).await?;
                self.direct_http1(*direct, &outbound.dedicated)
            }
        })
    }

    async fn dedicated_http2(
        &self,
        port: &Rc<Port>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Unrouted> {
        let outbound = &self.connection.outbound;
        let own = self.own.borrow().clone();
        let may_go_on =
            |lane: &Rc<PeerLane>| outbound.is_usable(lane) && outbound.may_carry(&lane.live, port);
        if let Some(lane) = own.filter(may_go_on) {
            judge(&lane.live, wanted, record)?;
            return Ok(self.on_lane(&lane, port));
        }
        let mut opened = outbound.acquire(Offer::DedicatedHttp).await?;
        outbound.bind(&mut opened, port).await;
        judge(opened.live(), wanted, record)?;
        let lane = match opened {
            Opened::Lane(lane) => lane,
            Opened::Direct(direct) if !direct.takes_preamble => {
                return Ok(self.direct_http1(*direct, &outbound.interop));
            }
            Opened::Direct(mut direct) => {
                self.write_preamble(&mut direct, port, FlowProtocol::Http2)
                    .await?;
                into_lane(&outbound.worker, *direct)
            }
        };
        *self.own.borrow_mut() = Some(Rc::clone(&lane));
        Ok(self.on_lane(&lane, port))
    }

    async fn upgrade(
        &self,
        port: &Rc<Port>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Unrouted> {
        let outbound = &self.connection.outbound;
        let request = Some(&wanted.request);
        let opened = outbound.open_flow(port, FlowProtocol::Http1, request, record);
        let flow = Box::pin(opened).await.map_err(|reason| {
            if record.is_denied() {
                Unrouted::Denied(reason)
            } else {
                Unrouted::Unavailable(reason)
            }
        })?;
        let (io, held) = flow.into_http1();
        Ok(Route {
            upstream: Upstream::Http1(Box::new(Http1Upstream::new(io, held, None))),
            add: Rc::clone(&outbound.nothing),
            trusted_response: true,
        })
    }

    async fn write_preamble(
        &self,
        direct: &mut Direct,
        port: &Port,
        protocol: FlowProtocol,
    ) -> Result<(), Reason> {
        if !direct.takes_preamble {
            return Ok(());
        }
        let preamble = Preamble {
            protocol,
            port: port.name.clone(),
            number: self.connection.outbound.number(port),
        };
        direct.write_preamble(&preamble).await
    }

    fn pooled(&self, pool: &Http1Pool, port: &Port) -> Option<Box<Http1Upstream>> {
        let outbound = &self.connection.outbound;
        let pooled = pool.take(self.worker().tls()?.identity.number)?;
        // Proofs are made when a connection is opened, and for one number of a port: one that was opened before rules
        // asked for them, or for another number, is left.
        let may_carry = pooled
            .live()
            .is_none_or(|live| outbound.may_carry(live, port));
        may_carry.then_some(pooled)
    }

    fn pooled_route(
        &self,
        upstream: Box<Http1Upstream>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Unrouted> {
        let registered = upstream.held.registered.as_ref();
        // A pooled connection without a peer can't be: those to peers are made below, registered.
        let registered = registered.ok_or(Unrouted::Unavailable(reason::WRONG_PEER))?;
        judge(&registered.registration.live, wanted, record)?;
        Ok(Route {
            upstream: Upstream::Http1(upstream),
            add: Rc::clone(&self.connection.outbound.nothing),
            trusted_response: true,
        })
    }

    fn direct_http1(&self, direct: Direct, pool: &Rc<Http1Pool>) -> Route {
        let held = Held {
            epoch: direct.epoch,
            registered: Some(direct.registered),
            _lane: None,
        };
        let upstream = Http1Upstream::new(direct.io, held, Some(Rc::clone(pool)));
        Route {
            upstream: Upstream::Http1(Box::new(upstream)),
            add: Rc::clone(&self.connection.outbound.nothing),
            trusted_response: true,
        }
    }

    fn on_lane(&self, lane: &Rc<PeerLane>, port: &Port) -> Route {
        let outbound = &self.connection.outbound;
        Route {
            upstream: Upstream::Http2(Http2Upstream {
                send: lane.send.clone(),
                held: (
                    Rc::clone(lane) as Rc<dyn CloseLane>,
                    Some(lane.live.stream()),
                ),
            }),
            add: if lane.kind == LaneKind::Shared {
                outbound.port_field(port)
            } else {
                Rc::clone(&outbound.nothing)
            },
            trusted_response: true,
        }
    }
}

/// Asks policy whether the server at the other end of a connection may be asked this.
fn judge(on: &Rc<Live>, wanted: Wanted<'_>, record: &mut Record) -> Result<(), Unrouted> {
    let judged = record.judge(on, Some(&wanted.request));
    judged.map_err(Unrouted::Denied)
}

/// The field that names a port on the shared lane.
pub(crate) fn port_field(port: &Port, number: u16) -> Rc<Added> {
    // Names and numbers are visible ASCII, so the field is never left out.
    HeaderValue::from_str(&format!("{}:{number}", port.name))
        .map(|value| (HeaderName::from_static(PORT_FIELD), value))
        .into_iter()
        .collect::<Added>()
        .into()
}
