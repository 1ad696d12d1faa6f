//! Processors with TDX, quotes of their trust domains, and what Intel's service says of them.
//!
//! Source: Intel TDX DCAP quoting library API §A.3 and §A.4; Intel SGX and TDX PCS API v4; Intel SGX PCK certificate
//! profile.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::CustomExtension;
use serde_json::Value;
use vouchsafe_attestation::claims::Time;

use super::authority::{Authority, Curve, Key, params, pem};
use super::service::Reply;

/// A maker of processors.
#[derive(Debug)]
pub struct Intel {
    root: Authority,
    platform: Authority,
    signer: Key,
    signer_der: Vec<u8>,
}

impl Intel {
    pub(super) fn new() -> Self {
        let root = Authority::root("Intel SGX Root CA", Curve::P256);
        let signer = Key::new(Curve::P256);
        Self {
            platform: root.below("Intel SGX PCK Platform CA", None),
            signer_der: root.certify(&params("Intel SGX TCB Signing"), &signer),
            signer,
            root,
        }
    }

    pub(super) fn root(&self) -> &[u8] {
        self.root.der()
    }

    /// A processor, whose PPID is this byte 16 times, and whose certificate is over at `until`.
    pub fn processor(&self, number: u8, until: SystemTime) -> Processor {
        let key = Key::new(Curve::P256);
        let mut params = params("Intel SGX PCK Certificate");
        params.not_after = until.into();
        let oid = [1, 2, 840, 113_741, 1, 13, 1];
        let extension = CustomExtension::from_oid_content(&oid, extension(number));
        params.custom_extensions.push(extension);
        let pck = self.platform.certify(&params, &key);
        Processor {
            chain: pem(&[&pck, self.platform.der(), self.root.der()]),
            number,
            key,
        }
    }

    /// The answer at [`TCB_INFO`]: the levels of the processors, of which only modules of version `current` are up to
    /// date.
    pub fn levels(&self, until: SystemTime, current: u8) -> Reply {
        let text = tcb_info(&dates(until), current, None);
        self.signed("tcbInfo", &text, "TCB-Info-Issuer-Chain")
    }

    /// The same where modules of version 5 need hardened software, as [`ADVISORY`] explains.
    pub fn levels_with_advisory(&self, until: SystemTime) -> Reply {
        let text = tcb_info(&dates(until), 6, Some(5));
        self.signed("tcbInfo", &text, "TCB-Info-Issuer-Chain")
    }

    fn signed(&self, name: &str, text: &str, header: &'static str) -> Reply {
        let signature = hex::encode(self.signer.sign(text.as_bytes()));
        let body = format!(r#"{{"{name}":{text},"signature":"{signature}"}}"#);
        let chain = pem(&[&self.signer_der, self.root.der()]);
        Reply::Answer(200, vec![(header, percent(&chain))], body.into_bytes())
    }

    /// What the service answers, by path, good until `until`.
    pub(super) fn answers(&self, until: SystemTime) -> Vec<(String, Reply)> {
        let platform = pem(&[self.platform.der(), self.root.der()]);
        let list = self.platform.revocation_list(until);
        let list = Reply::Answer(
            200,
            vec![("SGX-PCK-CRL-Issuer-Chain", percent(&platform))],
            list,
        );
        let root_list = hex::encode(self.root.revocation_list(until));
        vec![
            (TCB_INFO.to_owned(), self.levels(until, 5)),
            (
                "/tdx/certification/v4/qe/identity".to_owned(),
                self.signed(
                    "enclaveIdentity",
                    &qe_identity(&dates(until)),
                    "SGX-Enclave-Identity-Issuer-Chain",
                ),
            ),
            ("/sgx/certification/v4/pckcrl".to_owned(), list),
            (
                "/sgx/certification/v4/rootcacrl".to_owned(),
                Reply::ok(root_list.into_bytes()),
            ),
        ]
    }
}

/// A processor.
#[derive(Clone, Debug)]
pub struct Processor {
    number: u8,
    key: Key,
    chain: String,
}

/// A trust domain on it.
#[derive(Clone, Copy, Debug)]
pub struct TrustDomain {
    /// Launch digest: this byte 48 times.
    pub mrtd: u8,
    /// Whether the host may look in.
    pub debug: bool,
    /// Security version of the processor's module: 5 is current, 3 is out of date.
    pub module_version: u8,
}

impl TrustDomain {
    /// An honest one, with this launch digest.
    pub fn of(mrtd: u8) -> Self {
        Self {
            mrtd,
            debug: false,
            module_version: 5,
        }
    }
}

impl Processor {
    /// What a `Node` calls it.
    pub fn ppid(&self) -> String {
        format!("{:02x}", self.number).repeat(16)
    }

    /// What a `Node` calls the machine that it is in.
    pub fn platform_instance_id(&self) -> String {
        format!("{:02x}", self.number ^ MACHINE).repeat(16)
    }

