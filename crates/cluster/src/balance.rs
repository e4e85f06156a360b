//! What a leader says of the balance of its cluster; wire types stop here.

use std::collections::BTreeMap;

use guildhall_ids::{LayerIdx, NodeId};
use guildhall_placement::measures::Measures;
use guildhall_proto::v1;

/// How evenly experts and nodes are used, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BalanceReport {
    /// Of each layer with experts.
    pub layers: Vec<LayerBalance>,
    /// What the leader does or waits for.
    pub state: String,
    /// When a placement was last published, in milliseconds since 1970; 0: never.
    pub last_change_unix_ms: u64,
    /// When one last could not be; 0: never.
    pub last_failure_unix_ms: u64,
    /// Why not.
    pub last_failure: String,
    /// Why replicas were last loaded and dropped, a sentence each.
    pub reasons: Vec<String>,
    /// Nodes that take much longer for a call than their speed lets expect, and how many times as long.
    pub slow_nodes: BTreeMap<NodeId, f64>,
}

/// How evenly one layer is used, by the load of all routers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerBalance {
    /// The layer.
    pub layer: LayerIdx,
    /// Over its experts.
    pub experts: Measures,
    /// Over the nodes, if every replica carries an equal share of its expert.
    pub nodes: Measures,
    /// Experts that nearly nothing goes to.
    pub dead: Vec<u32>,
    /// Experts that carry many times the mean, the heaviest first.
    pub hot: Vec<u32>,
    /// (token, expert) pairs in the window.
    pub pairs: f64,
}

/// What a new placement would change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rebalanced {
    /// Why replicas are loaded and dropped, a sentence each.
    pub reasons: Vec<String>,
    /// Predicted time of a step over that with the new placement, less 1.
    pub gain: f64,
}

impl BalanceReport {
    /// As it travels.
    #[must_use]
    pub fn to_wire(&self) -> v1::GetBalanceResponse {
        let layer = |of: &LayerBalance| v1::LayerBalance {
            layer: of.layer.0,
            experts: Some(measures_to_wire(of.experts)),
            nodes: Some(measures_to_wire(of.nodes)),
            dead_experts: of.dead.clone(),
            hot_experts: of.hot.clone(),
            pairs: of.pairs,
        };
        v1::GetBalanceResponse {
            layers: self.layers.iter().map(layer).collect(),
            state: self.state.clone(),
            last_change_unix_ms: self.last_change_unix_ms,
            last_failure_unix_ms: self.last_failure_unix_ms,
            last_failure: self.last_failure.clone(),
            reasons: self.reasons.clone(),
            slow_nodes: slowness_to_wire(&self.slow_nodes),
        }
    }

    pub(crate) fn from_wire(report: v1::GetBalanceResponse) -> Self {
        let layer = |of: v1::LayerBalance| LayerBalance {
            layer: LayerIdx(of.layer),
            experts: measures_from_wire(of.experts),
            nodes: measures_from_wire(of.nodes),
            dead: of.dead_experts,
            hot: of.hot_experts,
            pairs: of.pairs,
        };
        Self {
            layers: report.layers.into_iter().map(layer).collect(),
            state: report.state,
            last_change_unix_ms: report.last_change_unix_ms,
            last_failure_unix_ms: report.last_failure_unix_ms,
            last_failure: report.last_failure,
            reasons: report.reasons,
            slow_nodes: slowness_from_wire(report.slow_nodes),
        }
    }
}

pub(crate) fn slowness_to_wire(of: &BTreeMap<NodeId, f64>) -> Vec<v1::NodeSlowness> {
    let node = |(node, times): (&NodeId, &f64)| v1::NodeSlowness {
        node_id: node.to_string(),
        times: *times,
    };
    of.iter().map(node).collect()
}

/// Leaves out what no router says.
pub(crate) fn slowness_from_wire(of: Vec<v1::NodeSlowness>) -> BTreeMap<NodeId, f64> {
    let sound = of.into_iter().filter(|node| node.times.is_finite() && node.times > 0.0);
    sound.filter_map(|node| Some((node.node_id.parse().ok()?, node.times))).collect()
}

fn measures_to_wire(of: Measures) -> v1::Measures {
    v1::Measures {
        balancedness: of.balancedness,
        coefficient_of_variation: of.coefficient_of_variation,
        normalised_entropy: of.normalised_entropy,
        gini: of.gini,
        effective_share: of.effective_share,
    }
}

fn measures_from_wire(of: Option<v1::Measures>) -> Measures {
    let of = of.unwrap_or_default();
    Measures {
        balancedness: of.balancedness,
        coefficient_of_variation: of.coefficient_of_variation,
        normalised_entropy: of.normalised_entropy,
        gini: of.gini,
        effective_share: of.effective_share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        let layer = LayerBalance {
            layer: LayerIdx(3),
            experts: Measures::of(&[1.0, 3.0]),
            nodes: Measures::of(&[2.0, 2.0]),
            dead: vec![4],
            hot: vec![7, 5],
            pairs: 12.5,
        };
        let report = BalanceReport {
            layers: vec![layer],
            state: "steady".into(),
            last_change_unix_ms: 1,
            last_failure_unix_ms: 2,
            last_failure: "why".into(),
            reasons: vec!["load 3/17 on n2: it is on no node".into()],
            slow_nodes: [("n1".parse().unwrap(), 7.5)].into(),
        };
        assert_eq!(BalanceReport::from_wire(report.to_wire()), report);
    }

    #[test]
    fn a_slowness_that_is_none_is_left_out() {
        let node = |name: &str, times| v1::NodeSlowness { node_id: name.into(), times };
        let told = [node("a", 0.0), node("b", f64::NAN), node("", 2.0), node("c", 2.0)];
        let read = slowness_from_wire(told.into());
        assert_eq!(read, [("c".parse().unwrap(), 2.0)].into());
    }
}
