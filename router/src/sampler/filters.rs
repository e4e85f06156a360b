//! Which tokens may be drawn, and with what weight.

use crate::request::Sampling;

/// A token with its weight, or its logit.
pub(super) type Weighted = (u32, f32);

/// Tokens that the search for the smallest set with `top_p` looks at first.
const FIRST_LOOK: usize = 64;

/// The tokens that may be drawn, with weights relative to the best one's 1, in an order that depends on nothing but
/// the arguments. `best` is the largest logit. The filters apply in the order temperature, top_k, top_p, min_p; those
/// are the definitions of Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p) and Nguyen et al. 2024 (min-p).
pub(super) fn kept(sampling: &Sampling, logits: &[f32], best: f32) -> Vec<Weighted> {
    let weight = |logit: f32| ((logit - best) / sampling.temperature).exp();
    let all = (0..).zip(logits.iter().map(|&logit| weight(logit)));
    let mut kept: Vec<Weighted> = all.filter(|(_, weight)| *weight > 0.0).collect();
    if let Some(k) = sampling.top_k {
        keep_largest(&mut kept, k);
        kept.sort_unstable_by_key(|(id, _)| *id);
    }
    if sampling.top_p < 1.0 {
        keep_mass(&mut kept, sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        kept.retain(|(_, weight)| *weight >= sampling.min_p);
    }
    kept
}

/// The larger weight first, the lower id among equals.
fn order(a: &Weighted, b: &Weighted) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `k` largest, in no order.
pub(super) fn keep_largest(weights: &mut Vec<Weighted>, k: usize) {
    if k == 0 {
        weights.clear();
    } else if k < weights.len() {
        weights.select_nth_unstable_by(k - 1, order);
        weights.truncate(k);
    }
}

/// Keeps the smallest set of largest weights whose sum is at least `share` of all, largest first.
fn keep_mass(weights: &mut Vec<Weighted>, share: f32) {
    let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let enough = f64::from(share) * total;
    // Mostly a few tokens are enough; sorting the whole vocabulary would take longer than all the rest.
    let mut look = FIRST_LOOK;
    loop {
        let look_at = look.min(weights.len());
        if look_at < weights.len() {
            weights.select_nth_unstable_by(look_at, order);
        }
        weights[..look_at].sort_unstable_by(order);
        let mut sum = 0.0;
        let last = weights[..look_at].iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= enough
        });
        if last.is_some() || look_at == weights.len() {
            weights.truncate(last.map_or(look_at, |last| last + 1));
            return;
        }
        look *= 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(change: &dyn Fn(&mut Sampling), logits: &[f32]) -> Vec<u32> {
        let mut sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        change(&mut sampling);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut ids: Vec<u32> =
            kept(&sampling, logits, best).into_iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
        assert_eq!(ids(&|_| {}, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(&|s| s.top_k = Some(2), &logits), [0, 1]);
        assert_eq!(ids(&|s| s.top_p = 0.7, &logits), [0, 1]);
        assert_eq!(ids(&|s| s.top_p = 0.01, &logits), [0]);
        assert_eq!(ids(&|s| s.min_p = 0.25, &logits), [0, 1, 2]);
        assert_eq!(ids(&|s| s.top_k = Some(1), &[1.0, 1.0]), [0], "the lower id among equals");
    }

    proptest! {
        #[test]
        fn the_set_of_top_p_is_the_one_of_a_full_sort(
            logits in prop::collection::vec(-6f32..6.0, 1..900), top_p in 0.01f32..1.0,
        ) {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sorted: Vec<Weighted> = (0..).zip(logits.iter().map(|l| (l - best).exp())).collect();
            let total: f64 = sorted.iter().map(|(_, w)| f64::from(*w)).sum();
            sorted.sort_by(order);
            let mut sum = 0.0;
            let n = sorted.iter().take_while(|(_, w)| {
                let before = sum;
                sum += f64::from(*w);
                before < f64::from(top_p) * total
            }).count();
            let mut expected: Vec<u32> = sorted[..n].iter().map(|(id, _)| *id).collect();
            expected.sort_unstable();
            prop_assert_eq!(ids(&|s| s.top_p = top_p, &logits), expected);
        }
    }
}
