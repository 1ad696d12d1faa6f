//! Intel's endorsements: TCB info, identity of the quoting enclave, revocation lists.
//!
//! Both JSON documents are verified as the texts that were signed and parsed afterwards.
//!
//! Source: Intel SGX and TDX PCS API v4.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

/// Endorsements as Intel's services answer, packed as one JSON object (the form of `QuoteCollateralV3`).
#[derive(Clone, Debug, Deserialize)]
pub struct Collateral {
    /// PEM: the authority of PCK certificates, then the root.
    #[serde(alias = "pckCrlIssuerChain")]
    pub pck_crl_issuer_chain: String,
    /// DER in hex or base64, or PEM.
    #[serde(alias = "rootCaCrl")]
    pub root_ca_crl: String,
    /// DER in hex or base64, or PEM.
    #[serde(alias = "pckCrl")]
    pub pck_crl: String,
    /// PEM: the signing certificate, then the root.
    #[serde(alias = "tcbInfoIssuerChain")]
    pub tcb_info_issuer_chain: String,
    /// The very text that was signed.
    #[serde(alias = "tcbInfo")]
    pub tcb_info: String,
    /// Hex, `r || s`.
    #[serde(alias = "tcbInfoSignature")]
    pub tcb_info_signature: String,
    /// PEM: the signing certificate, then the root.
    #[serde(alias = "qeIdentityIssuerChain")]
    pub qe_identity_issuer_chain: String,
    /// The very text that was signed.
    #[serde(alias = "qeIdentity")]
    pub qe_identity: String,
    /// Hex, `r || s`.
    #[serde(alias = "qeIdentitySignature")]
    pub qe_identity_signature: String,
}

impl Collateral {
    /// Reads the object; `None` if it is something else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }
}

/// A revocation list in the forms that services and caches write: DER in hex or base64, or PEM.
pub(crate) fn list(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    if text.starts_with("-----") {
        let der = CertificateRevocationListDer::from_pem_slice(text.as_bytes()).ok()?;
        return Some(der.to_vec());
    }
    hex::decode(text).or_else(|_| STANDARD.decode(text)).ok()
}

/// What Intel says of the platforms of one FMSPC.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TcbInfo {
    pub(crate) id: Option<String>,
    pub(crate) version: u32,
    pub(crate) issue_date: String,
    pub(crate) next_update: String,
    pub(crate) fmspc: String,
    pub(crate) pce_id: String,
    #[serde(default)]
    pub(crate) tcb_type: u32,
    pub(crate) tcb_evaluation_data_number: u32,
    pub(crate) tdx_module: Option<ModuleIdentity>,
    #[serde(default)]
    pub(crate) tdx_module_identities: Vec<NamedModuleIdentity>,
    pub(crate) tcb_levels: Vec<TcbLevel>,
}

/// The TDX module of version 0.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModuleIdentity {
    pub(crate) mrsigner: String,
    pub(crate) attributes: String,
    pub(crate) attributes_mask: String,
}

/// The TDX module of a later version.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NamedModuleIdentity {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) identity: ModuleIdentity,
    pub(crate) tcb_levels: Vec<EnclaveTcbLevel>,
}

/// A level that platforms can be at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TcbLevel {
    pub(crate) tcb: TcbVersions,
    pub(crate) tcb_date: String,
    pub(crate) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(crate) advisories: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TcbVersions {
    #[serde(rename = "sgxtcbcomponents")]
    listed: Option<[Component; 16]>,
    pub(crate) pcesvn: u16,
    #[serde(rename = "tdxtcbcomponents")]
    pub(crate) tdx: Option<[Component; 16]>,
    /// Version 2 has a member per component, `sgxtcbcomp01svn` to `sgxtcbcomp16svn`.
    #[serde(flatten)]
    named: BTreeMap<String, serde_json::Value>,
}

