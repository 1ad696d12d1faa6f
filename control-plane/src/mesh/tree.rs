//! A Merkle tree kept level by level, so that a proof costs its length and not the whole tree.
//!
//! Equal to [`vouchsafe_attestation::merkle`] (RFC 6962 §2.1): a node without a sibling moves up unchanged.

use vouchsafe_attestation::merkle::{self, Hash};

/// The tree of one revision.
#[derive(Clone, Debug)]
pub(crate) struct ProofTree {
    levels: Vec<Vec<Hash>>,
}

impl ProofTree {
    pub(crate) fn new(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let next = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => merkle::node_hash(left, right),
                    [only] => *only,
                    _ => merkle::root(&[]),
                })
                .collect();
            levels.push(next);
        }
        Self { levels }
    }

    pub(crate) fn leaves(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    pub(crate) fn root(&self) -> Hash {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or_else(|| merkle::root(&[]))
    }

    /// Siblings from leaf `index` up to the root; empty for a leaf that does not exist, which proves nothing.
    pub(crate) fn prove(&self, index: usize) -> Vec<Hash> {
        let siblings = self
            .levels
            .iter()
            .enumerate()
            .map(|(depth, level)| level.get((index >> depth) ^ 1));
        siblings.flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_proves_what_the_reference_proves() {
        assert_eq!(ProofTree::new(vec![]).root(), merkle::root(&[]));
        for size in 1..50usize {
            let leaves: Vec<Hash> = (0..size)
                .map(|number| merkle::leaf_hash(&number.to_be_bytes()))
                .collect();
            let tree = ProofTree::new(leaves.clone());
            assert_eq!(tree.root(), merkle::root(&leaves), "{size}");
            for index in 0..size {
                assert_eq!(
                    tree.prove(index),
                    merkle::prove(&leaves, index).unwrap(),
                    "{index} of {size}"
                );
            }
        }
    }
}
