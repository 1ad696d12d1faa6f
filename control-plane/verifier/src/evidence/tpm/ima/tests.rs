//! Lists of real systems, and lists with one thing wrong.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::policy::{Content, FileProblem, FileRule, PathPattern, Policy};
use super::*;

const BIG: &str = include_str!("../../../../testdata/tpm/ima-ascii-big.log");
const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// The list as the kernel's other file shows it.
fn binary(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        out.extend(u32::from(PCR).to_le_bytes());
        out.extend([if entry.is_violation { 0 } else { 7 }; LISTED_HASH_BYTES]);
        let name: &[u8] = match (entry.is_content, entry.signature.is_empty()) {
            (true, true) => b"ima-ng",
            (true, false) => b"ima-sig",
            (false, _) => b"ima-sigv2",
        };
        put_long_sized(&mut out, name);
        put_long_sized(&mut out, &entry.template);
    }
    out
}

pub(crate) fn entry(path: &str, digest: &[u8; 32]) -> Entry {
    let mut fields = Vec::new();
    put_long_sized(&mut fields, &[b"sha256:\0", digest.as_slice()].concat());
    put_long_sized(&mut fields, &[path.as_bytes(), b"\0"].concat());
    Template::named(b"ima-ng")
        .unwrap()
        .entry(&fields, false)
        .unwrap()
}

fn violation(path: &str) -> Entry {
    Entry {
        is_violation: true,
        ..entry(path, &[0; 32])
    }
}

#[test]
fn a_real_list_reads_the_same_in_both_of_its_forms() {
    let text = parse_text(BIG).unwrap();
    assert_eq!(text.len(), 826);
    assert!(text[0].is_boot_aggregate());
    let raw = binary(&text);
    assert_eq!(parse(&raw).unwrap(), text);
    // Cut anywhere it is refused, or reads as a shorter list.
    let raw = binary(&text[..20]);
    let places = (0..raw.len()).filter(|end| parse(&raw[..*end]).is_ok());
    assert_eq!(places.count(), 20);
}

#[test]
fn a_list_whose_lines_contradict_themselves_is_refused() {
    let line = BIG.lines().nth(1).unwrap();
    for (from, to) in [("/init", "/unit"), ("sha1:19", "sha1:29"), ("10 ", "11 ")] {
        assert!(parse_text(&line.replacen(from, to, 1)).is_err(), "{to}");
    }
    parse_text(line).unwrap();
    assert!(parse_text("").is_err());
    assert!(parse_text(&line.replace("ima-ng", "ima")).is_err());
    assert!(parse_text(&line.replace("sha1:", "md5:")).is_err());
}

#[test]
fn lengths_beyond_their_bounds_are_refused_before_anything_is_allocated() {
    let mut raw = 10_u32.to_le_bytes().to_vec();
    raw.extend([7; 20]);
    let name = [raw.as_slice(), &u32::MAX.to_le_bytes()].concat();
    assert_eq!(parse(&name), Err(ParseError::TooLarge("template name")));
    let named = [raw.as_slice(), &6_u32.to_le_bytes(), b"ima-ng"].concat();
    let data = [named.as_slice(), &u32::MAX.to_le_bytes()].concat();
    assert_eq!(parse(&data), Err(ParseError::TooLarge("template data")));
    let cut = [named.as_slice(), &8_u32.to_le_bytes()].concat();
    assert_eq!(parse(&cut), Err(ParseError::Truncated("template data")));
    let other = [raw.as_slice(), &3_u32.to_le_bytes(), b"ima"].concat();
    assert_eq!(parse(&other), Err(ParseError::Unsupported("template")));
    assert_eq!(
        parse(&vec![0; MAX_LIST_BYTES + 1]),
        Err(ParseError::TooLarge("measurement list"))
    );
    raw[0] = 11;
    assert_eq!(parse(&raw), Err(ParseError::Unsupported("PCR")));
}

#[test]
fn a_list_is_judged_in_steps_and_each_step_needs_only_what_is_new() {
    let all = parse_text(BIG).unwrap();
    let start = Checkpoint::start(BANK);
    let quoted = start.replay(&all);
    let (whole, taken) = start.advance(all.clone(), &quoted).unwrap();
    assert_eq!((whole.count, taken.len()), (826, 826));
    // In two steps; entries beyond the first quote wait.
    let early = start.replay(&all[..500]);
    let (checkpoint, taken) = start.advance(all.clone(), &early).unwrap();
    assert_eq!((checkpoint.count, taken.len()), (500, 500));
    let (end, taken) = checkpoint.advance(all[500..].to_vec(), &quoted).unwrap();
    assert_eq!((&end, taken.len()), (&whole, 326));
    // Nothing new.
    assert_eq!(
        end.advance(Vec::new(), &quoted).unwrap(),
        (end.clone(), Vec::new())
    );
    assert_eq!(
        end.advance(Vec::new(), &early),
        Err(AdvanceError {
            entries: 0,
            after: 826
        })
    );
}

