//! Machines with enclaves, and the security module in front of each.
//!
//! Source: AWS `aws-nitro-enclaves-nsm-api`, `docs/attestation_process.md`; RFC 9052 §4.4; RFC 8949 §3.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::SystemTime;

use rcgen::KeyUsagePurpose;
use tempfile::TempDir;

use super::authority::{Authority, Curve, Key, params};

/// Who runs such machines.
#[derive(Debug)]
pub struct Aws {
    root: Authority,
    zone: Authority,
}

/// An enclave.
#[derive(Clone, Debug)]
pub struct Enclave {
    key: Key,
    certificate: Vec<u8>,
    bundle: [Vec<u8>; 2],
    /// Digest of its image: this byte 48 times; zero of one in debug mode.
    pub image: u8,
}

impl Aws {
    pub(super) fn new() -> Self {
        let root = Authority::root("aws.nitro-enclaves", Curve::P384);
        let zone = root.below("zone", None);
        Self { root, zone }
    }

    pub(super) fn root(&self) -> &[u8] {
        self.root.der()
    }

    /// An enclave on the instance [`INSTANCE`], whose module's certificate is over at `until`.
    pub fn enclave(&self, image: u8, until: SystemTime) -> Enclave {
        let key = Key::new(Curve::P384);
        let mut params = params("module");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = until.into();
        Enclave {
            certificate: self.zone.certify(&params, &key),
            key,
            bundle: [self.root.der().to_vec(), self.zone.der().to_vec()],
            image,
        }
    }
}

impl Enclave {
    /// A signed document over a nonce.
    pub fn document(&self, nonce: &[u8]) -> Vec<u8> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ms = u64::try_from(now.expect("after 1970").as_millis()).expect("it is small");
        let mut pcrs = vec![0xa2, 0x00];
        put(&mut pcrs, BYTES, &[self.image; 48]);
        pcrs.push(0x01);
        put(&mut pcrs, BYTES, &[0xbb; 48]);
        let mut bundle = vec![0x82];
        for der in &self.bundle {
            put(&mut bundle, BYTES, der);
        }
        let string = |kind: u8, content: &[u8]| {
            let mut value = Vec::new();
            put(&mut value, kind, content);
            value
        };
        let fields = [
            ("module_id", string(TEXT, MODULE.as_bytes())),
            ("digest", string(TEXT, b"SHA384")),
            ("timestamp", [&[0x1b][..], &ms.to_be_bytes()].concat()),
            ("pcrs", pcrs),
            ("user_data", vec![0xf6]),
            ("nonce", string(BYTES, nonce)),
            ("cabundle", bundle),
            ("certificate", string(BYTES, &self.certificate)),
        ];
        let mut payload = vec![0xa8];
        for (name, value) in fields {
            put(&mut payload, TEXT, name.as_bytes());
            payload.extend(value);
        }
        let mut signed = b"\x84\x6aSignature1".to_vec();
        put(&mut signed, BYTES, PROTECTED);
        signed.push(0x40);
        put(&mut signed, BYTES, &payload);
        let mut document = vec![0x84];
        put(&mut document, BYTES, PROTECTED);
        document.push(0xa0);
        put(&mut document, BYTES, &payload);
        put(&mut document, BYTES, &self.key.sign(&signed));
        document
    }

    /// Its security module, on a socket, until this process ends.
    ///
    /// # Panics
    /// When the socket can't be made.
    pub fn module(&self) -> Module {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nsm");
        let listener = UnixListener::bind(&path).expect("the socket can be made");
        let enclave = self.clone();
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let mut request = Vec::new();
                // A client that breaks off concerns nobody else.
                if client.read_to_end(&mut request).is_err() {
                    continue;
                }
                let _gone = client.write_all(&enclave.answer(&request));
            }
        });
        Module {
            path,
            _folder: folder,
        }
    }

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let Some(nonce) = nonce(request) else {
            return b"\xa1\x65Error\x70InvalidOperation".to_vec();
        };
        let mut answer = b"\xa1\x6bAttestation\xa1\x68document".to_vec();
        put(&mut answer, BYTES, &self.document(nonce));
        answer
    }
}

/// A security module.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    _folder: TempDir,
}

impl Module {
    /// What `nitro.device` names.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// The 32 bytes behind the key `nonce` of a request.
fn nonce(request: &[u8]) -> Option<&[u8]> {
    let key = b"\x65nonce\x58\x20";
    let at = request.windows(key.len()).position(|found| found == key)?;
    request.get(at + key.len()..at + key.len() + 32)
}

/// A string of CBOR: its head in the shortest form, and its content.
fn put(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(length @ ..24), _) => out.push(kind | length),
        (Ok(length), _) => out.extend([kind | 24, length]),
        (_, length) => {
            out.push(kind | 25);
            out.extend(length.expect("it is small").to_be_bytes());
        }
    }
    out.extend_from_slice(content);
}

const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
/// `{1: -35}`: ES384.
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];
/// What a `Node` calls the machine.
pub const INSTANCE: &str = "i-0123456789abcdef0";
const MODULE: &str = "i-0123456789abcdef0-enc0123456789abcdef";
