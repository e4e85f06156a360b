//! Decides which waiting calls are computed together, and in which order their rows go through the experts.

use std::collections::{BTreeMap, VecDeque};

use guildhall_ids::{ExpertIdx, LayerIdx};
use guildhall_transport::Pair;

/// What the batcher needs to know of a waiting call.
pub(crate) trait Waiting {
    /// The layer of all its experts.
    fn layer(&self) -> LayerIdx;
    /// How many (token, expert) pairs it asks for.
    fn pairs(&self) -> usize;
}

/// Takes the oldest call and every later one of the same layer that still fits; the others keep their order.
pub(crate) fn take_batch<W: Waiting>(queue: &mut VecDeque<W>, max_pairs: usize) -> Vec<W> {
    let Some(oldest) = queue.pop_front() else { return Vec::new() };
    let (layer, mut pairs) = (oldest.layer(), oldest.pairs());
    let mut batch = vec![oldest];
    let mut others = VecDeque::with_capacity(queue.len());
    for call in queue.drain(..) {
        if call.layer() == layer && pairs + call.pairs() <= max_pairs {
            pairs += call.pairs();
            batch.push(call);
        } else {
            others.push_back(call);
        }
    }
    *queue = others;
    batch
}

/// One pass over the experts of a layer for several calls, whose activations stand below one another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Each expert with the rows it sees, ascending by expert.
    pub(crate) groups: Vec<(ExpertIdx, Vec<u32>)>,
    /// For each call and each of its pairs the row of the pass's output.
    pub(crate) output_rows: Vec<Vec<usize>>,
}

/// Groups the pairs of all calls by expert. `calls` gives each call's number of tokens and its pairs.
pub(crate) fn plan_pass<'a>(calls: impl Iterator<Item = (u32, &'a [Pair])>) -> Pass {
    let mut by_expert: BTreeMap<ExpertIdx, Vec<(u32, usize, usize)>> = BTreeMap::new();
    let mut output_rows = Vec::new();
    let mut first_row = 0;
    for (call, (tokens, pairs)) in calls.enumerate() {
        for (index, pair) in pairs.iter().enumerate() {
            let wanted = by_expert.entry(pair.expert).or_default();
            wanted.push((first_row + pair.token, call, index));
        }
        output_rows.push(vec![0; pairs.len()]);
        first_row += tokens;
    }
    let mut groups = Vec::with_capacity(by_expert.len());
    let mut output_row = 0;
    for (expert, wanted) in by_expert {
        for &(_, call, index) in &wanted {
            output_rows[call][index] = output_row;
            output_row += 1;
        }
        groups.push((expert, wanted.into_iter().map(|(row, ..)| row).collect()));
    }
    Pass { groups, output_rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Waiting for (u32, usize) {
        fn layer(&self) -> LayerIdx {
            LayerIdx(self.0)
        }
        fn pairs(&self) -> usize {
            self.1
        }
    }

    fn check(queue: &[(u32, usize)], batch: &[(u32, usize)], left: &[(u32, usize)]) {
        let mut queue: VecDeque<_> = queue.iter().copied().collect();
        assert_eq!(take_batch(&mut queue, 10), batch);
        assert_eq!(queue, left);
    }

    #[test]
    fn calls_of_the_oldest_layer_are_merged_up_to_the_limit() {
        check(&[], &[], &[]);
        check(&[(3, 4), (5, 1), (3, 6), (3, 1)], &[(3, 4), (3, 6)], &[(5, 1), (3, 1)]);
        check(&[(3, 99), (3, 1)], &[(3, 99)], &[(3, 1)]);
        check(&[(3, 8), (3, 3), (3, 2)], &[(3, 8), (3, 2)], &[(3, 3)]);
    }

    #[test]
    fn a_pass_visits_each_expert_once_for_all_calls() {
        let pair = |token, expert| Pair { token, expert: ExpertIdx(expert) };
        let first = [pair(0, 7), pair(1, 2), pair(1, 7)];
        let second = [pair(0, 2)];
        let pass = plan_pass([(2, &first[..]), (1, &second[..])].into_iter());
        assert_eq!(pass.groups, [(ExpertIdx(2), vec![1, 2]), (ExpertIdx(7), vec![0, 1])]);
        assert_eq!(pass.output_rows, [vec![2, 0, 3], vec![1]]);
    }
}
