//! The changes that take load off the slowest node of a layer, and what each would bring.

use super::layer::Layer;

/// A change of one layer that keeps every promise: no expert twice on a node, none below its least replicas, no node
/// over its room, no zone given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One more replica.
    Add { expert: usize, to: usize },
    /// The same number of replicas.
    Move { expert: usize, from: usize, to: usize },
    /// One more replica, in the place of one that another expert can spare.
    Replace { expert: usize, to: usize, dropped: usize },
    /// Two replicas change places.
    Swap { one: (usize, usize), other: (usize, usize) },
}

/// What the search may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) least_replicas: usize,
    pub(super) most_slots: usize,
    /// Replicas that may still be loaded.
    pub(super) loads: usize,
}

impl Change {
    /// Replicas that nodes have to load for it.
    pub(super) fn loads(self) -> usize {
        if matches!(self, Self::Swap { .. }) { 2 } else { 1 }
    }

    /// What is loaded, as expert and node.
    pub(super) fn loaded(self) -> Vec<(usize, usize)> {
        match self {
            Self::Add { expert, to }
            | Self::Move { expert, to, .. }
            | Self::Replace { expert, to, .. } => vec![(expert, to)],
            Self::Swap { one: (expert, from), other: (back, to) } => {
                vec![(expert, to), (back, from)]
            }
        }
    }

    pub(super) fn apply(self, layer: &mut Layer<'_>) {
        match self {
            Self::Add { expert, to } => layer.add(expert, to),
            Self::Move { expert, from, to } => {
                layer.remove(expert, from);
                layer.add(expert, to);
            }
            Self::Replace { expert, to, dropped } => {
                layer.remove(dropped, to);
                layer.add(expert, to);
            }
            Self::Swap { one: (expert, from), other: (back, to) } => {
                layer.remove(expert, from);
                layer.remove(back, to);
                layer.add(expert, to);
                layer.add(back, from);
            }
        }
    }
}

/// The best change so far: the most time saved for each load.
struct Best {
    before: f64,
    saved: f64,
    change: Option<Change>,
}

impl Best {
    /// `after` is the time of the slowest node that the change touches.
    fn offer(&mut self, after: f64, change: Change) {
        let saved = (self.before - after) / change.loads() as f64;
        if saved > self.saved {
            self.saved = saved;
            self.change = Some(change);
        }
    }
}

/// The change that shortens the time of `slowest` the most for each load without making another node as slow. Savings
/// under a millionth are none.
pub(super) fn best_change(layer: &Layer<'_>, slowest: usize, limits: Limits) -> Option<Change> {
    let before = layer.cost(slowest);
    let mut best = Best { before, saved: before * 1e-6, change: None };
    for &expert in layer.held(slowest) {
        for to in 0..layer.nodes.len() {
            if to == slowest || layer.cost(to) >= before || layer.holds(to, expert) {
                continue;
            }
            if limits.loads >= 1 {
                offer_add(layer, (expert, slowest, to), limits, &mut best);
                offer_move(layer, (expert, slowest, to), limits, &mut best);
                offer_replace(layer, (expert, slowest, to), limits, &mut best);
            }
            if limits.loads >= 2 {
                offer_swap(layer, (expert, slowest, to), limits, &mut best);
            }
        }
    }
    best.change
}

type Hop = (usize, usize, usize);

fn offer_add(layer: &Layer<'_>, (expert, from, to): Hop, limits: Limits, best: &mut Best) {
    if layer.slots() < limits.most_slots && layer.has_room(to) {
        let (less, more) = one_more(layer, expert);
        let after = layer.cost_with(from, less).max(layer.cost_with(to, more));
        best.offer(after, Change::Add { expert, to });
    }
}

/// What one more replica takes off each of the others, and what it carries itself.
fn one_more(layer: &Layer<'_>, expert: usize) -> (f64, f64) {
    let replicas = layer.replicas(expert);
    let more = layer.share(expert, replicas + 1);
    (more - layer.share(expert, replicas), more)
}

fn offer_move(layer: &Layer<'_>, (expert, from, to): Hop, limits: Limits, best: &mut Best) {
    if !layer.has_room(to) {
        return;
    }
    let share = layer.share(expert, layer.replicas(expert));
    let after = layer.cost_with(from, -share).max(layer.cost_with(to, share));
    if after < best.before && layer.keeps_zones(expert, from, Some(to), limits.least_replicas) {
        best.offer(after, Change::Move { expert, from, to });
    }
}

fn offer_replace(layer: &Layer<'_>, (expert, from, to): Hop, limits: Limits, best: &mut Best) {
    let (less, more) = one_more(layer, expert);
    for &dropped in layer.held(to) {
        let replicas = layer.replicas(dropped);
        if replicas <= limits.least_replicas {
            continue;
        }
        let share = layer.share(dropped, replicas);
        let rise = layer.share(dropped, replicas - 1) - share;
        let mut after = layer.cost_with(to, more - share).max(layer.cost_with(from, less));
        for &holder in layer.holders(dropped) {
            let also = if layer.holds(holder, expert) { less } else { 0.0 };
            if holder != to {
                after = after.max(layer.cost_with(holder, rise + also));
            }
        }
        if after < best.before && layer.keeps_zones(dropped, to, None, limits.least_replicas) {
            best.offer(after, Change::Replace { expert, to, dropped });
        }
    }
}

fn offer_swap(layer: &Layer<'_>, (expert, from, to): Hop, limits: Limits, best: &mut Best) {
    let share = layer.share(expert, layer.replicas(expert));
    for &back in layer.held(to) {
        let returned = layer.share(back, layer.replicas(back));
        if returned >= share || layer.holds(from, back) {
            continue;
        }
        let moved = share - returned;
        let after = layer.cost_with(from, -moved).max(layer.cost_with(to, moved));
        let least = limits.least_replicas;
        if after < best.before
            && layer.keeps_zones(expert, from, Some(to), least)
            && layer.keeps_zones(back, to, Some(from), least)
        {
            best.offer(after, Change::Swap { one: (expert, from), other: (back, to) });
        }
    }
}
