//! GPUs of the generation Hopper, and manifests of what their driver and VBIOS measure.
//!
//! Manifests are written in canonical form, so that what is digested is the text itself.
//!
//! Source: DMTF DSP0274 §10.11; NVIDIA nvtrust; TCG Reference Integrity Manifest Information Model; XML Signature 1.1;
//! Canonical XML 1.1.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA384, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CustomExtension, SerialNumber};

use super::authority::{Authority, Curve, Key, params, pem};

/// A maker of GPUs.
#[derive(Debug)]
pub struct Nvidia {
    root: Authority,
    issuer: Authority,
}

impl Nvidia {
    pub(super) fn new() -> Self {
        let root = Authority::root("NVIDIA Device Identity CA", Curve::P384);
        Self {
            issuer: root.below("NVIDIA GH100 Provisioner", None),
            root,
        }
    }

    pub(super) fn root(&self) -> &[u8] {
        self.root.der()
    }

    /// Manifests by their names, whose signer's certificate is over at `until`.
    pub fn manifests(&self, until: SystemTime) -> Vec<(String, String)> {
        let sign = |version: &str, measurements: &[(u8, &str, u8)]| {
            manifest(&self.root, until, version, measurements)
        };
        vec![
            (
                format!("NV_GPU_DRIVER_GH100_{DRIVER}"),
                sign(DRIVER, &[(0, "True", 1), (2, "False", 9)]),
            ),
            (
                format!("NV_GPU_VBIOS_1010_0205_895_{}", VBIOS.replace('.', "")),
                sign(VBIOS, &[(1, "True", 2)]),
            ),
        ]
    }

    /// A GPU, whose number ends in this byte.
    pub fn gpu(&self, number: u8) -> Gpu {
        self.make(number, None)
    }

    /// One whose firmware's certificate is over at `until`.
    pub fn gpu_until(&self, number: u8, until: SystemTime) -> Gpu {
        self.make(number, Some(until))
    }

    fn make(&self, number: u8, until: Option<SystemTime>) -> Gpu {
        let serial = [0x41, 1, 2, 3, 4, 5, 6, 7, number];
        let chip = self.issuer.below("GH100 A01 GSP BROM", Some(&serial));
        let key = Key::new(Curve::P384);
        let mut params = params("GH100 A01 GSP FMC LF");
        // Another firmware has another number; here each GPU has one firmware.
        params.serial_number = Some(SerialNumber::from_slice(&[7, number]));
        let extension = CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 1], tcb_info());
        params.custom_extensions.push(extension);
        if let Some(until) = until {
            params.not_after = until.into();
        }
        let leaf = chip.certify(&params, &key);
        Gpu {
            chain: pem(&[&leaf, chip.der(), self.issuer.der(), self.root.der()]),
            number,
            key,
            firmware: 2,
        }
    }
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    number: u8,
    key: Key,
    chain: String,
    /// What its VBIOS measures to: 2 where it is NVIDIA's.
    pub firmware: u8,
}

impl Gpu {
    /// What a `Node` calls it.
    pub fn ueid(&self) -> String {
        (0x0700 + u32::from(self.number)).to_string()
    }

    /// In PEM, leaf first.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// A signed report: the request and the response.
    pub fn report(&self, nonce: &[u8; 32]) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, value) in [(1, 1), (2, self.firmware), (3, 3)] {
            record.extend([index, 1, 51, 0, 1, 48, 0]);
            record.extend([value; 48]);
        }
        let fields: [(u16, Vec<u8>); 8] = [
            (3, format!("{DRIVER}\0").into_bytes()),
            (6, vec![0, 0x9f, 0, 0x96, 1, 0, 0, 0]),
            (11, vec![0x55]),
            (15, b"895\0".to_vec()),
            (17, b"1010\0".to_vec()),
            (18, b"0205\0".to_vec()),
            (20, FIRMWARE.to_vec()),
            (21, vec![0x55]),
        ];
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("it is small");
        let mut opaque = Vec::new();
        for (field, value) in fields {
            opaque.extend(field.to_le_bytes());
            opaque.extend(length(&value).to_le_bytes());
            opaque.extend(value);
        }
        let mut report = vec![0x11, 0xe0, 1, 0xff];
        report.extend(nonce);
        report.extend([0, 0x11, 0x60, 0, 0, 3]);
        report.extend(length(&record).to_le_bytes());
        report.push(0);
        report.extend(record);
        report.extend([6; 32]); // the GPU's own nonce
        report.extend(length(&opaque).to_le_bytes());
        report.extend(opaque);
        let signature = self.key.sign(&report);
        [report, signature].concat()
    }
}

