//! One layer's experts on the nodes, with what each node carries; kept consistent through every change.

/// Which nodes hold which experts. Experts and nodes are numbers; a replica carries an equal share of its expert's load.
#[derive(Clone, Debug)]
pub(super) struct Layer<'a> {
    load: &'a [f64],
    pub(super) nodes: &'a [Node],
    /// [expert] → nodes, in the order in which they came.
    holders: Vec<Vec<usize>>,
    /// [node] → experts, in the order in which they came.
    held: Vec<Vec<usize>>,
    /// [node] tokens.
    carried: Vec<f64>,
    slots: usize,
    n_zones: usize,
}

/// A node, for one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Node {
    /// Experts of this layer that it may hold.
    pub(super) room: usize,
    pub(super) speed: f64,
    /// Numbers the zones.
    pub(super) zone: usize,
}

impl<'a> Layer<'a> {
    pub(super) fn new(load: &'a [f64], nodes: &'a [Node]) -> Self {
        Self {
            load,
            nodes,
            holders: vec![Vec::new(); load.len()],
            held: vec![Vec::new(); nodes.len()],
            carried: vec![0.0; nodes.len()],
            slots: 0,
            n_zones: nodes.iter().map(|node| node.zone + 1).max().unwrap_or(0),
        }
    }

    pub(super) fn n_experts(&self) -> usize {
        self.load.len()
    }

    pub(super) fn holders(&self, expert: usize) -> &[usize] {
        &self.holders[expert]
    }

    pub(super) fn held(&self, node: usize) -> &[usize] {
        &self.held[node]
    }

    pub(super) fn replicas(&self, expert: usize) -> usize {
        self.holders[expert].len()
    }

    pub(super) fn holds(&self, node: usize, expert: usize) -> bool {
        self.held[node].contains(&expert)
    }

    /// Replicas of all experts.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn has_room(&self, node: usize) -> bool {
        self.held[node].len() < self.nodes[node].room
    }

    /// What one of `replicas` replicas carries.
    pub(super) fn share(&self, expert: usize, replicas: usize) -> f64 {
        self.load[expert] / replicas as f64
    }

    /// Time that a node takes for its tokens.
    pub(super) fn cost(&self, node: usize) -> f64 {
        self.carried[node] / self.nodes[node].speed
    }

    /// Time with more, or less, tokens.
    pub(super) fn cost_with(&self, node: usize, more: f64) -> f64 {
        (self.carried[node] + more) / self.nodes[node].speed
    }

    /// Whether a replica of the expert is in the zone of `node`, on another node.
    pub(super) fn zone_taken(&self, expert: usize, node: usize) -> bool {
        let zone = self.nodes[node].zone;
        let mut others = self.holders[expert].iter().filter(|&&holder| holder != node);
        others.any(|&holder| self.nodes[holder].zone == zone)
    }

    /// Whether an expert's replicas still lie in as many zones, or in as many as `least_replicas` can, when the one on
    /// `from` goes away and, perhaps, comes back on `to`.
    pub(super) fn keeps_zones(
        &self,
        expert: usize,
        from: usize,
        to: Option<usize>,
        least_replicas: usize,
    ) -> bool {
        if self.n_zones == 1 || to.is_some_and(|to| self.nodes[to].zone == self.nodes[from].zone) {
            return true;
        }
        let stay = self.holders[expert].iter().filter(|&&holder| holder != from);
        let mut zones: Vec<usize> = stay.chain(&to).map(|&node| self.nodes[node].zone).collect();
        zones.sort_unstable();
        zones.dedup();
        let lost = !self.zone_taken(expert, from);
        let came = to.is_some_and(|to| !self.zone_taken(expert, to));
        !lost || came || zones.len() >= least_replicas.min(self.n_zones)
    }

    pub(super) fn add(&mut self, expert: usize, node: usize) {
        self.uncount(expert);
        self.holders[expert].push(node);
        self.held[node].push(expert);
        self.slots += 1;
        self.count(expert);
    }

    pub(super) fn remove(&mut self, expert: usize, node: usize) {
        self.uncount(expert);
        self.holders[expert].retain(|&holder| holder != node);
        self.held[node].retain(|&other| other != expert);
        self.slots -= 1;
        self.count(expert);
    }

    fn count(&mut self, expert: usize) {
        let replicas = self.replicas(expert);
        for index in 0..replicas {
            let node = self.holders[expert][index];
            self.carried[node] += self.share(expert, replicas);
        }
    }

    fn uncount(&mut self, expert: usize) {
        let replicas = self.replicas(expert);
        for index in 0..replicas {
            let node = self.holders[expert][index];
            self.carried[node] -= self.share(expert, replicas);
        }
    }

    /// The slowest node; the lowest of those that are equal but for the rounding of their sums.
    pub(super) fn slowest(&self) -> Option<usize> {
        let costs = (0..self.nodes.len()).map(|node| self.cost(node));
        let most = costs.fold(0.0, f64::max);
        (0..self.nodes.len()).find(|&node| self.cost(node) >= most * (1.0 - 1e-9))
    }

    /// Time of the slowest node if work could be divided at will, over that of the slowest: 1 is best.
    pub(super) fn balancedness(&self) -> f64 {
        let speed: f64 = self.nodes.iter().map(|node| node.speed).sum();
        let ideal = self.load.iter().sum::<f64>() / speed;
        let slowest = self.slowest().map_or(0.0, |node| self.cost(node));
        if slowest > 0.0 { ideal / slowest } else { 1.0 }
    }
}
