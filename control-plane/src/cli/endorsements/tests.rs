//! The commands over real endorsements: fetched at one site, carried, and imported at another.

use std::fs;

use clap::Parser;

use super::*;
use crate::endorsements::tests::Hand;
use crate::endorsements::tests::vendor::{Intel, Vendor, data};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// A site: its data folder, and a folder for files.
struct Site {
    folder: tempfile::TempDir,
    hand: Hand,
}

impl Site {
    fn new(time: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            hand: Hand::at(time),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn run(&self, line: &str) -> Outcome {
        let words = std::iter::once("endorsements").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).unwrap();
        run_at(line.command, self.hand.clock()).await
    }

    async fn json(&self, line: &str) -> (u8, Value) {
        let data = self.path("data");
        let outcome = self.run(&format!("{line} --data {data} -o json")).await;
        let value = serde_json::from_str(&outcome.output);
        let value = value.unwrap_or_else(|_| panic!("{} {}", outcome.output, outcome.error));
        (outcome.status, value)
    }

    /// A configuration that names these services, and no others.
    fn config(&self, intel: &str) -> String {
        let file = self.path("control-plane.yaml");
        let text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\nspec:\n  endorsements:\n    intel_pcs: {intel}\n    amd_kds: http://127.0.0.1:1\n    nvidia_rim: http://127.0.0.1:1\n    nvidia_ocsp: http://127.0.0.1:1\n"
        );
        fs::write(&file, text).unwrap();
        file
    }
}

/// Each name with its word.
fn results(value: &Value, key: &str) -> Vec<(String, String)> {
    let listed = value["endorsements"].as_array().unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    listed
        .iter()
        .map(|entry| (text(entry, "name"), text(entry, key)))
        .collect()
}

const QUOTE: &str = "verifier/testdata/tdx/v4-uptodate-dstack/quote.bin";
const NOON: &str = "2025-07-01T12:00:00Z";

fn quote() -> String {
    format!("{}/{QUOTE}", env!("CARGO_MANIFEST_DIR"))
}

const NAMES: [&str; 4] = [
    "intel-pck-crl-platform.json",
    "intel-qe-identity-tdx.json",
    "intel-root-crl.json",
    "intel-tcb-info-tdx-b0c06f000000.json",
];

fn all(word: &str) -> Vec<(String, String)> {
    NAMES
        .map(|name| (name.to_owned(), word.to_owned()))
        .to_vec()
}

/// A site that fetched what a quote needs.
async fn connected(case: &str, time: &str) -> (Site, Vendor) {
    let site = Site::new(time);
    let vendor = Vendor::start().await;
    Intel::of(case).serve(&vendor);
    let config = site.config(&vendor.base);
    let (status, fetched) = site
        .json(&format!("fetch --config {config} --kind tdx {}", quote()))
        .await;
    assert_eq!(
        (status, results(&fetched, "result").len()),
        (0, 4),
        "{fetched:#}"
    );
    (site, vendor)
}

async fn export(site: &Site) -> String {
    let (key, bundle) = (site.path("key.pem"), site.path("bundle"));
    if !Path::new(&key).exists() {
        let made = site.run(&format!("keygen --key {key}")).await;
        assert_eq!(made.status, 0, "{}", made.error);
    }
    let (status, _) = site
        .json(&format!("export --key {key} --out {bundle}"))
        .await;
    assert_eq!(status, 0);
    bundle
}

#[tokio::test]
async fn what_one_site_fetched_another_imports() {
    let (site, _vendor) = connected("tdx/v4-uptodate-dstack", NOON).await;
    let bundle = export(&site).await;
    let pinned = site.path("key.pem.pub");
    let first = fs::read(&bundle).unwrap();
    export(&site).await;
    assert_eq!(
        fs::read(&bundle).unwrap(),
        first,
        "the same objects, the same file"
    );
    let closed = Site::new(NOON);
    let line = format!("import --key {pinned} {bundle}");
    let (status, imported) = closed.json(&line).await;
    assert_eq!((status, results(&imported, "result")), (0, all("imported")));
    let (status, imported) = closed.json(&line).await;
    assert_eq!((status, results(&imported, "result")), (0, all("same")));
    let (status, shown) = closed.json("status").await;
    assert_eq!((status, results(&shown, "state")), (0, all("valid")));
    assert!(shown["endorsements"][0]["origin"] == "import");
    // And the folder is what the offline judgement takes.
    let objects = closed.path("data/endorsements/objects");
    let files = read_all(&[objects.into()]).unwrap();
    assert_eq!(files.len(), 4);
    let evidence = data("testdata/tdx/v4-uptodate-dstack/quote.bin");
    let dossier = vouchsafe_verifier::dossier::Dossier {
        files: &[vouchsafe_verifier::dossier::File {
            name: "quote.bin",
            bytes: &evidence,
        }],
        endorsements: &borrowed(&files),
    };
    let now = (closed.hand.clock())();
    let glance = vouchsafe_verifier::dossier::inspect(Kind::Tdx, dossier, &Default::default(), now);
    assert!(!glance.judgement().is_incomplete);
}

#[tokio::test]
async fn a_list_of_needs_is_fetched_elsewhere() {
    let (site, vendor) = connected("tdx/v4-uptodate-dstack", NOON).await;
    let (_, shown) = site.json("status").await;
    let list = site.path("needs.json");
    fs::write(&list, shown.to_string()).unwrap();
    let other = Site::new(NOON);
    let config = other.config(&vendor.base);
    let (status, fetched) = other
        .json(&format!("fetch --config {config} --needs {list}"))
        .await;
    assert_eq!((status, results(&fetched, "result")), (0, all("held")));
    let bad = site.path("bad.json");
    for text in ["", "{}", "{\"endorsements\":[{\"need\":{\"name\":\"x\"}}]}"] {
        fs::write(&bad, text).unwrap();
        let outcome = other
            .run(&format!(
                "fetch --needs {bad} --data {}",
                other.path("data")
            ))
            .await;
        assert_eq!(outcome.status, 2, "{text}");
    }
}

