//! A reader of the CBOR that hardware writes: definite lengths, shortest forms, nothing nested deeper than is asked for.
//!
//! # Why
//! `coset` and `ciborium` would do, and bring a value model that allocates what a length says. A COSE_Sign1 with one map
//! inside needs six kinds of items, read in place; and each has one encoding here, so that evidence can't be re-encoded
//! without its signature noticing.
//!
//! Source: RFC 8949 §3 and §4.2.1.

/// Why bytes are not the CBOR that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CborError {
    /// The bytes end inside an item.
    #[error("an item is cut short")]
    Truncated,
    /// An item of another kind stands there.
    #[error("expected {0}")]
    Unexpected(&'static str),
    /// A length has a longer form than it needs, or none.
    #[error("a length is not in its shortest form")]
    NotShortest,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// More than is read.
    #[error("more than is read: {0}")]
    TooLarge(&'static str),
    /// Bytes follow.
    #[error("{0} bytes follow")]
    Trailing(usize),
}

/// A cursor that only moves forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CborError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CborError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Major type and argument, in the shortest form.
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let &[first] = self.take(1)? else {
            return Err(CborError::Truncated);
        };
        let (major, short) = (first >> 5, first & 0x1f);
        let length = match short {
            0..=23 => return Ok((major, short.into())),
            24..=27 => 1_usize << (short - 24),
            _ => return Err(CborError::NotShortest),
        };
        let value = self
            .take(length)?
            .iter()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let least = match length {
            1 => 24,
            2 => 1 << 8,
            4 => 1 << 16,
            _ => 1 << 32,
        };
        if value < least {
            return Err(CborError::NotShortest);
        }
        Ok((major, value))
    }

    fn expect(&mut self, major: u8, what: &'static str) -> Result<u64, CborError> {
        match self.head()? {
            (found, argument) if found == major => Ok(argument),
            _ => Err(CborError::Unexpected(what)),
        }
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, CborError> {
        self.expect(0, "an unsigned number")
    }

    /// A negative number `-1 - n`, as `n`.
    pub(crate) fn negative(&mut self) -> Result<u64, CborError> {
        self.expect(1, "a negative number")
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let length = self.expect(2, "a byte string")?;
        self.take(usize::try_from(length).map_err(|_| CborError::Truncated)?)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CborError> {
        let length = self.expect(3, "a text")?;
        let bytes = self.take(usize::try_from(length).map_err(|_| CborError::Truncated)?)?;
        std::str::from_utf8(bytes).map_err(|_| CborError::Text)
    }

    /// An array's length, at most `most`.
    pub(crate) fn array(&mut self, most: u64, what: &'static str) -> Result<u64, CborError> {
        let count = self.expect(4, "an array")?;
        bounded(count, most, what)
    }

    /// A map's number of pairs, at most `most`.
    pub(crate) fn map(&mut self, most: u64, what: &'static str) -> Result<u64, CborError> {
        let count = self.expect(5, "a map")?;
        bounded(count, most, what)
    }

    /// Whether the next byte is this one, which is then passed.
    pub(crate) fn pass(&mut self, byte: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn tag(&mut self) -> Result<u64, CborError> {
        self.expect(6, "a tag")
    }

    /// A byte string, or `null`.
    pub(crate) fn optional_bytes(&mut self) -> Result<Option<&'a [u8]>, CborError> {
        if self.pass(NULL) {
            return Ok(None);
        }
        self.bytes().map(Some)
    }

    /// Any item, nested at most `depth` deep; at most `*budget` items altogether. A list holds no more than there are
    /// bytes for, since nothing is reserved by what a length says.
    pub(crate) fn item(&mut self, depth: u8, budget: &mut u32) -> Result<Item<'a>, CborError> {
        *budget = budget.checked_sub(1).ok_or(CborError::TooLarge("items"))?;
        let below = || depth.checked_sub(1).ok_or(CborError::TooLarge("nesting"));
        let (major, argument) = self.head()?;
        let length = || usize::try_from(argument).map_err(|_| CborError::Truncated);
        Ok(match major {
            0 => Item::Unsigned(argument),
            1 => Item::Negative(argument),
            2 => Item::Bytes(self.take(length()?)?),
            3 => {
                let text = std::str::from_utf8(self.take(length()?)?);
                Item::Text(text.map_err(|_| CborError::Text)?)
            }
            4 => {
                let below = below()?;
                let items = (0..argument).map(|_| self.item(below, budget));
                Item::Array(items.collect::<Result<_, _>>()?)
            }
            5 => {
                let below = below()?;
                let pairs = (0..argument)
                    .map(|_| Ok((self.item(below, budget)?, self.item(below, budget)?)));
                Item::Map(pairs.collect::<Result<_, _>>()?)
            }
            6 => Item::Tag(argument, Box::new(self.item(below()?, budget)?)),
            _ => Item::Simple(argument),
        })
    }

    pub(crate) fn finish(self) -> Result<(), CborError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CborError::Trailing(left)),
        }
    }
}

