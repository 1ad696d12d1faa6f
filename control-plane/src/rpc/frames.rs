//! The mesh-state service below HTTP: messages go out as bytes that were encoded before.
//!
//! The generated server encodes each message for each stream. This one is the same service of `vouchsafe.proto`, with a
//! codec that takes [`Frame`]s.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use http::Request;
use hyper::body::Incoming;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status, Streaming};
use vouchsafe_api::convert::MAX_WATCH_REQUEST_BYTES;
use vouchsafe_api::v1;
use vouchsafe_api::v1::mesh_state_server::SERVICE_NAME;

use super::mesh_state::{MeshStateApi, Outgoing};
use crate::mesh::frame::Frame;

/// Serves mesh-state streams.
#[derive(Clone, Debug)]
pub struct MeshStateServer {
    api: Arc<MeshStateApi>,
}

impl MeshStateServer {
    /// Serves `api`.
    pub fn new(api: MeshStateApi) -> Self {
        Self { api: Arc::new(api) }
    }
}

impl NamedService for MeshStateServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Incoming>> for MeshStateServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let watch = Watch(Arc::clone(&self.api));
        Box::pin(async move {
            if request.uri().path().rsplit('/').next() != Some(METHOD) {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let grpc = Grpc::new(FrameCodec);
            let mut grpc = grpc.max_decoding_message_size(MAX_WATCH_REQUEST_BYTES);
            Ok(grpc.streaming(watch, request).await)
        })
    }
}

struct Watch(Arc<MeshStateApi>);

impl StreamingService<v1::WatchRequest> for Watch {
    type Response = Frame;
    type ResponseStream = Outgoing;
    type Future = Ready<Result<Response<Outgoing>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<v1::WatchRequest>>) -> Self::Future {
        ready(self.0.watch(request))
    }
}

#[derive(Debug)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = v1::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.bytes.len());
        out.put(frame.bytes);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Taken per stream, idle or not: a heartbeat fits, and what is larger is rare.
        BufferSettings::new(2 * 1024, YIELD_BYTES)
    }
}

impl Decoder for FrameCodec {
    type Item = v1::WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<v1::WatchRequest>, Status> {
        let message = v1::WatchRequest::decode(bytes);
        message
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        // An acknowledgement fits.
        BufferSettings::new(256, YIELD_BYTES)
    }
}

/// Never reached: frames are sent one by one.
const YIELD_BYTES: usize = 32 * 1024;

const METHOD: &str = "Watch";
