//! The secrets of a connection, taken over from rustls when its handshake is done, and what is derived from them
//! (RFC 8446 §7.1 to §7.3).
//!
//! # Why through the key log
//! rustls gives out a connection's keys, but not the secrets that they come from, without which a key update can't be
//! followed; its unbuffered interface can follow one, but has no exporter. A key log is told them. Ours writes nothing
//! anywhere: it leaves secrets in a slot of the thread, from which [`tapped`] takes them in the same call that made them.

use std::cell::RefCell;
use std::fmt;

use aws_lc_rs::{aead, digest, hkdf};
use rustls::{CipherSuite, KeyLog};
use zeroize::Zeroizing;

/// A secret of the key schedule, as long as the suite's hash: 32 or 48 bytes.
#[derive(Clone)]
pub(crate) struct Secret {
    bytes: Zeroizing<[u8; MAX_SECRET_BYTES]>,
    // Small, for each connection holds two.
    length: u8,
}

impl Secret {
    pub(crate) fn new(secret: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; MAX_SECRET_BYTES]);
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Self {
            bytes,
            length: u8::try_from(secret.len()).ok()?,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What one handshake came to.
#[derive(Debug)]
pub(crate) struct ConnectionSecrets {
    /// Protects what the client sends.
    pub(crate) client: Secret,
    /// Protects what the server sends.
    pub(crate) server: Secret,
}

/// Leaves secrets where [`tapped`] finds them.
#[derive(Debug)]
pub(crate) struct Tap;

impl KeyLog for Tap {
    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }

    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        TAPPED.with(|slot| {
            let mut tapped = slot.borrow_mut();
            let place = match label {
                CLIENT => &mut tapped.client,
                SERVER => &mut tapped.server,
                _ => return,
            };
            *place = Secret::new(secret);
        });
    }
}

/// Does one step of a handshake, and returns the secrets if that step made them.
pub(crate) fn tapped<R>(step: impl FnOnce() -> R) -> (R, Option<ConnectionSecrets>) {
    TAPPED.with(RefCell::take);
    let done = step();
    let Tapped { client, server } = TAPPED.with(RefCell::take);
    let secrets = client
        .zip(server)
        .map(|(client, server)| ConnectionSecrets { client, server });
    (done, secrets)
}

#[derive(Default)]
struct Tapped {
    client: Option<Secret>,
    server: Option<Secret>,
}

thread_local! {
    static TAPPED: RefCell<Tapped> = RefCell::default();
}

/// What a cipher suite is made of.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) aead: &'static aead::Algorithm,
    hkdf: hkdf::Algorithm,
    hash: &'static digest::Algorithm,
}

impl Suite {
    /// One of those that [`provider`](super::provider) has.
    pub(crate) fn of(suite: CipherSuite) -> Option<&'static Self> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(&AES_128_GCM_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(&AES_256_GCM_SHA384),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(&CHACHA20_POLY1305_SHA256),
            _ => None,
        }
    }

    /// HKDF-Expand-Label (RFC 8446 §7.1); nothing only where the length is more than HKDF gives.
    pub(crate) fn expand_label(
        &self,
        secret: &Secret,
        label: &[u8],
        context: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let length = u16::try_from(out.len()).ok()?.to_be_bytes();
        let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
        let context_length = [u8::try_from(context.len()).ok()?];
        let info: [&[u8]; 6] = [
            &length,
            &label_length,
            PREFIX,
            label,
            &context_length,
            context,
        ];
        let key = hkdf::Prk::new_less_safe(self.hkdf, secret.as_bytes());
        key.expand(&info, Length(out.len())).ok()?.fill(out).ok()
    }

    /// A secret that follows from another.
    pub(crate) fn derive(&self, secret: &Secret, label: &[u8], context: &[u8]) -> Option<Secret> {
        let mut bytes = Zeroizing::new([0; MAX_SECRET_BYTES]);
        let out = bytes.get_mut(..self.hash.output_len())?;
        self.expand_label(secret, label, context, out)?;
        Secret::new(out)
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

static AES_128_GCM_SHA256: Suite = Suite {
    aead: &aead::AES_128_GCM,
    hkdf: hkdf::HKDF_SHA256,
    hash: &digest::SHA256,
};
static AES_256_GCM_SHA384: Suite = Suite {
    aead: &aead::AES_256_GCM,
    hkdf: hkdf::HKDF_SHA384,
    hash: &digest::SHA384,
};
static CHACHA20_POLY1305_SHA256: Suite = Suite {
    aead: &aead::CHACHA20_POLY1305,
    hkdf: hkdf::HKDF_SHA256,
    hash: &digest::SHA256,
};

// Labels as in NSS key logs, which is what rustls speaks.
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";
/// Before each label of TLS 1.3.
const PREFIX: &[u8] = b"tls13 ";
/// SHA-384, the largest hash of any suite.
const MAX_SECRET_BYTES: usize = 48;
