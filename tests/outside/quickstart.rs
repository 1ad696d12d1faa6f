//! The one command of the README, as a newcomer runs it.

use vouchsafe_tests::{binaries, process};

#[test]
fn the_quickstart_holds_every_expectation_and_leaves_nothing_behind() {
    let before = leftovers();
    let said =
        process::run(binaries::tree().join("deploy/quickstart"), ["--exit"]).expect_success();
    assert!(!said.contains("FAIL"), "{said}");
    assert_eq!(rows(&said), SHOWN, "{said}");
    assert!(
        said.contains("[vouchsafe revoke inference/stolen-gpu-1 --node inference/gpu-1]")
            && said.contains(" ms after the command was typed; "),
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

/// Rows whose expectation held: the first words of what happened, and of what had to come of it.
fn rows(said: &str) -> Vec<(&str, &str)> {
    let rows = { said.lines() }.filter_map(|line| line.strip_prefix("ok    "));
    rows.map(|row| {
        let mut cells = row
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        let mut next = || cells.next().unwrap_or_default();
        (next(), next())
    })
    .collect()
}

/// The show. Whoever takes a scene out of it, or makes another, says so here.
const SHOWN: &[(&str, &str)] = &[
    (
        "the gateway asks the model, with documents",
        "allowed; tokens arrive one by one",
    ),
    (
        "the gateway asks the model server for",
        "denied: no rule has that path",
    ),
    (
        "a notebook, attested as well, asks the model",
        "denied: no rule names the notebook",
    ),
    (
        "the machine lab-1, listed for research/model-",
        "refused an identity: not a member",
    ),
    (
        "the machine gpu-2, listed for inference/llm,",
        "refused an identity: its PCRs",
    ),
    (
        "the certificate that inference/llm shows its",
        "names it, and says what was proven",
    ),
    (
        "an operator revokes the machine gpu-1 while a",
        "the live stream ends at once",
    ),
    (
        "the gateway asks the revoked machine for its",
        "denied: revoked",
    ),
    (
        "the operator ends the revocation, and says why",
        "service returns; the record names",
    ),
    (
        "the record of all issuances and refusals",
        "intact, by its own hashes",
    ),
];

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