impl TcbVersions {
    /// The sixteen versions, in either form; `None` unless all are there.
    pub(crate) fn sgx(&self) -> Option<[u8; 16]> {
        if let Some(listed) = &self.listed {
            return Some(listed.map(|component| component.svn));
        }
        let mut versions = [0; 16];
        for (number, version) in (1..).zip(versions.iter_mut()) {
            let value = self.named.get(&format!("sgxtcbcomp{number:02}svn"))?;
            *version = u8::try_from(value.as_u64()?).ok()?;
        }
        Some(versions)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Component {
    pub(crate) svn: u8,
}

/// What Intel says of its quoting enclaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QeIdentity {
    pub(crate) id: String,
    pub(crate) version: u32,
    pub(crate) issue_date: String,
    pub(crate) next_update: String,
    pub(crate) tcb_evaluation_data_number: u32,
    pub(crate) miscselect: String,
    pub(crate) miscselect_mask: String,
    pub(crate) attributes: String,
    pub(crate) attributes_mask: String,
    pub(crate) mrsigner: String,
    pub(crate) isvprodid: u16,
    pub(crate) tcb_levels: Vec<EnclaveTcbLevel>,
}

/// A level that an enclave or module can be at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnclaveTcbLevel {
    pub(crate) tcb: EnclaveVersion,
    pub(crate) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(crate) advisories: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct EnclaveVersion {
    pub(crate) isvsvn: u16,
}

/// What Intel thinks of a level, best first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub enum TcbStatus {
    /// Nothing to do.
    UpToDate,
    /// The software inside must defend itself.
    SWHardeningNeeded,
    /// The platform must be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// Firmware is old.
    OutOfDate,
    /// Firmware is old and configuration is wrong.
    OutOfDateConfigurationNeeded,
    /// Not to be trusted at all.
    Revoked,
}

impl TcbStatus {
    /// All statuses.
    pub const ALL: [Self; 7] = [
        Self::UpToDate,
        Self::SWHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSWHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::Revoked,
    ];

    /// Intel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }

    /// The bounded word of a refusal.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::UpToDate => "tcb_up_to_date",
            Self::SWHardeningNeeded => "tcb_sw_hardening_needed",
            Self::ConfigurationNeeded => "tcb_configuration_needed",
            Self::ConfigurationAndSWHardeningNeeded => "tcb_configuration_and_sw_hardening_needed",
            Self::OutOfDate => "tcb_out_of_date",
            Self::OutOfDateConfigurationNeeded => "tcb_out_of_date_configuration_needed",
            Self::Revoked => "tcb_revoked",
        }
    }

    /// The status of the whole, whose part has another: an old part makes the whole old and keeps what the platform's
    /// configuration lacks; otherwise the worse of both.
    pub(crate) fn with(self, part: Self) -> Self {
        match (self, part) {
            (
                Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded,
                Self::OutOfDate,
            ) => Self::OutOfDateConfigurationNeeded,
            _ => self.max(part),
        }
    }
}

/// Seconds of Unix time of `YYYY-MM-DDThh:mm:ssZ`, the only form that Intel writes.
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0_i64, |value, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + i64::from(digit - b'0'))
        })
    };
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'Z'),
    ];
    if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since 1970, of the proleptic Gregorian calendar, with years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Intel's largest answers have about 30 KiB.
const MAX_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_in_one_form_only() {
        assert_eq!(timestamp("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(timestamp("2024-02-29T12:34:56Z"), Some(1_709_210_096));
        assert_eq!(timestamp("2025-07-19T10:16:03Z"), Some(1_752_920_163));
        for text in [
            "2025-07-19T10:16:03",
            "2025-07-19 10:16:03Z",
            "2025-13-19T10:16:03Z",
            "+025-07-19T10:16:03Z",
        ] {
            assert_eq!(timestamp(text), None);
        }
    }

    #[test]
    fn whole_is_no_better_than_its_parts() {
        use TcbStatus::*;
        assert_eq!(UpToDate.with(UpToDate), UpToDate);
        assert_eq!(UpToDate.with(OutOfDate), OutOfDate);
        assert_eq!(SWHardeningNeeded.with(OutOfDate), OutOfDate);
        assert_eq!(
            ConfigurationNeeded.with(OutOfDate),
            OutOfDateConfigurationNeeded
        );
        assert_eq!(
            OutOfDateConfigurationNeeded.with(OutOfDate),
            OutOfDateConfigurationNeeded
        );
        assert_eq!(UpToDate.with(Revoked), Revoked);
        assert_eq!(Revoked.with(UpToDate), Revoked);
    }
}
