//! The operators' page of hardware profiles: every document on it is right.

use std::path::Path;

use vouchsafe_tests::{binaries, process};

/// The YAML blocks of the page that have this kind of document, or any of policy.
fn blocks(is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let page = binaries::tree().join("deploy/hardware.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks
        .filter(|block| is_wanted(block))
        .map(str::to_owned)
        .collect()
}

fn is_bootstrap(block: &str) -> bool {
    block.contains("kind: Proxy") || block.contains("kind: ControlPlane")
}

#[test]
fn policies_of_the_page_of_hardware_pass_check_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mesh = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: factory}\n\
                spec: {trust_domain: factory.example}\n";
    let policies = blocks(|block| !is_bootstrap(block));
    assert_eq!(policies.len(), 6, "a kind has no example");
    let all = [&[mesh.to_owned()], policies.as_slice()].concat();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, all.join("---\n")).expect("the folder can be written");
    let check = [Path::new("check"), &file];
    let said = process::run(binaries::vouchsafe(), check);
    assert!(said.success, "{}{}", said.stdout, said.stderr);
}

#[test]
fn bootstrap_files_of_the_page_of_hardware_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("proxy.yaml");
    for block in blocks(|block| block.contains("kind: Proxy")) {
        std::fs::write(&file, block).expect("the folder can be written");
        let check = [Path::new("check"), Path::new("--config"), &file];
        process::run(binaries::proxy(), check).expect_success();
    }
    let control_planes = blocks(|block| block.contains("kind: ControlPlane"));
    let [block] = control_planes.as_slice() else {
        panic!("one example: {control_planes:?}")
    };
    std::fs::write(&file, block).expect("the folder can be written");
    let (config, _) = vouchsafe_config::load::control_plane(&file).expect("it is right");
    assert!(config.endorsements.offline);
}
