//! Requests to the local application: judged one by one, told who asks, passed on.

use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::Protocol;
use vouchsafe_config::proxy::UpstreamHttp;

use crate::http::answer::Refusal;
use crate::http::head::{Added, RequestHead};
use crate::http::pool::{Held, Http1Upstream};
use crate::http::{Doorway, Route, Upstream, Wanted};
use crate::inbound::{Door, PeerConnection};
use crate::lane::PORT_FIELD;
use crate::reason;
use crate::record::Record;
use crate::registry::live::Live;
use crate::tls::peer_verifier::Verified;
use crate::worker::Worker;

/// Where the requests of one connection or flow go.
#[derive(Debug)]
pub(crate) struct RequestsIn {
    pub(crate) connection: Rc<PeerConnection>,
    /// The port, where it is one for all; on the shared lane each request names its own.
    pub(crate) fixed: Option<Rc<Door>>,
}

impl Doorway for RequestsIn {
    type Door = Door;

    fn worker(&self) -> &Rc<Worker> {
        &self.connection.inbound.worker
    }

    fn live(&self) -> &Rc<Live> {
        &self.connection.live
    }

    fn door(&self, head: &RequestHead) -> Result<Rc<Door>, Refusal> {
        let unknown = Refusal {
            status: 404,
            reason: reason::UNKNOWN_PORT,
        };
        let door = match (&self.fixed, head) {
            (Some(door), _) => Rc::clone(door),
            (None, RequestHead::Http2(head)) => {
                let headers = head.headers();
                let mut named = headers.get_all(PORT_FIELD).iter();
                let (Some(port), None) = (named.next(), named.next()) else {
                    return Err(unknown);
                };
                self.connection.inbound.named_door(port).ok_or(unknown)?
            }
            (None, RequestHead::Http1(_)) => return Err(unknown),
        };
        if door.protocol == Protocol::Http {
            Ok(door)
        } else {
            Err(Refusal::bad_request(reason::PORT_PROTOCOL))
        }
    }

    fn name<'a>(&'a self, door: &'a Door) -> &'a Name {
        &door.port.name
    }

    fn number(&self, door: &Door) -> u16 {
        door.number
    }

    async fn route(
        &self,
        door: &Rc<Door>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Refusal> {
        record
            .judge(&self.connection.live, Some(&wanted.request))
            .map_err(Refusal::denied)?;
        let is_grpc = wanted.request.grpc && wanted.is_http2;
        let over_http2 = match door.port.upstream_http {
            UpstreamHttp::Auto => is_grpc,
            UpstreamHttp::Http1 if is_grpc => {
                return Err(Refusal::bad_gateway(reason::GRPC_NOT_SERVED));
            }
            UpstreamHttp::Http1 => false,
            UpstreamHttp::Http2 if wanted.upgrade => {
                return Err(Refusal::bad_gateway(reason::UPGRADE));
            }
            UpstreamHttp::Http2 => true,
        };
        let limits = &self.worker().parts.config.limits;
        let application = &door.application;
        let upstream = if over_http2 {
            let opened = application.http2.take(limits, application.connect());
            Upstream::Http2(opened.await.map_err(Refusal::unavailable)?)
        } else {
            let pooled = if wanted.fresh {
                None
            } else {
                application.http1.take(0)
            };
            let upstream = match pooled {
                Some(upstream) => upstream,
                None => {
                    let io = Box::pin(application.connect()).await;
                    let io = io.map_err(Refusal::unavailable)?;
                    let home = Some(Rc::clone(&application.http1));
                    Box::new(Http1Upstream::new(io, Held::default(), home))
                }
            };
            Upstream::Http1(upstream)
        };
        Ok(Route {
            upstream,
            add: self.connection.identity(),
            trusted_response: false,
        })
    }
}

/// What the application is told about a peer: computed once per certificate.
pub(crate) fn identity_fields(peer: &Verified, own_id: &str) -> Rc<Added> {
    let id = peer.peer.id();
    let client_cert = format!(
        "By={own_id};Hash={};URI={id}",
        hex::encode(peer.leaf_sha256)
    );
    let value = |text: &str| HeaderValue::from_str(text).ok();
    // SPIFFE IDs and hex are visible ASCII, so none of these is ever left out.
    [
        ("vouchsafe-peer", value(id.as_str())),
        ("vouchsafe-peer-class", value(peer.class())),
        ("x-forwarded-client-cert", value(&client_cert)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((HeaderName::from_static(name), value?)))
    .collect::<Added>()
    .into()
}
