//! Endorsement keys.
