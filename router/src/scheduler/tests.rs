//! The scheduler as text cases, and as properties of random loads.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const BLOCK_TOKENS: usize = 4;

fn scheduler(max_running: usize, max_batched_tokens: usize, blocks: u32) -> Scheduler {
    let limits = Limits { max_running, max_batched_tokens };
    Scheduler::new(limits, BlockPool::new(blocks, BLOCK_TOKENS))
}

/// Queues `tokens` tokens that begin like those of every sequence with the same `seed`.
fn add(scheduler: &mut Scheduler, id: SequenceId, seed: u32, tokens: usize) {
    let tokens: Vec<u32> = (0..tokens as u32).map(|position| seed * 1000 + position).collect();
    let hashes = PrefixHashes::new("", BLOCK_TOKENS, &tokens);
    scheduler.add(id, Arrival { hashes, reads_cache: true });
}

/// One step whose sampled tokens are the ids of their sequences.
fn step(scheduler: &mut Scheduler) -> Vec<(SequenceId, usize, usize)> {
    let plan = scheduler.plan();
    scheduler.computed(&plan);
    for work in plan.iter().filter(|work| work.samples) {
        scheduler.extend(work.id, work.id as u32);
    }
    plan.into_iter().map(|work| (work.id, work.first_position, work.tokens)).collect()
}

#[test]
fn decodes_come_first_and_prompts_fill_the_step_in_chunks() {
    let mut scheduler = scheduler(8, 6, 100);
    add(&mut scheduler, 1, 1, 4);
    assert_eq!(step(&mut scheduler), [(1, 0, 4)]);
    add(&mut scheduler, 2, 2, 8);
    add(&mut scheduler, 3, 3, 2);
    assert_eq!(step(&mut scheduler), [(1, 4, 1), (2, 0, 5)]);
    assert_eq!(step(&mut scheduler), [(1, 5, 1), (2, 5, 3), (3, 0, 2)]);
    assert_eq!(step(&mut scheduler), [(1, 6, 1), (2, 8, 1), (3, 2, 1)]);
}

#[test]
fn a_sequence_without_room_waits_and_is_not_overtaken() {
    let mut scheduler = scheduler(8, 100, 5);
    add(&mut scheduler, 1, 1, 12);
    add(&mut scheduler, 2, 2, 12);
    add(&mut scheduler, 3, 3, 1);
    assert_eq!(step(&mut scheduler), [(1, 0, 12)]);
    assert_eq!(step(&mut scheduler), [(1, 12, 1)]);
    scheduler.remove(1);
    assert_eq!(step(&mut scheduler), [(2, 0, 12), (3, 0, 1)]);
}

#[test]
fn a_prefix_is_computed_once() {
    let mut scheduler = scheduler(8, 8, 20);
    add(&mut scheduler, 1, 7, 12);
    add(&mut scheduler, 2, 7, 14);
    assert_eq!(step(&mut scheduler), [(1, 0, 8)]);
    // The second waits for what the first is about to compute, then shares it.
    assert_eq!(step(&mut scheduler), [(1, 8, 4)]);
    assert_eq!(step(&mut scheduler), [(1, 12, 1), (2, 12, 2)]);
    assert_eq!(scheduler.cached_tokens(2), 12);
    assert_eq!(scheduler.blocks(1)[..3], scheduler.blocks(2)[..3]);
    scheduler.remove(1);
    scheduler.remove(2);
    // A prompt that is remembered whole computes its last block again, for the logits.
    add(&mut scheduler, 3, 7, 12);
    assert_eq!(step(&mut scheduler), [(3, 8, 4)]);
    let occupancy = scheduler.occupancy();
    assert_eq!((occupancy.queried_tokens, occupancy.hit_tokens), (38, 20));
}

#[test]
fn a_sequence_that_needs_every_position_does_not_read_the_cache() {
    let mut scheduler = scheduler(8, 100, 20);
    add(&mut scheduler, 1, 7, 12);
    step(&mut scheduler);
    let hashes = PrefixHashes::new("", BLOCK_TOKENS, &(7000..7012).collect::<Vec<u32>>());
    scheduler.add(2, Arrival { hashes, reads_cache: false });
    assert_eq!(step(&mut scheduler), [(1, 12, 1), (2, 0, 12)]);
}

#[test]
fn the_youngest_gives_way_and_comes_back_with_what_is_remembered() {
    let mut scheduler = scheduler(8, 100, 6);
    add(&mut scheduler, 1, 1, 8);
    add(&mut scheduler, 2, 2, 7);
    assert_eq!(step(&mut scheduler), [(1, 0, 8), (2, 0, 7)]);
    for position in 8..12 {
        assert_eq!(step(&mut scheduler), [(1, position, 1), (2, position - 1, 1)]);
    }
    assert_eq!(scheduler.occupancy().blocks_held, 6);
    // Both need a fourth block; the second gives its three up.
    assert_eq!(step(&mut scheduler), [(1, 12, 1)]);
    let occupancy = scheduler.occupancy();
    assert_eq!((occupancy.preemptions, occupancy.waiting, occupancy.blocks_held), (1, 1, 4));
    scheduler.remove(1);
    assert_eq!(step(&mut scheduler), [(2, 8, 4)]);
    assert_eq!(scheduler.cached_tokens(2), 0, "what it had when it first began");
}

