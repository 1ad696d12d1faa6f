//! Our own HTTP/1.1 codec: strict, streaming, and re-serialising.
//!
//! # Why
//! A proxy that judges requests must read them exactly as the application behind it will. So there is one parser, on
//! `httparse`, which refuses with 400 whatever could be read in two ways instead of mending it, and the application gets
//! what we wrote, never what came. General servers accept what we refuse (bare LF, obs-fold, two framings), and hold a
//! buffer per idle connection; ours holds none.
//!
//! Source: RFC 9112, RFC 9110 §7.6.1 (hop-by-hop fields).

pub mod body;
pub(crate) mod fields;
pub mod head;
pub(crate) mod wire;

#[cfg(test)]
mod tests;
