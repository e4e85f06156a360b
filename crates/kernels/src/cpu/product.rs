//! Products of many rows with packed weights: what is computed when, and by which thread.

use std::ops::Range;

use super::parallel::Workers;
use super::rows::FedRows;
use super::{Kernel, LANES, Line, TILE_PANELS, TILE_ROWS, Tile, ZERO_TILE};
use crate::weights::Packed;

/// Rows that stay in the second-level cache while the panels of an item go by.
const BLOCK_ROWS: usize = 128;
/// Steps along K that all tiles of an item take before any takes the next: so many lines of
/// four panels leave room for rows in the first-level cache.
const STEPS_AT_ONCE: usize = 128;
/// Steps along K, times rows and panels, that take a thread some ten microseconds: less is not
/// worth waking another one for.
const ENOUGH_STEPS: usize = 1 << 13;

/// Rows of x, all or some of them, times one packed weight.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) x: &'a FedRows<'a>,
    /// Which rows of x, in this order.
    pub(crate) rows: RowChoice<'a>,
    pub(crate) weights: &'a Packed,
}

/// The rows of x that a product reads.
#[derive(Clone, Copy)]
pub(crate) enum RowChoice<'a> {
    /// So many rows from the given one on.
    Run(usize, usize),
    /// The listed ones.
    Listed(&'a [u32]),
}

impl RowChoice<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Run(_, count) => count,
            Self::Listed(rows) => rows.len(),
        }
    }

    fn source(self, row: usize) -> usize {
        match self {
            Self::Run(first, _) => first + row,
            Self::Listed(rows) => rows[row] as usize,
        }
    }
}

/// The finished sums of some rows and panels of a product.
pub(crate) struct Finished<'a> {
    /// The number of the product.
    pub(crate) product: usize,
    /// Rows of the product, at most [`TILE_ROWS`].
    pub(crate) rows: Range<usize>,
    /// Panels of the weight, at most [`TILE_PANELS`]; they begin with an even one.
    pub(crate) panels: Range<usize>,
    /// The sums, `[row][panel]`, both counted from the beginning of the ranges.
    pub(crate) tile: &'a Tile,
}

/// A piece of work for one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    product: usize,
    rows: Range<usize>,
    panels: Range<usize>,
}

/// Computes all `products` and hands their sums, tile by tile, to `emit`.
///
/// Which thread computes a tile, and when, is open; each tile is emitted once.
pub(crate) fn run(products: &[Product<'_>], workers: &Workers, emit: impl Fn(Finished<'_>) + Sync) {
    let sizes: Vec<Size> = products.iter().map(Product::size).collect();
    let items = plan(&sizes, workers.threads());
    workers.run(items.len(), |index| {
        let item = &items[index];
        products[item.product].compute(item, &emit);
    });
}

/// The extent of a product.
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    panels: usize,
    /// Lines of one panel.
    steps: usize,
}

/// Cuts products into items: all rows of a block, and as many panels as leave each thread
/// about eight items, so that none waits long for the last.
fn plan(sizes: &[Size], threads: usize) -> Vec<Item> {
    let work = |size: &Size| size.rows * size.panels * size.steps;
    let total: usize = sizes.iter().map(work).sum();
    let work_per_item = (total / (threads * 8)).max(ENOUGH_STEPS);
    let mut items = Vec::new();
    for (product, size) in sizes.iter().enumerate() {
        for first_row in (0..size.rows).step_by(BLOCK_ROWS) {
            let rows = first_row..size.rows.min(first_row + BLOCK_ROWS);
            let panels = work_per_item.div_ceil((rows.len() * size.steps).max(1));
            let panels = panels.next_multiple_of(TILE_PANELS);
            for first in (0..size.panels).step_by(panels) {
                let panels = first..size.panels.min(first + panels);
                items.push(Item { product, rows: rows.clone(), panels });
            }
        }
    }
    items
}

