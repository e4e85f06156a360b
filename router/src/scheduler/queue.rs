//! Which sequences run, and which of their tokens go into the next step.

use std::collections::VecDeque;

use super::blocks::BlockPool;

/// Counts sequences in the order of their arrival.
pub(crate) type SequenceId = u64;

/// What a step may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences that run at a time.
    pub(crate) max_running: usize,
    /// Tokens of one step, of all its sequences.
    pub(crate) max_batched_tokens: usize,
}

/// Queues sequences and plans steps.
///
/// A sequence gets room for its longest possible form when it begins to run, so it can always go on; the others wait
/// in the order of their arrival. Every running sequence that is past its prompt gets its one token in every step;
/// what is left of the step goes to prompts, the oldest first, in chunks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: VecDeque<Entry>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Entry {
    id: SequenceId,
    /// Tokens that are known: the prompt, then what was generated.
    known: usize,
    /// Tokens that it can have at the end.
    max_tokens: usize,
}

#[derive(Debug)]
struct Running {
    entry: Entry,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    blocks: Vec<u32>,
}

/// A sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) id: SequenceId,
    pub(crate) first_position: usize,
    pub(crate) tokens: usize,
    /// Whether the step reaches the end of what is known, so that the next token is sampled.
    pub(crate) samples: bool,
    /// The sequence's blocks, all of them.
    pub(crate) blocks: Vec<u32>,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, pool: BlockPool) -> Self {
        Self { limits, pool, waiting: VecDeque::new(), running: Vec::new() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.pool.block_tokens()
    }

    /// The longest sequence that can ever run.
    pub(crate) fn capacity_tokens(&self) -> usize {
        self.pool.capacity_tokens()
    }

    /// Queues a sequence with `prompt` tokens that ends with at most `max_tokens`, which the pool can hold.
    pub(crate) fn add(&mut self, id: SequenceId, prompt: usize, max_tokens: usize) {
        debug_assert!(prompt > 0 && prompt <= max_tokens && max_tokens <= self.capacity_tokens());
        self.waiting.push_back(Entry { id, known: prompt, max_tokens });
    }

    /// Forgets a sequence, waiting or running, and frees its blocks.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|entry| entry.id != id);
        if let Some(at) = self.running.iter().position(|running| running.entry.id == id) {
            self.pool.give_back(self.running.remove(at).blocks);
        }
    }

    /// A token was sampled for a running sequence.
    pub(crate) fn extend(&mut self, id: SequenceId) {
        if let Some(running) = self.running.iter_mut().find(|running| running.entry.id == id) {
            running.entry.known += 1;
        }
    }

    /// The next step; what it names counts as computed from now on.
    pub(crate) fn plan(&mut self) -> Vec<Work> {
        self.admit();
        let mut room = self.limits.max_batched_tokens;
        let mut plan = Vec::new();
        for decoding in [true, false] {
            for running in &mut self.running {
                let left = running.entry.known - running.computed;
                let tokens = left.min(room);
                if tokens > 0 && (running.computed > 0 && left == 1) == decoding {
                    room -= tokens;
                    plan.push(running.work(tokens));
                }
            }
        }
        plan
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.max_running {
            let Some(next) = self.waiting.front() else { return };
            // Nobody overtakes: a long sequence would wait for ever behind short ones.
            let Some(blocks) = self.pool.take(next.max_tokens) else { return };
            if let Some(entry) = self.waiting.pop_front() {
                self.running.push(Running { entry, computed: 0, blocks });
            }
        }
    }
}

