//! HTTP as a proxy sees it, whatever the version: heads, bodies, exchanges and the two kinds of server.
//!
//! Inbound and outbound differ in who may pass and where to; that is [`Doorway`]. Everything else is here, once.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod exchange;
mod fields;
pub(crate) mod head;
pub(crate) mod pool;
pub(crate) mod serve;

use std::rc::Rc;

use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy;

use crate::http::answer::Refusal;
use crate::http::head::{Added, RequestHead};
use crate::http::pool::{Http1Upstream, Http2Upstream};
use crate::record::Record;
use crate::registry::live::Live;
use crate::worker::Worker;

/// The way from a request to whoever serves it.
pub(crate) trait Doorway: 'static {
    /// A port, found for one request.
    type Door;

    fn worker(&self) -> &Rc<Worker>;
    /// The downstream connection.
    fn live(&self) -> &Rc<Live>;
    /// The port that a request is for, or, where it is for none, a reason.
    fn door(&self, head: &RequestHead) -> Result<Rc<Self::Door>, Refusal>;
    /// Name of a port.
    fn name<'a>(&'a self, door: &'a Self::Door) -> &'a Name;
    /// Its number.
    fn number(&self, door: &Self::Door) -> u16;
    /// Asks policy, and finds who serves the request.
    async fn route(
        &self,
        door: &Rc<Self::Door>,
        wanted: Wanted<'_>,
        record: &mut Record,
    ) -> Result<Route, Refusal>;
}

/// What a request wants of its route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) request: policy::Request<'a>,
    /// Whether it came over HTTP/2.
    pub(crate) is_http2: bool,
    /// Whether it asks for another protocol.
    pub(crate) upgrade: bool,
    /// Whether only a new connection will do: a pooled one has just failed.
    pub(crate) fresh: bool,
}

/// Who serves a request, and what is said to it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) upstream: Upstream,
    /// Fields that only the sidecar may write.
    pub(crate) add: Rc<Added>,
    /// Whether the response may bear reserved fields: it comes from a sidecar.
    pub(crate) trusted_response: bool,
}

/// A connection that takes the request.
#[derive(Debug)]
pub(crate) enum Upstream {
    Http1(Box<Http1Upstream>),
    Http2(Http2Upstream),
}
