//! One layer's calls in flight: who was asked for what, and what has come back. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guildhall_ids::{ExpertId, ExpertIdx, LayerIdx, NodeId};
use guildhall_kernels::{Device, Dtype, Routes, Tensor};

use super::call_traces::LayerRows;
use super::combine::{add_scaled_f32, combine};
use super::plan::Wanted;
use crate::Error;

/// A call that has not been answered.
pub(super) struct Outstanding {
    pub(super) node: NodeId,
    pub(super) pair_indices: Vec<usize>,
    pub(super) sent: Instant,
    /// Somebody else is asked too.
    hedged: bool,
}

pub(super) struct FanOut {
    pub(super) of: LayerRows,
    pub(super) routes: Routes,
    pub(super) began: Instant,
    /// Since when the nodes that do well lack something that it needs.
    pub(super) lacking_since: Option<Instant>,
    /// The longest time that a node was busy with a call, or with those before it.
    pub(super) busy: Duration,
    hidden: usize,
    dtype: Dtype,
    /// [tokens, hidden]
    x: Arc<Tensor>,
    // For each pair its row, a slice of the frame it came in; empty until it has come.
    outputs: Vec<Bytes>,
    missing: usize,
    outstanding: BTreeMap<u64, Outstanding>,
    /// Pairs that nobody is computing, ascending.
    pub(super) unsent: Vec<usize>,
    /// Who gave values that are not finite for an expert.
    not_finite: BTreeMap<ExpertId, BTreeSet<NodeId>>,
}

/// Values that no working expert gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFinite {
    pub(super) expert: ExpertId,
    /// The tokens that it was computed for, as rows of the step.
    pub(super) rows: Vec<usize>,
}

impl FanOut {
    pub(super) fn new(
        (of, routes): (LayerRows, Routes),
        (x, dtype): (Arc<Tensor>, Dtype),
        now: Instant,
    ) -> Self {
        let pairs = routes.experts.len();
        Self {
            of,
            began: now,
            lacking_since: None,
            busy: Duration::ZERO,
            hidden: x.cols(),
            dtype,
            x,
            outputs: vec![Bytes::new(); pairs],
            missing: pairs,
            outstanding: BTreeMap::new(),
            unsent: (0..pairs).collect(),
            not_finite: BTreeMap::new(),
            routes,
        }
    }

    pub(super) fn layer(&self) -> LayerIdx {
        self.of.layer
    }

    /// Some of the layer's pairs.
    pub(super) fn wanted<'a>(&'a self, pairs: &'a [usize]) -> Wanted<'a> {
        let experts = &self.routes.experts;
        Wanted { layer: self.layer(), top_k: self.routes.top_k, experts, pairs }
    }

    /// The experts of some pairs.
    pub(super) fn experts_of(&self, pairs: &[usize]) -> BTreeSet<ExpertId> {
        let expert = |&pair: &usize| ExpertIdx(self.routes.experts[pair]);
        pairs.iter().map(expert).map(|expert| ExpertId { layer: self.layer(), expert }).collect()
    }

    /// The tokens of those pairs whose expert is wanted, as rows of the step, ascending.
    fn rows_of(&self, pairs: &[usize], wanted: impl Fn(ExpertId) -> bool) -> Vec<usize> {
        let expert = |pair: usize| ExpertIdx(self.routes.experts[pair]);
        let id = |pair| ExpertId { layer: self.layer(), expert: expert(pair) };
        let pairs = pairs.iter().filter(|&&pair| wanted(id(pair)));
        let row = |pair: &usize| self.of.first_row + pair / self.routes.top_k;
        let rows: BTreeSet<usize> = pairs.map(row).collect();
        rows.into_iter().collect()
    }

    /// What has not come: the experts, and the tokens that need them, as rows of the step.
    pub(super) fn lacking(&self) -> (BTreeSet<ExpertId>, Vec<usize>) {
        let pairs = self.outputs.iter().enumerate().filter(|(_, output)| output.is_empty());
        let pairs: Vec<usize> = pairs.map(|(pair, _)| pair).collect();
        (self.experts_of(&pairs), self.rows_of(&pairs, |_| true))
    }

