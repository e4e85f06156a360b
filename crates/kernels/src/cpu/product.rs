//! Products of many rows with packed weights: what is computed when, and by which thread.

use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx::{Pass, Tiles};
use super::parallel::Workers;
use super::rows::FedRows;
use super::{Cut, Kernel, LANES, SumsOfRow, TILE_PANELS, TILE_ROWS, ZERO_SUMS};
use crate::weights::Packed;
use crate::weights::quantised::{PanelGroups, Quantised};

/// Rows that stay in the second-level cache while the panels of an item go by.
const BLOCK_ROWS: usize = 128;
/// Steps along K that all tiles of an item take before any takes the next: so many lines of
/// four panels leave room for rows in the first-level cache.
const STEPS_AT_ONCE: usize = 128;
/// The same for tile registers: two panels at a time, and sums that are brought from further away.
const STEPS_IN_REGISTERS: usize = 256;
/// The same for groups of small integers.
const GROUPS_AT_ONCE: usize = 16;
/// The panels that are computed together when lines are to stay in the first-level cache.
const FEW_PANELS: usize = 4;
/// Steps along K, times rows and panels, that take a thread some ten microseconds: less is not
/// worth waking another one for.
const ENOUGH_STEPS: usize = 1 << 13;

thread_local! {
    /// The sums of an item, kept so that they need not be allocated again.
    static SUMS: RefCell<Vec<SumsOfRow>> = const { RefCell::new(Vec::new()) };
}

/// Rows of x that follow one another, times one packed weight.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) x: &'a FedRows<'a>,
    /// The first row of x, and how many there are.
    pub(crate) rows: (usize, usize),
    pub(crate) weights: &'a Packed,
}

/// The finished sums of some rows and panels of a product.
pub(crate) struct Finished<'a> {
    /// The number of the product.
    pub(crate) product: usize,
    /// Rows of the product.
    pub(crate) rows: Range<usize>,
    /// Panels of the weight, at most [`TILE_PANELS`]; they begin with an even one.
    pub(crate) panels: Range<usize>,
    /// The sums, `[row][panel]`, both counted from the beginning of the ranges.
    pub(crate) sums: &'a [SumsOfRow],
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
/// about sixteen items, so that none waits long for the last.
fn plan(sizes: &[Size], threads: usize) -> Vec<Item> {
    let work = |size: &Size| size.rows * size.panels * size.steps;
    let total: usize = sizes.iter().map(work).sum();
    let work_per_item = (total / (threads * 16)).max(ENOUGH_STEPS);
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
            rows: self.rows.1,
            panels: self.weights.panels(),
            steps: self.kernel.steps(self.weights.k()),
        }
    }

    /// Computes the tiles of `item`: a group of panels comes from memory once and stays in the
    /// cache while all rows of the item go by.
    fn compute(&self, item: &Item, emit: &impl Fn(Finished<'_>)) {
        let cut = self.kernel.cut(item.rows.len());
        let many = item.rows.len() == 1 || self.kernel.has_tile_registers();
        let group = if many { TILE_PANELS } else { FEW_PANELS };
        SUMS.with_borrow_mut(|sums| {
            sums.resize(cut.count * cut.rows, ZERO_SUMS);
            #[cfg(target_arch = "x86_64")]
            let tiles = self.kernel.has_tile_registers().then(|| {
                // SAFETY: a device refuses an instruction set that the processor has not; an item has no others.
                unsafe { Tiles::configure(cut.rows, LANES) }
            });
            for first in item.panels.clone().step_by(group) {
                let panels = first..item.panels.end.min(first + group);
                #[cfg(target_arch = "x86_64")]
                if let Some(tiles) = &tiles {
                    self.multiply_in_registers(tiles, (item, &panels), cut, sums);
                } else {
                    self.multiply(item, &panels, cut, sums);
                }
                #[cfg(not(target_arch = "x86_64"))]
                self.multiply(item, &panels, cut, sums);
                let (product, rows) = (item.product, item.rows.clone());
                emit(Finished { product, rows, panels, sums });
            }
        });
    }

    /// Steps along K that all tiles take before any takes the next: all of them where there is one tile.
    ///
    /// So these lines of the panels are in the first-level cache while the tiles go by.
    fn step_blocks(&self, tiles: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
        let all = self.kernel.steps(self.weights.k());
        let steps = if tiles > 1 { at_once } else { all.max(1) };
        (0..all).step_by(steps).map(move |first| first..all.min(first + steps))
    }

    /// Writes the products of all rows of `item` and a group of panels to `sums`.
    fn multiply(&self, item: &Item, panels: &Range<usize>, cut: Cut, sums: &mut [SumsOfRow]) {
        sums.fill(ZERO_SUMS);
        if let Some(weights) = self.weights.quantised() {
            return self.multiply_groups(weights, (item, panels), cut, sums);
        }
        for steps in self.step_blocks(cut.count, STEPS_AT_ONCE) {
            let lines = self.weights.lines(panels, &steps);
            let step_words = self.kernel.words_of(&steps);
            for (first_row, sums) in
                item.rows.clone().step_by(cut.rows).zip(sums.chunks_mut(cut.rows))
            {
                let rows = first_row..item.rows.end.min(first_row + cut.rows);
                let count = rows.len();
                let mut words: [&[u32]; TILE_ROWS] = [&[]; TILE_ROWS];
                for (words, row) in words.iter_mut().zip(rows) {
                    *words = &self.x.row(self.rows.0 + row)[step_words.clone()];
                }
                self.kernel.accumulate(&words[..count], &lines[..panels.len()], sums);
            }
        }
    }

    fn multiply_groups(
        &self,
        weights: &Quantised,
        (item, panels): (&Item, &Range<usize>),
        cut: Cut,
        sums: &mut [SumsOfRow],
    ) {
        for groups in self.step_blocks(cut.count, GROUPS_AT_ONCE) {
            let none = PanelGroups { bits: weights.bits(), lines: &[], scales: &[] };
            let mut of_panels = [none; TILE_PANELS];
            for (of_panel, panel) in of_panels.iter_mut().zip(panels.clone()) {
                *of_panel = weights.panel(panel, &groups);
            }
            for (at, sums) in sums.chunks_mut(cut.rows).enumerate() {
                let first = item.rows.start + at * cut.rows;
                let rows = sums.len().min(item.rows.end - first);
                let x = self.x.quantised(self.rows.0 + first, rows, groups.start);
                self.kernel.accumulate_groups(x, &of_panels[..panels.len()], sums);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_in_registers(
        &self,
        tiles: &Tiles,
        (item, panels): (&Item, &Range<usize>),
        cut: Cut,
        sums: &mut [SumsOfRow],
    ) {
        for steps in self.step_blocks(cut.count.div_ceil(2), STEPS_IN_REGISTERS) {
            let lines = self.weights.lines(panels, &steps);
            for (at, sums) in sums.chunks_mut(2 * cut.rows).enumerate() {
                let first = self.rows.0 + item.rows.start + at * 2 * cut.rows;
                let x = self.x.block(first, &steps, sums.len() / cut.rows);
                // Later rows find the lines in the second-level cache, where asking costs more than waiting.
                let pass = Pass { fresh: steps.start == 0, cold: at == 0 };
                tiles.accumulate(x, &lines[..panels.len()], sums, pass);
            }
        }
    }
}

/// Returns the range of columns, of `n`, that panels cover.
pub(crate) fn columns(panels: &Range<usize>, n: usize) -> Range<usize> {
    (panels.start * LANES).min(n)..(panels.end * LANES).min(n)
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