    /// A signed quote of version 4.
    pub fn quote(&self, domain: &TrustDomain, report_data: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 584];
        body[..3].copy_from_slice(&[domain.module_version, 0, 7]);
        body[120] = u8::from(domain.debug);
        body[123] = 0x10; // the host can't hurt it by unmapping pages
        body[136..184].fill(domain.mrtd);
        body[520..].copy_from_slice(report_data);
        let mut signed = vec![4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
        signed.extend(INTELS_ENCLAVE);
        signed.extend([0; 20]);
        signed.extend(body);
        let attestation = Key::new(Curve::P256);
        let authentication = [9; 32];
        let mut enclave = vec![0; 384];
        enclave[48] = 0x11;
        enclave[128..160].fill(0xdc);
        enclave[256] = 2;
        enclave[258] = 4;
        let bound = [attestation.point().as_slice(), &authentication].concat();
        enclave[320..352].copy_from_slice(digest(&SHA256, &bound).as_ref());
        let mut certified = [
            enclave.as_slice(),
            &self.key.sign(&enclave),
            &32_u16.to_le_bytes(),
            &authentication,
        ]
        .concat();
        put(&mut certified, 5, self.chain.as_bytes());
        let mut data = [attestation.sign(&signed), attestation.point()].concat();
        put(&mut data, 6, &certified);
        let length = u32::try_from(data.len()).expect("it is small");
        [signed.as_slice(), &length.to_le_bytes(), &data].concat()
    }
}

/// Certification data of a type.
fn put(out: &mut Vec<u8>, kind: u16, content: &[u8]) {
    out.extend(kind.to_le_bytes());
    let length = u32::try_from(content.len()).expect("it is small");
    out.extend(length.to_le_bytes());
    out.extend(content);
}

/// Issued yesterday.
fn dates(until: SystemTime) -> String {
    let time = |time| Time::new(time).expect("it is of this age").to_string();
    let from = time(SystemTime::now() - DAY);
    format!(r#""issueDate":"{from}","nextUpdate":"{}""#, time(until))
}

fn tcb_info(dates: &str, current: u8, advised: Option<u8>) -> String {
    let list = |head: &[u8]| {
        let svn = |at| head.get(at).copied().unwrap_or(0);
        let all: Vec<_> = (0..16)
            .map(|at| format!("{{\"svn\":{}}}", svn(at)))
            .collect();
        all.join(",")
    };
    let level = |processor: &[u8], module: &[u8], status: &str, advisories: &str| {
        format!(
            r#"{{"tcb":{{"sgxtcbcomponents":[{}],"pcesvn":11,"tdxtcbcomponents":[{}]}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"{status}","advisoryIDs":[{advisories}]}}"#,
            list(processor),
            list(module)
        )
    };
    let mut levels = vec![level(&[7, 7], &[current, 0, 7], "UpToDate", "")];
    let advisory = format!("\"{ADVISORY}\"");
    levels.extend(
        advised.map(|module| level(&[7, 7], &[module, 0, 7], "SWHardeningNeeded", &advisory)),
    );
    levels.push(level(&[6, 6], &[3, 0, 6], "OutOfDate", ""));
    let module = format!(
        r#""mrsigner":"{}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#,
        "0".repeat(96)
    );
    format!(
        r#"{{"id":"TDX","version":3,{dates},"fmspc":"{FMSPC}","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tdxModule":{{{module}}},"tdxModuleIdentities":[],"tcbLevels":[{}]}}"#,
        levels.join(",")
    )
}

fn qe_identity(dates: &str) -> String {
    format!(
        r#"{{"id":"TD_QE","version":2,{dates},"tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{}","isvprodid":2,"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbStatus":"UpToDate"}}]}}"#,
        "DC".repeat(32)
    )
}

/// The extension of a PCK certificate: PPID, versions, PCE, FMSPC, machine.
fn extension(ppid: u8) -> Vec<u8> {
    let entry = |arcs: &[u8], value: Vec<u8>| {
        let oid = [
            &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01],
            arcs,
        ]
        .concat();
        der(0x30, &[der(0x06, &oid), value].concat())
    };
    let mut tcb = Vec::new();
    for number in 1..=16 {
        let svn = if number <= 2 { 7 } else { 0 };
        tcb.extend(entry(&[2, number], vec![2, 1, svn]));
    }
    tcb.extend(entry(&[2, 17], vec![2, 1, 11]));
    let fields = [
        entry(&[1], der(0x04, &[ppid; 16])),
        entry(&[2], der(0x30, &tcb)),
        entry(&[3], der(0x04, &[0; 2])),
        entry(
            &[4],
            der(0x04, &hex::decode(FMSPC).expect("it is hexadecimal")),
        ),
        entry(&[6], der(0x04, &[ppid ^ MACHINE; 16])),
    ];
    der(0x30, &fields.concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("it is small");
    let [high, low] = length.to_be_bytes();
    [&[tag, 0x82, high, low], content].concat()
}

fn percent(text: &str) -> String {
    let escape = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// What a service at Azure answers that has a trust domain's local report quoted: the request is
/// `{"report": "…"}` in URL-safe Base64.
///
/// # Panics
/// For another request.
pub fn azure_quote(processor: &Processor, domain: &TrustDomain, request: &[u8]) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let request: Value = serde_json::from_slice(request).expect("it is JSON");
    let report = request["report"].as_str().expect("it names a report");
    let report = URL_SAFE_NO_PAD.decode(report).expect("it is Base64");
    let quote = processor.quote(domain, &report[crate::paravisor::TD_REPORT_DATA]);
    format!(r#"{{"quote": "{}"}}"#, URL_SAFE_NO_PAD.encode(quote))
}

/// Where the levels of the processors are asked for.
pub const TCB_INFO: &str = "/tdx/certification/v4/tcb?fmspc=00806F050000";
/// What explains the level of a processor whose software must be hardened.
pub const ADVISORY: &str = "INTEL-SA-00828";
/// What the levels are of: family, model, platform and SKU of every processor.
pub const FMSPC: &str = "00806F050000";
/// What tells a machine's number from that of its processor.
const MACHINE: u8 = 0x80;
const DAY: Duration = Duration::from_secs(86_400);
const INTELS_ENCLAVE: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];