    /// Whether nobody computes anything.
    pub(super) fn is_quiet(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The activations of some tokens, as one call carries them.
    pub(super) fn activations(&self, device: &Device, tokens: &[usize]) -> Result<Bytes, Error> {
        Ok(device.rows_to_bytes(&self.x, tokens, self.dtype)?.into())
    }

    pub(super) fn sent(&mut self, id: u64, node: NodeId, pair_indices: Vec<usize>, now: Instant) {
        self.outstanding.insert(id, Outstanding { node, pair_indices, sent: now, hedged: false });
    }

    /// When a call was sent that has not been answered.
    pub(super) fn sent_at(&self, id: u64) -> Option<Instant> {
        self.outstanding.get(&id).map(|call| call.sent)
    }

    /// Stores the values of an answered call; answers to calls that were given up are ignored.
    pub(super) fn store(&mut self, id: u64, values: &Bytes) -> Result<(), NotFinite> {
        let Some(call) = self.outstanding.remove(&id) else { return Ok(()) };
        let row_bytes = self.hidden * self.dtype.size_bytes();
        let rows = values.chunks_exact(row_bytes);
        let answered = call.pair_indices.iter().zip(rows.clone());
        let broken = answered.filter(|(_, row)| !is_finite(self.dtype, row));
        let broken: Vec<usize> = broken.map(|(&pair, _)| pair).collect();
        if let Some(&expert) = self.experts_of(&broken).first() {
            self.not_finite.entry(expert).or_default().insert(call.node);
            self.give_back(call.pair_indices);
            return Err(NotFinite { expert, rows: self.rows_of(&broken, |id| id == expert) });
        }
        for (&pair, row) in call.pair_indices.iter().zip(rows) {
            // Of two answers the first one counts; both have the same bits.
            if self.outputs[pair].is_empty() {
                self.outputs[pair] = values.slice_ref(row);
                self.missing -= 1;
            }
        }
        Ok(())
    }

    /// The nodes that gave values that are not finite for this expert.
    pub(super) fn not_finite_from(&self, expert: ExpertId) -> BTreeSet<NodeId> {
        self.not_finite.get(&expert).cloned().unwrap_or_default()
    }

    /// Takes back the pairs of one call.
    pub(super) fn failed(&mut self, id: u64) {
        if let Some(call) = self.outstanding.remove(&id) {
            self.give_back(call.pair_indices);
        }
    }

    /// Takes back everything that a node was asked for.
    pub(super) fn lost(&mut self, node: &NodeId) {
        let lost = self.outstanding.extract_if(.., |_, call| call.node == *node);
        let pairs: Vec<usize> = lost.flat_map(|(_, call)| call.pair_indices).collect();
        self.give_back(pairs);
    }

    /// Takes back pairs that nobody else is computing and that have no output.
    pub(super) fn give_back(&mut self, mut pairs: Vec<usize>) {
        let asked: BTreeSet<usize> =
            self.outstanding.values().flat_map(|call| call.pair_indices.iter().copied()).collect();
        pairs.retain(|pair| self.outputs[*pair].is_empty() && !asked.contains(pair));
        self.unsent.extend(pairs);
        self.unsent.sort_unstable();
        self.unsent.dedup();
    }

    /// The calls that only one node was asked.
    pub(super) fn unhedged(&self) -> impl Iterator<Item = (u64, &Outstanding)> {
        let calls = self.outstanding.iter().filter(|(_, call)| !call.hedged);
        calls.map(|(id, call)| (*id, call))
    }

    /// Notes that somebody else is asked for the same, and returns the node and the pairs.
    pub(super) fn hedge(&mut self, id: u64) -> Option<(NodeId, Vec<usize>)> {
        let call = self.outstanding.get_mut(&id)?;
        call.hedged = true;
        Some((call.node.clone(), call.pair_indices.clone()))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// [tokens, hidden]
    pub(super) fn combined(&self, device: &Device) -> Tensor {
        combine(device, &self.routes, self.hidden, |pair, weight, sum| {
            add_scaled(self.dtype, &self.outputs[pair], weight, sum);
        })
    }
}

/// Adds `weight` times a row as it came over the wire.
fn add_scaled(dtype: Dtype, row: &[u8], weight: f32, sum: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            let (fours, _) = row.as_chunks::<4>();
            add_scaled_f32(sum, weight, fours.iter().map(|four| f32::from_le_bytes(*four)));
        }
        Dtype::Bf16 => {
            let (twos, _) = row.as_chunks::<2>();
            let widen = |two: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16);
            add_scaled_f32(sum, weight, twos.iter().map(widen));
        }
    }
}

