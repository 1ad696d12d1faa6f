//! `vouchsafe`.

fn main() {}
