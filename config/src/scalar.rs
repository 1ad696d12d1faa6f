//! The kinds of text that documents use, each with its parser and with what it tells people.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::policy::PathPattern;
use crate::shape::{Text, shorten};
use crate::yaml::Node;

pub(crate) static NAME: Text = Text {
    what: "a name",
    allowed: "a name: 1 to 63 of `a-z`, `0-9` and `-`",
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    check: from_str::<Name>,
};

/// A name, or `namespace/name`.
pub(crate) static REFERENCE: Text = Text {
    what: "a name or `namespace/name`",
    allowed: "`name` in the document's own namespace, or `namespace/name`",
    pattern: "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    check: |text| {
        if text.contains('/') {
            from_str::<WorkloadName>(text)
        } else {
            from_str::<Name>(text)
        }
    },
};

pub(crate) static WORKLOAD: Text = Text {
    what: "a workload's full name",
    allowed: "`namespace/name`",
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    check: from_str::<WorkloadName>,
};

pub(crate) static CLIENT: Text = Text {
    what: "a client",
    allowed: "`namespace/name` or `spiffe://<trust domain>/<path>`",
    pattern: "^(spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+|[a-z0-9-]{1,63}/[a-z0-9-]{1,63})$",
    check: |text| {
        if text.contains("://") {
            from_str::<SpiffeId>(text)
        } else {
            from_str::<WorkloadName>(text)
        }
    },
};

pub(crate) static TRUST_DOMAIN: Text = Text {
    what: "a trust domain",
    allowed: "a trust domain: `a-z`, `0-9`, `.`, `-`, `_`, without scheme",
    pattern: "^[a-z0-9._-]{1,255}$",
    check: from_str::<TrustDomain>,
};

pub(crate) static SPIFFE_ID: Text = Text {
    what: "a SPIFFE ID",
    allowed: "`spiffe://<trust domain>/<path>`",
    pattern: "^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$",
    check: from_str::<SpiffeId>,
};

pub(crate) static ID_PATTERN: Text = Text {
    what: "a pattern of SPIFFE IDs",
    allowed: "`spiffe://<trust domain>/<path>`, where `*` is one segment and `**` at the end the rest",
    pattern: "^spiffe://[a-z0-9._-]{1,255}(/([A-Za-z0-9._-]+|\\*))*(/\\*\\*)?$",
    check: |text| match crate::revocation::IdPattern::parse(text) {
        Some(_) => Ok(()),
        None => Err("this is no pattern of SPIFFE IDs".to_owned()),
    },
};

pub(crate) static SERIAL: Text = Text {
    what: "a serial number",
    allowed: "1 to 20 bytes in hexadecimal digits, as `openssl x509 -serial` and the access log show them",
    pattern: "^[0-9a-fA-F]{2,40}$",
    check: |text| match serial(text) {
        Some(_) => Ok(()),
        None => Err("this is no serial number".to_owned()),
    },
};

/// An identity of hardware, as a claim shows it. Zeros are what a host shows that hides it: nobody's.
pub(crate) static HARDWARE_ID: Text = Text {
    what: "a hardware identity",
    allowed: "an identity as a claim shows it, 1 to 256 characters and not only zeros",
    pattern: "^.{1,256}$",
    check: |text| match text.chars().count() {
        0 => Err("the text is empty".to_owned()),
        1..=256 if text.bytes().all(|byte| byte == b'0') => {
            Err("zeros are nobody's identity".to_owned())
        }
        1..=256 => Ok(()),
        found => Err(format!("the text has {found} characters")),
    },
};

pub(crate) static REVISION: Text = Text {
    what: "a revision",
    allowed: "`<epoch>.<sequence>` in quotes, as `vouchsafe status` shows it",
    pattern: "^[0-9]+\\.[0-9]+$",
    check: |text| match revision(text) {
        Some(_) => Ok(()),
        None => Err("this is no revision".to_owned()),
    },
};

pub(crate) static DURATION: Text = Text {
    what: "a duration",
    allowed: "a duration with its unit: `10s`, `5m`, `1h`, `1h30m`",
    pattern: "^([0-9]+(ms|s|m|h|d))+$",
    check: |text| match duration(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` is not a duration", shorten(text))),
    },
};

pub(crate) static TIMESTAMP: Text = Text {
    what: "a point in time",
    allowed: "a point in time with its offset: `2026-12-24T00:00:00Z`",
    pattern: "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$",
    check: |text| match timestamp(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` is not a point in time", shorten(text))),
    },
};

pub(crate) static SHA256: Text = Text {
    what: "a SHA-256 digest",
    allowed: "a SHA-256 digest: 64 hexadecimal digits",
    pattern: "^[0-9a-fA-F]{64}$",
    check: |text| digest::<32>(text).map(drop),
};

pub(crate) static SHA384: Text = Text {
    what: "a SHA-384 digest",
    allowed: "a SHA-384 digest: 96 hexadecimal digits",
    pattern: "^[0-9a-fA-F]{96}$",
    check: |text| digest::<48>(text).map(drop),
};