impl Product<'_> {
    fn size(&self) -> Size {
        Size {
            rows: self.rows.len(),
            panels: self.weights.panels(),
            steps: self.kernel.steps(self.weights.k()),
        }
    }

    /// Computes the tiles of `item`: a group of panels comes from memory once and stays in the
    /// cache while all rows of the item go by.
    fn compute(&self, item: &Item, emit: &impl Fn(Finished<'_>)) {
        let rows = item.rows.len();
        let tiles = rows.div_ceil(self.kernel.max_rows());
        // Tiles of nearly the same number of rows cost less than full ones and a small rest.
        let tile_rows = rows.div_ceil(tiles.max(1)).max(1);
        let group = if rows == 1 { TILE_PANELS } else { 4 };
        let mut sums = vec![ZERO_TILE; tiles];
        for first in item.panels.clone().step_by(group) {
            let panels = first..item.panels.end.min(first + group);
            sums.fill(ZERO_TILE);
            self.multiply(item, &panels, tile_rows, &mut sums);
            for (first_row, tile) in item.rows.clone().step_by(tile_rows).zip(&sums) {
                let rows = first_row..item.rows.end.min(first_row + tile_rows);
                let (product, panels) = (item.product, panels.clone());
                emit(Finished { product, rows, panels, tile });
            }
        }
    }

    /// Adds the products of all rows of `item` and a group of panels to `sums`.
    ///
    /// With more than one tile, all of them take some steps along K, then all of them the next
    /// ones, so that these lines of the panels are in the first-level cache.
    fn multiply(&self, item: &Item, panels: &Range<usize>, tile_rows: usize, sums: &mut [Tile]) {
        let all_steps = self.kernel.steps(self.weights.k());
        let steps = if sums.len() > 1 { STEPS_AT_ONCE } else { all_steps.max(1) };
        for first_step in (0..all_steps).step_by(steps) {
            let steps = first_step..all_steps.min(first_step + steps);
            let mut lines: [&[Line]; TILE_PANELS] = [&[]; TILE_PANELS];
            for (lines, panel) in lines.iter_mut().zip(panels.clone()) {
                *lines = &self.weights.panel(panel)[steps.clone()];
            }
            let step_words = self.kernel.words_of(&steps);
            for (first_row, sums) in item.rows.clone().step_by(tile_rows).zip(sums.iter_mut()) {
                let rows = first_row..item.rows.end.min(first_row + tile_rows);
                let count = rows.len();
                let mut words: [&[u32]; TILE_ROWS] = [&[]; TILE_ROWS];
                for (words, row) in words.iter_mut().zip(rows) {
                    *words = &self.x.row(self.rows.source(row))[step_words.clone()];
                }
                self.kernel.accumulate(&words[..count], &lines[..panels.len()], sums);
            }
        }
    }
}

/// Returns the range of columns, of `n`, that a panel covers.
pub(crate) fn columns(panel: usize, n: usize) -> Range<usize> {
    (panel * LANES).min(n)..((panel + 1) * LANES).min(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_cover_each_tile_once() {
        let sizes = [(1, 64, 1024), (8, 3, 5), (300, 7, 64), (0, 4, 8), (5, 0, 8), (2, 9, 0)]
            .map(|(rows, panels, steps)| Size { rows, panels, steps });
        for threads in [1, 2, 5] {
            let items = plan(&sizes, threads);
            for (product, size) in sizes.iter().enumerate() {
                let mut seen = vec![0; size.rows * size.panels];
                for item in items.iter().filter(|item| item.product == product) {
                    assert_eq!(item.panels.start % 2, 0);
                    let rows = item.rows.clone().map(|row| row * size.panels);
                    let tiles = rows.flat_map(|row| item.panels.clone().map(move |p| row + p));
                    tiles.for_each(|tile| seen[tile] += 1);
                }
                assert!(seen.iter().all(|&count| count == 1));
            }
        }
    }

    #[test]
    fn tiny_products_are_one_item() {
        let size = Size { rows: 1, panels: 4, steps: 64 };
        assert_eq!(plan(&[size], 2).len(), 1);
    }
}
