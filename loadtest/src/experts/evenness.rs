//! How evenly a span of time used the experts and the nodes, layer by layer.

use std::collections::BTreeMap;

use guildhall_placement::measures::{self, Measures};
use serde::{Deserialize, Serialize};

/// An expert with more than so many times the mean is hot.
pub(crate) const HOT_TIMES: f64 = 2.0;

/// [layer][expert] or, of one node, [layer] pairs.
pub(super) type ExpertPairs = [Vec<u64>];
pub(super) type NodePairs = BTreeMap<String, Vec<u64>>;

/// The measures of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evenness {
    /// Mean over maximum; 1 is even.
    pub balancedness: f64,
    /// Standard deviation over mean; 0 is even.
    pub coefficient_of_variation: f64,
    /// Entropy of the shares over that of equal ones; 1 is even.
    pub normalised_entropy: f64,
    /// 0 is even.
    pub gini: f64,
    /// exp(entropy) as a share of all; 1 is even.
    pub effective_share: f64,
}

impl From<Measures> for Evenness {
    fn from(of: Measures) -> Self {
        Self {
            balancedness: of.balancedness,
            coefficient_of_variation: of.coefficient_of_variation,
            normalised_entropy: of.normalised_entropy,
            gini: of.gini,
            effective_share: of.effective_share,
        }
    }
}

/// An expert that is used far more than the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hot {
    /// Its number in the layer.
    pub expert: u32,
    /// Its use over the mean.
    pub times: f64,
}

/// One layer in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerUse {
    /// Its number.
    pub layer: u32,
    /// Pairs of a token and an expert.
    pub pairs: u64,
    /// Of the experts.
    pub experts: Evenness,
    /// Of the nodes.
    pub nodes: Evenness,
    /// Experts with less than a hundredth of the mean.
    pub dead: Vec<u32>,
    /// Experts with more than twice the mean, the heaviest first.
    pub hot: Vec<Hot>,
}

/// A span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// Its beginning, in seconds from the start of the run.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// How evenly nodes were used, mean over maximum: the mean of the layers that were used.
    pub balancedness: f64,
    /// Each layer.
    pub layers: Vec<LayerUse>,
}

impl Period {
    /// Measures what was used from one moment to another.
    pub(super) fn of(
        (from, to): (f64, f64),
        layers: &[u32],
        experts: &ExpertPairs,
        nodes: &NodePairs,
    ) -> Self {
        let mut uses = Vec::with_capacity(layers.len());
        for (at, &layer) in layers.iter().enumerate() {
            let of_nodes: Vec<u64> = nodes.values().map(|pairs| pairs[at]).collect();
            uses.push(layer_use(layer, &experts[at], &of_nodes));
        }
        let used = uses.iter().filter(|of| of.pairs > 0).map(|of| of.nodes.balancedness);
        let used: Vec<f64> = used.collect();
        let mean = used.iter().sum::<f64>() / used.len().max(1) as f64;
        let balancedness = if used.is_empty() { 1.0 } else { mean };
        Self { from, to, balancedness, layers: uses }
    }

    /// Whether anything was used.
    pub(super) fn is_used(&self) -> bool {
        self.layers.iter().any(|layer| layer.pairs > 0)
    }
}

fn layer_use(layer: u32, experts: &[u64], nodes: &[u64]) -> LayerUse {
    let load = as_load(experts);
    let mean = load.iter().sum::<f64>() / load.len().max(1) as f64;
    let hot = measures::hot(&load, HOT_TIMES).into_iter();
    LayerUse {
        layer,
        pairs: experts.iter().sum(),
        experts: Measures::of(&load).into(),
        nodes: Measures::of(&as_load(nodes)).into(),
        dead: measures::dead(&load).into_iter().map(|expert| expert as u32).collect(),
        hot: hot.map(|expert| Hot { expert: expert as u32, times: load[expert] / mean }).collect(),
    }
}

pub(super) fn as_load(pairs: &[u64]) -> Vec<f64> {
    pairs.iter().map(|&pairs| pairs as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_by_hand() {
        // Layer 3: expert 1 has 12 of 16 pairs, expert 3 none. Nodes have 12 and 4.
        // Layer 5: even. Layer 6: not used.
        let experts = [vec![2, 12, 2, 0], vec![5, 5, 5, 5], vec![0, 0, 0, 0]];
        let nodes = [("a".to_owned(), vec![12, 10, 0]), ("b".to_owned(), vec![4, 10, 0])];
        let period = Period::of((1.0, 2.0), &[3, 5, 6], &experts, &nodes.into());
        let [first, second, third] = &period.layers[..] else { panic!("three layers") };
        assert_eq!((first.layer, first.pairs), (3, 16));
        assert_eq!(first.dead, [3]);
        assert_eq!(first.hot, [Hot { expert: 1, times: 3.0 }]);
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        };
        // Mean 4 over maximum 12; deviations -2, 8, -2, -4.
        near(first.experts.balancedness, 1.0 / 3.0);
        near(first.experts.coefficient_of_variation, 22f64.sqrt() / 4.0);
        // Entropy of 1/8, 6/8, 1/8, 0 in nats.
        let entropy = 0.25 * 8f64.ln() + 0.75 * (4f64 / 3.0).ln();
        near(first.experts.normalised_entropy, entropy / 4f64.ln());
        near(first.experts.effective_share, entropy.exp() / 4.0);
        near(first.nodes.balancedness, 8.0 / 12.0);
        assert!(second.hot.is_empty() && second.dead.is_empty());
        near(second.nodes.balancedness, 1.0);
        assert_eq!(third.pairs, 0);
        // The mean of the layers that were used.
        near(period.balancedness, (8.0 / 12.0 + 1.0) / 2.0);
        assert!(period.is_used());
    }
}
