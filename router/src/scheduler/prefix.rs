//! Names of blocks by all the tokens up to their end, by which equal prefixes find each other.

use sha2::{Digest as _, Sha256};

/// Names the tokens of a block and every token before it: SHA-256 over the name of the block before and the tokens.
/// Two blocks of one name hold the same keys and values, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockHash([u8; 32]);

/// The names of a sequence's full blocks.
#[derive(Clone, Debug)]
pub(crate) struct PrefixHashes {
    block_tokens: usize,
    full: Vec<BlockHash>,
    /// What stands before the first block.
    root: BlockHash,
    /// Tokens after the last full block.
    rest: Vec<u32>,
}

impl BlockHash {
    fn of_salt(salt: &str) -> Self {
        Self(Sha256::digest(salt.as_bytes()).into())
    }

    fn then(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }
}

impl PrefixHashes {
    /// Names the blocks of `tokens`; sequences of different salts have no name in common.
    pub(crate) fn new(salt: &str, block_tokens: usize, tokens: &[u32]) -> Self {
        let root = BlockHash::of_salt(salt);
        let mut hashes = Self { block_tokens, full: Vec::new(), root, rest: Vec::new() };
        for &token in tokens {
            hashes.push(token);
        }
        hashes
    }

    /// Takes the sequence's next token.
    pub(crate) fn push(&mut self, token: u32) {
        self.rest.push(token);
        if self.rest.len() == self.block_tokens {
            let before = self.full.last().unwrap_or(&self.root);
            self.full.push(before.then(&self.rest));
            self.rest.clear();
        }
    }

    /// The names of the full blocks, in order.
    pub(crate) fn full(&self) -> &[BlockHash] {
        &self.full
    }

    /// Tokens so far.
    pub(crate) fn tokens(&self) -> usize {
        self.full.len() * self.block_tokens + self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_every_token_before_it_and_on_the_salt() {
        let names = |salt, tokens: &[u32]| PrefixHashes::new(salt, 2, tokens).full().to_vec();
        let first = names("", &[1, 2, 3, 4, 5]);
        assert_eq!(first.len(), 2);
        assert_eq!(first, names("", &[1, 2, 3, 4]));
        assert_eq!(first[0], names("", &[1, 2, 9, 9])[0]);
        assert_ne!(first[1], names("", &[9, 2, 3, 4])[1]);
        assert_ne!(first[0], names("mine", &[1, 2])[0]);
        assert_ne!(names("", &[1, 2])[0], names("", &[2, 1])[0]);
    }
}
