//! `vouchsafe check [DIR]`: all mistakes of all files, and what follows from what is right.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use vouchsafe_config::load;
use vouchsafe_config::problem::{Problem, Severity};
use vouchsafe_config::set::{Options, PolicySet};

use super::Outcome;

/// Checks files and folders; bootstrap files among them are checked too.
pub fn check(paths: &[PathBuf], now: SystemTime) -> Outcome {
    let checked = load::check(paths, Options { now: Some(now) });
    let mut problems: Vec<&Problem> = match &checked.policy {
        Ok(set) => set.warnings().iter().collect(),
        Err(found) => found.iter().collect(),
    };
    problems.extend(&checked.bootstrap);
    let mut output = String::new();
    for problem in &problems {
        append(&mut output, format_args!("{problem}\n"));
    }
    let count = |severity| {
        problems
            .iter()
            .filter(|one| one.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let files = checked.files;
    let summary = format_args!("{files} file(s): {errors} error(s), {warnings} warning(s)\n");
    append(&mut output, summary);
    match &checked.policy {
        Ok(set) if errors == 0 => {
            append(&mut output, format_args!("{}", facts(set)));
            Outcome::good(output)
        }
        _ => Outcome::bad(output),
    }
}

/// Writing to a `String` can't fail.
fn append(output: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = output.write_fmt(text);
}

fn facts(set: &PolicySet) -> String {
    let mut output = format!(
        "{} workload(s), {} rule(s), {} profile(s), {} node(s)\n",
        set.workloads().count(),
        set.access_policies().count(),
        set.profiles().count(),
        set.nodes().count(),
    );
    let Some(mesh) = set.mesh() else {
        return output;
    };
    append(
        &mut output,
        format_args!(
            "outage budget: the control plane can be gone for {} before a certificate that was renewed on time ends \
             (lifetime {}, renewed every {})\n",
            show(mesh.outage_budget()),
            show(mesh.certificate_lifetime),
            show(mesh.reattest_root),
        ),
    );
    for profile in set.profiles() {
        if let Some(lifetime) = profile
            .lifetime
            .filter(|own| *own < mesh.certificate_lifetime)
        {
            let budget = lifetime.saturating_sub(mesh.reattest_root);
            let line = format_args!("  under profile {}: {}\n", profile.name, show(budget));
            append(&mut output, line);
        }
    }
    if mesh.danger_accept_simulated {
        output.push_str("danger: simulated evidence is accepted, which proves nothing\n");
    }
    output
}

fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run(files: &[(&str, &str)]) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        check(&[folder.path().to_owned()], SystemTime::UNIX_EPOCH)
    }

    const MESH: &str = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: a}\n";

    #[test]
    fn what_is_right_prints_the_outage_budget() {
        let outcome = run(&[("mesh.yaml", MESH)]);
        assert_eq!(outcome.status, 0, "{}", outcome.output);
        assert!(
            outcome.output.contains("gone for 50 min"),
            "{}",
            outcome.output
        );
    }

    #[test]
    fn mistakes_of_all_files_are_printed_together() {
        let proxy = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec: {trust_domain: a}\n";
        let outcome = run(&[
            ("mesh.yaml", &MESH.replace("Mesh", "Mush")),
            ("proxy.yaml", proxy),
        ]);
        assert_eq!(outcome.status, 1);
        for words in [
            "did you mean `Mesh`?",
            "missing key `workload`",
            "missing key `identity`",
        ] {
            assert!(
                outcome.output.contains(words),
                "{words}: {}",
                outcome.output
            );
        }
        assert!(
            outcome.output.contains("2 file(s): 3 error(s)"),
            "{}",
            outcome.output
        );
    }
}
