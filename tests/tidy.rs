//! House rules that no compiler checks: who may import whom, what the tree may hold, what the documents must say.
//!
//! Each rule is one test, so that a failure names the rule; each reports every place at once. The rules are those of
//! the README's code map; a rule that is wrong is changed here, in the commit that needs it, with its argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// What each crate may use of ours, and what it must never use of others. Development dependencies are free.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("vouchsafe-attestation", &[], IO_CRATES),
    ("vouchsafe-verifier", &["vouchsafe-attestation"], IO_CRATES),
    (
        "vouchsafe-config",
        &["vouchsafe-attestation"],
        &["tokio", "hyper", "rustls", "prometheus", "tracing"],
    ),
    (
        "vouchsafe-api",
        &["vouchsafe-attestation"],
        &["rustls", "prometheus", "redb"],
    ),
    // So that the sidecar can never contain unsafe code: it stays with the devices, and knows nothing of the mesh.
    (
        "vouchsafe-device",
        &[],
        &["tokio", "hyper", "rustls", "tower", "tonic", "prometheus"],
    ),
    // So that what parses a stranger's frames knows nothing of the mesh, and can be tried out and fuzzed by itself.
    (
        "vouchsafe-http2",
        &[],
        &["h2", "hyper", "rustls", "tower", "tonic", "prometheus"],
    ),
    (
        "vouchsafe-proxy",
        &[
            "vouchsafe-attestation",
            "vouchsafe-config",
            "vouchsafe-api",
            "vouchsafe-device",
            "vouchsafe-http2",
        ],
        &["h2", "redb", "x509-parser"],
    ),
    (
        "vouchsafe-control-plane",
        &[
            "vouchsafe-attestation",
            "vouchsafe-config",
            "vouchsafe-api",
            "vouchsafe-verifier",
        ],
        &["h2"],
    ),
    (
        "vouchsafe-tests",
        &[
            "vouchsafe-attestation",
            "vouchsafe-config",
            "vouchsafe-api",
            "vouchsafe-verifier",
            "vouchsafe-proxy",
            "vouchsafe-control-plane",
        ],
        &[],
    ),
    (
        "vouchsafe-benches",
        &[
            "vouchsafe-attestation",
            "vouchsafe-config",
            "vouchsafe-api",
            "vouchsafe-verifier",
            "vouchsafe-proxy",
            "vouchsafe-control-plane",
            "vouchsafe-tests",
        ],
        &[],
    ),
];

/// What pure crates must not reach: runtimes, sockets, logs.
const IO_CRATES: &[&str] = &[
    "tokio",
    "hyper",
    "rustls",
    "tower",
    "tonic",
    "tracing",
    "prometheus",
    "redb",
];

/// Words that production source of a folder must not contain, the files excepted, and why.
const FORBIDDEN_WORDS: &[(&str, &[&str], &[&str], &str)] = &[
    (
        "control-plane/attestation/src",
        CLOCK_AND_IO,
        &[],
        "attestation is pure",
    ),
    (
        "control-plane/verifier/src",
        CLOCK_AND_IO,
        &[],
        "the verifier is pure",
    ),
    (
        "config/src",
        &["std::fs", "File::open"],
        &["config/src/load"],
        "only `load` touches disk",
    ),
    (
        "config/src",
        &["SystemTime::now", "Instant::now", "std::env"],
        &[],
        "config is pure",
    ),
    (
        "proxy/src",
        &["rcgen::"],
        &["proxy/src/svid/"],
        "only the SVID client makes requests for certificates",
    ),
    (
        "control-plane/src",
        &["rcgen::"],
        &["control-plane/src/ca"],
        "only `ca` sees a key",
    ),
    (
        "proxy/src/inbound",
        &["crate::outbound"],
        &[],
        "inbound and outbound never meet",
    ),
    (
        "proxy/src/outbound",
        &["crate::inbound"],
        &[],
        "inbound and outbound never meet",
    ),
    (
        "proxy/src",
        &["crate::attester"],
        &[
            "proxy/src/svid",
            "proxy/src/attester",
            "proxy/src/app",
            "proxy/src/main.rs",
            "proxy/src/collect",
        ],
        "`svid` alone uses the attester, and `collect`, which gives nobody a certificate",
    ),
    (
        "proxy/src/telemetry",
        &[
            "crate::app",
            "crate::inbound",
            "crate::mesh_state",
            "crate::outbound",
            "crate::svid",
            "crate::worker",
        ],
        &[],
        "telemetry knows words and facts, not the parts that produce them",
    ),
    (
        "control-plane/src/issuance",
        &[
            "crate::store",
            "CertificateAuthority",
            "crate::ca::key",
            "crate::log",
            "crate::rpc",
            "std::fs",
            "SystemTime::now",
        ],
        &[],
        "issuance decides and does no IO",
    ),
];