pub(crate) static HEX_16: Text = Text {
    what: "16 bytes in hex",
    allowed: "16 bytes: 32 hexadecimal digits",
    pattern: "^[0-9a-fA-F]{32}$",
    check: |text| digest::<16>(text).map(drop),
};

pub(crate) static HEX_64: Text = Text {
    what: "64 bytes in hex",
    allowed: "64 bytes: 128 hexadecimal digits",
    pattern: "^[0-9a-fA-F]{128}$",
    check: |text| digest::<64>(text).map(drop),
};

pub(crate) static PCR: Text = Text {
    what: "a PCR number",
    allowed: "a PCR number from 0 to 23",
    pattern: "^([0-9]|1[0-9]|2[0-3])$",
    check: |text| match pcr(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` is not a PCR number", shorten(text))),
    },
};

/// A text that people choose: image and machine names, reasons.
pub(crate) static WORDS: Text = Text {
    what: "a text",
    allowed: "a text of 1 to 256 characters",
    pattern: "^.{1,256}$",
    check: |text| match text.chars().count() {
        0 => Err("the text is empty".to_owned()),
        1..=256 => Ok(()),
        found => Err(format!("the text has {found} characters")),
    },
};

pub(crate) static PEM: Text = Text {
    what: "certificates in PEM",
    allowed: "certificates in PEM, from `-----BEGIN CERTIFICATE-----` on",
    pattern: "-----BEGIN CERTIFICATE-----",
    check: |text| {
        if text.contains("-----BEGIN CERTIFICATE-----")
            && text.contains("-----END CERTIFICATE-----")
        {
            Ok(())
        } else {
            Err("no certificate in the text".to_owned())
        }
    },
};

pub(crate) static FILE: Text = Text {
    what: "a path",
    allowed: "a path of a file or folder",
    pattern: "^.+$",
    check: |text| {
        if text.is_empty() || text.contains('\0') {
            Err("the path is empty".to_owned())
        } else {
            Ok(())
        }
    },
};

pub(crate) static LABEL_KEY: Text = Text {
    what: "a label's name",
    allowed: "1 to 128 of `a-z`, `A-Z`, `0-9`, `.`, `-`, `_`, `/`",
    pattern: "^[A-Za-z0-9._/-]{1,128}$",
    check: |text| label(text, 1, 128, true),
};

pub(crate) static LABEL_VALUE: Text = Text {
    what: "a label's value",
    allowed: "up to 63 of `a-z`, `A-Z`, `0-9`, `.`, `-`, `_`",
    pattern: "^[A-Za-z0-9._-]{0,63}$",
    check: |text| label(text, 0, 63, false),
};

pub(crate) static METHOD: Text = Text {
    what: "an HTTP method",
    allowed: "an HTTP method in upper case: `GET`, `POST`",
    pattern: "^[A-Z][A-Z0-9_-]{0,31}$",
    check: |text| {
        let good = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=32).contains(&text.len()) && text.bytes().all(good) {
            Ok(())
        } else {
            Err(format!("`{}` is not an HTTP method", shorten(text)))
        }
    },
};

pub(crate) static PATH_PATTERN: Text = Text {
    what: "a path pattern",
    allowed: "a path: `*` stands for one segment, `**` for the rest and only at the end",
    pattern: "^/",
    check: |text| {
        PathPattern::parse(text)
            .map(drop)
            .map_err(|e| e.to_string())
    },
};

/// A path without wildcards, as probes name it.
pub(crate) static PROBE_PATH: Text = Text {
    what: "a path",
    allowed: "a path without wildcards: `/health`",
    pattern: "^/[^*]*$",
    check: |text| match crate::policy::normalize_path(text) {
        Err(error) => Err(error.to_string()),
        Ok(normal) if normal != text => Err(format!("write it as `{normal}`")),
        Ok(_) if text.contains('*') => Err("wildcards are not read here".to_owned()),
        Ok(_) => Ok(()),
    },
};

pub(crate) static GRPC_NAME: Text = Text {
    what: "a gRPC name",
    allowed: "a name as in the .proto file: `package.Service` or `Method`",
    pattern: "^[A-Za-z_][A-Za-z0-9_.]*$",
    check: |text| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_');
        if (1..=256).contains(&text.len()) && text.bytes().all(good) {
            Ok(())
        } else {
            Err(format!("`{}` is not a gRPC name", shorten(text)))
        }
    },
};

pub(crate) static PORT_RANGE: Text = Text {
    what: "a range of ports",
    allowed: "two port numbers, the lower first: `5000-5031`",
    pattern: "^[1-9][0-9]{0,4}-[1-9][0-9]{0,4}$",
    check: |text| match port_range(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` is not a range of ports", shorten(text))),
    },
};

