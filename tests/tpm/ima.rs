//! A measurement list in steps: files measured into PCR 10 of a software TPM as the kernel does it, the sidecar's attester,
//! and the verifier's rules.

use std::collections::BTreeSet;
use std::io::Write;

use vouchsafe_api::convert::attest as api;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::proxy;
use vouchsafe_proxy::attester::Attesters;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::evidence::tpm::ima::policy::{Content, FileRule, PathPattern, Policy};

use crate::support::*;

/// A kernel that measures: its list as a file, and the TPM that it extends.
pub struct Kernel {
    pub swtpm: Swtpm,
    pub list: tempfile::NamedTempFile,
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [size.as_slice(), bytes].concat()
}

impl Kernel {
    pub fn boot() -> Self {
        let mut kernel = Self {
            swtpm: Swtpm::start().unwrap(),
            list: tempfile::NamedTempFile::new().unwrap(),
        };
        kernel.measure("boot_aggregate", b"PCRs 0 to 9");
        kernel
    }

    fn template(path: &str, content: &[u8]) -> Vec<u8> {
        let named = [b"sha256:\0", sha256(content).as_slice()].concat();
        [sized(&named), sized(&[path.as_bytes(), b"\0"].concat())].concat()
    }

    fn append(&mut self, hash: &[u8], template: &[u8]) {
        let head = [&[10, 0, 0, 0], hash, &sized(b"ima-ng"), &sized(template)];
        self.list.write_all(&head.concat()).unwrap();
    }

    pub fn measure(&mut self, path: &str, content: &[u8]) {
        let template = Self::template(path, content);
        self.append(&LISTED, &template);
        // The bank of SHA-256 is the one that is replayed.
        let digest = sha256(&template);
        let other = [digest; 2].concat();
        self.swtpm.measure(10, &digest, &other[..48]).unwrap();
    }

    /// A file that was open for writing.
    fn violate(&mut self, path: &str) {
        self.append(&[0; 20], &Self::template(path, b""));
        self.swtpm.measure(10, &[0xff; 32], &[0xff; 48]).unwrap();
    }

    /// In the list, and measured by nobody.
    fn forge(&mut self, path: &str, content: &[u8]) {
        let template = Self::template(path, content);
        self.append(&LISTED, &template);
    }

    async fn attester(&self) -> Attesters {
        let config = proxy::Tpm {
            ima_log: Some(self.list.path().to_owned()),
            ..config(&self.swtpm)
        };
        open(config).await
    }

    /// One attestation that asks for what follows `from`, judged by `policy` after `previous`.
    async fn attest(&self, from: Option<api::ImaFrom>, policy: &Policy) -> Attempt {
        let mut attester = self.attester().await;
        let mut attempt = Attempt::asking(&mut attester, from).await;
        attempt.reference.any_of[0].tpm.as_mut().unwrap().ima = Some(policy.clone());
        // Its value changes with every file: the list is judged instead.
        let image = &mut attempt.reference.any_of[0].tpm.as_mut().unwrap().images[0];
        let fixed = image.pcrs.iter().filter(|(_, pcr, _)| *pcr != 10);
        let fixed: Vec<_> = fixed
            .map(|(bank, pcr, value)| (bank, pcr, value.to_vec()))
            .collect();
        image.pcrs = Default::default();
        for (bank, pcr, value) in fixed {
            image.pcrs.insert(bank, pcr, value).unwrap();
        }
        attempt
    }
}

