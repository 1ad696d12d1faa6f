//! Azure's paravisor, before a real software TPM: it adds what Azure's vTPM has and a TPM alone has not.
//!
//! Commands go to the TPM as they are, but for the NV index `0x01400001`, which the paravisor answers itself: a report
//! of the hardware, unsigned, over runtime data that names the TPM's persistent key. What is written to the index
//! `0x01400002`, which lives in the TPM, appears in the runtime data of later reports.
//!
//! Source: Microsoft, *Guest attestation for confidential VMs: attestation report format*.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tempfile::TempDir;
use vouchsafe_attestation::svid::sha256;

use crate::swtpm::Swtpm;

/// What attests below the vTPM.
#[derive(Clone)]
pub enum Hardware {
    /// AMD SEV-SNP: a report of 1184 bytes, whose report data the paravisor replaces, so that its signature is none.
    SevSnp(Vec<u8>),
    /// AMD SEV-SNP that signs for every report data.
    SigningSevSnp(Signer),
    /// Intel TDX: a local report of zeros but for its report data.
    Tdx,
}

/// Makes a report over report data.
pub type Signer = Arc<dyn Fn(&[u8; 64]) -> Vec<u8> + Send + Sync>;

impl std::fmt::Debug for Hardware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SevSnp(_) => "SevSnp(..)",
            Self::SigningSevSnp(_) => "SigningSevSnp(..)",
            Self::Tdx => "Tdx",
        })
    }
}

/// A paravisor that serves until its process ends.
#[derive(Debug)]
pub struct Paravisor {
    folder: TempDir,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tpm: PathBuf,
    hardware: Hardware,
    modulus: Vec<u8>,
    /// `None`: of a paravisor that takes no user data.
    user_data: Mutex<Option<Vec<u8>>>,
}

impl Paravisor {
    /// Makes the vTPM's key and stands before the TPM.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn start(tpm: &Swtpm, hardware: Hardware, takes_user_data: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let shared = Arc::new(Shared {
            tpm: tpm.socket(),
            hardware,
            modulus: make_key(tpm)?,
            user_data: Mutex::new(takes_user_data.then(|| vec![0; 64])),
        });
        let listener = UnixListener::bind(folder.path().join("tpm.sock"))?;
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client that breaks off concerns nobody else.
                let _ended = serving.serve(client);
            }
        });
        Ok(Self { folder, shared })
    }

    /// What `az_vtpm.swtpm` names, after `unix:`.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    /// The report as it would be read now.
    pub fn report(&self) -> Vec<u8> {
        self.shared.report()
    }
}

impl Shared {
    fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        let mut tpm = UnixStream::connect(&self.tpm)?;
        loop {
            let command = read_message(&mut client)?;
            let response = match self.answer(&command) {
                Some(own) => own,
                None => {
                    tpm.write_all(&command)?;
                    read_message(&mut tpm)?
                }
            };
            if code(&command) == NV_WRITE && response[6..10] == [0; 4] {
                self.take_user_data(&command);
            }
            client.write_all(&response)?;
        }
    }

    fn answer(&self, command: &[u8]) -> Option<Vec<u8>> {
        let report = self.report();
        let size = u16::try_from(report.len()).expect("it is small");
        match code(command) {
            NV_READ_PUBLIC if command[10..14] == HCL_REPORT => {
                let mut public = HCL_REPORT.to_vec();
                public.extend([0, 0x0b, 0x02, 0x06, 0, 0x0a, 0, 0]);
                public.extend(size.to_be_bytes());
                Some(respond(false, &[sized(&public), sized(&[0; 34])].concat()))
            }
            NV_READ if command[14..18] == HCL_REPORT => {
                if command[10..14] != OWNER {
                    return Some(refuse(0x149)); // TPM_RC_NV_AUTHORIZATION
                }
                let parameters = &command[command.len() - 4..];
                let wanted = usize::from(u16::from_be_bytes([parameters[0], parameters[1]]));
                let offset = usize::from(u16::from_be_bytes([parameters[2], parameters[3]]));
                let chunk = report.get(offset..offset + wanted);
                Some(chunk.map_or_else(|| refuse(0x146), |chunk| respond(true, &sized(chunk))))
            }
            _ => None,
        }
    }

    fn take_user_data(&self, command: &[u8]) {
        if command[14..18] != USER_DATA {
            return;
        }
        let data = command[command.len() - 66..command.len() - 2].to_vec();
        let mut user_data = self
            .user_data
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if user_data.is_some() {
            *user_data = Some(data);
        }
    }

    fn report(&self) -> Vec<u8> {
        let user_data = self
            .user_data
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut data = serde_json::json!({"keys": [{
            "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB",
            "n": URL_SAFE_NO_PAD.encode(&self.modulus),
        }]});
        if let Some(user_data) = &*user_data {
            let written: String = user_data.iter().map(|byte| format!("{byte:02X}")).collect();
            data["user-data"] = written.into();
        }
        let data = data.to_string();
        let length = u32::try_from(data.len()).expect("it is small");
        let mut report = vec![0; 32 + 1184 + 20];
        report[..4].copy_from_slice(b"HCLA");
        report[4] = 2;
        report[12] = 2;
        let fields = 32 + 1184;
        report[fields..fields + 4].copy_from_slice(&(length + 20).to_le_bytes());
        report[fields + 4] = 1;
        let mut report_data = [0; 64];
        report_data[..32].copy_from_slice(&sha256(data.as_bytes()));
        let of_hardware = &mut report[32..32 + 1184];
        match &self.hardware {
            Hardware::SevSnp(hardware) => {
                of_hardware.copy_from_slice(hardware);
                of_hardware[0x50..0x90].copy_from_slice(&report_data);
            }
            Hardware::SigningSevSnp(sign) => of_hardware.copy_from_slice(&sign(&report_data)),
            Hardware::Tdx => of_hardware[TD_REPORT_DATA].copy_from_slice(&report_data),
        }
        report[fields + 8] = match &self.hardware {
            Hardware::SevSnp(_) | Hardware::SigningSevSnp(_) => 2,
            Hardware::Tdx => 4,
        };
        report[fields + 12] = 1; // SHA-256
        report[fields + 16..].copy_from_slice(&length.to_le_bytes());
        report.extend(data.as_bytes());
        report.resize(2600, 0);
        report
    }
}

