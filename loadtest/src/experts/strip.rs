//! How nodes are used just now, for those who watch.

use guildhall_placement::measures::balancedness;

use super::series::Interval;

/// The last interval in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strip {
    /// How evenly nodes were used, mean over maximum: the mean of the layers that were used.
    pub balancedness: f64,
    /// Each node with its share of the work.
    pub nodes: Vec<(String, f64)>,
}

impl Strip {
    /// What an interval comes to; absent if nothing was done in it.
    pub(super) fn of(interval: &Interval) -> Option<Self> {
        let nodes = interval.of_nodes();
        let all: u64 = nodes.iter().map(|(_, pairs)| pairs).sum();
        if all == 0 {
            return None;
        }
        let share = |(node, pairs): &(&str, u64)| ((*node).to_owned(), *pairs as f64 / all as f64);
        Some(Self {
            balancedness: mean_balancedness(interval),
            nodes: nodes.iter().map(share).collect(),
        })
    }
}

fn mean_balancedness(interval: &Interval) -> f64 {
    let n_layers = interval.nodes.values().map(Vec::len).max().unwrap_or_default();
    let load = |layer: usize| -> Vec<f64> {
        let of_nodes = interval.nodes.values().filter_map(|pairs| pairs.get(layer));
        of_nodes.map(|pairs| *pairs as f64).collect()
    };
    let used = (0..n_layers).map(load).filter(|load| load.iter().sum::<f64>() > 0.0);
    let each: Vec<f64> = used.map(|load| balancedness(&load)).collect();
    each.iter().sum::<f64>() / each.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_has_shares_and_the_mean_of_the_layers() {
        let nodes = [("a".to_owned(), vec![30, 0, 10]), ("b".to_owned(), vec![10, 0, 10])];
        let interval = Interval { nodes: nodes.into(), ..Interval::default() };
        let strip = Strip::of(&interval).unwrap();
        assert_eq!(strip.nodes, [("a".to_owned(), 40.0 / 60.0), ("b".to_owned(), 20.0 / 60.0)]);
        assert!((strip.balancedness - (20.0 / 30.0 + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(Strip::of(&Interval::default()), None);
    }
}
