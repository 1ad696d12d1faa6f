//! HPACK (RFC 7541): how HTTP/2 writes header fields.
//!
//! A decoder hands on fields that were checked already, and its table keeps them in that form: a field that comes by
//! index costs a clone and is neither parsed nor copied again. An encoder puts into its table what it sees a second time,
//! so that what differs from message to message (lengths, dates, ids) never pushes out what repeats.
//!
//! # Why
//! A call of gRPC sends the same dozen fields each time. In the `h2` crate each of them is moved through an owned enum,
//! hashed byte by byte and, where it comes as text, parsed into its type again for each message.
//!
//! Strings are read with and without the Huffman code, and written without it: between two sidecars a repeated field is
//! one byte anyway, and the few that remain cost less as they are than a table look-up per byte at both ends.

pub mod decoder;
pub mod encoder;
pub mod field;
mod huffman;
mod lookup;
mod static_table;
mod wire;

#[cfg(test)]
mod rfc_tests;
#[cfg(test)]
mod tests;

/// Size of both dynamic tables until SETTINGS say otherwise (RFC 9113 §6.5.2), in bytes.
pub const DEFAULT_TABLE_SIZE: usize = 4096;

/// What an entry of a table, or of a header list, counts beside its text (RFC 7541 §4.1, RFC 9113 §6.5.2).
const ENTRY_OVERHEAD: usize = 32;

/// A header block could not be read; the tables of the two ends differ from here on (`COMPRESSION_ERROR`).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HpackError {
    /// The block ends in the middle of a field.
    #[error("the header block ends in the middle of a field")]
    Truncated,
    /// An integer above 2³² − 1, or written with more bytes than that needs.
    #[error("an integer in the header block is too large")]
    Integer,
    /// An index that neither table has.
    #[error("the header block names index {0}, which is in no table")]
    Index(u32),
    /// A string that is not the Huffman code of anything, or with wrong padding (RFC 7541 §5.2).
    #[error("a string in the header block is not in the Huffman code")]
    Huffman,
    /// The peer set its table to more than we allow.
    #[error("the header block sets the table to {0} bytes, more than was allowed")]
    TableSize(u32),
    /// A change of the table's size after a field (RFC 7541 §4.2).
    #[error("the header block changes the table's size after a field")]
    LateTableSize,
    /// The peer acknowledged a smaller table and did not make its own smaller (RFC 7541 §4.2).
    #[error("the header block does not make the table smaller as was asked")]
    MissingTableSize,
}