/// An item of any kind, for formats that nest freely.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Item<'a> {
    /// A number from 0 on.
    Unsigned(u64),
    /// `-1 - n`, as `n`.
    Negative(u64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// A list.
    Array(Vec<Self>),
    /// Pairs in the order in which they stand.
    Map(Vec<(Self, Self)>),
    /// An item with a meaning.
    Tag(u64, Box<Self>),
    /// `true`, `null`, a floating-point number as its bits.
    Simple(u64),
}

impl<'a> Item<'a> {
    /// The value at a number of a map; the first, if writers put it there twice.
    pub(crate) fn at(&self, key: u64) -> Option<&Self> {
        let Self::Map(pairs) = self else {
            return None;
        };
        let mut found = pairs
            .iter()
            .filter(|(held, _)| *held == Self::Unsigned(key));
        found.next().map(|(_, value)| value)
    }

    /// The list, or nothing.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn as_text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The item without tags around it.
    pub(crate) fn untagged(&self) -> &Self {
        match self {
            Self::Tag(_, inner) => inner.untagged(),
            other => other,
        }
    }
}

fn bounded(count: u64, most: u64, what: &'static str) -> Result<u64, CborError> {
    if count > most {
        return Err(CborError::TooLarge(what));
    }
    Ok(count)
}

/// Appends the head of a byte string, then the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [_, _, high, low] = length.to_be_bytes();
    match length {
        0..=23 => out.push(0x40 | low),
        24..=0xff => out.extend([0x58, low]),
        0x100..=0xffff => out.extend([0x59, high, low]),
        _ => {
            out.push(0x5a);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

const NULL: u8 = 0xf6;
/// Begins a map whose end is marked (RFC 8949 §3.2.2).
pub(crate) const OPEN_MAP: u8 = 0xbf;
/// Ends it.
pub(crate) const BREAK: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn longer_forms_than_needed_are_refused() {
        for bytes in [
            &[0x18, 23][..],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1f],
        ] {
            assert_eq!(Reader::new(bytes).unsigned(), Err(CborError::NotShortest));
        }
        assert_eq!(Reader::new(&[0x18, 24]).unsigned(), Ok(24));
        assert_eq!(Reader::new(&[0x19, 1, 0]).unsigned(), Ok(256));
    }

    #[test]
    fn nesting_and_number_of_items_are_bounded_whatever_a_length_says() {
        fn read(bytes: &[u8], depth: u8, mut budget: u32) -> Result<Item<'_>, CborError> {
            Reader::new(bytes).item(depth, &mut budget)
        }
        assert_eq!(
            read(&[0x81, 0x81, 1], 1, 9),
            Err(CborError::TooLarge("nesting"))
        );
        assert_eq!(
            read(&[0x81, 1], 1, 9),
            Ok(Item::Array(vec![Item::Unsigned(1)]))
        );
        assert_eq!(read(&[0x82, 1, 1], 1, 2), Err(CborError::TooLarge("items")));
        // 2^32 items in five bytes, and a map of as many.
        let huge = [0x9b, 0, 0, 0, 1, 0, 0, 0, 0, 1];
        assert_eq!(read(&huge, 1, 9), Err(CborError::Truncated));
        assert_eq!(
            read(&[0xba, 1, 0, 0, 0, 1], 1, 9),
            Err(CborError::Truncated)
        );
        let map = read(&[0xa1, 7, 0xc1, 0x61, b'a'], 3, 9).unwrap();
        assert_eq!(map.at(7).unwrap().untagged().as_text(), Some("a"));
        assert_eq!(map.at(8), None);
    }

    proptest! {
        #[test]
        fn byte_strings_survive_a_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut written = Vec::new();
            put_bytes(&mut written, &bytes);
            let mut reader = Reader::new(&written);
            prop_assert_eq!(reader.bytes().unwrap(), bytes.as_slice());
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let reader = Reader::new(&bytes);
            let _ = { reader }.unsigned();
            let _ = { reader }.negative();
            let _ = { reader }.bytes();
            let _ = { reader }.text();
            let _ = { reader }.array(4, "items");
            let _ = { reader }.map(4, "pairs");
            let _ = { reader }.tag();
            let _ = { reader }.optional_bytes();
            let _ = { reader }.item(8, &mut 64);
        }
    }
}
