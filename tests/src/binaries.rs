//! Where cargo put the two binaries: never a guessed path, so never a stale program.
//!
//! `tests/run` builds once and says where in `VOUCHSAFE_BIN` and `VOUCHSAFE_PROXY_BIN`; without them (a plain
//! `cargo test`) the first test that needs a binary has cargo build both and reads the paths from its report.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

struct Binaries {
    vouchsafe: PathBuf,
    proxy: PathBuf,
}

static BINARIES: LazyLock<Binaries> = LazyLock::new(|| {
    let told = |name| std::env::var_os(name).map(PathBuf::from);
    match (told("VOUCHSAFE_BIN"), told("VOUCHSAFE_PROXY_BIN")) {
        (Some(vouchsafe), Some(proxy)) => Binaries { vouchsafe, proxy },
        _ => build(),
    }
});

/// The control plane and operator CLI.
pub fn vouchsafe() -> &'static Path {
    &BINARIES.vouchsafe
}

/// The sidecar.
pub fn proxy() -> &'static Path {
    &BINARIES.proxy
}

/// The root of the tree that the tests belong to.
pub fn tree() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in the workspace")
}

fn build() -> Binaries {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--bins", "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(tree())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo could not build the binaries"
    );
    let find = |name: &str| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == name)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .unwrap_or_else(|| panic!("cargo reports no executable `{name}`"))
    };
    Binaries {
        vouchsafe: find("vouchsafe"),
        proxy: find("vouchsafe-proxy"),
    }
}