/// `TcbInfo` as Hopper writes it: version, and algorithm and digest of the firmware that holds the key.
fn tcb_info() -> Vec<u8> {
    let der = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("it is small");
        [&[tag, length], content].concat()
    };
    let algorithm = der(0x06, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]);
    let firmware = der(0x30, &[algorithm, der(0x04, &FIRMWARE)].concat());
    der(0x30, &[der(0x02, &[1]), firmware].concat())
}

/// A manifest of measurements: index from 0, whether it is active, and the byte that it measures to 48 times.
fn manifest(
    root: &Authority,
    until: SystemTime,
    version: &str,
    measurements: &[(u8, &str, u8)],
) -> String {
    let resource = |(index, active, value): &(u8, &str, u8)| {
        let value = hex::encode([*value; 48]);
        format!(
            "<Resource active=\"{active}\" alternatives=\"1\" index=\"{index}\" name=\"m\" size=\"48\" type=\"Measurement\" h:Hash0=\"{value}\"></Resource>"
        )
    };
    let resources: String = measurements.iter().map(resource).collect();
    let head = format!("<SoftwareIdentity xmlns=\"{SWID}\" xmlns:h=\"{HASH}\">");
    let content = format!(
        "<Meta colloquialVersion=\"{version}\" edition=\"GPU\" product=\"GH100\"></Meta><Payload>{resources}</Payload>"
    );
    let whole = format!("{head}{content}</SoftwareIdentity>");
    let found = STANDARD.encode(digest(&SHA384, whole.as_bytes()));
    let info = |namespaces: &str| {
        let algorithm = |element: &str, name: &str| {
            format!("<ds:{element} Algorithm=\"{name}\"></ds:{element}>")
        };
        format!(
            "<ds:SignedInfo{namespaces}>{}{}<ds:Reference URI=\"\"><ds:Transforms>{}{}</ds:Transforms>{}<ds:DigestValue>{found}</ds:DigestValue></ds:Reference></ds:SignedInfo>",
            algorithm("CanonicalizationMethod", C14N),
            algorithm("SignatureMethod", ECDSA),
            algorithm("Transform", ENVELOPED),
            algorithm("Transform", C14N),
            algorithm("DigestMethod", DIGEST),
        )
    };
    let signer = Key::new(Curve::P384);
    let mut params = params("NVIDIA Reference Value Signer");
    params.not_after = until.into();
    let leaf = root.certify(&params, &signer);
    // By itself it stands below the namespaces of all that it was in.
    let signed = info(&format!(
        " xmlns=\"{SWID}\" xmlns:ds=\"{DSIG}\" xmlns:h=\"{HASH}\""
    ));
    let signature = STANDARD.encode(signer.sign(signed.as_bytes()));
    let certificate = |der: &[u8]| {
        let text = STANDARD.encode(der);
        format!("<ds:X509Certificate>{text}</ds:X509Certificate>")
    };
    format!(
        "{head}{content}<ds:Signature xmlns:ds=\"{DSIG}\">{}<ds:SignatureValue>{signature}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{}{}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>",
        info(""),
        certificate(&leaf),
        certificate(root.der()),
    )
}

/// Version of the driver that GPUs report.
pub const DRIVER: &str = "570.86.15";
const VBIOS: &str = "96.00.9F.00.01";
const FIRMWARE: [u8; 48] = [0xf0; 48];
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const DIGEST: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
