//! Which sequences run, and which of their tokens go into the next step.

use std::collections::{BTreeSet, VecDeque};

use super::{BlockPool, PrefixHashes};

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

/// A sequence that joins the queue. Its longest form must fit [`Scheduler::capacity_tokens`].
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Names of the blocks of its prompt, at least one token.
    pub(crate) hashes: PrefixHashes,
    /// Whether it may begin with blocks that others have computed.
    pub(crate) reads_cache: bool,
}

/// Queues sequences and plans steps.
///
/// Every running sequence that is past its prompt gets its one token in every step; what is left of the step goes to
/// prompts, the oldest first, in chunks. A sequence begins to run when there are blocks for all tokens that it has,
/// and gets further ones as it grows. When there are none left, the youngest sequence gives its blocks up and waits
/// again, in the order of its arrival; it computes its tokens anew later, except those that are still remembered.
/// The oldest sequence never gives way, so somebody always advances.
///
/// A parked sequence keeps its place and its blocks, but is in no step until it is unparked. It gives its blocks up
/// before anybody else does, and takes none meanwhile.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    /// In the order of arrival.
    waiting: VecDeque<Entry>,
    /// In the order of arrival.
    running: Vec<Running>,
    /// Some of both.
    parked: BTreeSet<SequenceId>,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    id: SequenceId,
    /// Of all tokens that are known: the prompt, then what was generated.
    hashes: PrefixHashes,
    reads_cache: bool,
    prompt: usize,
    /// Tokens of the prompt that the cache had when the sequence first began to run.
    cached: Option<usize>,
}

#[derive(Debug)]
struct Running {
    entry: Entry,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Blocks at the beginning that are remembered, or were found.
    remembered: usize,
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
}

/// Since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    preemptions: u64,
    queried_tokens: u64,
    hit_tokens: u64,
}

