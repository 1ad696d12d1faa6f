//! Whether NVIDIA still stands by the certificates: OCSP, about each but roots and the one that a chip made for itself.
//!
//! # Why
//! Answers live one day. One that says `revoked` counts for ever, since nobody takes it back; one that says `good` counts
//! as long as it lives and is no proof afterwards, nor a reason to refuse unless somebody demands proof: otherwise a day
//! without NVIDIA's service would be a day without GPUs. A hold may be lifted, so the newest answer decides; it refuses
//! unless rules allow it, which NVIDIA's own verifiers offer too.

use std::time::SystemTime;

use super::{Endorsements, OcspRules};
use crate::evidence::x509;
use crate::judgement::Ledger;
use crate::ocsp::{Answer, CertificateStatus, Freshness, Response};

/// Judges every certificate of paths, root first; whether all are good today.
pub(crate) fn check(
    paths: &[Vec<&[u8]>],
    endorsements: &Endorsements<'_>,
    rules: OcspRules,
    now: SystemTime,
    ledger: &mut Ledger,
) -> bool {
    let responses = endorsements.responses();
    let mut judged: Vec<&[u8]> = Vec::new();
    let mut all_good = !paths.is_empty();
    for path in paths {
        for (issuer, certificate) in path.iter().zip(path.iter().skip(1)) {
            // Manifests share authorities.
            if judged.contains(certificate) {
                continue;
            }
            judged.push(certificate);
            let about: Vec<_> = responses
                .iter()
                .filter(|(response, _)| response.is_about(certificate, issuer) == Ok(true))
                .collect();
            let mut subject = Subject {
                name: x509::parse(certificate)
                    .map(|held| held.subject().to_string())
                    .unwrap_or_default(),
                rules,
                now,
                ledger,
            };
            let newest = subject.newest(&about, certificate, issuer);
            all_good &= subject.judge(newest);
        }
    }
    all_good
}

/// A certificate that is judged.
struct Subject<'a> {
    name: String,
    rules: OcspRules,
    now: SystemTime,
    ledger: &'a mut Ledger,
}

impl Subject<'_> {
    /// The newest answer that verifies, or one that says `revoked`. A response that was given must verify; one from a
    /// cache that does not is left out.
    fn newest(
        &mut self,
        about: &[&(Response<'_>, bool)],
        certificate: &[u8],
        issuer: &[u8],
    ) -> Option<Answer> {
        let mut answers = Vec::new();
        for (response, is_given) in about {
            match response.verify(certificate, issuer, None) {
                Ok(answer) => answers.push(answer),
                Err(error) if *is_given => {
                    let detail = format!("{}: {}", self.name, crate::verdict::chain(&error));
                    self.ledger.require("ocsp", error.reason(), false, detail);
                }
                Err(_) => {}
            }
        }
        let revoked = answers.iter().find(|answer| {
            matches!(
                answer.status,
                CertificateStatus::Revoked { is_hold: false, .. }
            )
        });
        revoked
            .or_else(|| answers.iter().max_by_key(|answer| answer.this_update))
            .copied()
    }

    /// Whether the certificate is good now.
    fn judge(&mut self, newest: Option<Answer>) -> bool {
        let Some(answer) = newest else {
            self.unproven("ocsp_missing", "no answer");
            return false;
        };
        match (answer.status, answer.freshness(self.now)) {
            (CertificateStatus::Revoked { is_hold: false, .. }, _) => {
                self.refuse("certificate_revoked")
            }
            (CertificateStatus::Revoked { is_hold: true, .. }, freshness) => {
                if self.rules.allow_hold && freshness == Freshness::Current {
                    self.pass("on hold, which the rules allow")
                } else {
                    self.refuse("certificate_on_hold")
                }
            }
            (CertificateStatus::Good, Freshness::Current) => self.pass("good"),
            (CertificateStatus::Unknown, Freshness::Current) => self.refuse("certificate_unknown"),
            (CertificateStatus::Good | CertificateStatus::Unknown, Freshness::Stale) => {
                self.unproven("ocsp_expired", "the answer is too old");
                false
            }
            (CertificateStatus::Good | CertificateStatus::Unknown, Freshness::NotYet) => {
                self.unproven("ocsp_not_yet_valid", "the answer is from the future");
                false
            }
        }
    }

    fn pass(&mut self, detail: &str) -> bool {
        let detail = format!("{}: {detail}", self.name);
        self.ledger.require("ocsp", "ocsp", true, detail)
    }

    fn refuse(&mut self, reason: &'static str) -> bool {
        self.ledger
            .require("ocsp", reason, false, self.name.clone())
    }

    fn unproven(&mut self, reason: &'static str, detail: &str) {
        let detail = format!("{}: {detail}", self.name);
        if self.rules.is_required {
            self.ledger.missing("ocsp", reason, detail);
        } else {
            self.ledger.skip("ocsp", detail);
        }
    }
}