#[tokio::test]
async fn what_could_not_be_fetched_is_said_and_listed_as_missing() {
    let site = Site::new(NOON);
    let vendor = Vendor::start().await;
    let config = site.config(&vendor.base);
    let line = format!("fetch --config {config} --kind tdx {}", quote());
    let (status, fetched) = site.json(&line).await;
    let mut found = results(&fetched, "result");
    found.sort();
    assert_eq!((status, found), (1, all("not_found")));
    let (status, shown) = site.json("status").await;
    assert_eq!((status, results(&shown, "state")), (1, all("missing")));
    assert_eq!(shown["endorsements"][0]["failure"]["reason"], "not_found");
    // Without evidence, what is missing is fetched; a while later, because it failed just now.
    Intel::of("tdx/v4-uptodate-dstack").serve(&vendor);
    site.hand.set("2025-07-01T13:00:00Z");
    let (status, fetched) = site.json(&format!("fetch --config {config}")).await;
    assert_eq!((status, results(&fetched, "result")), (0, all("held")));
    let data = site.path("data");
    let shown = site.run(&format!("status --data {data}")).await;
    assert!(
        shown.output.contains("intel-root-crl.json"),
        "{}",
        shown.output
    );
}

#[tokio::test]
async fn a_bundle_that_was_changed_or_signed_by_another_imports_nothing() {
    let (site, _vendor) = connected("tdx/v4-uptodate-dstack", NOON).await;
    let bundle = export(&site).await;
    let pinned = site.path("key.pem.pub");
    let text = fs::read_to_string(&bundle).unwrap();
    let closed = Site::new(NOON);
    let check = async |text: &str, key: &str, reason: &str| {
        let changed = closed.path("changed");
        fs::write(&changed, text).unwrap();
        let data = closed.path("data");
        let outcome = closed
            .run(&format!("import --key {key} {changed} --data {data}"))
            .await;
        assert_eq!(outcome.status, 1);
        assert!(outcome.error.contains(reason), "{}", outcome.error);
        assert!(!Path::new(&data).exists());
    };
    let line = text.lines().last().unwrap();
    check(&text.replace(line, ""), &pinned, "bundle_signature").await;
    check(
        &text.replacen("need", "Need", 1),
        &pinned,
        "bundle_signature",
    )
    .await;
    check("", &pinned, "bundle_malformed").await;
    let other = closed.path("other.pem");
    closed.run(&format!("keygen --key {other}")).await;
    check(&text, &format!("{other}.pub"), "bundle_key_not_pinned").await;
    let data = closed.path("data");
    let private = closed
        .run(&format!("import --key {other} {bundle} --data {data}"))
        .await;
    assert_eq!(private.status, 2, "a private key pins nothing");
}

#[tokio::test]
async fn a_bundle_never_takes_a_site_back_and_brings_nothing_that_is_over() {
    // Both sites hold the identity of quoting enclaves; one of them a newer edition.
    let (older, _one) = connected("tdx/v4-uptodate-dstack", "2025-07-10T00:00:00Z").await;
    let newer = Site::new("2025-07-10T00:00:00Z");
    let vendor = Vendor::start().await;
    Intel::of("tdx/v4-gcp-padded-8000").serve(&vendor);
    let config = newer.config(&vendor.base);
    let evidence = quote().replace("v4-uptodate-dstack", "v4-gcp-padded-8000");
    let (status, _) = newer
        .json(&format!("fetch --config {config} --kind tdx {evidence}"))
        .await;
    assert_eq!(status, 0);
    let bundle = export(&older).await;
    let pinned = older.path("key.pem.pub");
    let line = format!("import --key {pinned} {bundle}");
    let (status, imported) = newer.json(&line).await;
    let found = results(&imported, "result");
    assert_eq!(status, 1);
    assert!(
        found.contains(&(NAMES[1].into(), "older".into())),
        "{found:?}"
    );
    assert!(
        found.contains(&(NAMES[3].into(), "imported".into())),
        "{found:?}"
    );
    // A month later it is all over.
    let late = Site::new("2025-08-20T00:00:00Z");
    let (status, imported) = late.json(&line).await;
    let found = results(&imported, "result");
    assert_eq!(status, 1);
    assert!(
        found.contains(&(NAMES[3].into(), "expired".into())),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_key_is_made_once_and_kept_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new(NOON);
    let key = site.path("key.pem");
    let line = format!("keygen --key {key}");
    assert_eq!(site.run(&line).await.status, 0);
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = site.run(&line).await;
    assert_eq!((again.status, again.error.contains("exists")), (3, true));
    let data = site.path("data");
    let out = site.path("out");
    let export = format!("export --key {key} --out {out} --data {data}");
    // Nothing is held.
    assert_eq!(site.run(&export).await.status, 3);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let wide = site.run(&export).await;
    assert!(wide.error.contains("chmod"), "{}", wide.error);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "junk").unwrap();
    assert!(site.run(&export).await.error.contains("PKCS #8"));
}

#[test]
fn evidence_and_its_kind_go_together() {
    let parse = |line: &str| Line::try_parse_from(line.split_whitespace()).is_ok();
    assert!(parse("endorsements fetch"));
    assert!(parse("endorsements fetch --kind tdx file"));
    assert!(!parse("endorsements fetch --kind tdx"));
    assert!(!parse("endorsements fetch file"));
    assert!(!parse("endorsements fetch --needs list --kind tdx file"));
    assert!(!parse("endorsements import bundle"));
}
