use super::*;

fn insert(lookup: &mut Lookup, name: &[u8], value: &[u8]) {
    let name_hash = hash(0, name);
    lookup.insert(hash(name_hash, value), name_hash, name, value);
}

fn find(lookup: &Lookup, name: &[u8], value: &[u8]) -> Option<usize> {
    lookup.find(hash(hash(0, name), value), name, value)
}

#[test]
fn the_newest_entry_follows_the_static_table() {
    let mut lookup = Lookup::new(4096);
    assert_eq!(find(&lookup, b"a", b"1"), None);
    insert(&mut lookup, b"a", b"1");
    insert(&mut lookup, b"a", b"2");
    assert_eq!(find(&lookup, b"a", b"1"), Some(63));
    assert_eq!(find(&lookup, b"a", b"2"), Some(62));
    assert_eq!(find(&lookup, b"a", b"3"), None);
    assert_eq!(lookup.find_name(hash(0, b"a"), b"a"), Some(62));
    assert_eq!(lookup.find_name(hash(0, b"b"), b"b"), None);
}

#[test]
fn names_and_values_are_not_run_together() {
    let mut lookup = Lookup::new(4096);
    lookup.insert(7, 8, b"ab", b"c");
    assert_eq!(lookup.find(7, b"a", b"bc"), None);
    assert_eq!(lookup.find(7, b"ab", b"c"), Some(62));
    assert_eq!(lookup.find_name(8, b"a"), None);
    assert_ne!(hash(hash(0, b"ab"), b"c"), hash(hash(0, b"a"), b"bc"));
}

#[test]
fn equal_hashes_are_told_apart_by_the_text() {
    let mut lookup = Lookup::new(4096);
    for value in 0..=99_u8 {
        lookup.insert(1, 1, b"name", &[value]);
    }
    for value in 0..=99_u8 {
        assert_eq!(
            lookup.find(1, b"name", &[value]),
            Some(161 - usize::from(value))
        );
    }
    assert_eq!(lookup.find(1, b"name", b"other"), None);
    assert_eq!(lookup.find(2, b"name", &[1]), None);
}

#[test]
fn entries_that_left_are_not_found() {
    let mut lookup = Lookup::new(36 * 3);
    for value in [b"1", b"2", b"3", b"4"] {
        insert(&mut lookup, b"abc", value);
    }
    assert_eq!(find(&lookup, b"abc", b"1"), None);
    assert_eq!(find(&lookup, b"abc", b"2"), Some(64));
    lookup.resize(36);
    assert_eq!(find(&lookup, b"abc", b"3"), None);
    assert_eq!(find(&lookup, b"abc", b"4"), Some(62));
    lookup.resize(0);
    assert_eq!(find(&lookup, b"abc", b"4"), None);
    assert_eq!(lookup.size, 0);
}

#[test]
fn numbers_that_wrapped_lead_nowhere() {
    let mut lookup = Lookup::new(4096);
    // A bucket that is left alone while the numbers of all others pass its own.
    insert(&mut lookup, b"alone", b"");
    for number in 0..140_000_u32 {
        insert(&mut lookup, b"x", &number.to_le_bytes());
        if number > 200 && number % 97 == 0 {
            assert_eq!(find(&lookup, b"alone", b""), None);
            assert_eq!(find(&lookup, b"x", &number.to_le_bytes()), Some(62));
            assert_eq!(find(&lookup, b"x", &(number - 50).to_le_bytes()), Some(112));
        }
    }
}

#[test]
fn each_byte_counts_in_the_hash() {
    let text: Vec<u8> = (0..40).collect();
    for length in 0..text.len() {
        let whole = hash(3, &text[..length]);
        assert_ne!(whole, hash(4, &text[..length]));
        for at in 0..length {
            let mut other = text[..length].to_vec();
            other[at] ^= 0x80;
            assert_ne!(hash(3, &other), whole, "byte {at} of {length}");
        }
    }
}

impl Lookup {
    /// What the table counts and how many entries it has.
    pub(in crate::hpack) fn sizes(&self) -> (usize, usize) {
        let counted = self.entries.iter().map(Entry::size).sum();
        assert_eq!(self.size, counted);
        assert!(self.size <= self.max_size);
        (self.size, self.entries.len())
    }
}
