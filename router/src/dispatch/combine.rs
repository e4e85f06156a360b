//! Adds the outputs of each token's experts, always in the order of its routes.

use guildhall_kernels::{Device, Routes, Tensor};

/// The weighted sum of each token's experts, in f32: [tokens, hidden].
///
/// `add_scaled(t * top_k + r, weight, sum)` adds, weighted, what expert r of token t gave ([hidden]). The order of the
/// additions is the order of r, wherever the outputs came from and whenever they arrived.
pub(crate) fn combine(
    device: &Device,
    routes: &Routes,
    hidden: usize,
    add_scaled: impl Fn(usize, f32, &mut [f32]) + Sync,
) -> Tensor {
    let tokens = routes.experts.len() / routes.top_k;
    device.fill_rows(tokens, hidden, |token, sum| {
        for pair in token * routes.top_k..(token + 1) * routes.top_k {
            add_scaled(pair, routes.weights[pair], sum);
        }
    })
}

/// Adds `weight` times a row of f32.
pub(crate) fn add_scaled_f32(sum: &mut [f32], weight: f32, row: impl Iterator<Item = f32>) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += weight * value;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use guildhall_kernels::CpuOptions;
    use proptest::prelude::*;

    use super::*;

    /// Combines rows of two values, pair p's at `row_of_pair(p)`.
    fn gather(
        routes: &Routes,
        outputs: &[f32],
        row_of_pair: impl Fn(usize) -> usize + Sync,
    ) -> Vec<f32> {
        let device = Device::cpu(CpuOptions::of_threads(NonZeroUsize::MIN)).unwrap();
        let combined = combine(&device, routes, 2, |pair, weight, sum| {
            let row = row_of_pair(pair);
            add_scaled_f32(sum, weight, outputs[2 * row..2 * row + 2].iter().copied());
        });
        device.host(&combined).into_owned()
    }

    #[test]
    fn weights_and_ranks_are_applied() {
        let routes =
            Routes { top_k: 2, experts: vec![7, 1, 1, 3], weights: vec![0.5, 0.25, 1.0, 2.0] };
        let outputs = [1.0, 2.0, 10.0, 20.0, 100.0, 200.0, 1000.0, 2000.0];
        let combined = gather(&routes, &outputs, |pair| pair);
        assert_eq!(combined, [3.0, 6.0, 2100.0, 4200.0]);
    }

    proptest! {
        #[test]
        fn where_outputs_lie_changes_no_bit(
            values in prop::collection::vec(-1e3f32..1e3, 24),
            weights in prop::collection::vec(0f32..1.0, 12),
            order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let routes = Routes { top_k: 4, experts: vec![0; 12], weights };
            let straight = gather(&routes, &values, |pair| pair);
            let mut shuffled = vec![0.0; 24];
            for (pair, &row) in order.iter().enumerate() {
                shuffled[row * 2..row * 2 + 2].copy_from_slice(&values[pair * 2..pair * 2 + 2]);
            }
            let moved = gather(&routes, &shuffled, |pair| order[pair]);
            let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&straight), bits(&moved));
        }
    }
}
