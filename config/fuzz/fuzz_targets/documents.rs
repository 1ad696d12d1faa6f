//! Any bytes as policy documents, as a slice, and as bootstrap files: read or refused, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vouchsafe_config::control_plane::ControlPlaneConfig;
use vouchsafe_config::proxy::ProxyConfig;
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

fuzz_target!(|text: &str| {
    let source = || Source::new("fuzz.yaml", text);
    let folder = Path::new("/");
    if let Err(problems) = PolicySet::parse(vec![source()], Options::default()) {
        assert!(problems.errors() > 0);
        let _ = problems.to_string();
    }
    let trust_domain = "factory.example".parse().expect("it is one");
    let _ = PolicySet::compile_slice(&trust_domain, [("policy/x", text)]);
    let _ = ProxyConfig::parse(source(), folder);
    let _ = ControlPlaneConfig::parse(source(), folder);
});
