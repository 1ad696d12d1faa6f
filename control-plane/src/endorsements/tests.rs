//! Real endorsements over real sockets: what vendors may do to us, and what must not follow from it.

mod fetching;
mod keeping;
pub(crate) mod vendor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vouchsafe_config::control_plane::EndorsementSources;
use vouchsafe_verifier::dossier::{File, Kind};
use vouchsafe_verifier::endorsement::need::{IntelTee, Need};
use vouchsafe_verifier::endorsement::needs::needs;

use super::*;
use vendor::{Intel, Vendor, data};

/// A clock that is set by hand, because real endorsements were valid at their time.
#[derive(Clone, Debug)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn at(text: &str) -> Self {
        let hand = Self(Arc::default());
        hand.set(text);
        hand
    }

    pub(crate) fn set(&self, text: &str) {
        let time: SystemTime = text.parse::<jiff::Timestamp>().unwrap().into();
        let since = time.duration_since(UNIX_EPOCH).unwrap();
        self.0.store(since.as_secs(), Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = Arc::clone(&self.0);
        Arc::new(move || UNIX_EPOCH + Duration::from_secs(hand.load(Ordering::SeqCst)))
    }
}

/// Impatient, and without a limit per time: those have tests of their own.
fn tempo() -> Tempo {
    Tempo {
        flight: Duration::from_secs(20),
        backoff: Duration::from_millis(1),
        negative: Duration::ZERO,
        limits: |_| Limits {
            concurrent: 2,
            interval: Duration::ZERO,
            burst: 1000,
        },
    }
}

/// Services that nobody named are not there.
fn sources() -> EndorsementSources {
    let nowhere = || "http://127.0.0.1:1".to_owned();
    EndorsementSources {
        offline: false,
        amd_kds: nowhere(),
        intel_pcs: nowhere(),
        nvidia_rim: nowhere(),
        nvidia_ocsp: nowhere(),
        ca_file: None,
        wait: Duration::from_secs(15),
    }
}

fn endorsements(sources: EndorsementSources, hand: &Hand, tempo: Tempo) -> Endorsements {
    let deadlines = Deadlines {
        connect: Duration::from_secs(5),
        whole: Duration::from_secs(10),
    };
    let client = HttpClient::new(sources.ca_file.as_deref(), deadlines);
    let metrics = EndorsementMetrics::new().unwrap();
    let roots = VendorRoots::PINNED;
    Endorsements::with(sources, None, metrics, hand.clock(), tempo, client, roots)
}

/// With Intel's services at this address.
fn intel(vendor: &Vendor, hand: &Hand) -> Endorsements {
    let sources = EndorsementSources {
        intel_pcs: vendor.base.clone(),
        ..sources()
    };
    endorsements(sources, hand, tempo())
}

const QE_IDENTITY: Need = Need::IntelQeIdentity { tee: IntelTee::Tdx };
/// When the endorsements of `tdx/v4-uptodate-dstack` were valid.
const NOON: &str = "2025-07-01T12:00:00Z";

fn needs_of(kind: Kind, file: &str) -> Vec<Need> {
    let bytes = data(&format!("testdata/{file}"));
    let files = [File {
        name: "evidence",
        bytes: &bytes,
    }];
    needs(kind, &files)
}

/// The one reason why the one need is missing.
#[track_caller]
fn reason(gathered: &Gathered) -> (&'static str, &'static str) {
    match gathered.missing.as_slice() {
        [missing] => (missing.reason, missing.error.reason()),
        missing => panic!("{missing:?}"),
    }
}
