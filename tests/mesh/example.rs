//! The documents of the example factory are right, and its reference values are those of its programs.

use std::path::PathBuf;

use vouchsafe_config::load;
use vouchsafe_config::set::Options;
use vouchsafe_tests::{binaries, process};

fn local(path: &str) -> PathBuf {
    binaries::tree().join("deploy/local").join(path)
}

#[track_caller]
fn check(paths: &[PathBuf]) {
    match load::policy(
        paths,
        Options {
            now: Some(std::time::SystemTime::now()),
        },
    ) {
        Ok(set) => assert!(set.warnings().is_empty(), "{:?}", set.warnings()),
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn documents_of_the_example_pass_the_check() {
    check(&[local("policy")]);
    let shared = ["policy/workloads.yaml", "policy/access.yaml", "simulated"];
    check(&shared.map(local));
}

#[test]
fn reference_values_of_the_example_are_those_of_its_files() {
    let profiles =
        std::fs::read_to_string(local("policy/profiles.yaml")).expect("the file is there");
    for (image, program) in [
        ("gateway-1", Some("gateway.py")),
        ("model-server-1", Some("model_server.py")),
        ("vector-store-1", Some("vector_store.py")),
        ("notebook-1", None),
    ] {
        let files = ["components.py", "text.txt"].into_iter().chain(program);
        let files: Vec<_> = files
            .map(|file| local("components").join(file).display().to_string())
            .collect();
        let mut arguments = vec!["measure".to_owned()];
        arguments.extend(files);
        let measured = process::run(local("tpm.py"), &arguments).expect_success();
        let line = profiles
            .lines()
            .find(|line| line.contains(image))
            .expect("the profile names the image");
        assert!(
            line.contains(measured.trim()),
            "{image} has the value {measured} now: write it into the profile"
        );
    }
}