/// How full everything is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) waiting_tokens: usize,
    pub(crate) blocks: usize,
    pub(crate) blocks_held: usize,
    pub(crate) blocks_idle: usize,
    pub(crate) block_tokens: usize,
    pub(crate) preemptions: u64,
    pub(crate) queried_tokens: u64,
    pub(crate) hit_tokens: u64,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, pool: BlockPool) -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Self { limits, pool, waiting, running, parked: BTreeSet::new(), counts: Counts::default() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.pool.block_tokens()
    }

    /// The longest sequence that can ever run.
    pub(crate) fn capacity_tokens(&self) -> usize {
        self.pool.total() * self.pool.block_tokens()
    }

    /// Queues a sequence; `id` is above every earlier one.
    pub(crate) fn add(&mut self, id: SequenceId, arrival: Arrival) {
        let Arrival { hashes, reads_cache } = arrival;
        let prompt = hashes.tokens();
        debug_assert!(prompt > 0 && prompt <= self.capacity_tokens());
        self.waiting.push_back(Entry { id, hashes, reads_cache, prompt, cached: None });
    }

    /// Forgets a sequence, waiting or running, and frees its blocks.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.parked.remove(&id);
        self.waiting.retain(|entry| entry.id != id);
        if let Some(at) = self.position(id) {
            let running = self.running.remove(at);
            self.pool.release(&running.blocks);
        }
    }

    /// A token was sampled for a running sequence.
    pub(crate) fn extend(&mut self, id: SequenceId, token: u32) {
        if let Some(at) = self.position(id) {
            self.running[at].entry.hashes.push(token);
        }
    }

    /// The step that was planned has been computed: its full blocks can be found from now on.
    pub(crate) fn computed(&mut self, plan: &[Work]) {
        for work in plan {
            let Some(at) = self.position(work.id) else { continue };
            let running = &mut self.running[at];
            let full = running.computed / self.pool.block_tokens();
            for index in running.remembered..full {
                self.pool.remember(running.blocks[index], running.entry.hashes.full()[index]);
            }
            running.remembered = full;
        }
    }

    /// The step that was planned last has not been computed: the next ones compute its tokens again.
    pub(crate) fn abandon(&mut self, plan: &[Work]) {
        for work in plan {
            if let Some(at) = self.position(work.id) {
                self.running[at].computed = work.first_position;
            }
        }
    }

    /// Leaves a sequence out of all steps from now on.
    pub(crate) fn park(&mut self, id: SequenceId) {
        if self.position(id).is_some() {
            self.parked.insert(id);
        }
    }

    /// Lets a sequence take part in steps again.
    pub(crate) fn unpark(&mut self, id: SequenceId) {
        self.parked.remove(&id);
    }

    /// The blocks of a running sequence; none of any other.
    pub(crate) fn blocks(&self, id: SequenceId) -> &[u32] {
        self.position(id).map_or(&[], |at| &self.running[at].blocks)
    }

    /// Tokens of the prompt that were found in the cache when the sequence began to run.
    pub(crate) fn cached_tokens(&self, id: SequenceId) -> usize {
        self.position(id).and_then(|at| self.running[at].entry.cached).unwrap_or(0)
    }

    /// Forgets every prefix that nobody uses; says how many blocks that were.
    pub(crate) fn forget_prefixes(&mut self) -> usize {
        self.pool.forget_all()
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        let blocks = self.pool.total();
        Occupancy {
            running: self.running.len(),
            waiting: self.waiting.len(),
            waiting_tokens: self.waiting.iter().map(|entry| entry.hashes.tokens()).sum(),
            blocks,
            blocks_held: blocks - self.pool.available(),
            blocks_idle: self.pool.idle(),
            block_tokens: self.pool.block_tokens(),
            preemptions: self.counts.preemptions,
            queried_tokens: self.counts.queried_tokens,
            hit_tokens: self.counts.hit_tokens,
        }
    }

    /// The next step; what it names counts as computed for the step after, unless it is abandoned. Not empty while
    /// there are sequences and none is parked.
    pub(crate) fn plan(&mut self) -> Vec<Work> {
        // Who has just given its blocks up would only get them back to lose them again.
        if self.grow() {
            self.admit();
        }
        let mut room = self.limits.max_batched_tokens;
        let mut plan = Vec::new();
        let parked = &self.parked;
        let taking_part =
            self.running.iter_mut().filter(|running| !parked.contains(&running.entry.id));
        let (decoding, prefilling): (Vec<_>, Vec<_>) =
            taking_part.partition(|running| running.is_decoding());
        for running in decoding.into_iter().chain(prefilling) {
            let tokens = running.left().min(room);
            if tokens > 0 {
                room -= tokens;
                plan.push(running.work(tokens));
            }
        }
        plan
    }

    /// Gives every running sequence the blocks for all that it knows, the oldest first. Says whether nobody had to
    /// give way.
    fn grow(&mut self) -> bool {
        let mut at = 0;
        let mut all_stay = true;
        while at < self.running.len() {
            let running = &self.running[at];
            // A parked sequence has the blocks for what it knows.
            let needed = self.pool.blocks_for(running.entry.hashes.tokens());
            match self.pool.take(needed - running.blocks.len()) {
                Some(more) => {
                    self.running[at].blocks.extend(more);
                    at += 1;
                }
                None => {
                    all_stay = false;
                    let gone = self.preempt();
                    at -= usize::from(gone < at);
                }
            }
        }
        all_stay
    }

    /// The youngest of the parked sequences gives its blocks up, or else the youngest of all. Says which that was.
    fn preempt(&mut self) -> usize {
        let is_parked = |running: &Running| self.parked.contains(&running.entry.id);
        let parked = self.running.iter().rposition(is_parked);
        let gone = parked.unwrap_or(self.running.len() - 1);
        let running = self.running.remove(gone);
        self.pool.release(&running.blocks);
        self.counts.preemptions += 1;
        let at = self.waiting.partition_point(|entry| entry.id < running.entry.id);
        self.waiting.insert(at, running.entry);
        gone
    }

    /// Lets waiting sequences run, in the order of their arrival. Nobody overtakes, but whoever is parked is
    /// overtaken: a long sequence would wait for ever behind short ones.
    fn admit(&mut self) {
        let taking_part = self.running.iter().filter(|r| !self.parked.contains(&r.entry.id));
        let mut backlog: usize = taking_part.map(Running::left).sum();
        while self.running.len() < self.limits.max_running
            && backlog < self.limits.max_batched_tokens
        {
            let next = self.waiting.iter().position(|entry| !self.parked.contains(&entry.id));
            let Some(next) = next else { return };
            let Some((found, blocks)) = self.room_for(next) else { return };
            let Some(entry) = self.waiting.remove(next) else { return };
            let running = self.start(entry, found, blocks);
            backlog += running.left();
            let at = self.running.partition_point(|other| other.entry.id < running.entry.id);
            self.running.insert(at, running);
        }
    }

    /// Takes the blocks that a waiting sequence needs, if there are enough: how many of them the cache had, and all.
    fn room_for(&mut self, next: usize) -> Option<(usize, Vec<u32>)> {
        let next = self.waiting.get(next)?;
        let known = next.hashes.tokens();
        // At least one token is computed, because its logits are needed.
        let useful = if next.reads_cache { (known - 1) / self.pool.block_tokens() } else { 0 };
        let hashes = &next.hashes.full()[..useful];
        let (mut blocks, idle) = self.pool.find(hashes);
        if let Some(missing) = hashes.get(blocks.len()) {
            let index = blocks.len();
            let end = (index + 1) * self.pool.block_tokens();
            let computes = |r: &Running| {
                let takes_part = !self.parked.contains(&r.entry.id);
                takes_part && r.computed < end && r.entry.hashes.full().get(index) == Some(missing)
            };
            // Somebody is about to compute just this block: wait a few steps and find it.
            if self.running.iter().any(computes) {
                return None;
            }
        }
        let found = blocks.len();
        let fresh = self.pool.blocks_for(known) - found;
        // Everybody who runs may need a block soon, and would have to take it from somebody.
        if fresh + idle + self.running.len() > self.pool.available() {
            return None;
        }
        for &block in &blocks {
            self.pool.hold(block);
        }
        blocks.extend(self.pool.take(fresh)?);
        Some((found, blocks))
    }

    fn start(&mut self, mut entry: Entry, found: usize, blocks: Vec<u32>) -> Running {
        let computed = found * self.pool.block_tokens();
        if entry.cached.is_none() {
            let cached = computed.min(entry.prompt);
            entry.cached = Some(cached);
            self.counts.queried_tokens += entry.prompt as u64;
            self.counts.hit_tokens += cached as u64;
        }
        Running { entry, computed, remembered: found, blocks }
    }

    fn position(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |running| running.entry.id).ok()
    }
}

impl Running {
    /// Tokens that are known and not computed.
    fn left(&self) -> usize {
        self.entry.hashes.tokens() - self.computed
    }

    fn is_decoding(&self) -> bool {
        self.computed > 0 && self.left() == 1
    }

    fn work(&mut self, tokens: usize) -> Work {
        let first_position = self.computed;
        self.computed += tokens;
        Work { id: self.entry.id, first_position, tokens, samples: self.left() == 0 }
    }
}
