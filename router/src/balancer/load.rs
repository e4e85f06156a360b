//! How many tokens went to each expert, and how fast nodes answer: counted by lanes, put together over routers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use guildhall_cluster::RouterLoad;
use guildhall_ids::{LayerIdx, NodeId};
use guildhall_placement::ExpertGrid;

use super::LinkStates;

/// After this time a token counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// Tokens that this router has sent to each expert since it started.
#[derive(Debug)]
pub(crate) struct LoadCounter {
    grid: ExpertGrid,
    /// Differs after a restart.
    instance: u64,
    /// [layer of the grid × expert]
    tokens: Vec<AtomicU64>,
    /// Pairs that each node was asked for, by layer of the grid; held for no longer than a copy takes.
    asked: Mutex<BTreeMap<NodeId, Vec<u64>>>,
    /// How long each node takes for a call, over the node in the middle; held for no longer than a copy takes.
    slowness: Mutex<BTreeMap<NodeId, f64>>,
    links: Arc<LinkStates>,
}

impl LoadCounter {
    pub(crate) fn new(grid: ExpertGrid) -> Self {
        let experts = grid.layers.len() * grid.n_experts as usize;
        let tokens = std::iter::repeat_with(AtomicU64::default).take(experts).collect();
        let (asked, slowness) = (Mutex::default(), Mutex::default());
        let links = Arc::default();
        Self { grid, instance: rand::random(), tokens, asked, slowness, links }
    }