impl Running {
    fn work(&mut self, tokens: usize) -> Work {
        let first_position = self.computed;
        self.computed += tokens;
        Work {
            id: self.entry.id,
            first_position,
            tokens,
            samples: self.computed == self.entry.known,
            blocks: self.blocks.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn scheduler(max_running: usize, max_batched_tokens: usize, blocks: u32) -> Scheduler {
        let limits = Limits { max_running, max_batched_tokens };
        Scheduler::new(limits, BlockPool::new(blocks, 4))
    }

    fn step(scheduler: &mut Scheduler) -> Vec<(SequenceId, usize, usize)> {
        let plan = scheduler.plan();
        for work in plan.iter().filter(|work| work.samples) {
            scheduler.extend(work.id);
        }
        plan.into_iter().map(|work| (work.id, work.first_position, work.tokens)).collect()
    }

    #[test]
    fn decodes_come_first_and_prompts_fill_the_step_in_chunks() {
        let mut scheduler = scheduler(8, 6, 100);
        scheduler.add(1, 4, 20);
        assert_eq!(step(&mut scheduler), [(1, 0, 4)]);
        scheduler.add(2, 8, 20);
        scheduler.add(3, 2, 20);
        assert_eq!(step(&mut scheduler), [(1, 4, 1), (2, 0, 5)]);
        assert_eq!(step(&mut scheduler), [(1, 5, 1), (2, 5, 3), (3, 0, 2)]);
        assert_eq!(step(&mut scheduler), [(1, 6, 1), (2, 8, 1), (3, 2, 1)]);
    }

    #[test]
    fn a_sequence_without_room_waits_and_is_not_overtaken() {
        let mut scheduler = scheduler(8, 100, 5);
        scheduler.add(1, 4, 12);
        scheduler.add(2, 4, 16);
        scheduler.add(3, 1, 4);
        assert_eq!(step(&mut scheduler), [(1, 0, 4)]);
        scheduler.remove(1);
        assert_eq!(step(&mut scheduler), [(2, 0, 4), (3, 0, 1)]);
    }

    #[test]
    fn a_waiting_sequence_can_leave() {
        let mut scheduler = scheduler(1, 100, 5);
        scheduler.add(1, 1, 4);
        scheduler.add(2, 1, 4);
        assert_eq!(step(&mut scheduler), [(1, 0, 1)]);
        scheduler.remove(2);
        scheduler.remove(1);
        assert!(scheduler.is_idle() && scheduler.pool.n_free() == 5);
    }

    proptest! {
        /// Every sequence ends, in steps within the limits, with each of its positions computed once and in order.
        #[test]
        fn nobody_starves_and_no_block_is_lost(
            sequences in prop::collection::vec((1usize..30, 1usize..20, 0usize..12), 1..12),
            max_running in 1usize..6, max_batched_tokens in 6usize..40, blocks in 13u32..40,
        ) {
            let mut scheduler = scheduler(max_running, max_batched_tokens, blocks);
            let mut left: BTreeMap<SequenceId, (usize, usize)> = BTreeMap::new();
            let mut next_position: BTreeMap<SequenceId, usize> = BTreeMap::new();
            let mut steps = 0;
            for (id, &(prompt, generate, _)) in (0..).zip(&sequences) {
                left.insert(id, (prompt, generate));
                scheduler.add(id, prompt, prompt + generate);
            }
            while !scheduler.is_idle() {
                steps += 1;
                prop_assert!(steps < 2_000, "no progress");
                let plan = scheduler.plan();
                prop_assert!(plan.len() <= max_running);
                prop_assert!(plan.iter().map(|w| w.tokens).sum::<usize>() <= max_batched_tokens);
                let mut used: Vec<u32> = plan.iter().flat_map(|w| w.blocks.clone()).collect();
                used.sort_unstable();
                prop_assert!(used.windows(2).all(|pair| pair[0] != pair[1]), "a shared block");
                for work in plan {
                    let position = next_position.entry(work.id).or_default();
                    prop_assert_eq!(work.first_position, *position);
                    *position += work.tokens;
                    prop_assert!(work.blocks.len() * 4 >= *position);
                    if !work.samples { continue; }
                    let (_, generate) = left.get_mut(&work.id).unwrap();
                    *generate -= 1;
                    scheduler.extend(work.id);
                    // Some clients leave early.
                    let leaves = sequences[work.id as usize].2 == *generate;
                    if *generate == 0 || leaves { scheduler.remove(work.id); }
                }
            }
            prop_assert_eq!(scheduler.pool.n_free(), blocks as usize);
        }
    }
}