#[test]
fn a_waiting_sequence_can_leave() {
    let mut scheduler = scheduler(1, 100, 5);
    add(&mut scheduler, 1, 1, 1);
    add(&mut scheduler, 2, 2, 1);
    assert_eq!(step(&mut scheduler), [(1, 0, 1)]);
    scheduler.remove(2);
    scheduler.remove(1);
    assert!(scheduler.is_idle() && scheduler.occupancy().blocks_held == 0);
}

/// What a random load asks for.
#[derive(Clone, Debug)]
struct Load {
    /// (seed of the prompt, tokens of the prompt, tokens to generate, tokens left when the client leaves)
    sequences: Vec<(u32, usize, usize, usize)>,
    limits: Limits,
    blocks: u32,
    arrivals_per_step: usize,
}

fn load() -> impl Strategy<Value = Load> {
    let sequence = (0u32..3, 1usize..30, 1usize..24, 0usize..30);
    let sequences = prop::collection::vec(sequence, 1..12);
    // The longest sequence fills 14 blocks.
    (sequences, 1usize..6, 6usize..40, 14u32..30, 1usize..5).prop_map(
        |(sequences, max_running, max_batched_tokens, blocks, arrivals_per_step)| Load {
            sequences,
            limits: Limits { max_running, max_batched_tokens },
            blocks,
            arrivals_per_step,
        },
    )
}

/// A cache that remembers which tokens each slot was computed from, in place of keys and values.
#[derive(Default)]
struct Cache(BTreeMap<(u32, usize), Vec<u32>>);

impl Cache {
    /// Computes the positions of `work` and checks that everything before them is what it must be.
    fn compute(&mut self, work: &Work, blocks: &[u32], tokens: &[u32]) {
        for position in work.first_position..work.first_position + work.tokens {
            let slot = |at: usize| (blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS);
            self.0.insert(slot(position), tokens[..=position].to_vec());
            for before in 0..position {
                assert_eq!(self.0.get(&slot(before)).map(Vec::as_slice), Some(&tokens[..=before]));
            }
        }
    }
}

proptest! {
    /// Every sequence ends, in steps within the limits; each position attends to keys and values of its own prefix,
    /// however blocks are shared, forgotten and given up; at the end no block is held.
    #[test]
    fn nobody_starves_and_nobody_reads_what_is_not_its_own(load in load()) {
        let mut scheduler = Scheduler::new(load.limits, BlockPool::new(load.blocks, BLOCK_TOKENS));
        let mut cache = Cache::default();
        let mut tokens: BTreeMap<SequenceId, (Vec<u32>, usize)> = BTreeMap::new();
        let mut arriving = (0..).zip(load.sequences.clone());
        let mut steps = 0;
        loop {
            for (id, (seed, prompt, generate, _)) in arriving.by_ref().take(load.arrivals_per_step) {
                add(&mut scheduler, id, seed, prompt);
                let prompt = (0..prompt as u32).map(|position| seed * 1000 + position).collect();
                tokens.insert(id, (prompt, generate));
            }
            if scheduler.is_idle() { break; }
            steps += 1;
            prop_assert!(steps < 3_000, "no progress");
            let plan = scheduler.plan();
            prop_assert!(!plan.is_empty() && plan.len() <= load.limits.max_running);
            prop_assert!(plan.iter().map(|w| w.tokens).sum::<usize>() <= load.limits.max_batched_tokens);
            let ids: BTreeSet<SequenceId> = plan.iter().map(|work| work.id).collect();
            prop_assert_eq!(ids.len(), plan.len());
            for work in &plan {
                cache.compute(work, scheduler.blocks(work.id), &tokens[&work.id].0);
            }
            scheduler.computed(&plan);
            for work in plan.iter().filter(|work| work.samples) {
                let (known, left) = tokens.get_mut(&work.id).unwrap();
                prop_assert_eq!(work.first_position + work.tokens, known.len());
                let token = known.len() as u32 % 3;
                known.push(token);
                *left -= 1;
                scheduler.extend(work.id, token);
                let leaves = load.sequences[work.id as usize].3 == *left;
                if *left == 0 || leaves { scheduler.remove(work.id); }
            }
        }
        prop_assert_eq!(scheduler.occupancy().blocks_held, 0);
        scheduler.forget_prefixes();
        prop_assert_eq!(scheduler.occupancy().blocks_idle, 0);
    }
}