#[test]
fn an_entry_changed_left_out_moved_or_put_in_does_not_replay() {
    let honest = vec![
        entry("boot_aggregate", &[1; 32]),
        entry("/bin/a", &[2; 32]),
        violation("/var/log/x"),
        entry("/bin/b", &[3; 32]),
    ];
    let start = Checkpoint::start(BANK);
    let quoted = start.replay(&honest);
    start.advance(honest.clone(), &quoted).unwrap();
    let refused = |entries: Vec<Entry>| assert!(start.advance(entries, &quoted).is_err());
    for at in 0..honest.len() {
        let mut less = honest.clone();
        less.remove(at);
        refused(less);
        let mut more = honest.clone();
        more.insert(at, entry("/bin/c", &[4; 32]));
        refused(more);
        let mut other = honest.clone();
        other[at] = entry("/bin/c", &[4; 32]);
        refused(other);
    }
    let mut moved = honest.clone();
    moved.swap(1, 3);
    refused(moved);
    // A violation can't be told as a measured file, nor the reverse.
    let mut told = honest.clone();
    told[2].is_violation = false;
    refused(told);
    let mut untold = honest.clone();
    untold[3].is_violation = true;
    refused(untold);
}

fn rule(path: &str, content: Content) -> FileRule {
    FileRule {
        path: PathPattern::new(path).unwrap(),
        content,
    }
}

fn digests(all: &[[u8; 32]]) -> Content {
    let named = all
        .iter()
        .map(|digest| format!("sha256:{}", hex::encode(digest)));
    Content::Digests(named.collect::<BTreeSet<_>>())
}

#[test]
fn each_file_needs_a_rule_for_its_path_and_content() {
    let policy = Policy {
        files: vec![
            rule("/usr/bin/**", digests(&[[1; 32], [2; 32]])),
            rule("/var/*/log", Content::DangerAny),
        ],
        ..Policy::default()
    };
    let check = |first, entries: &[Entry]| {
        policy
            .check(first, entries)
            .map_err(|error| (error.path, error.why))
    };
    let refused = |path: &str, why| Err((path.to_owned(), why));
    let (good, log) = (entry("/usr/bin/x", &[1; 32]), entry("/var/a/log", &[9; 32]));
    let aggregate = entry("boot_aggregate", &[7; 32]);
    assert_eq!(check(0, &[aggregate.clone(), good.clone(), log]), Ok(()));
    // Only as the first of a boot.
    assert_eq!(
        check(1, std::slice::from_ref(&aggregate)),
        refused("boot_aggregate", FileProblem::NotListed)
    );
    assert_eq!(
        check(0, &[good.clone(), entry("/usr/bin/y", &[3; 32])]),
        refused("/usr/bin/y", FileProblem::Content)
    );
    assert_eq!(
        check(0, &[entry("/tmp/x", &[1; 32])]),
        refused("/tmp/x", FileProblem::NotListed)
    );
    assert_eq!(
        check(0, &[entry("/var/a/b/log", &[1; 32])]),
        refused("/var/a/b/log", FileProblem::NotListed)
    );
    assert_eq!(
        check(0, &[violation("/usr/bin/x")]),
        refused("/usr/bin/x", FileProblem::Violation)
    );
    let lenient = Policy {
        danger_accept_violations: true,
        ..policy.clone()
    };
    assert_eq!(lenient.check(0, &[violation("/usr/bin/x")]), Ok(()));
    // A path may hold anything, and is shown so that it can't deceive.
    assert_eq!(
        check(0, &[entry("/tmp/a\nb", &[1; 32])]),
        refused("/tmp/a\\nb", FileProblem::NotListed)
    );
}

