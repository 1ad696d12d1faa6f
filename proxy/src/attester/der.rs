//! As much of DER as is read here: the elements of vendors' certificates, one after the other (X.690 §8.1 and §10.1).
//! Judging certificates is the verifier's.

/// Tag, content and what follows of the first element; `None` for tags and lengths that certificates don't have.
pub(super) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0x81 => rest
            .split_first()
            .map(|(one, rest)| (usize::from(*one), rest))?,
        0x82 => { rest.split_first_chunk::<2>() }
            .map(|(two, rest)| (usize::from(u16::from_be_bytes(*two)), rest))?,
        short if short < 0x80 => (usize::from(short), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Content of the first element if it is of this sort, and what follows.
pub(super) fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).and_then(|(found, content, rest)| (found == tag).then_some((content, rest)))
}

/// What a certificate's signature is over: the content of its first part (RFC 5280 §4.1).
pub(super) fn to_be_signed(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    expect(certificate, SEQUENCE).map(|(content, _)| content)
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_lengths_of_up_to_two_bytes_and_end_within_their_bytes() {
        assert_eq!(
            element(&[4, 1, 7, 9]),
            Some((4, [7].as_slice(), [9].as_slice()))
        );
        let long = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        for bytes in [long(&[4, 0x81, 200], 200), long(&[4, 0x82, 1, 4], 260)] {
            let length = bytes.len();
            assert!(element(&bytes).is_some_and(|(_, _, rest)| rest.is_empty()));
            assert_eq!(element(&bytes[..length - 1]), None);
        }
        for wrong in [
            &[][..],
            &[4],
            &[0x30, 2, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x83, 0, 0, 1, 0],
        ] {
            assert_eq!(element(wrong), None, "{wrong:?}");
        }
        assert_eq!(expect(&[4, 0], SEQUENCE), None);
    }
}
