//! Types and values of claims.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// How values of a claim compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClaimType {
    /// `true` or `false`.
    Bool,
    /// An unsigned number; `>=` and its kin compare as numbers.
    Number,
    /// A text; equality only.
    Text,
    /// Dotted numbers (`570.86.15`); `>=` and its kin compare part by part.
    Version,
    /// Dotted hexadecimal numbers (`96.00.9F.00.01`); `>=` and its kin compare part by part.
    HexVersion,
    /// A point in time, in whole seconds; `>=` and its kin compare as times.
    Time,
    /// A set of texts; a requirement names a member.
    Set,
}

impl ClaimType {
    /// All types.
    pub const ALL: [Self; 7] = [
        Self::Bool,
        Self::Number,
        Self::Text,
        Self::Version,
        Self::HexVersion,
        Self::Time,
        Self::Set,
    ];

    /// The word in documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Number => "number",
            Self::Text => "text",
            Self::Version => "version",
            Self::HexVersion => "hexadecimal version",
            Self::Time => "time",
            Self::Set => "set",
        }
    }
}

/// One to six numbers with dots between; missing parts count as 0, so `570.86` equals `570.86.0`.
#[derive(Clone, Debug)]
pub struct Version {
    parts: [u64; Self::MAX_PARTS],
    written: u8,
}

impl Version {
    /// NVIDIA VBIOS versions have five parts; one to spare.
    pub const MAX_PARTS: usize = 6;

    fn parse(text: &str, radix: u32) -> Result<Self, ParseVersionError> {
        let mut parts = [0; Self::MAX_PARTS];
        let mut written = 0;
        let mut slots = parts.iter_mut();
        for part in text.split('.') {
            let digits = !part.is_empty() && part.chars().all(|c| c.is_digit(radix));
            let slot = slots.next().filter(|_| digits).ok_or(ParseVersionError)?;
            *slot = u64::from_str_radix(part, radix).map_err(|_| ParseVersionError)?;
            written += 1;
        }
        Ok(Self { parts, written })
    }

    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        write_part: impl Fn(u64, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        for (index, part) in self.parts.iter().take(self.written.into()).enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write_part(*part, f)?;
        }
        Ok(())
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, 10)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |part, f| write!(f, "{part}"))
    }
}

/// The text is not a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected one to six numbers with dots between")]
pub struct ParseVersionError;

/// Dotted hexadecimal numbers, as NVIDIA writes versions of a VBIOS (`96.00.9F.00.01`); compares like [`Version`].
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HexVersion(Version);

impl FromStr for HexVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Version::parse(text, 16).map(Self)
    }
}

impl fmt::Display for HexVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, |part, f| write!(f, "{part:02X}"))
    }
}

/// A point in time, in whole seconds, from 1970 to 9999.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Time(der::DateTime);

impl Time {
    /// The second in which `time` lies; `None` before 1970.
    pub fn new(time: std::time::SystemTime) -> Option<Self> {
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        der::DateTime::from_unix_duration(since).ok().map(Self)
    }
}

impl From<Time> for std::time::SystemTime {
    fn from(time: Time) -> Self {
        Self::UNIX_EPOCH + time.0.unix_duration()
    }
}

impl FromStr for Time {
    type Err = ParseTimeError;

    /// RFC 3339 in UTC (`2024-03-13T00:00:00Z`), or a day, which stands for its first second.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = match text.len() {
            10 => format!("{text}T00:00:00Z"),
            _ => text.to_owned(),
        };
        whole.parse().map(Self).map_err(|_| ParseTimeError)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not a point in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a day (`2024-03-13`) or a second in UTC (`2024-03-13T00:00:00Z`)")]
pub struct ParseTimeError;

