//! What sidecars say to each other: application protocols, how a flow names its port, and what a shared lane carries.
//!
//! Between sidecars nothing is guessed (DESIGN §6): ALPN says what follows the handshake.
//! - `vouchsafe-shared/1`: HTTP/2 frames. A request is a request, with the port in the field `vouchsafe-port`. An opaque
//!   flow is a CONNECT stream whose authority is `<port name>:<port number>` and whose field `vouchsafe-flow` says what
//!   flows. A CONNECT to `_control:0` is the
//!   [`control`] stream.
//! - `vouchsafe-flow/1`: a [`preamble`], then one flow.
//! - `h2`, `http/1.1` or none: a peer without our sidecar, which reaches the listener's only port.

pub mod control;
pub(crate) mod flow;
pub mod preamble;

/// Many streams in one connection.
pub(crate) const ALPN_SHARED: &[u8] = b"vouchsafe-shared/1";
/// One flow in one connection.
pub(crate) const ALPN_FLOW: &[u8] = b"vouchsafe-flow/1";
/// HTTP/2 of a peer without our sidecar.
pub(crate) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 of a peer without our sidecar.
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Field of a request on the shared lane that names the port: `<name>:<number>`. Never reaches the application.
pub(crate) const PORT_FIELD: &str = "vouchsafe-port";
/// Field of a CONNECT stream that says what flows in it: `tcp`, `http1` or `http2`.
pub(crate) const FLOW_FIELD: &str = "vouchsafe-flow";
/// Authority of the control stream. No port can be called so, for `_` is in no name.
pub(crate) const CONTROL_AUTHORITY: &str = "_control:0";

/// Stream window of every HTTP/2 connection that we speak: what one slow reader can make us hold.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// Connection window: four streams' worth, so that one that stands still does not stop its neighbours.
pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest frame that we take: with its header four full TLS records.
pub(crate) const FRAME_BYTES: u32 = 64 * 1024 - 9;
/// Most bytes that wait to be sent on one stream.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
