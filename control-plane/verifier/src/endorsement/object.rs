//! Endorsements verified by themselves, before any evidence asks for them.
//!
//! What is kept in a cache or comes in a bundle must be what its name says, signed by its vendor below a root that is
//! compiled in, and valid now. So an answer that somebody poisoned never displaces a good one, and an old one that is
//! still valid never displaces a newer one ([`Endorsement::is_older_than`]). Evidence is judged with the same files
//! later, and that judgement trusts nothing that was found here.
//!
//! Source: AMD 57230 rev. 0.51; Intel SGX and TDX PCS API v4; TCG RIM; RFC 5280; DESIGN §5.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;

use super::need::Need;
use crate::evidence::x509::{self, Dates, PathError};
use crate::evidence::{dcap, nvidia_gpu, sev_snp};
use crate::ocsp::{Freshness, OcspError, Response};
use crate::vendor_roots::VendorRoots;

/// A file that is what a [`Need`] names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endorsement {
    need: Need,
    bytes: Vec<u8>,
    validity: Validity,
}

/// How new an object is and how long it is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Validity {
    /// A number that its issuer counts up, 0 where there is none.
    pub(crate) number: u64,
    /// Unix time.
    pub(crate) from: i64,
    /// Unix time.
    pub(crate) until: i64,
}

/// Why bytes are not the endorsement that they should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndorsementError {
    /// Larger than kept.
    #[error("{0} bytes are more than this object has")]
    TooLarge(usize),
    /// Another form.
    #[error("this is not {0}")]
    Malformed(&'static str),
    /// Genuine perhaps, but of something else.
    #[error("this is about something else: {0}")]
    Subject(String),
    /// Not signed as it must be.
    #[error("the signature does not hold: {0}")]
    Signature(String),
    /// Its time has not come.
    #[error("this is not valid before {0}")]
    NotYetValid(String),
    /// Its time is over.
    #[error("this was valid until {0}")]
    Expired(String),
}

impl EndorsementError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Subject(_) => "wrong_subject",
            Self::Signature(_) => "signature",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::Expired(_) => "expired",
        }
    }
}

impl From<PathError> for EndorsementError {
    fn from(error: PathError) -> Self {
        match error {
            PathError::Empty => Self::Malformed("a chain"),
            PathError::Root(_)
            | PathError::Step(_)
            | PathError::Depth(_)
            | PathError::Critical(..) => Self::Signature(error.to_string()),
            PathError::NotYet(_, from) => Self::NotYetValid(from),
            PathError::Expired(_, until) => Self::Expired(until),
        }
    }
}

impl Endorsement {
    /// Verifies a file. `authorities` are files of [`Need::AmdChain`] that were verified before: AMD may have replaced
    /// those that are compiled in.
    ///
    /// # Errors
    /// [`EndorsementError`].
    pub fn verify(
        need: &Need,
        bytes: &[u8],
        authorities: &[&[u8]],
        now: SystemTime,
    ) -> Result<Self, EndorsementError> {
        Self::verify_below(&VendorRoots::PINNED, need, bytes, authorities, now)
    }

    /// The same below roots that only tests replace.
    ///
    /// # Errors
    /// [`EndorsementError`].
    pub fn verify_below(
        roots: &VendorRoots,
        need: &Need,
        bytes: &[u8],
        authorities: &[&[u8]],
        now: SystemTime,
    ) -> Result<Self, EndorsementError> {
        if bytes.len() > MAX_BYTES {
            return Err(EndorsementError::TooLarge(bytes.len()));
        }
        let root = roots.intel();
        let amd = |product| sev_snp::endorsed::root_of(product, roots);
        let validity = match need {
            Need::AmdVcek {
                product,
                chip_id,
                tcb,
            } => sev_snp::endorsed::verify_vcek(
                bytes,
                *product,
                chip_id,
                *tcb,
                authorities,
                amd(*product),
                now,
            ),
            Need::AmdChain { product, signer } => {
                sev_snp::endorsed::verify_chain(bytes, *product, *signer, amd(*product), now)
            }
            Need::AmdCrl { product, .. } => {
                sev_snp::endorsed::verify_crl(bytes, amd(*product), now)
            }
            Need::IntelTcbInfo { tee, fmspc } => {
                dcap::parts::verify_tcb_info(bytes, *tee, *fmspc, root, now)
            }
            Need::IntelQeIdentity { tee } => {
                dcap::parts::verify_qe_identity(bytes, *tee, root, now)
            }
            Need::IntelPckCrl { ca } => dcap::parts::verify_pck_crl(bytes, *ca, root, now),
            Need::IntelRootCrl => dcap::parts::verify_root_crl(bytes, root, now),
            Need::NvidiaRim { id } => {
                nvidia_gpu::endorsed::verify_rim(bytes, id.as_str(), roots.nvidia().rim, now)
            }
            Need::Ocsp {
                certificate,
                issuer,
            } => verify_ocsp(bytes, certificate, issuer, now),
        }?;
        Ok(Self {
            need: need.clone(),
            bytes: bytes.to_vec(),
            validity,
        })
    }

