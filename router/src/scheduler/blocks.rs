//! The free blocks of the KV cache.

/// Hands out block numbers. What was taken must be given back.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Vec<u32>,
    total: usize,
    block_tokens: usize,
}

impl BlockPool {
    pub(crate) fn new(blocks: u32, block_tokens: usize) -> Self {
        // The lowest numbers are handed out first, so that a small load touches little memory.
        Self { free: (0..blocks).rev().collect(), total: blocks as usize, block_tokens }
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// How many blocks a sequence of this length fills.
    pub(crate) fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// The longest sequence that an empty pool can hold.
    pub(crate) fn capacity_tokens(&self) -> usize {
        self.total * self.block_tokens
    }

    /// Takes room for `tokens` tokens, or nothing.
    pub(crate) fn take(&mut self, tokens: usize) -> Option<Vec<u32>> {
        let keep = self.free.len().checked_sub(self.blocks_for(tokens))?;
        let mut taken = self.free.split_off(keep);
        taken.reverse();
        Some(taken)
    }

    pub(crate) fn give_back(&mut self, blocks: Vec<u32>) {
        self.free.extend(blocks);
        debug_assert!(self.free.len() <= self.total, "a block was given back twice");
    }

    #[cfg(test)]
    pub(crate) fn n_free(&self) -> usize {
        self.free.len()
    }
}
