//! The one command of the README, as a newcomer runs it.

use vouchsafe_tests::{binaries, process};

#[test]
fn the_quickstart_holds_every_expectation_and_leaves_nothing_behind() {
    let before = leftovers();
    let said =
        process::run(binaries::tree().join("deploy/quickstart"), ["--exit"]).expect_success();
    assert!(
        !said.contains("FAIL") && said.matches("\nok ").count() >= 6,
        "{said}"
    );
    assert!(said.contains("class software"), "{said}");
    let after: Vec<_> = leftovers()
        .into_iter()
        .filter(|entry| !before.contains(entry))
        .collect();
    assert!(after.is_empty(), "{after:?}");

    // Made-up evidence does not pass for success where a TPM can be had.
    let outcome = process::run(
        binaries::tree().join("deploy/quickstart"),
        ["--exit", "--simulated"],
    );
    assert!(!outcome.success, "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("SIMULATED") && outcome.stderr.contains("proves nothing"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stdout.contains("FAIL"), "{}", outcome.stdout);
}

/// Temporary folders of factories, and software TPMs in them.
fn leftovers() -> Vec<String> {
    let folders = std::fs::read_dir(std::env::temp_dir()).expect("the folder can be read");
    let folders = folders.flatten().map(|entry| entry.path());
    let mut found: Vec<_> = folders
        .filter(|path| path.join("control-plane.yaml").exists())
        .map(|path| path.display().to_string())
        .filter(|path| path.contains("/vouchsafe-"))
        .collect();
    for process in std::fs::read_dir("/proc").expect("Linux has it").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("/vouchsafe-") && command.contains("swtpm socket") {
            found.push(command);
        }
    }
    found
}