/// Makes an RSA key that signs the TPM's own statements, and keeps it at `0x81000003`; returns its modulus.
fn make_key(tpm: &Swtpm) -> anyhow::Result<Vec<u8>> {
    let mut public = vec![0, 0x01, 0, 0x0b];
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
    public.extend(0x0005_0072_u32.to_be_bytes());
    public.extend([0, 0]); // no policy
    public.extend([0, 0x10, 0, 0x14, 0, 0x0b]); // protects nothing; RSASSA with SHA-256
    public.extend([0x08, 0, 0, 0, 0, 0, 0, 0]); // 2048 bits, exponent 65537, unique
    let parameters = [
        sized(&[0; 4]),
        sized(&public),
        sized(&[]),
        vec![0; 4], // creation PCRs
    ];
    let made = tpm.transact(&command(0x131, &[ENDORSEMENT], &parameters.concat()))?;
    let handle: [u8; 4] = made[10..14].try_into()?;
    let area = 14 + 4 + 2; // behind the handle, the size of the parameters and that of the area
    let modulus = area + public.len();
    let modulus = made[modulus..modulus + 256].to_vec();
    tpm.transact(&command(0x120, &[OWNER, handle], &KEY))?;
    // Flushing takes the handle as a parameter.
    let flush = [
        &[0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65],
        handle.as_slice(),
    ]
    .concat();
    tpm.transact(&flush)?;
    Ok(modulus)
}

/// A command whose first handle has an empty password.
fn command(code: u32, handles: &[[u8; 4]], parameters: &[u8]) -> Vec<u8> {
    let body = [
        handles.concat().as_slice(),
        &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
        parameters,
    ]
    .concat();
    let size = u32::try_from(body.len() + 10).expect("it is small");
    [
        &[0x80, 0x02],
        size.to_be_bytes().as_slice(),
        &code.to_be_bytes(),
        &body,
    ]
    .concat()
}

/// A response of success, with the empty answer of one session where there is one.
fn respond(session: bool, parameters: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    if session {
        let length = u32::try_from(parameters.len()).expect("it is small");
        body.extend(length.to_be_bytes());
    }
    body.extend_from_slice(parameters);
    if session {
        body.extend([0; 5]);
    }
    let size = u32::try_from(body.len() + 10).expect("it is small");
    let tag = if session { 2 } else { 1 };
    [&[0x80, tag], size.to_be_bytes().as_slice(), &[0; 4], &body].concat()
}

fn refuse(code: u32) -> Vec<u8> {
    let head = [0x80, 0x01, 0, 0, 0, 10];
    [head.as_slice(), &code.to_be_bytes()].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("it is small");
    [size.to_be_bytes().as_slice(), bytes].concat()
}

fn code(command: &[u8]) -> u32 {
    u32::from_be_bytes([command[6], command[7], command[8], command[9]])
}

/// A command or a response: bytes 2 to 5 say its length.
fn read_message(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 10];
    socket.read_exact(&mut message)?;
    let size = u32::from_be_bytes([message[2], message[3], message[4], message[5]]);
    message.resize(usize::try_from(size).unwrap_or(10).clamp(10, 4096), 0);
    socket.read_exact(&mut message[10..])?;
    Ok(message)
}

/// Where a trust domain's local report has its report data (`REPORTMACSTRUCT`).
pub const TD_REPORT_DATA: std::ops::Range<usize> = 128..192;
const NV_WRITE: u32 = 0x137;
const NV_READ: u32 = 0x14e;
const NV_READ_PUBLIC: u32 = 0x169;
const HCL_REPORT: [u8; 4] = [0x01, 0x40, 0x00, 0x01];
const USER_DATA: [u8; 4] = [0x01, 0x40, 0x00, 0x02];
const KEY: [u8; 4] = [0x81, 0x00, 0x00, 0x03];
const OWNER: [u8; 4] = [0x40, 0x00, 0x00, 0x01];
const ENDORSEMENT: [u8; 4] = [0x40, 0x00, 0x00, 0x0b];
