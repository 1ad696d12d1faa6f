//! What the README tells its reader to type, typed.

use std::path::Path;
use std::process::Command;

use vouchsafe_tests::binaries;

/// The `sh` blocks of a chapter, in order, as one script.
fn script(chapter: &str) -> String {
    let readme =
        std::fs::read_to_string(binaries::tree().join("README.md")).expect("the README is there");
    let (_, rest) = readme
        .split_once(&format!("\n## {chapter}\n"))
        .expect("the README has the chapter");
    let text = rest.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<_> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    assert!(!blocks.is_empty(), "{chapter} has no commands");
    blocks.concat()
}

#[test]
fn your_own_service_works_as_the_readme_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let commands: String = script("Your own service in ten minutes")
        .lines()
        // The programs are built already, and lie where cargo said.
        .filter(|line| !line.starts_with("cargo build") && !line.starts_with("export PATH"))
        .map(|line| format!("{line}\n"))
        .collect();
    let places = [binaries::vouchsafe(), binaries::proxy()].map(|program| {
        program
            .parent()
            .unwrap_or(Path::new("/"))
            .display()
            .to_string()
    });
    // What the reader ends with Ctrl-C ends here with the shell.
    let script = format!(
        "set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\nPATH=\"{}:$PATH\"\n{commands}",
        places.join(":")
    );
    // Output goes to a file: background programs would keep a pipe open.
    let said = folder.path().join("said");
    let file = std::fs::File::create(&said).expect("the folder can be written");
    let status = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone().expect("the file can be shared"))
        .stderr(file)
        .status()
        .expect("bash runs");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let said = read(&said);
    let logs: String = ["control-plane", "web-sidecar", "shop-sidecar"]
        .iter()
        .map(|name| read(&folder.path().join(format!("target/demo/{name}.log"))))
        .collect();
    assert!(status.success(), "{said}\n{logs}");
    // `explain` and `check` are content, the GET brought the file, the DELETE the reason, the status both sidecars.
    for wanted in [
        "ALLOW",
        "trust_domain: demo.example",
        "\nrequest",
        "demo/web",
        "demo/shop",
        "issued ",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}\n{logs}");
    }
}
