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

#[test]
fn an_abandoned_step_is_planned_again_without_who_is_parked() {
    let mut scheduler = scheduler(8, 100, 20);
    add(&mut scheduler, 1, 1, 6);
    add(&mut scheduler, 2, 2, 5);
    let plan = scheduler.plan();
    assert_eq!(plan.iter().map(|work| work.tokens).collect::<Vec<_>>(), [6, 5]);
    scheduler.abandon(&plan);
    scheduler.park(1);
    assert_eq!(step(&mut scheduler), [(2, 0, 5)]);
    assert_eq!(scheduler.blocks(1).len(), 2, "it keeps them");
    // Nobody waits for a prefix that a parked sequence would compute.
    add(&mut scheduler, 3, 1, 6);
    assert_eq!(step(&mut scheduler), [(2, 5, 1), (3, 0, 6)]);
    scheduler.unpark(1);
    assert_eq!(step(&mut scheduler), [(2, 6, 1), (3, 6, 1), (1, 0, 6)]);
    scheduler.park(1);
    scheduler.park(2);
    scheduler.park(3);
    assert_eq!(step(&mut scheduler), []);
}

#[test]
fn a_parked_sequence_gives_way_first_and_is_overtaken() {
    let mut scheduler = scheduler(8, 100, 6);
    add(&mut scheduler, 1, 1, 11);
    add(&mut scheduler, 2, 2, 7);
    step(&mut scheduler);
    scheduler.park(1);
    for position in 7..12 {
        assert_eq!(step(&mut scheduler), [(2, position, 1)]);
    }
    // The second needs a fourth block, and the first gives its three up although it is older.
    assert_eq!(step(&mut scheduler), [(2, 12, 1)]);
    assert_eq!((scheduler.blocks(1).len(), scheduler.blocks(2).len()), (0, 4));
    add(&mut scheduler, 3, 3, 2);
    assert_eq!(step(&mut scheduler), [(2, 13, 1), (3, 0, 2)]);
    scheduler.remove(2);
    scheduler.unpark(1);
    assert_eq!(step(&mut scheduler), [(3, 2, 1), (1, 4, 8)]);
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

    /// What a step that is not finished leaves behind.
    fn spoil(&mut self, work: &Work, blocks: &[u32]) {
        for position in work.first_position..work.first_position + work.tokens {
            self.0.insert((blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS), Vec::new());
        }
    }
}

/// What goes wrong in a step, as sets of sequences by their lowest bits: the step is abandoned and some of its
/// sequences are parked; before it some were unparked.
#[derive(Clone, Copy, Debug)]
struct Fault {
    is_abandoned: bool,
    parks: u8,
    unparks: u8,
}

fn fault() -> impl Strategy<Value = Fault> {
    (prop::bool::weighted(0.4), any::<u8>(), any::<u8>())
        .prop_map(|(is_abandoned, parks, unparks)| Fault { is_abandoned, parks, unparks })
}

fn among(id: SequenceId, set: u8) -> bool {
    set & 1 << (id % 8) != 0
}

/// Runs a load to its end; step n has fault n, and all later ones have none.
fn check_load(load: &Load, faults: &[Fault]) {
    let mut scheduler = Scheduler::new(load.limits, BlockPool::new(load.blocks, BLOCK_TOKENS));
    let mut cache = Cache::default();
    let mut tokens: BTreeMap<SequenceId, (Vec<u32>, usize)> = BTreeMap::new();
    let mut parked: BTreeSet<SequenceId> = BTreeSet::new();
    let mut arriving = (0..).zip(load.sequences.clone());
    let no_fault = Fault { is_abandoned: false, parks: 0, unparks: u8::MAX };
    let mut faults = faults.iter().copied().chain(std::iter::repeat(no_fault));
    for step in 0.. {
        for (id, (seed, prompt, generate, _)) in arriving.by_ref().take(load.arrivals_per_step) {
            add(&mut scheduler, id, seed, prompt);
            let prompt = (0..prompt as u32).map(|position| seed * 1000 + position).collect();
            tokens.insert(id, (prompt, generate));
        }
        if scheduler.is_idle() {
            break;
        }
        assert!(step < 3_000, "no progress");
        let fault = faults.next().unwrap_or(no_fault);
        for id in parked.extract_if(.., |id| among(*id, fault.unparks)) {
            scheduler.unpark(id);
        }
        let plan = scheduler.plan();
        check_plan(&plan, load, &parked);
        if fault.is_abandoned {
            plan.iter().for_each(|work| cache.spoil(work, scheduler.blocks(work.id)));
            scheduler.abandon(&plan);
            for work in plan.iter().filter(|work| among(work.id, fault.parks)) {
                scheduler.park(work.id);
                parked.insert(work.id);
            }
            continue;
        }
        for work in &plan {
            cache.compute(work, scheduler.blocks(work.id), &tokens[&work.id].0);
        }
        scheduler.computed(&plan);
        for work in plan.iter().filter(|work| work.samples) {
            let (known, left) = tokens.get_mut(&work.id).unwrap();
            assert_eq!(work.first_position + work.tokens, known.len());
            let token = known.len() as u32 % 3;
            known.push(token);
            *left -= 1;
            scheduler.extend(work.id, token);
            let leaves = load.sequences[work.id as usize].3 == *left;
            if *left == 0 || leaves {
                scheduler.remove(work.id);
            }
        }
    }
    assert_eq!(scheduler.occupancy().blocks_held, 0);
    scheduler.forget_prefixes();
    assert_eq!(scheduler.occupancy().blocks_idle, 0);
}

/// Within the limits, each sequence once, and none that is parked.
fn check_plan(plan: &[Work], load: &Load, parked: &BTreeSet<SequenceId>) {
    assert!(!plan.is_empty() || !parked.is_empty());
    assert!(plan.len() <= load.limits.max_running);
    let tokens = plan.iter().map(|work| work.tokens).sum::<usize>();
    assert!(tokens <= load.limits.max_batched_tokens);
    let ids: BTreeSet<SequenceId> = plan.iter().map(|work| work.id).collect();
    assert_eq!(ids.len(), plan.len());
    assert!(ids.is_disjoint(parked));
}

proptest! {
    /// Every sequence ends, in steps within the limits; each position attends to keys and values of its own prefix,
    /// however blocks are shared, forgotten and given up; at the end no block is held.
    #[test]
    fn nobody_starves_and_nobody_reads_what_is_not_its_own(load in load()) {
        check_load(&load, &[]);
    }

    /// The same, whatever steps are abandoned and whoever is parked, as long as everybody is unparked at last.
    #[test]
    fn abandoned_steps_and_parked_sequences_change_nothing_in_the_end(
        load in load(),
        faults in prop::collection::vec(fault(), 0..60),
    ) {
        check_load(&load, &faults);
    }
}