pub fn named(content: &[u8]) -> String {
    let digest = sha256(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn allow(files: &[(&str, &[u8])]) -> Policy {
    let rule = |(path, content): &(&str, &[u8])| FileRule {
        path: PathPattern::new(path).unwrap(),
        content: Content::Digests(BTreeSet::from([named(content)])),
    };
    Policy {
        files: files.iter().map(rule).collect(),
        ..Policy::default()
    }
}

/// The list's own hash of an entry is SHA-1, which nobody believes.
const LISTED: [u8; 20] = [7; 20];
const WHOLE: Option<api::ImaFrom> = Some(api::ImaFrom {
    entries: 0,
    reset_count: 0,
});

fn after(state: &vouchsafe_verifier::evidence::tpm::TpmState) -> Option<api::ImaFrom> {
    let judged = state.ima.as_ref().unwrap();
    Some(api::ImaFrom {
        entries: judged.checkpoint.count,
        reset_count: state.clock.reset_count,
    })
}

#[tokio::test]
async fn files_are_judged_once_and_the_next_attestation_sends_only_new_ones() {
    let policy = allow(&[("/bin/sh", b"shell"), ("/bin/**", b"tool")]);
    let mut kernel = Kernel::boot();
    kernel.measure("/bin/sh", b"shell");
    let first = kernel.attest(WHOLE, &policy).await;
    let state = first.judge().unwrap().tpm().unwrap().clone();
    assert_eq!(state.ima.as_ref().unwrap().checkpoint.count, 2);

    kernel.measure("/bin/x/tool", b"tool");
    let mut second = kernel.attest(after(&state), &policy).await;
    assert_eq!(second.evidence.ima_offset, 2);
    assert!(second.evidence.ima_log.len() < first.evidence.ima_log.len());
    // Without what was kept, nobody knows what was left out.
    second.refused("ima_checkpoint");
    second.previous = Some(state.clone());
    let state = second.judge().unwrap().tpm().unwrap().clone();
    assert_eq!(state.ima.as_ref().unwrap().checkpoint.count, 3);
    // Other rules have to see what was judged by these.
    let other = allow(&[("/**", b"tool")]);
    second.reference.any_of[0].tpm.as_mut().unwrap().ima = Some(other);
    second.refused("ima_checkpoint");

    // Nothing new; then a file that no rule allows, which is named.
    let mut third = kernel.attest(after(&state), &policy).await;
    assert!(third.evidence.ima_log.is_empty());
    third.previous = Some(state.clone());
    third.judge().unwrap();
    kernel.measure("/tmp/evil", b"tool");
    let mut fourth = kernel.attest(after(&state), &policy).await;
    fourth.previous = Some(state);
    let refusal = fourth.judge().unwrap_err();
    assert_eq!(refusal.reason(), "ima_file");
    assert!(refusal.detail.contains("/tmp/evil"), "{}", refusal.detail);
}

#[tokio::test]
async fn a_list_that_was_changed_does_not_replay() {
    let policy = allow(&[("/bin/**", b"tool")]);
    let mut kernel = Kernel::boot();
    kernel.measure("/bin/a", b"tool");
    let mut attempt = kernel.attest(WHOLE, &policy).await;
    attempt.judge().unwrap();
    let whole = attempt.evidence.ima_log.clone();
    // Other content, an entry left out, cut inside an entry, left out altogether.
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() = 1;
    attempt.evidence.ima_log = changed;
    attempt.refused("ima_log");
    let mut changed = whole.clone();
    let at = whole.len() - 3;
    changed[at] ^= 1;
    attempt.evidence.ima_log = changed;
    attempt.refused("ima_replay");
    attempt.evidence.ima_log = whole[..whole.len() - 1].to_vec();
    attempt.refused("ima_log");
    attempt.evidence.ima_log = Vec::new();
    attempt.refused("ima_log");
    // Beyond the quote an entry waits, whether the kernel measured it or not.
    kernel.forge("/bin/b", b"tool");
    attempt.evidence.ima_log = std::fs::read(kernel.list.path()).unwrap();
    let state = attempt.judge().unwrap().tpm().unwrap().clone();
    assert_eq!(state.ima.unwrap().checkpoint.count, 2);
}

#[tokio::test]
async fn a_violation_is_refused_unless_the_rules_accept_it() {
    let mut policy = allow(&[("/bin/**", b"tool")]);
    let mut kernel = Kernel::boot();
    kernel.violate("/var/log/x");
    let refusal = kernel.attest(WHOLE, &policy).await.judge().unwrap_err();
    assert_eq!(refusal.reason(), "ima_file");
    assert!(refusal.detail.contains("/var/log/x"), "{}", refusal.detail);
    policy.danger_accept_violations = true;
    kernel.attest(WHOLE, &policy).await.judge().unwrap();
}

#[tokio::test]
async fn a_kernel_that_does_not_measure_proves_nothing() {
    let policy = Policy::default();
    let kernel = Kernel {
        swtpm: Swtpm::start().unwrap(),
        list: tempfile::NamedTempFile::new().unwrap(),
    };
    kernel.attest(WHOLE, &policy).await.refused("ima_log");
    // Nor does a sidecar that sends no list.
    kernel.attest(None, &policy).await.refused("ima_log");
}

#[tokio::test]
async fn after_a_reboot_the_whole_list_is_sent_and_judged_from_its_beginning() {
    let policy = allow(&[("/bin/**", b"tool")]);
    let mut kernel = Kernel::boot();
    kernel.measure("/bin/a", b"tool");
    let state = kernel
        .attest(WHOLE, &policy)
        .await
        .judge()
        .unwrap()
        .tpm()
        .unwrap()
        .clone();
    kernel.swtpm.reboot().unwrap();
    kernel.list = tempfile::NamedTempFile::new().unwrap();
    kernel.measure("boot_aggregate", b"PCRs 0 to 9");
    kernel.measure("/bin/a", b"tool");
    kernel.measure("/bin/b", b"tool");
    let mut attempt = kernel.attest(after(&state), &policy).await;
    assert_eq!(attempt.evidence.ima_offset, 0);
    attempt.previous = Some(state.clone());
    let judged = attempt.judge().unwrap().tpm().unwrap().clone();
    assert_eq!(judged.ima.unwrap().checkpoint.count, 3);
    // One that claims the old boot's entries is refused.
    attempt.evidence.ima_offset = 2;
    attempt.refused("ima_checkpoint");
}
