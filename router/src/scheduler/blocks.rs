//! The blocks of the KV cache: who holds them, and which prefixes they are remembered for.

use std::collections::{BTreeMap, HashMap};

use super::BlockHash;

/// Counts the holders of every block, and finds blocks by the prefix they end.
///
/// A block is *blank* (nobody holds it, nothing is in it), *held* (by one or more sequences), or *idle* (nobody holds
/// it, but it is remembered for its prefix). Idle blocks are forgotten in the order in which they became idle, when
/// blank ones have run out.
#[derive(Debug)]
pub(crate) struct BlockPool {
    block_tokens: usize,
    blocks: Vec<Block>,
    blank: Vec<u32>,
    by_hash: HashMap<BlockHash, u32>,
    /// By the tick at which they became idle.
    idle: BTreeMap<u64, u32>,
    tick: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    hash: Option<BlockHash>,
    idle_since: u64,
}

impl BlockPool {
    pub(crate) fn new(blocks: u32, block_tokens: usize) -> Self {
        Self {
            block_tokens,
            blocks: vec![Block::default(); blocks as usize],
            // The lowest numbers are handed out first, so that a small load touches little memory.
            blank: (0..blocks).rev().collect(),
            by_hash: HashMap::new(),
            idle: BTreeMap::new(),
            tick: 0,
        }
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// How many blocks a sequence of this length fills.
    pub(crate) fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be taken now.
    pub(crate) fn available(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// Blocks that nobody holds but that a prefix can bring back.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// The remembered blocks at the beginning of a sequence, and how many of them are idle.
    pub(crate) fn find(&self, hashes: &[BlockHash]) -> (Vec<u32>, usize) {
        let found: Vec<u32> = hashes.iter().map_while(|h| self.by_hash.get(h).copied()).collect();
        let idle = found.iter().filter(|&&block| self.blocks[block as usize].holders == 0).count();
        (found, idle)
    }

    /// One more sequence holds this block.
    pub(crate) fn hold(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        if entry.holders == 0 {
            self.idle.remove(&entry.idle_since);
        }
        entry.holders += 1;
    }

    /// Takes `n` blocks for one sequence, or nothing; forgets the prefixes that have been idle longest if it must.
    pub(crate) fn take(&mut self, n: usize) -> Option<Vec<u32>> {
        if n > self.available() {
            return None;
        }
        let taken: Vec<u32> =
            (0..n).filter_map(|_| self.blank.pop().or_else(|| self.forget())).collect();
        for &block in &taken {
            self.blocks[block as usize].holders = 1;
        }
        Some(taken)
    }

    /// Remembers a held block, now full, for its prefix, unless another block is remembered for it.
    pub(crate) fn remember(&mut self, block: u32, hash: BlockHash) {
        self.by_hash.entry(hash).or_insert_with(|| {
            self.blocks[block as usize].hash = Some(hash);
            block
        });
    }

    /// One sequence less holds each of these blocks, given in the order of the sequence.
    pub(crate) fn release(&mut self, blocks: &[u32]) {
        // From the end, because a prefix is of use only as long as everything before it is remembered.
        for &block in blocks.iter().rev() {
            let entry = &mut self.blocks[block as usize];
            debug_assert!(entry.holders > 0, "block {block} was released twice");
            entry.holders -= 1;
            if entry.holders > 0 {
                continue;
            }
            if entry.hash.is_none() {
                self.blank.push(block);
                continue;
            }
            self.tick += 1;
            entry.idle_since = self.tick;
            self.idle.insert(self.tick, block);
        }
    }

    /// Forgets every idle prefix; says how many.
    pub(crate) fn forget_all(&mut self) -> usize {
        let forgotten: Vec<u32> = std::iter::from_fn(|| self.forget()).collect();
        self.blank.extend(&forgotten);
        forgotten.len()
    }

    /// The block that has been idle longest, now without its prefix.
    fn forget(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(hash) = self.blocks[block as usize].hash.take() {
            self.by_hash.remove(&hash);
        }
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::PrefixHashes;
    use proptest::prelude::*;

    fn hashes(tokens: &[u32]) -> Vec<BlockHash> {
        PrefixHashes::new("", 1, tokens).full().to_vec()
    }

    #[test]
    fn a_prefix_outlives_its_holders_until_its_block_is_needed() {
        let mut pool = BlockPool::new(3, 1);
        let names = hashes(&[7, 8]);
        let held = pool.take(2).unwrap();
        pool.remember(held[0], names[0]);
        pool.remember(held[1], names[1]);
        pool.release(&held);
        assert_eq!((pool.available(), pool.idle()), (3, 2));
        assert_eq!(pool.find(&names), (held.clone(), 2));
        // The blank block first, then the end of the prefix before its beginning.
        assert_eq!(pool.take(2).unwrap(), [2, held[1]]);
        assert_eq!(pool.find(&names), (vec![held[0]], 1));
        assert_eq!(pool.take(2), None);
        assert_eq!(pool.forget_all(), 1);
        assert_eq!(pool.find(&names), (vec![], 0));
    }

    #[test]
    fn one_block_is_remembered_for_each_prefix() {
        let mut pool = BlockPool::new(2, 1);
        let name = hashes(&[7]);
        let held = pool.take(2).unwrap();
        pool.remember(held[0], name[0]);
        pool.remember(held[1], name[0]);
        pool.release(&held);
        assert_eq!((pool.idle(), pool.available()), (1, 2));
        assert_eq!(pool.find(&name), (vec![held[0]], 1));
    }

    proptest! {
        /// Whatever is held, found, remembered and released: no block is lost, given twice or found under two names.
        #[test]
        fn blocks_are_blank_held_or_idle(actions in prop::collection::vec((0u8..4, 0u32..6, 1usize..4), 1..80)) {
            let mut pool = BlockPool::new(8, 1);
            let mut holders: Vec<Vec<u32>> = Vec::new();
            for (action, token, n) in actions {
                let names = hashes(&vec![token; n]);
                match action {
                    0 => holders.extend(pool.take(n)),
                    1 => {
                        let (found, idle) = pool.find(&names);
                        prop_assert!(idle <= found.len() && idle <= pool.idle());
                        for &block in &found { pool.hold(block); }
                        holders.push(found);
                    }
                    2 => if let Some(held) = holders.last() {
                        for (&block, &name) in held.iter().zip(&names) {
                            if pool.blocks[block as usize].hash.is_none() { pool.remember(block, name); }
                        }
                    },
                    _ => if !holders.is_empty() {
                        let held = holders.swap_remove(token as usize % holders.len());
                        pool.release(&held);
                    },
                }
                let mut counts = [0u32; 8];
                for &block in holders.iter().flatten() { counts[block as usize] += 1; }
                for (block, count) in (0..).zip(counts) {
                    let blank = pool.blank.iter().filter(|&&b| b == block).count();
                    let idle = pool.idle.values().filter(|&&b| b == block).count();
                    prop_assert_eq!(pool.blocks[block as usize].holders, count);
                    prop_assert_eq!(blank + idle, usize::from(count == 0));
                    if let Some(hash) = pool.blocks[block as usize].hash {
                        prop_assert_eq!(pool.by_hash.get(&hash), Some(&block));
                    }
                }
                prop_assert_eq!(pool.by_hash.len(), pool.blocks.iter().filter(|b| b.hash.is_some()).count());
            }
            for held in holders { pool.release(&held); }
            pool.forget_all();
            prop_assert_eq!(pool.blank.len(), 8);
        }
    }
}