#[test]
fn sha1_and_trees_over_content_allow_nothing() {
    let sha1 = &parse_text(BIG).unwrap()[1..2];
    let policy = |text: String| Policy {
        files: vec![rule("/**", Content::Digests(BTreeSet::from([text])))],
        ..Policy::default()
    };
    let named = policy::named_digest(&sha1[0]);
    assert!(named.starts_with("sha1:"));
    assert_eq!(
        policy(named).check(1, sha1).unwrap_err().why,
        FileProblem::Content
    );
    let mut tree = entry("/a", &[1; 32]);
    let named = policy::named_digest(&tree);
    assert_eq!(
        policy(named.clone()).check(1, std::slice::from_ref(&tree)),
        Ok(())
    );
    tree.is_content = false;
    assert!(policy(named).check(1, &[tree]).is_err());
}

#[test]
fn patterns_have_stars_for_whole_segments_only() {
    for good in ["/a", "/*/b", "/a/**", "/**", "kexec-cmdline", "/a b"] {
        assert!(PathPattern::new(good).is_some(), "{good}");
    }
    for bad in ["", "a/b", "/a*", "/**/b", "*", "**", "/../a", "/./a"] {
        assert_eq!(PathPattern::new(bad), None, "{bad}");
    }
}

mod signed {
    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::evidence::tpm::ima::policy::Signer;

    struct Maker {
        key: EcdsaKeyPair,
        certificate: Vec<u8>,
        key_id: [u8; 4],
    }

    fn maker() -> Maker {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // An authority's certificate says its key identifier.
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key_id = params.key_identifier(&pair);
        let certificate = params.self_signed(&pair).unwrap().der().to_vec();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pair.serialize_der())
            .unwrap();
        Maker {
            key,
            certificate,
            key_id: *key_id.last_chunk().unwrap(),
        }
    }

    fn sign(maker: &Maker, path: &str, content: &[u8]) -> Entry {
        let digest: [u8; 32] = digest(&SHA256, content).as_ref().try_into().unwrap();
        // The header says what was signed: the digest of the content, so signing the content gives the same signature.
        let signature = maker.key.sign(&SystemRandom::new(), content).unwrap();
        let mut header = vec![3, 2, 4];
        header.extend(maker.key_id);
        header.extend(
            u16::try_from(signature.as_ref().len())
                .unwrap()
                .to_be_bytes(),
        );
        header.extend(signature.as_ref());
        Entry {
            signature: header,
            ..entry(path, &digest)
        }
    }

    #[test]
    fn a_file_signed_by_a_named_key_is_allowed_and_every_flip_of_its_signature_refused() {
        let (ours, theirs) = (maker(), maker());
        let policy = Policy {
            files: vec![rule("/usr/**", Content::SignedBy(vec!["vendor".into()]))],
            signers: vec![
                Signer::new("vendor", &ours.certificate).unwrap(),
                Signer::new("other", &theirs.certificate).unwrap(),
            ],
            danger_accept_violations: false,
        };
        let good = sign(&ours, "/usr/bin/x", b"content");
        assert_eq!(policy.check(1, std::slice::from_ref(&good)), Ok(()));
        let refused = |entry: Entry| {
            let error = policy.check(1, &[entry]).unwrap_err();
            assert_eq!(error.why, FileProblem::Content);
        };
        refused(sign(&theirs, "/usr/bin/x", b"content"));
        refused(Entry {
            signature: Vec::new(),
            ..good.clone()
        });
        refused(Entry {
            digest: vec![5; 32],
            ..good.clone()
        });
        refused(Entry {
            is_content: false,
            ..good.clone()
        });
        for at in 0..good.signature.len() {
            let mut flipped = good.clone();
            flipped.signature[at] ^= 1;
            refused(flipped);
            let mut cut = good.clone();
            cut.signature.truncate(at);
            refused(cut);
        }
    }
}

proptest! {
    #[test]
    fn what_the_kernel_writes_is_read(
        files in prop::collection::vec(("/[a-z /]{1,30}", any::<[u8; 32]>(), any::<bool>()), 0..20)
    ) {
        let written: Vec<Entry> = files
            .iter()
            .map(|(path, digest, violated)| Entry { is_violation: *violated, ..entry(path, digest) })
            .collect();
        prop_assert_eq!(parse(&binary(&written)).unwrap(), written);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&raw);
        let _ = parse_text(&String::from_utf8_lossy(&raw));
    }

    #[test]
    fn no_changed_list_makes_the_parser_panic(at in 0_usize..4000, byte in any::<u8>()) {
        let mut raw = binary(&parse_text(&BIG.lines().take(40).collect::<Vec<_>>().join("\n")).unwrap());
        let at = at % raw.len();
        raw[at] = byte;
        let _ = parse(&raw);
    }
}
