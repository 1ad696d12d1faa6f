//! Promise 8: keys stay where they were born, in files that only their owner reads, and in no log.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vouchsafe_tests::documents::{
    file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;

#[test]
fn keys_are_in_private_files_of_the_control_plane_and_in_no_log() {
    let mesh = Mesh::start(&file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        workload("app/server", "any", "one", &[]),
    ]));
    let mut sidecar = mesh
        .simulated("one", "app/server", "one", "any")
        .start(mesh.path());
    sidecar.wait_ready();
    let pages = ["/config_dump", "/certs", "/policy"].map(|page| sidecar.admin(page).to_string());
    mesh.status();

    let mut keys = Vec::new();
    for path in walk(mesh.path()) {
        let content = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        if !text.contains("PRIVATE KEY") {
            continue;
        }
        assert!(
            path.starts_with(mesh.data()),
            "{} holds a private key",
            path.display()
        );
        let mode = std::fs::metadata(&path)
            .expect("the file is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others", path.display());
        // Lines of base64 in the middle of the key: if one leaks, the key has.
        keys.extend(
            text.lines()
                .filter(|line| !line.contains("---"))
                .map(str::to_owned),
        );
    }
    assert!(
        !keys.is_empty(),
        "no key was found where the control plane keeps its own"
    );
    let mode = std::fs::metadata(mesh.data())
        .expect("the folder is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "the data folder is open to others");

    let mut logs = vec![mesh.process.output(), sidecar.process.output()];
    logs.extend(pages);
    for log in &logs {
        assert!(!log.contains("PRIVATE KEY"), "{log}");
        assert!(
            keys.iter().all(|line| !log.contains(line.as_str())),
            "{log}"
        );
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}