pub(crate) static SOCKET_ADDRESS: Text = Text {
    what: "an address with port",
    allowed: "an address with port: `127.0.0.1:8080`, `[::1]:8080`",
    pattern: "^.+:[0-9]{1,5}$",
    check: |text| match text.parse::<SocketAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{}` is not an address with port", shorten(text))),
    },
};

pub(crate) static HOST_PORT: Text = Text {
    what: "`host:port`",
    allowed: "`host:port`: `control.example:15480`, `10.0.0.7:15480`, `[::1]:15480`",
    pattern: "^.+:[0-9]{1,5}$",
    check: |text| match host_port(text) {
        Some(()) => Ok(()),
        None => Err(format!("`{}` is not `host:port`", shorten(text))),
    },
};

/// `127.0.0.1:9001` or `unix:/run/x.sock`.
pub(crate) static LISTEN: Text = Text {
    what: "an address with port, or `unix:/path`",
    allowed: "an address with port, or a Unix socket: `127.0.0.1:9001`, `unix:/run/llm.sock`",
    pattern: "^(unix:/.+|.+:[0-9]{1,5})$",
    check: |text| match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(()),
        Some(_) => Err("a Unix socket has an absolute path".to_owned()),
        None => (SOCKET_ADDRESS.check)(text),
    },
};

/// Where an application listens.
pub(crate) static UPSTREAM: Text = Text {
    what: "an address, or `unix:/path`",
    allowed: "an address with port, an address alone (the port number that was called), or a Unix socket: \
              `127.0.0.1:8000`, `127.0.0.1`, `unix:/run/llm.sock`",
    pattern: "^.+$",
    check: |text| match text.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => (LISTEN.check)(text),
    },
};

fn from_str<T>(text: &str) -> Result<(), String>
where
    T: FromStr<Err: std::fmt::Display>,
{
    text.parse::<T>().map(drop).map_err(|e| e.to_string())
}

fn label(text: &str, min: usize, max: usize, slash: bool) -> Result<(), String> {
    let good = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || (slash && b == b'/')
    };
    if (min..=max).contains(&text.len()) && text.bytes().all(good) {
        Ok(())
    } else {
        Err(format!("`{}` can't be in a label", shorten(text)))
    }
}

fn host_port(text: &str) -> Option<()> {
    let (host, port) = text.rsplit_once(':')?;
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(good),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| digits)?;
    (host_is_good && port > 0).then_some(())
}

/// Reads a duration as documents write it: `10s`, `5m`, `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    duration(text)
}

/// Whole numbers with units, largest unit first or not; no unit twice would be pedantry.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let letters = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        let (unit, after) = after.split_at_checked(letters)?;
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = Duration::from_millis(number.checked_mul(milliseconds)?);
        total = total.checked_add(part)?;
        rest = after;
    }
    (total <= MAX_DURATION).then_some(total)
}

/// Ten years: beyond it a duration is a slip of the pen, and sums with it overflow clocks.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 86_400);

/// As documents write it, without needless units.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ] {
        let number = rest / size;
        rest %= size;
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

pub(crate) fn timestamp(text: &str) -> Option<SystemTime> {
    let time = text.parse::<jiff::Timestamp>().ok()?;
    // What jiff reads beyond RFC 3339 (a space for the `T`, a missing second) would surprise other readers.
    let strict = text.as_bytes().get(10) == Some(&b'T') && text.as_bytes().get(16) == Some(&b':');
    strict.then(|| time.into())
}

pub(crate) fn show_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

pub(crate) fn digest<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(hex::FromHexError::InvalidHexCharacter { c, .. }) => {
            Err(format!("`{c}` is not a hexadecimal digit"))
        }
        Err(_) => Err(format!(
            "a digest of {} hexadecimal digits, not {}",
            text.chars().count(),
            N * 2
        )),
    }
}

pub(crate) fn serial(text: &str) -> Option<Vec<u8>> {
    let bytes = hex::decode(text).ok()?;
    let is_number = bytes.iter().any(|byte| *byte != 0);
    (is_number && bytes.len() <= 20).then_some(bytes)
}

pub(crate) fn revision(text: &str) -> Option<Revision> {
    let (epoch, sequence) = text.split_once('.')?;
    Some(Revision {
        epoch: crate::shape::parse_number(epoch)?,
        sequence: crate::shape::parse_number(sequence)?,
    })
}

pub(crate) fn pcr(text: &str) -> Option<u8> {
    let number = crate::shape::parse_number(text)?;
    u8::try_from(number).ok().filter(|pcr| *pcr < 24)
}

pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let port = |text| {
        crate::shape::parse_number(text)
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n > 0)
    };
    let (first, last) = (port(first)?, port(last)?);
    (first < last).then_some((first, last))
}

/// A reference, in the namespace of the document that makes it unless it says another.
pub(crate) fn reference(node: &Node, namespace: &Name) -> Option<WorkloadName> {
    let text = node.text()?;
    if text.contains('/') {
        return text.parse().ok();
    }
    Some(WorkloadName {
        namespace: namespace.clone(),
        name: text.parse().ok()?,
    })
}

impl Node {
    pub(crate) fn as_duration(&self) -> Option<Duration> {
        duration(self.text()?)
    }

    pub(crate) fn as_time(&self) -> Option<SystemTime> {
        timestamp(self.text()?)
    }
}
