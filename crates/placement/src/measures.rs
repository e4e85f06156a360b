//! How evenly a load is spread: the measures of the field, each over the loads of one layer's nodes or experts.
//!
//! No load at all counts as spread evenly.

/// An expert with less than this share of the mean is dead.
pub const DEAD_BELOW: f64 = 0.01;

/// Mean over maximum: 1 is best, 1/n is one that carries everything. A step takes as long as its slowest node, so this
/// is the share of the nodes' time that is used.
#[must_use]
pub fn balancedness(load: &[f64]) -> f64 {
    let most = load.iter().copied().fold(0.0, f64::max);
    if most > 0.0 { mean(load) / most } else { 1.0 }
}

/// Standard deviation over mean: 0 is best.
#[must_use]
pub fn coefficient_of_variation(load: &[f64]) -> f64 {
    let mean = mean(load);
    if mean <= 0.0 {
        return 0.0;
    }
    let squares: f64 = load.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / load.len() as f64).sqrt() / mean
}

/// Entropy of the shares over that of equal ones: 1 is best, 0 is one that carries everything.
#[must_use]
pub fn normalised_entropy(load: &[f64]) -> f64 {
    if load.len() < 2 { 1.0 } else { entropy(load) / (load.len() as f64).ln() }
}

/// By how many equal ones the load could be carried just as unevenly, as a share of all: exp(entropy) / n.
#[must_use]
pub fn effective_share(load: &[f64]) -> f64 {
    if load.is_empty() { 1.0 } else { entropy(load).exp() / load.len() as f64 }
}

/// Half the mean difference of two, over the mean: 0 is best.
#[must_use]
pub fn gini(load: &[f64]) -> f64 {
    let (n, sum) = (load.len() as f64, load.iter().sum::<f64>());
    if sum <= 0.0 {
        return 0.0;
    }
    let mut ascending = load.to_vec();
    ascending.sort_by(f64::total_cmp);
    let weighted = (1..).zip(&ascending).map(|(i, x)| (2.0 * f64::from(i) - n - 1.0) * x);
    weighted.sum::<f64>() / (n * sum)
}

/// The numbers of those that carry less than [`DEAD_BELOW`] of the mean.
#[must_use]
pub fn dead(load: &[f64]) -> Vec<usize> {
    let least = DEAD_BELOW * mean(load);
    (0..load.len()).filter(|&i| load[i] < least).collect()
}

/// The numbers of those that carry more than `times` the mean, the heaviest first.
#[must_use]
pub fn hot(load: &[f64], times: f64) -> Vec<usize> {
    let most = times * mean(load);
    let mut hot: Vec<usize> = (0..load.len()).filter(|&i| load[i] > most).collect();
    hot.sort_by(|&a, &b| load[b].total_cmp(&load[a]));
    hot
}

/// The measures of one load, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// See [`balancedness`].
    pub balancedness: f64,
    /// See [`coefficient_of_variation`].
    pub coefficient_of_variation: f64,
    /// See [`normalised_entropy`].
    pub normalised_entropy: f64,
    /// See [`gini`].
    pub gini: f64,
    /// See [`effective_share`].
    pub effective_share: f64,
}

impl Measures {
    /// Measures a load.
    #[must_use]
    pub fn of(load: &[f64]) -> Self {
        Self {
            balancedness: balancedness(load),
            coefficient_of_variation: coefficient_of_variation(load),
            normalised_entropy: normalised_entropy(load),
            gini: gini(load),
            effective_share: effective_share(load),
        }
    }
}

fn mean(load: &[f64]) -> f64 {
    if load.is_empty() { 0.0 } else { load.iter().sum::<f64>() / load.len() as f64 }
}

/// In nats; that of equal shares where there is no load.
fn entropy(load: &[f64]) -> f64 {
    let sum: f64 = load.iter().sum();
    if sum <= 0.0 {
        return (load.len() as f64).ln();
    }
    let shares = load.iter().map(|x| x / sum).filter(|p| *p > 0.0);
    -shares.map(|p| p * p.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(of: fn(&[f64]) -> f64, load: &[f64], expected: f64) {
        let value = of(load);
        assert!((value - expected).abs() < 1e-9, "{load:?}: {value}, not {expected}");
    }

    #[test]
    fn even_loads_are_perfect() {
        for load in [&[2.0, 2.0, 2.0, 2.0][..], &[0.0, 0.0], &[7.0], &[]] {
            check(balancedness, load, 1.0);
            check(coefficient_of_variation, load, 0.0);
            check(normalised_entropy, load, 1.0);
            check(effective_share, load, 1.0);
            check(gini, load, 0.0);
            assert!(dead(load).is_empty() && hot(load, 1.5).is_empty());
        }
    }

    #[test]
    fn one_that_carries_everything_is_a_collapse() {
        let load = [0.0, 0.0, 8.0, 0.0];
        check(balancedness, &load, 0.25);
        check(coefficient_of_variation, &load, 3f64.sqrt());
        check(normalised_entropy, &load, 0.0);
        check(effective_share, &load, 0.25);
        check(gini, &load, 0.75);
        assert_eq!(dead(&load), [0, 1, 3]);
        assert_eq!(hot(&load, 2.0), [2]);
    }

    #[test]
    fn unequal_loads_by_hand() {
        let load = [1.0, 3.0, 2.0];
        check(balancedness, &load, 2.0 / 3.0);
        check(coefficient_of_variation, &load, (2f64 / 3.0).sqrt() / 2.0);
        check(gini, &load, 2.0 / 9.0);
        let entropy =
            -(1f64 / 6.0 * (1f64 / 6.0).ln() + 0.5 * 0.5f64.ln() + (1f64 / 3.0).ln() / 3.0);
        check(normalised_entropy, &load, entropy / 3f64.ln());
        assert_eq!(hot(&[5.0, 1.0, 1.0, 6.0], 1.5), [3, 0]);
    }
}