    /// What it is.
    pub fn need(&self) -> &Need {
        &self.need
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When it was issued.
    pub fn issued(&self) -> SystemTime {
        time(self.validity.from)
    }

    /// The last moment at which it is valid.
    pub fn until(&self) -> SystemTime {
        time(self.validity.until)
    }

    /// Whether `other` is a newer edition of the same object.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let edition = |held: &Self| (held.validity.number, held.validity.from);
        edition(self) < edition(other)
    }
}

/// An answer about a certificate is worth as much as the issuer that was named: the judgement of evidence asks for one
/// below a root that it trusts. A revocation is an answer like any other.
fn verify_ocsp(
    bytes: &[u8],
    certificate: &[u8],
    issuer: &[u8],
    now: SystemTime,
) -> Result<Validity, EndorsementError> {
    let answer = Response::parse(bytes)
        .and_then(|response| response.verify(certificate, issuer, None))
        .map_err(|error| match error {
            OcspError::TooLarge(_)
            | OcspError::Malformed(_)
            | OcspError::Critical
            | OcspError::Certificate(_)
            | OcspError::Refused(_) => EndorsementError::Malformed("an OCSP response"),
            OcspError::OtherCertificate | OcspError::Nonce => {
                EndorsementError::Subject(error.to_string())
            }
            OcspError::Responder(_) | OcspError::Signature => {
                EndorsementError::Signature(error.to_string())
            }
        })?;
    let validity = Validity {
        number: 0,
        from: x509::seconds(answer.this_update),
        until: x509::seconds(answer.next_update),
    };
    match answer.freshness(now) {
        Freshness::Current => Ok(validity),
        Freshness::NotYet => Err(EndorsementError::NotYetValid(unix(validity.from))),
        Freshness::Stale => Err(EndorsementError::Expired(unix(validity.until))),
    }
}

/// Unix time as a time; before 1970 and after 9999 the nearest of both.
pub(super) fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(MAX_TIME))
}

impl Validity {
    /// The time in which all certificates of a path are valid.
    pub(crate) fn of_path(path: &[X509Certificate<'_>]) -> Self {
        let dates = || path.iter().map(|held| held.validity());
        Self {
            number: 0,
            from: dates()
                .map(|dates| dates.not_before.timestamp())
                .max()
                .unwrap_or(i64::MAX),
            until: dates()
                .map(|dates| dates.not_after.timestamp())
                .min()
                .unwrap_or(i64::MIN),
        }
    }

    /// A revocation list that `issuer` signed.
    pub(crate) fn of_crl(
        der: &[u8],
        issuer: &X509Certificate<'_>,
    ) -> Result<Self, EndorsementError> {
        let crl =
            x509::parse_crl(der).map_err(|_| EndorsementError::Malformed("a revocation list"))?;
        if crl.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(EndorsementError::Subject(crl.issuer().to_string()));
        }
        if !x509::is_crl_of(&crl, issuer) {
            return Err(EndorsementError::Signature(issuer.subject().to_string()));
        }
        Ok(Self {
            number: 0,
            from: crl.last_update().timestamp(),
            // A list without an end would be good for ever.
            until: crl.next_update().map_or(i64::MIN, |at| at.timestamp()),
        })
    }

    /// Checks the dates; the whole ends with its signer, whose own beginning says nothing about this object.
    pub(crate) fn within(self, signer: &Self, now: SystemTime) -> Result<Self, EndorsementError> {
        let whole = Self {
            until: self.until.min(signer.until),
            ..self
        };
        match x509::dates(now, whole.from.max(signer.from), Some(whole.until)) {
            Dates::Valid => Ok(whole),
            Dates::NotYet => Err(EndorsementError::NotYetValid(unix(whole.from))),
            Dates::Expired => Err(EndorsementError::Expired(unix(whole.until))),
        }
    }
}

fn unix(seconds: i64) -> String {
    format!("{seconds} of Unix time")
}

/// The largest are Intel's lists in hex.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Year 9999: later dates are written by mistake only, and some clocks can't hold them.
const MAX_TIME: u64 = 253_402_300_799;

#[cfg(test)]
mod tests;