const CLOCK_AND_IO: &[&str] = &[
    "std::fs",
    "std::env",
    "TcpStream",
    "UdpSocket",
    "SystemTime::now",
    "Instant::now",
];

/// Crates that must not be in the build: second TLS providers, C libraries, unmaintained parsers.
const BANNED: &[&str] = &[
    "boring",
    "boring-sys",
    "libtss2-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
    "ring",
    "rustls-pemfile",
    "serde_yaml",
    "serde_yml",
    "tss-esapi",
    "tss-esapi-sys",
    "yaml-rust",
];

/// Licences that a dependency may have.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What may stand at the top besides hidden files.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "config",
    "control-plane",
    "deploy",
    "proxy",
    "tests",
];

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
});

/// Every file of the tree that git would commit, relative to the root, sorted.
static FILES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&*ROOT)
        .output();
    let mut files: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)
            .expect("file names are UTF-8")
            .lines()
            .map(str::to_owned)
            .collect(),
        // A source archive has no git: everything in it is the tree, but for what cargo builds.
        _ => {
            let mut found = Vec::new();
            walk(&ROOT, "", &mut found);
            found
        }
    };
    files.retain(|file| ROOT.join(file).is_file());
    files.sort();
    assert!(
        files.len() > 30,
        "found only {} files below {}",
        files.len(),
        ROOT.display()
    );
    files
});

static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--all-features",
        ])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(&*ROOT)
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
});

// ---------------------------------------------------------------------------------------------------------------------
// Imports

#[test]
fn crates_import_only_downwards() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in workspace_packages() {
        let name = package["name"].as_str().expect("a name");
        let Some((_, ours, never)) = ARROWS.iter().find(|(crate_name, ..)| *crate_name == name)
        else {
            wrong.push(format!(
                "`{name}` has no arrows: add it to ARROWS with its reason to exist"
            ));
            continue;
        };
        seen.insert(name);
        for dependency in package["dependencies"].as_array().expect("a list") {
            if dependency["kind"] == "dev" {
                continue;
            }
            let dependency = dependency["name"].as_str().expect("a name");
            if dependency.starts_with("vouchsafe-") && !ours.contains(&dependency) {
                wrong.push(format!("`{name}` must not use `{dependency}`"));
            }
            if never.contains(&dependency) {
                wrong.push(format!("`{name}` must never use `{dependency}`"));
            }
        }
    }
    for (name, ..) in ARROWS {
        if !seen.contains(name) {
            wrong.push(format!("`{name}` is in ARROWS and not in the workspace"));
        }
    }
    report(&wrong);
}

#[test]
fn modules_import_only_what_their_place_allows() {
    let mut wrong = Vec::new();
    for file in FILES
        .iter()
        .filter(|file| file.ends_with(".rs") && !is_test_source(file))
    {
        for (folder, words, except, why) in FORBIDDEN_WORDS {
            if !below(file, folder) || except.iter().any(|exception| file.starts_with(exception)) {
                continue;
            }
            for (number, line) in production_lines(&read(file)) {
                for word in words.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{file}:{number}: `{word}`: {why}"));
                }
            }
        }
    }
    report(&wrong);
}

// ---------------------------------------------------------------------------------------------------------------------
// Dependencies