/// The text is not a value of the claim's type.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a {0}")]
pub struct ParseClaimError(pub &'static str);

/// The value of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimValue {
    /// Of type [`ClaimType::Bool`].
    Bool(bool),
    /// Of type [`ClaimType::Number`].
    Number(u64),
    /// Of type [`ClaimType::Text`].
    Text(String),
    /// Of type [`ClaimType::Version`].
    Version(Version),
    /// Of type [`ClaimType::HexVersion`].
    HexVersion(HexVersion),
    /// Of type [`ClaimType::Time`].
    Time(Time),
    /// Of type [`ClaimType::Set`].
    Set(BTreeSet<String>),
}

impl ClaimValue {
    /// Reads what [`fmt::Display`] writes: a value of this type; a set as texts with commas between.
    ///
    /// # Errors
    /// [`ParseClaimError`] when the text is not a value of the type.
    pub fn parse(claim_type: ClaimType, text: &str) -> Result<Self, ParseClaimError> {
        let wrong = ParseClaimError(claim_type.as_str());
        Ok(match claim_type {
            ClaimType::Bool => Self::Bool(text.parse().map_err(|_| wrong)?),
            ClaimType::Number => Self::Number(text.parse().map_err(|_| wrong)?),
            ClaimType::Text => Self::Text(text.to_owned()),
            ClaimType::Version => Self::Version(text.parse().map_err(|_| wrong)?),
            ClaimType::HexVersion => Self::HexVersion(text.parse().map_err(|_| wrong)?),
            ClaimType::Time => Self::Time(text.parse().map_err(|_| wrong)?),
            ClaimType::Set if text.is_empty() => Self::Set(BTreeSet::new()),
            ClaimType::Set => Self::Set(text.split(',').map(str::to_owned).collect()),
        })
    }

    /// The type that the value has.
    pub fn claim_type(&self) -> ClaimType {
        match self {
            Self::Bool(_) => ClaimType::Bool,
            Self::Number(_) => ClaimType::Number,
            Self::Text(_) => ClaimType::Text,
            Self::Version(_) => ClaimType::Version,
            Self::HexVersion(_) => ClaimType::HexVersion,
            Self::Time(_) => ClaimType::Time,
            Self::Set(_) => ClaimType::Set,
        }
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Version(value) => write!(f, "{value}"),
            Self::HexVersion(value) => write!(f, "{value}"),
            Self::Time(value) => write!(f, "{value}"),
            Self::Set(values) => f.write_str(
                &values
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_part_by_part() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("570.86") < version("570.124"));
        assert!(version("570.86.15") > version("570.86"));
        assert_eq!(version("570.86"), version("570.86.0"));
        assert_eq!(version("1.20").to_string(), "1.20");
        for text in ["", ".", "1.", "a", "1.2.3.4.5.6.7", "-1", "+1"] {
            assert_eq!(text.parse::<Version>(), Err(ParseVersionError), "{text}");
        }
    }

    #[test]
    fn hexadecimal_versions_compare_part_by_part_and_are_written_in_capitals() {
        let version = |text: &str| text.parse::<HexVersion>().unwrap();
        assert!(version("96.00.9F.00.01") > version("96.00.74.00.1C"));
        assert_eq!(version("96.00.9f.00.01"), version("96.00.9F.00.01"));
        assert_eq!(version("96.00.9f.0.01").to_string(), "96.00.9F.00.01");
        for text in ["", "96.", "G0", "+1", "96.00.9F.00.01.02.03"] {
            assert_eq!(text.parse::<HexVersion>(), Err(ParseVersionError), "{text}");
        }
    }

    #[test]
    fn times_compare_and_a_day_is_its_first_second() {
        let time = |text: &str| text.parse::<Time>().unwrap();
        assert!(time("2024-03-13") > time("2024-02-29T23:59:59Z"));
        assert_eq!(time("2024-03-13"), time("2024-03-13T00:00:00Z"));
        assert_eq!(time("2024-03-13").to_string(), "2024-03-13T00:00:00Z");
        for text in [
            "",
            "2024-3-13",
            "2023-02-29",
            "2024-03-13T00:00:00+01:00",
            "1969-12-31",
        ] {
            assert_eq!(text.parse::<Time>(), Err(ParseTimeError), "{text}");
        }
    }
}
