//! What goes into a forward pass and what comes out of it.

use guildhall_kernels::{Routes, SequenceSpan};

/// The tokens of one step: some rows of each of several sequences, one sequence after another.
#[derive(Default)]
pub(crate) struct ForwardBatch<'a> {
    /// [tokens]
    pub(crate) token_ids: Vec<u32>,
    /// [tokens], counted from the beginning of each sequence.
    pub(crate) positions: Vec<u32>,
    /// [tokens], where in the cache the token's keys and values go.
    pub(crate) slots: Vec<u32>,
    /// Which rows belong together.
    pub(crate) sequences: Vec<SequenceSpan<'a>>,
    /// Whether to keep the chosen experts of every row.
    pub(crate) wants_routes: bool,
}

/// The experts chosen in each layer, if somebody asked.
pub(crate) struct RoutesOfStep {
    wanted: bool,
    top_k: usize,
    // For each layer with experts, in order: [tokens * top_k].
    layers: Vec<Vec<u32>>,
}

impl RoutesOfStep {
    pub(crate) fn new(wanted: bool, top_k: usize) -> Self {
        Self { wanted, top_k, layers: Vec::new() }
    }

    pub(super) fn keep(&mut self, routes: &Routes) {
        if self.wanted {
            self.layers.push(routes.experts.clone());
        }
    }

    /// The experts of one row: [layers, top_k].
    pub(crate) fn of_row(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        let range = row * self.top_k..(row + 1) * self.top_k;
        self.layers.iter().flat_map(move |layer| layer[range.clone()].iter().copied())
    }
}
