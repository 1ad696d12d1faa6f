//! The shared lane: requests as requests, opaque flows as CONNECT streams.

use std::rc::Rc;

use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use vouchsafe_config::policy::Protocol;
use vouchsafe_http2::RecvStream;
use vouchsafe_http2::server::SendResponse;

use crate::http::serve::serve_stream;
use crate::http2;
use crate::inbound::PeerConnection;
use crate::inbound::http::RequestsIn;
use crate::inbound::tcp::FlowRefusal;
use crate::io::{Io, Transport};
use crate::lane::flow::LaneFlow;
use crate::lane::preamble::{FlowProtocol, Preamble};
use crate::lane::{CONTROL_AUTHORITY, FLOW_FIELD};
use crate::reason::{self, Reason};

impl PeerConnection {
    /// Serves all streams of a shared connection.
    pub(crate) async fn shared(self: &Rc<Self>, io: Io) {
        let parts = &self.inbound.worker.parts;
        let requests = Rc::new(RequestsIn {
            connection: Rc::clone(self),
            fixed: None,
        });
        http2::serve(
            io,
            &self.live,
            &parts.config.limits,
            &parts.metrics,
            |streams, request, respond| {
                let requests = Rc::clone(&requests);
                // Two kinds of task, because one would hold for each what only the larger needs.
                if request.method() == Method::CONNECT {
                    streams.spawn_local(Box::pin(async move {
                        requests.connection.connect_stream(request, respond).await;
                    }));
                } else {
                    // Boxed: a task's future is moved eight times from its birth to its end, and this one has kilobytes.
                    streams.spawn_local(Box::pin(async move {
                        serve_stream(&requests, request, respond).await;
                    }));
                }
            },
        )
        .await;
    }

    async fn connect_stream(
        self: &Rc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse,
    ) {
        let authority = request.uri().authority().map(Authority::as_str);
        if authority == Some(CONTROL_AUTHORITY) {
            // Boxed: rare, and large by what it proves and verifies.
            return Box::pin(self.control_stream(request, respond)).await;
        }
        let word = request.headers().get(FLOW_FIELD);
        let preamble = authority
            .and_then(parse_authority)
            .zip(word.and_then(|word| FlowProtocol::from_word(word.as_bytes())));
        let Some(((port, number), protocol)) = preamble else {
            self.answer(respond, StatusCode::BAD_REQUEST, reason::PREAMBLE);
            return;
        };
        let preamble = Preamble {
            protocol,
            port,
            number,
        };
        let Some(door) = self.inbound.door(preamble.port.as_str(), preamble.number) else {
            self.answer(respond, StatusCode::NOT_FOUND, reason::UNKNOWN_PORT);
            return;
        };
        let admitted = match (door.protocol, protocol) {
            (Protocol::Tcp, FlowProtocol::Tcp) => match Box::pin(self.admit_flow(&door)).await {
                Ok(flow) => Some(flow),
                Err(FlowRefusal::Denied(reason)) => {
                    self.answer(respond, StatusCode::FORBIDDEN, reason);
                    return;
                }
                Err(FlowRefusal::Unavailable(reason)) => {
                    self.answer(respond, StatusCode::SERVICE_UNAVAILABLE, reason);
                    return;
                }
            },
            // Requests in a flow are judged and answered one by one.
            (Protocol::Http, FlowProtocol::Http1 | FlowProtocol::Http2) => None,
            _ => {
                self.answer(respond, StatusCode::BAD_REQUEST, reason::PORT_PROTOCOL);
                return;
            }
        };
        let Ok(send) = respond.send_response(Response::new(()), false) else {
            return;
        };
        let flow = LaneFlow::new(send, request.into_body());
        let io = Box::new(Io::new(Transport::Flow(Box::new(flow))));
        match admitted {
            Some(flow) => flow.run(io).await,
            // Boxed: what requests need is not held for opaque flows.
            None => Box::pin(self.flow(io, &preamble)).await,
        }
    }

    pub(super) fn answer(&self, mut respond: SendResponse, status: StatusCode, reason: Reason) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().insert(
            "vouchsafe-reason",
            HeaderValue::from_static(reason.as_str()),
        );
        // The stream may be gone already.
        let _ = respond.send_response(response, true);
    }
}

fn parse_authority(authority: &str) -> Option<(vouchsafe_attestation::name::Name, u16)> {
    let (name, number) = authority.split_once(':')?;
    Some((name.parse().ok()?, number.parse().ok()?))
}
