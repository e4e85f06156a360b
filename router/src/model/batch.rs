//! What goes into a forward pass and what comes out of it.

use std::ops::Range;

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

impl ForwardBatch<'_> {
    /// The first rows, up to `row`, and the others: two micro-batches that give what the whole gives if the first one
    /// goes through each layer before the second one does. A sequence that lies across goes on in the second one.
    pub(crate) fn split(&self, row: usize) -> [Self; 2] {
        [0..row, row..self.token_ids.len()].map(|rows| Self {
            token_ids: self.token_ids[rows.clone()].to_vec(),
            positions: self.positions[rows.clone()].to_vec(),
            slots: self.slots[rows.clone()].to_vec(),
            sequences: self.sequences.iter().filter_map(|span| cut(span, &rows)).collect(),
            wants_routes: self.wants_routes,
        })
    }
}

/// What lies in some rows of a batch, counted from the first of them.
fn cut<'a>(span: &SequenceSpan<'a>, rows: &Range<usize>) -> Option<SequenceSpan<'a>> {
    let first = span.first_row.max(rows.start);
    let end = (span.first_row + span.rows).min(rows.end);
    (first < end).then(|| SequenceSpan {
        first_row: first - rows.start,
        rows: end - first,
        first_position: span.first_position + (first - span.first_row),
        blocks: span.blocks,
    })
}

/// The experts chosen in each layer, if somebody asked.
pub(crate) struct RoutesOfStep {
    top_k: usize,
    // For each layer with experts, in order: [tokens * top_k].
    layers: Vec<Vec<u32>>,
}

impl RoutesOfStep {
    pub(super) fn new(top_k: usize) -> Self {
        Self { top_k, layers: Vec::new() }
    }

    pub(super) fn keep(&mut self, routes: &Routes) {
        self.layers.push(routes.experts.clone());
    }

    /// Adds those of the rows that follow.
    pub(super) fn append(&mut self, following: Self) {
        self.layers.resize_with(following.layers.len(), Vec::new);
        for (layer, rows) in self.layers.iter_mut().zip(following.layers) {
            layer.extend(rows);
        }
    }

    /// The experts of one row: [layers, top_k].
    pub(crate) fn of_row(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        let range = row * self.top_k..(row + 1) * self.top_k;
        self.layers.iter().flat_map(move |layer| layer[range.clone()].iter().copied())
    }
}