#[test]
fn no_banned_crate_is_in_the_build() {
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, .. } in resolved_packages() {
        if BANNED.contains(&name.as_str()) {
            wrong.push(format!("`{name}` {version} is banned"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for single in ["rustls", "aws-lc-rs", "tokio", "hyper"] {
        let found = versions.get(single).map_or(0, BTreeSet::len);
        if found != 1 {
            wrong.push(format!(
                "`{single}` is in the build in {found} versions: {:?}",
                versions.get(single)
            ));
        }
    }
    report(&wrong);
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let mut wrong = Vec::new();
    for Package {
        name,
        licence,
        from_registry,
        ..
    } in resolved_packages()
    {
        if !licence_is_allowed(&licence) {
            wrong.push(format!("`{name}` has the licence `{licence}`"));
        }
        if !from_registry && !name.starts_with("vouchsafe-") {
            wrong.push(format!("`{name}` does not come from the registry"));
        }
    }
    report(&wrong);
}

#[test]
fn licence_expressions_are_judged_by_their_operators() {
    for (expression, allowed) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0", false),
        ("ISC AND (Apache-2.0 OR ISC)", true),
        ("(MIT OR Apache-2.0) AND GPL-2.0", false),
        ("ISC AND (GPL-2.0 OR AGPL-3.0)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("none", false),
    ] {
        assert_eq!(licence_is_allowed(expression), allowed, "{expression}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The tree and its text

#[test]
fn the_top_level_holds_only_what_the_design_names() {
    let wrong: BTreeSet<String> = FILES
        .iter()
        .map(|file| {
            file.split('/')
                .next()
                .expect("a path has a first part")
                .to_owned()
        })
        .filter(|entry| !entry.starts_with('.') && !TOP.contains(&entry.as_str()))
        .collect();
    report(&wrong.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_source_file_says_at_its_head_what_it_is() {
    let wrong: Vec<String> = FILES
        .iter()
        // `foo/tests.rs` is the test module of `foo.rs`, whose head speaks for both.
        .filter(|file| file.ends_with(".rs") && !file.ends_with("/tests.rs"))
        .filter(|file| {
            // An attribute such as `#![no_main]` may stand before it.
            let source = read(file);
            let head = source.lines().find(|line| !line.starts_with("#!["));
            !head.is_some_and(|line| line.starts_with("//! "))
        })
        .map(|file| format!("{file}: begins without `//! `"))
        .collect();
    report(&wrong);
}

#[test]
fn unfinished_work_links_an_issue_and_no_test_is_ignored() {
    let unfinished = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    let ignored = concat!("#[", "ignore");
    let mut wrong = Vec::new();
    for file in FILES.iter().filter(|file| is_ours_to_read(file)) {
        for (number, line) in (1..).zip(read(file).lines()) {
            let marked = unfinished.iter().any(|word| {
                line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .any(|found| found == *word)
            });
            if marked && !line.contains("https://") {
                wrong.push(format!("{file}:{number}: {}", line.trim()));
            }
            if file.ends_with(".rs") && line.contains(ignored) {
                wrong.push(format!("{file}:{number}: an ignored test"));
            }
        }
    }
    report(&wrong);
}

#[test]
fn no_file_names_a_place_on_the_machine_where_it_was_written() {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/home", "/user"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
    ];
    let mut wrong = Vec::new();
    for file in FILES
        .iter()
        .filter(|file| is_ours_to_read(file) && *file != "LICENSE")
    {
        for (number, line) in (1..).zip(read(file).lines()) {
            if places.iter().any(|place| line.contains(place)) {
                wrong.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    report(&wrong);
}

#[test]
fn every_script_parses_and_is_executable() {
    let mut wrong = Vec::new();
    let mut scripts = 0;
    for file in FILES.iter().filter(|file| is_ours_to_read(file)) {
        let source = read(file);
        let Some(interpreter) = source.lines().next().filter(|line| line.starts_with("#!")) else {
            continue;
        };
        if file.ends_with(".rs") {
            continue; // `#![...]` is an attribute
        }
        scripts += 1;
        let mut parse = if interpreter.contains("bash") {
            let mut bash = Command::new("bash");
            bash.arg("-n");
            bash
        } else if interpreter.contains("python3") {
            let mut python = Command::new("python3");
            python.args([
                "-c",
                "import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])",
            ]);
            python
        } else {
            wrong.push(format!(
                "{file}: `{interpreter}` is neither bash nor python3"
            ));
            continue;
        };
        let output = parse
            .arg(ROOT.join(file))
            .output()
            .expect("the interpreter runs");
        if !output.status.success() {
            wrong.push(format!(
                "{file}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        if !is_executable(&ROOT.join(file)) {
            wrong.push(format!("{file}: is not executable"));
        }
    }
    assert!(scripts >= 3, "found only {scripts} scripts");
    report(&wrong);
}

// ---------------------------------------------------------------------------------------------------------------------
// Documents

#[test]
fn commands_of_the_documents_exist() {
    let mut wrong = Vec::new();
    let mut commands = 0;
    for file in FILES.iter().filter(|file| file.ends_with(".md")) {
        for (number, line) in shell_lines(&read(file)) {
            let word = line.split_whitespace().next().unwrap_or_default();
            commands += 1;
            if let Some(script) = word.strip_prefix("./") {
                if !is_executable(&ROOT.join(script)) {
                    wrong.push(format!(
                        "{file}:{number}: `{word}` is not an executable of this tree"
                    ));
                }
            } else if word == "cargo" {
                let alias = line.split_whitespace().nth(1).unwrap_or_default();
                let known = [
                    "build", "test", "run", "bench", "doc", "fmt", "clippy", "install",
                ];
                let aliases = read(".cargo/config.toml");
                if !known.contains(&alias) && !aliases.contains(&format!("{alias} = ")) {
                    wrong.push(format!(
                        "{file}:{number}: `cargo {alias}` is no alias of this tree"
                    ));
                }
            }
        }
    }
    assert!(
        commands >= 2,
        "found only {commands} commands in the documents"
    );
    report(&wrong);
}

#[test]
fn links_of_the_documents_resolve() {
    let mut wrong = Vec::new();
    for file in FILES.iter().filter(|file| file.ends_with(".md")) {
        let folder = Path::new(file).parent().expect("a file has a folder");
        for link in links(&read(file)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                PathBuf::from(file)
            } else {
                folder.join(path)
            };
            if !ROOT.join(&target).exists() {
                wrong.push(format!("{file}: `{link}` leads nowhere"));
            } else if !anchor.is_empty()
                && target
                    .extension()
                    .is_some_and(|extension| extension == "md")
            {
                let text =
                    std::fs::read_to_string(ROOT.join(&target)).expect("the file was just seen");
                if !anchors(&text).contains(anchor) {
                    wrong.push(format!("{file}: `{link}`: no such heading"));
                }
            }
        }
    }
    report(&wrong);
}

#[test]
fn the_metrics_page_lists_exactly_the_metrics_of_the_source() {
    let mut in_source: BTreeMap<String, String> = BTreeMap::new();
    for file in FILES.iter().filter(|file| {
        (below(file, "proxy/src") || below(file, "control-plane/src"))
            && file.ends_with(".rs")
            && !is_test_source(file)
    }) {
        for (number, line) in production_lines(&read(file)) {
            for name in quoted_metrics(&line) {
                in_source
                    .entry(name)
                    .or_insert_with(|| format!("{file}:{number}"));
            }
        }
    }
    let page = read("deploy/README.md");
    let listed: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| `vouchsafe_"))
        .filter_map(|line| line.split('`').nth(1).map(str::to_owned))
        .collect();
    let mut wrong = Vec::new();
    for (name, place) in &in_source {
        if !listed.contains(name) {
            wrong.push(format!(
                "{place}: `{name}` is not in the table of deploy/README.md"
            ));
        }
    }
    for name in &listed {
        if !in_source.contains_key(name) {
            wrong.push(format!("deploy/README.md: `{name}` is not in the source"));
        }
    }
    report(&wrong);
}

// ---------------------------------------------------------------------------------------------------------------------
// How the rules read the tree

#[track_caller]
fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn read(file: &str) -> String {
    let bytes = std::fs::read(ROOT.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the tree can be read") {
        let entry = entry.expect("the tree can be read");
        let name = entry
            .file_name()
            .into_string()
            .expect("file names are UTF-8");
        if name == "target" || name == ".git" {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        } else {
            found.push(path);
        }
    }
}

fn below(file: &str, place: &str) -> bool {
    file.strip_prefix(place)
        .is_some_and(|rest| rest.starts_with('/') || rest.starts_with('.'))
}

/// Files that people write: no vectors, corpora, lock files or binaries.
fn is_ours_to_read(file: &str) -> bool {
    let data = ["/testdata/", "/corpus/", "/vectors/", "/snapshots/"];
    !data.iter().any(|folder| file.contains(folder))
        && !file.ends_with(".lock")
        && !file.ends_with(".json")
}

fn is_test_source(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

/// Lines of a source file up to its tests, without comments, with their numbers.
fn production_lines(source: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut numbered = (1..).zip(source.lines()).peekable();
    while let Some((number, line)) = numbered.next() {
        let next_is_module = numbered
            .peek()
            .is_some_and(|(_, next)| next.trim_start().starts_with("mod "));
        if line.trim() == "#[cfg(test)]" && next_is_module {
            break;
        }
        if !line.trim_start().starts_with("//") {
            lines.push((number, line.to_owned()));
        }
    }
    lines
}

fn workspace_packages() -> impl Iterator<Item = &'static Value> {
    let members = METADATA["workspace_members"].as_array().expect("a list");
    METADATA["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|package| members.contains(&package["id"]))
}

/// A package of the build: name, version, licence, and whether it comes from the registry.
struct Package {
    name: String,
    version: String,
    licence: String,
    from_registry: bool,
}

/// What is really built on Linux. `cargo metadata` would also list optional dependencies that no feature turns on.
fn resolved_packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--locked",
            "--edges",
            "normal,build,dev",
        ])
        .args([
            "--target",
            "x86_64-unknown-linux-gnu",
            "--prefix",
            "none",
            "--no-dedupe",
            "--format",
            "{p}\t{l}",
        ])
        .current_dir(&*ROOT)
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: BTreeSet<String> = String::from_utf8(output.stdout)
        .expect("cargo prints UTF-8")
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    assert!(lines.len() > 50, "found only {} packages", lines.len());
    lines
        .iter()
        .map(|line| {
            // `name v1.2.3 (proc-macro)` comes from the registry, `name v1.2.3 (/path)` or `(https://...)` does not.
            let (package, licence) = line.split_once('\t').expect("the format has a tab");
            let mut words = package.split(' ');
            let name = words.next().expect("a name").to_owned();
            let version = words.next().expect("a version").to_owned();
            let from_registry = words.all(|word| word == "(proc-macro)");
            Package {
                name,
                version,
                licence: licence.to_owned(),
                from_registry,
            }
        })
        .collect()
}

/// SPDX expressions with `OR`, `AND`, parentheses and the old `/`: is there a way to satisfy it with what we allow?
fn licence_is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(" WITH ", "~WITH~");
    let tokens: Vec<String> = spaced
        .split_whitespace()
        .map(|token| token.replace("~WITH~", " WITH "))
        .collect();
    let mut position = 0;
    let allowed = licence_or(&tokens, &mut position);
    allowed && position == tokens.len()
}

fn licence_or(tokens: &[String], position: &mut usize) -> bool {
    let mut allowed = licence_and(tokens, position);
    while tokens.get(*position).is_some_and(|token| token == "OR") {
        *position += 1;
        allowed |= licence_and(tokens, position);
    }
    allowed
}

fn licence_and(tokens: &[String], position: &mut usize) -> bool {
    let mut allowed = licence_term(tokens, position);
    while tokens.get(*position).is_some_and(|token| token == "AND") {
        *position += 1;
        allowed &= licence_term(tokens, position);
    }
    allowed
}

fn licence_term(tokens: &[String], position: &mut usize) -> bool {
    let Some(token) = tokens.get(*position) else {
        return false;
    };
    *position += 1;
    if token != "(" {
        return LICENCES.contains(&token.as_str());
    }
    let allowed = licence_or(tokens, position);
    *position += 1; // the closing parenthesis; a missing one leaves the position past the end
    allowed
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Commands in fenced `sh` blocks: lines without comments, continuations and here-documents left out.
fn shell_lines(markdown: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let (mut inside, mut continued, mut here) = (false, false, String::new());
    for (number, line) in (1..).zip(markdown.lines()) {
        if line.trim_start().starts_with("```") {
            inside = line.trim() == "```sh";
            continue;
        }
        if !inside || line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if !here.is_empty() {
            if line.trim() == here {
                here.clear();
            }
            continue;
        }
        if !continued {
            lines.push((number, line.trim().to_owned()));
        }
        continued = line.ends_with('\\');
        if let Some((_, marker)) = line.split_once("<<") {
            here = marker
                .trim_matches(|c: char| !c.is_ascii_alphanumeric())
                .to_owned();
        }
    }
    lines
}

/// Targets of `[text](target)` outside code.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Odd pieces between backticks are code.
        for prose in line.split('`').step_by(2) {
            for piece in prose.split("](").skip(1) {
                if let Some((target, _)) = piece.split_once(')') {
                    found.push(target.to_owned());
                }
            }
        }
        // A link whose text is code has its target after the closing backtick.
        for piece in line.split("`](").skip(1) {
            if let Some((target, _)) = piece.split_once(')') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// Anchors that the headings of a document get.
fn anchors(markdown: &str) -> BTreeSet<String> {
    markdown
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// `"vouchsafe_..."` literals that are names of metrics: whole literals, not module paths such as `vouchsafe_proxy`.
fn quoted_metrics(line: &str) -> Vec<String> {
    line.split('"')
        .skip(1)
        .step_by(2)
        .filter(|literal| {
            literal.starts_with("vouchsafe_")
                && literal
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
                && !matches!(
                    *literal,
                    "vouchsafe_proxy"
                        | "vouchsafe_control_plane"
                        | "vouchsafe_config"
                        | "vouchsafe_attestation"
                )
        })
        .map(str::to_owned)
        .collect()
}
