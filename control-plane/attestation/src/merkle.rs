//! Merkle trees over ordered leaves: the root of a mesh-state revision and proofs that a resource belongs to it.
//!
//! Hashing is RFC 6962 §2.1 (leaf prefix 0x00, node prefix 0x01, SHA-256), so that a log or an auditor's tool that
//! knows Certificate Transparency knows ours.

use aws_lc_rs::digest;

/// SHA-256 of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// Hash of one leaf (RFC 6962 §2.1).
pub fn leaf_hash(content: &[u8]) -> Hash {
    hash(&[&[0x00], content])
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[0x01], left, right])
}

/// Root over `leaves` in their order; of no leaves, the hash of the empty string.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => hash(&[]),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split_point(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// Siblings from leaf `index` up to the root (RFC 6962 §2.1.1); `None` where there is no such leaf.
pub fn prove(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    match leaves {
        [] => None,
        [_] => (index == 0).then(Vec::new),
        _ => {
            let split = split_point(leaves.len());
            let (left, right) = leaves.split_at(split);
            let (inner, at, sibling) = if index < split {
                (left, index, root(right))
            } else {
                (right, index - split, root(left))
            };
            let mut path = prove(inner, at)?;
            path.push(sibling);
            Some(path)
        }
    }
}

/// Whether `path` leads from `leaf`, at `index` of `size` leaves, to `root` (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(root: &Hash, leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut current) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            current = node_hash(sibling, &current);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            current = node_hash(&current, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && current == *root
}

/// The largest power of two below `count` (RFC 6962 §2.1).
fn split_point(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_size_is_proven_and_nothing_else() {
        for size in 1..40usize {
            let leaves: Vec<Hash> = (0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            let root = root(&leaves);
            for index in 0..size {
                let path = prove(&leaves, index).unwrap();
                let holds = |leaf: &Hash, index: usize, size: usize, path: &[Hash]| {
                    verify_inclusion(&root, leaf, index as u64, size as u64, path)
                };
                assert!(
                    holds(&leaves[index], index, size, &path),
                    "{index} of {size}"
                );
                assert!(!holds(&leaf_hash(b"other"), index, size, &path));
                assert!(!holds(&leaves[index], index + 1, size, &path));
                assert!(!holds(
                    &leaves[index],
                    index,
                    size,
                    &[path.clone(), vec![[0; 32]]].concat()
                ));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!holds(&leaves[index], index, size, shorter));
                }
            }
        }
    }

    #[test]
    fn the_empty_root_is_that_of_rfc_6962() {
        assert_eq!(
            hex::encode(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
