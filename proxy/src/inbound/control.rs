//! Control streams that peers open on shared connections.

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use tokio::io::AsyncWriteExt;
use vouchsafe_config::policy::Direction;
use vouchsafe_http2::RecvStream;
use vouchsafe_http2::server::SendResponse;

use crate::inbound::PeerConnection;
use crate::io::{Io, Transport};
use crate::lane::control::answer;
use crate::lane::control::channel::ChannelError;
use crate::lane::flow::LaneFlow;
use crate::reason;
use crate::telemetry::Chain;

impl PeerConnection {
    /// Answers one control stream until it ends.
    pub(super) async fn control_stream(
        self: &Rc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse,
    ) {
        let open = self.control_streams.get();
        let Some(bonded) = self.bonded.as_ref().filter(|_| open < MAX_STREAMS) else {
            let status = StatusCode::TOO_MANY_REQUESTS;
            return self.answer(respond, status, reason::CONTROL_STREAM);
        };
        let Ok(send) = respond.send_response(Response::new(()), false) else {
            return;
        };
        let flow = LaneFlow::new(send, request.into_body());
        let mut io = Io::new(Transport::Flow(Box::new(flow)));
        self.control_streams.set(open + 1);
        let answered = answer::answer(&self.inbound.worker, bonded, &mut io).await;
        self.control_streams
            .set(self.control_streams.get().saturating_sub(1));
        if let Err(ChannelError::Io(_)) | Ok(()) = answered {
            // Where it can't be closed it has ended.
            let _ = io.shutdown().await;
            return;
        }
        if let Err(error) = answered {
            let metrics = &self.inbound.worker.parts.metrics;
            metrics.failed(Direction::Inbound, reason::CONTROL_STREAM);
            tracing::info!(
                direction = "inbound",
                peer_id = %bonded.bond.peer().peer.id(),
                reason = reason::CONTROL_STREAM.as_str(),
                error = %Chain(&error),
                "a control stream was ended"
            );
        }
    }
}

/// One is in use; another may take over while it ends.
const MAX_STREAMS: u32 = 4;
