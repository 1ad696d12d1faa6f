//! Clients of other makers through the sidecars. `tests/run` installs them and selects this target.
