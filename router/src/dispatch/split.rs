//! Splits experts with many tokens over their replicas, so that a layer's slowest node has less to do. No IO.

use std::collections::BTreeMap;

use guildhall_placement::NodeSlot;

/// Reading one expert's weights takes as long as computing this many rows of it.
///
/// From the kernels' table of BENCHMARKS.md: a matrix is read in 277 µs as f32 and in 143 µs as bf16, and at 512 rows
/// each row takes 17 or 16 µs, so an expert costs 16 or 9 rows. The larger figure is taken: who splits too early
/// reads weights twice, who splits too late only waits a little longer.
pub(super) const EXPERT_ROWS: usize = 16;

/// The pairs that each node computes, by expert, ascending.
pub(super) type Shares = BTreeMap<NodeSlot, BTreeMap<u32, Vec<usize>>>;

/// Rows that one node hands to another.
#[derive(Clone, Copy)]
struct Move {
    expert: u32,
    to: NodeSlot,
    rows: usize,
    /// Whether the node keeps some rows of the expert.
    is_split: bool,
    /// The higher cost of the two nodes afterwards.
    cost: usize,
}

/// What a node's share costs, in rows.
pub(super) fn cost(share: &BTreeMap<u32, Vec<usize>>) -> usize {
    share.values().map(|pairs| EXPERT_ROWS + pairs.len()).sum()
}

/// As long as it makes the slowest node faster by [`EXPERT_ROWS`] at least, that node hands rows of an expert to
/// another replica: all of them, or so many that neither part is smaller than [`EXPERT_ROWS`].
///
/// Experts with fewer tokens than two parts need stay where they are. Each row of an expert is computed by itself, so
/// where it is computed changes no bit.
pub(super) fn even_out<'a>(shares: &mut Shares, replicas: impl Fn(u32) -> &'a [NodeSlot]) {
    loop {
        // Of equals the one with the lowest slot.
        let slowest = shares.iter().map(|(slot, share)| (cost(share), *slot));
        let Some((before, from)) = slowest.max_by_key(|(cost, slot)| (*cost, !*slot)) else {
            return;
        };
        match best_move(shares, from, &replicas) {
            Some(best) if best.cost + EXPERT_ROWS <= before => hand_over(shares, from, best),
            _ => return,
        }
    }
}

/// Of equally good moves one that leaves fewer parts, then the one with the lowest expert and slot.
fn best_move<'a>(
    shares: &Shares,
    from: NodeSlot,
    replicas: &impl Fn(u32) -> &'a [NodeSlot],
) -> Option<Move> {
    let large = shares.get(&from)?.iter().filter(|(_, pairs)| pairs.len() >= 2 * EXPERT_ROWS);
    let others = large.flat_map(|(&expert, _)| {
        let others = replicas(expert).iter().filter(move |&&to| to != from);
        others.map(move |&to| (expert, to))
    });
    let moves = others.flat_map(|(expert, to)| moves(shares, expert, (from, to)));
    moves.min_by_key(|of| (of.cost, of.is_split))
}

/// All rows of a large part, and as many as make the two nodes equal.
fn moves(shares: &Shares, expert: u32, (from, to): (NodeSlot, NodeSlot)) -> Vec<Move> {
    let (Some(share), other) = (shares.get(&from), shares.get(&to)) else { return Vec::new() };
    let all = share.get(&expert).map_or(0, Vec::len);
    let reads_weights = other.is_none_or(|other| !other.contains_key(&expert));
    let from_cost = cost(share);
    let to_cost = other.map_or(0, cost) + if reads_weights { EXPERT_ROWS } else { 0 };
    let half = from_cost.saturating_sub(to_cost) / 2;
    let move_of = |rows: usize| {
        let is_split = rows < all;
        let left = from_cost - rows - if is_split { 0 } else { EXPERT_ROWS };
        Move { expert, to, rows, is_split, cost: left.max(to_cost + rows) }
    };
    vec![move_of(all), move_of(half.clamp(EXPERT_ROWS, all - EXPERT_ROWS))]
}

fn hand_over(shares: &mut Shares, from: NodeSlot, Move { expert, to, rows, .. }: Move) {
    let Some(share) = shares.get_mut(&from) else { return };
    let Some(pairs) = share.get_mut(&expert) else { return };
    let moved = pairs.split_off(pairs.len() - rows);
    if pairs.is_empty() {
        share.remove(&expert);
    }
    let part = shares.entry(to).or_default().entry(expert).or_default();
    part.extend(moved);
    part.sort_unstable();
}