/// Whether a row has no NaN and no infinity: no value whose exponent bits are all one.
fn is_finite(dtype: Dtype, row: &[u8]) -> bool {
    match dtype {
        Dtype::F32 => {
            let bits = |four: &[u8; 4]| u32::from_le_bytes(*four) & 0x7f80_0000;
            row.as_chunks::<4>().0.iter().all(|four| bits(four) != 0x7f80_0000)
        }
        Dtype::Bf16 => {
            let bits = |two: &[u8; 2]| u16::from_le_bytes(*two) & 0x7f80;
            row.as_chunks::<2>().0.iter().all(|two| bits(two) != 0x7f80)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use guildhall_kernels::CpuOptions;

    use super::*;

    fn device() -> Device {
        Device::cpu(CpuOptions::of_threads(NonZeroUsize::MIN)).unwrap()
    }

    fn fan_out() -> FanOut {
        let routes = Routes { top_k: 2, experts: vec![0, 1, 1, 2], weights: vec![1.0; 4] };
        let x = Arc::new(device().upload(&[0.0; 8], 4).unwrap());
        let of = LayerRows { layer: LayerIdx(5), first_row: 10 };
        FanOut::new((of, routes), (x, Dtype::Bf16), Instant::now())
    }

    fn ask(fan_out: &mut FanOut, id: u64, node: &str, pair_indices: &[usize]) {
        fan_out.unsent.retain(|pair| !pair_indices.contains(pair));
        fan_out.sent(id, node.parse().unwrap(), pair_indices.into(), Instant::now());
    }

    fn combined(fan_out: &FanOut) -> Vec<f32> {
        let device = device();
        device.host(&fan_out.combined(&device)).into_owned()
    }

    fn ones(pairs: usize) -> Bytes {
        [0x80, 0x3f].repeat(4 * pairs).into()
    }

    #[test]
    fn a_lost_node_gives_its_pairs_back_and_its_late_answer_is_ignored() {
        let mut fan_out = fan_out();
        ask(&mut fan_out, 1, "a", &[0, 3]);
        ask(&mut fan_out, 2, "b", &[1, 2]);
        assert!(fan_out.unsent.is_empty());
        fan_out.lost(&"a".parse().unwrap());
        assert_eq!(fan_out.unsent, [0, 3]);
        fan_out.store(1, &ones(2)).unwrap();
        fan_out.store(2, &ones(2)).unwrap();
        assert!(!fan_out.is_complete());
        ask(&mut fan_out, 3, "b", &[0, 3]);
        fan_out.store(3, &ones(2)).unwrap();
        assert!(fan_out.is_complete());
        assert_eq!(combined(&fan_out), [2.0; 8]);
    }

    #[test]
    fn of_two_answers_the_first_one_counts() {
        let mut fan_out = fan_out();
        ask(&mut fan_out, 1, "a", &[0, 1, 2, 3]);
        assert_eq!(fan_out.hedge(1), Some(("a".parse().unwrap(), vec![0, 1, 2, 3])));
        assert_eq!(fan_out.unhedged().count(), 0);
        ask(&mut fan_out, 2, "b", &[0, 3]);
        ask(&mut fan_out, 3, "c", &[1, 2]);
        fan_out.store(2, &ones(2)).unwrap();
        // What somebody else computes is not asked for a third time.
        fan_out.lost(&"a".parse().unwrap());
        assert!(fan_out.unsent.is_empty());
        fan_out.failed(3);
        assert_eq!(fan_out.unsent, [1, 2]);
        ask(&mut fan_out, 4, "b", &[1, 2]);
        fan_out.store(4, &ones(2)).unwrap();
        assert!(fan_out.is_complete());
        assert_eq!(combined(&fan_out), [2.0; 8]);
    }

    #[test]
    fn a_value_that_is_not_finite_names_its_expert_and_is_asked_for_again() {
        let mut fan_out = fan_out();
        ask(&mut fan_out, 1, "a", &[2, 3]);
        let mut values = ones(2).to_vec();
        values[8..10].copy_from_slice(&[0xc0, 0x7f]);
        let expected = NotFinite { expert: ExpertId::new(5, 2), rows: vec![11] };
        assert_eq!(fan_out.store(1, &values.into()), Err(expected));
        assert_eq!(fan_out.unsent, [0, 1, 2, 3]);
        let from = fan_out.not_finite_from(ExpertId::new(5, 2));
        assert_eq!(from, BTreeSet::from(["a".parse().unwrap()]));
        assert!(fan_out.not_finite_from(ExpertId::new(5, 1)).is_empty());
    }

    #[test]
    fn what_has_not_come_is_named_by_expert_and_token() {
        let mut fan_out = fan_out();
        assert!(fan_out.is_quiet());
        ask(&mut fan_out, 1, "a", &[0, 1, 2]);
        assert!(!fan_out.is_quiet());
        fan_out.store(1, &ones(3)).unwrap();
        assert!(fan_out.is_quiet());
        assert_eq!(fan_out.lacking(), (BTreeSet::from([ExpertId::new(5, 2)]), vec![11]));
    }
}
