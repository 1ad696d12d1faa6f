//! JSON Schema of each kind, made from the tables of fields that the reader checks by.