    /// Counts the experts of a step's tokens in one layer.
    pub(crate) fn count(&self, layer: LayerIdx, experts: &[u32]) {
        let Ok(index) = self.grid.layers.binary_search(&layer) else { return };
        let first = index * self.grid.n_experts as usize;
        for &expert in experts {
            if let Some(tokens) = self.tokens.get(first + expert as usize) {
                tokens.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts pairs of a layer that a node is asked for; those that others are asked for as well count for each.
    pub(crate) fn count_asked(&self, layer: LayerIdx, node: &NodeId, pairs: usize) {
        let Ok(index) = self.grid.layers.binary_search(&layer) else { return };
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains_key(node) {
            asked.insert(node.clone(), vec![0; self.grid.layers.len()]);
        }
        if let Some(of_layer) = asked.get_mut(node).and_then(|layers| layers.get_mut(index)) {
            *of_layer += pairs as u64;
        }
    }

    /// Pairs that each node was asked for. [layer of the grid]
    pub(crate) fn asked(&self) -> BTreeMap<NodeId, Vec<u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The experts that are counted.
    pub(crate) fn grid(&self) -> &ExpertGrid {
        &self.grid
    }

    /// How the lane's links to the nodes are.
    pub(crate) fn links(&self) -> &Arc<LinkStates> {
        &self.links
    }

    /// Takes over how fast the nodes answer.
    pub(crate) fn note_slowness(&self, slowness: BTreeMap<NodeId, f64>) {
        *self.slowness.lock().unwrap_or_else(PoisonError::into_inner) = slowness;
    }

    pub(crate) fn load(&self) -> RouterLoad {
        let tokens = self.tokens.iter().map(|tokens| tokens.load(Ordering::Relaxed)).collect();
        let slowness = self.slowness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RouterLoad { instance: self.instance, tokens, slowness }
    }
}

/// How slow the nodes are for all routers together: the geometric mean of what those say that know a node.
pub(crate) fn slowness(loads: &[RouterLoad]) -> BTreeMap<NodeId, f64> {
    let mut sums: BTreeMap<NodeId, (f64, f64)> = BTreeMap::new();
    for (node, times) in loads.iter().flat_map(|load| &load.slowness) {
        let (sum, count) = sums.entry(node.clone()).or_default();
        (*sum, *count) = (*sum + times.ln(), *count + 1.0);
    }
    sums.into_iter().map(|(node, (sum, count))| (node, (sum / count).exp())).collect()
}

/// The load of all routers, in which what is long ago counts little.
#[derive(Debug)]
pub(crate) struct LoadWindow {
    /// [layer of the grid × expert]
    load: Vec<f64>,
    per_layer: usize,
    updated: Option<Instant>,
    /// By the instance of a router: what it had counted when it was last asked.
    counted: BTreeMap<u64, Vec<u64>>,
}

impl LoadWindow {
    pub(crate) fn new(grid: &ExpertGrid) -> Self {
        let per_layer = grid.n_experts as usize;
        let load = vec![0.0; grid.layers.len() * per_layer];
        Self { load, per_layer, updated: None, counted: BTreeMap::new() }
    }

    /// Takes over what routers have counted since they started; a router that is not asked any more is forgotten.
    pub(crate) fn update(&mut self, loads: &[RouterLoad], now: Instant) {
        let passed = self.updated.map_or(Duration::ZERO, |then| now.duration_since(then));
        self.updated = Some(now);
        let keep = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.load.iter_mut().for_each(|load| *load *= keep);
        for RouterLoad { instance, tokens, .. } in loads {
            if tokens.len() != self.load.len() {
                continue;
            }
            let before = self.counted.get(instance);
            for (at, &tokens) in tokens.iter().enumerate() {
                // What a router counted before this one knew of it is as good as recent.
                let before = before.map_or(0, |before| before[at]);
                self.load[at] += tokens.saturating_sub(before) as f64;
            }
        }
        let counts = loads.iter().map(|of| (of.instance, of.tokens.clone()));
        self.counted = counts.collect();
    }

    /// [layer of the grid][expert]
    pub(crate) fn layers(&self) -> Vec<Vec<f64>> {
        self.load.chunks(self.per_layer.max(1)).map(<[f64]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> ExpertGrid {
        ExpertGrid { layers: vec![LayerIdx(1), LayerIdx(3)], n_experts: 2 }
    }

    #[test]
    fn tokens_are_counted_by_layer_and_expert() {
        let counter = LoadCounter::new(grid());
        counter.count(LayerIdx(3), &[0, 1, 1, 1]);
        counter.count(LayerIdx(1), &[1]);
        // Nothing that is not of the model.
        counter.count(LayerIdx(2), &[0]);
        counter.count(LayerIdx(3), &[9]);
        assert_eq!(counter.load().tokens, [0, 1, 1, 3]);
    }

    #[test]
    fn what_nodes_are_asked_for_is_counted_by_layer() {
        let (counter, [a, b]) =
            (LoadCounter::new(grid()), ["a", "b"].map(|id| id.parse().unwrap()));
        counter.count_asked(LayerIdx(3), &a, 5);
        counter.count_asked(LayerIdx(1), &b, 2);
        counter.count_asked(LayerIdx(3), &b, 1);
        // Nothing that is not of the model.
        counter.count_asked(LayerIdx(2), &b, 9);
        assert_eq!(counter.asked(), BTreeMap::from([(a, vec![0, 5]), (b, vec![2, 1])]));
    }

    #[test]
    fn what_routers_say_of_a_node_is_put_together() {
        let load = |slowness: &[(&str, f64)]| {
            let slowness = slowness.iter().map(|(node, times)| (node.parse().unwrap(), *times));
            RouterLoad { slowness: slowness.collect(), ..RouterLoad::default() }
        };
        let loads = [load(&[("a", 1.0), ("b", 16.0)]), load(&[("a", 1.0), ("b", 1.0)]), load(&[])];
        let together = slowness(&loads);
        assert_eq!(together.len(), 2);
        assert!((together[&"b".parse().unwrap()] - 4.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_long_ago_counts_little() {
        let (mut window, start) = (LoadWindow::new(&grid()), Instant::now());
        let load = |instance, tokens: [u64; 4]| RouterLoad {
            instance,
            tokens: tokens.into(),
            slowness: BTreeMap::new(),
        };
        window.update(&[load(1, [8, 0, 0, 4]), load(2, [0, 0, 0, 4])], start);
        assert_eq!(window.layers(), [[8.0, 0.0], [0.0, 8.0]]);
        window.update(&[load(1, [8, 6, 0, 4])], start + HALF_LIFE);
        assert_eq!(window.layers(), [[4.0, 6.0], [0.0, 4.0]]);
        // A router that was started again begins at 0.
        window.update(&[load(3, [1, 0, 0, 0])], start + 2 * HALF_LIFE);
        assert_eq!(window.layers(), [[3.0, 3.0], [0.0, 2.0]]);
    }
}
