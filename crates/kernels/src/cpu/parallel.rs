//! Threads that share the items of one operation.

use std::hint::spin_loop;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::Error;

/// Elements that take a thread some ten microseconds: fewer are not worth waking another one.
pub(crate) const ENOUGH_ELEMENTS: usize = 1 << 14;
/// How often the calling thread looks whether the others are done before it offers them its
/// core: some tens of microseconds.
const SPINS: usize = 1_000;
/// How long a thread without work looks for more before it sleeps: longer than between two operations of a step, for
/// waking it takes as long as a small operation.
const AWAKE_FOR: Duration = Duration::from_micros(100);
/// How often it looks before it offers its core to somebody else.
const LOOKS: usize = 64;

/// The cores that this process may use.
pub(crate) fn usable_cores() -> Result<Vec<usize>, Error> {
    let usable = sched_getaffinity(None).map_err(|error| Error::Threads(error.into()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| usable.is_set(core)).collect())
}

/// Keeps the thread that calls on one core.
fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    // The core was usable when the threads were started; if it is not any more, the system goes on deciding.
    let _ = sched_setaffinity(None, &only);
}

/// A calling thread and the threads that help it.
#[derive(Debug)]
pub(crate) struct Workers {
    /// One thread fewer than share the work; none when the calling thread works alone.
    helpers: Vec<JoinHandle<()>>,
    open: Arc<Open>,
    /// The core of the calling thread, if helpers have theirs.
    core_of_caller: Option<usize>,
}

/// What helpers can help with.
#[derive(Debug, Default)]
struct Open {
    /// Guards the regions that are being computed.
    regions: Mutex<Vec<Arc<Region>>>,
    /// How many regions there have been, for a look without the lock.
    added: AtomicUsize,
    /// How many helpers wait for `more`.
    asleep: AtomicUsize,
    more: Condvar,
    ended: AtomicBool,
}

impl Workers {
    #[cfg(test)]
    pub(crate) fn start(threads: NonZeroUsize) -> Result<Self, Error> {
        Self::start_on(threads, &[])
    }

    /// Starts the helpers, each on a core of its own of `cores`, if there are any; the first one is the caller's.
    pub(crate) fn start_on(threads: NonZeroUsize, cores: &[usize]) -> Result<Self, Error> {
        let core_of_caller = cores.first().copied();
        let mut workers = Self { helpers: Vec::new(), open: Arc::default(), core_of_caller };
        for index in 1..threads.get() {
            let open = Arc::clone(&workers.open);
            let core = cores.get(index % cores.len().max(1)).copied();
            let helper = std::thread::Builder::new().name(format!("kernel-{index}"));
            let help = move || {
                core.iter().for_each(|&core| pin(core));
                open.help();
            };
            workers.helpers.push(helper.spawn(help).map_err(Error::Threads)?);
        }
        Ok(workers)
    }

    pub(crate) fn pin_caller(&self) {
        self.core_of_caller.iter().for_each(|&core| pin(core));
    }

    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work` once for each of `0..items`, on any of the threads, in any order.
    ///
    /// The calling thread takes items too, and waits only for items that a helper has begun:
    /// helpers whose cores are busy with something else delay nothing.
    pub(crate) fn run(&self, items: usize, work: impl Fn(usize) + Sync) {
        if self.helpers.is_empty() || items < 2 {
            return (0..items).for_each(work);
        }
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: this only makes the lifetime longer. The reference is used between the claim
        // of an item and the count of its end, and `AllDone` does not let this call return, nor
        // unwind, before each claimed item is counted and all others are beyond claim.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let region = Arc::new(Region::new(work, items));
        let all_done = AllDone { open: &self.open, region: &region };
        self.open.add(&region, items - 1);
        region.drain();
        drop(all_done);
        assert!(!region.panicked.load(Ordering::Relaxed), "a thread that helped panicked");
    }

    /// Splits the rows of `data`, `[rows, cols]`, among the threads when there is enough of it
    /// to be worth waking them; `work` gets the number of its first row and its rows.
    pub(crate) fn for_rows<T: Send>(
        &self,
        data: &mut [T],
        cols: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let rows = data.len() / cols.max(1);
        let rows_per_item =
            (ENOUGH_ELEMENTS / cols.max(1)).max(rows.div_ceil(self.threads() * 8)).max(1);
        let items = rows.div_ceil(rows_per_item);
        let shared = SharedSlice::new(data);
        self.run(items, |item| {
            let first = item * rows_per_item;
            let count = rows_per_item.min(rows - first);
            // SAFETY: items are runs of different rows.
            let part = unsafe { shared.part(first * cols, count * cols) };
            work(first, part);
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.open.ended.store(true, Ordering::Relaxed);
        // Nobody is about to sleep while the lock is held.
        let regions = self.open.lock();
        self.open.more.notify_all();
        drop(regions);
        for helper in self.helpers.drain(..) {
            // A panic of a helper has shown where it happened.
            let _ = helper.join();
        }
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Region>>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a region to the helpers, and wakes as many as can be of use.
    fn add(&self, region: &Arc<Region>, useful: usize) {
        let mut regions = self.lock();
        regions.push(Arc::clone(region));
        self.added.fetch_add(1, Ordering::Release);
        let asleep = self.asleep.load(Ordering::Relaxed);
        drop(regions);
        for _ in 0..asleep.min(useful) {
            self.more.notify_one();
        }
    }

    fn remove(&self, region: &Arc<Region>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, region));
    }

    /// Computes items of whatever there is until the end.
    fn help(&self) {
        while let Some(region) = self.next() {
            // The caller learns of a panic from the region.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| region.drain()));
        }
    }

    /// A region with items that nobody has claimed, once there is one; nothing at the end.
    fn next(&self) -> Option<Arc<Region>> {
        let mut idle_since = Instant::now();
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            let seen = self.added.load(Ordering::Acquire);
            if let Some(region) = unclaimed(&self.lock()) {
                return Some(region);
            }
            if self.adds_in_time(seen, idle_since) {
                continue;
            }
            let mut regions = self.lock();
            self.asleep.fetch_add(1, Ordering::Relaxed);
            while unclaimed(&regions).is_none() && !self.ended.load(Ordering::Relaxed) {
                regions = self.more.wait(regions).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::Relaxed);
            drop(regions);
            idle_since = Instant::now();
        }
    }

    /// Looks, without the lock, whether there are more regions than had been `seen`, until it is time to sleep.
    fn adds_in_time(&self, seen: usize, idle_since: Instant) -> bool {
        while idle_since.elapsed() < AWAKE_FOR {
            for _ in 0..LOOKS {
                if self.added.load(Ordering::Acquire) != seen {
                    return true;
                }
                spin_loop();
            }
            std::thread::yield_now();
        }
        false
    }
}

fn unclaimed(regions: &[Arc<Region>]) -> Option<Arc<Region>> {
    regions.iter().find(|region| region.has_unclaimed()).map(Arc::clone)
}

/// The items of one call.
struct Region {
    work: &'static (dyn Fn(usize) + Sync),
    items: usize,
    /// The next item that nobody has claimed.
    next: AtomicUsize,
    /// How many claimed items have ended.
    done: AtomicUsize,
    /// One of them by a panic.
    panicked: AtomicBool,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("items", &self.items).finish_non_exhaustive()
    }
}

impl Region {
    fn new(work: &'static (dyn Fn(usize) + Sync), items: usize) -> Self {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { work, items, next, done, panicked: AtomicBool::new(false) }
    }

    fn has_unclaimed(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.items
    }

    /// Claims and runs items until there are none.
    fn drain(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.items {
                return;
            }
            let _count = Count(self);
            (self.work)(item);
        }
    }
}

/// Counts an item when it ends, even by a panic.
struct Count<'a>(&'a Region);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.done.fetch_add(1, Ordering::Release);
    }
}

/// Waits, when dropped, for all claimed items of a region, and leaves no others to claim.
struct AllDone<'a> {
    open: &'a Open,
    region: &'a Arc<Region>,
}

impl Drop for AllDone<'_> {
    fn drop(&mut self) {
        let Self { open, region } = self;
        let claimed = region.next.swap(region.items, Ordering::Relaxed).min(region.items);
        open.remove(region);
        let mut looks = 0;
        while region.done.load(Ordering::Acquire) < claimed {
            if looks < SPINS {
                spin_loop();
            } else {
                std::thread::yield_now();
            }
            looks += 1;
        }
    }
}

/// A slice of which several threads write different parts.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, and `part` demands that no two threads hold the same
// element, which is what sending the parts of a split slice to threads would need.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), owner: PhantomData }
    }

    /// Returns `len` elements from `first` on, cut off at the end of the slice.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it does.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub(crate) unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        let first = first.min(self.len);
        let len = len.min(self.len - first);
        // SAFETY: the range was cut to the slice, which is borrowed mutably for 'a, and the
        // caller holds no overlapping part.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The cores that each thread of a device may be on.
    fn cores_of_threads(cores: &[usize]) -> BTreeSet<Vec<usize>> {
        let workers = Workers::start_on(NonZeroUsize::new(2).unwrap(), cores).unwrap();
        workers.pin_caller();
        let seen = Mutex::new(BTreeSet::new());
        let both = std::sync::Barrier::new(2);
        workers.run(2, |_| {
            both.wait();
            seen.lock().unwrap().insert(usable_cores().unwrap());
        });
        seen.into_inner().unwrap()
    }

    #[test]
    fn threads_stay_on_cores_of_their_own_if_they_shall() {
        // On a thread of its own, whose cores are nobody else's business.
        let test = || {
            let usable = usable_cores().unwrap();
            assert_eq!(cores_of_threads(&[]), BTreeSet::from([usable.clone()]));
            let each = usable.iter().take(2).map(|core| vec![*core]);
            assert_eq!(cores_of_threads(&usable), each.collect());
        };
        std::thread::scope(|scope| scope.spawn(test).join().unwrap());
    }

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let workers = Workers::start(NonZeroUsize::new(threads).unwrap()).unwrap();
            for items in [0, 1, 2, 100] {
                let counts: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                workers.run(items, |item| {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    /// Checks many calls of few items.
    fn call_often(workers: &Workers) {
        for round in 0..2_000 {
            let items = round % 9;
            let sum = AtomicUsize::new(0);
            workers.run(items, |item| {
                sum.fetch_add(item + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), items * (items + 1) / 2);
        }
    }

    #[test]
    fn callers_may_share_the_helpers() {
        let workers = Workers::start(NonZeroUsize::new(3).unwrap()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| call_often(&workers));
            }
        });
    }

    /// Gives the helper something to do that lasts until somebody sends, or hangs up.
    fn occupy(workers: &Workers, blocked: std::sync::mpsc::Receiver<()>) {
        let blocked = Mutex::new(blocked);
        let wait = move |_| blocked.lock().unwrap().recv().unwrap_or(());
        let region = Arc::new(Region::new(Box::leak(Box::new(wait)), 1));
        workers.open.add(&region, 1);
        while region.has_unclaimed() {
            std::thread::yield_now();
        }
        workers.open.remove(&region);
    }

    #[test]
    fn helpers_sleep_and_wake() {
        let workers = Workers::start(NonZeroUsize::new(3).unwrap()).unwrap();
        while workers.open.asleep.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        let helped = AtomicUsize::new(0);
        let own = std::thread::current().id();
        while helped.load(Ordering::Relaxed) == 0 {
            workers.run(3, |_| {
                helped
                    .fetch_add(usize::from(std::thread::current().id() != own), Ordering::Relaxed);
                std::thread::yield_now();
            });
        }
    }

    #[test]
    #[should_panic(expected = "a thread that helped panicked")]
    fn a_panic_of_a_helper_is_one_of_the_caller() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let own = std::thread::current().id();
        loop {
            workers.run(50, |_| {
                assert!(std::thread::current().id() == own, "helper");
                std::thread::sleep(Duration::from_millis(1));
            });
        }
    }

    #[test]
    fn a_busy_helper_delays_nothing() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        occupy(&workers, blocked);
        let count = AtomicUsize::new(0);
        workers.run(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
        release.send(()).unwrap();
    }

    #[test]
    #[should_panic(expected = "item 3")]
    fn a_panic_of_the_caller_waits_for_the_others() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        occupy(&workers, blocked);
        let _release = release;
        workers.run(10, |item| assert!(item != 3, "item 3"));
    }

    #[test]
    fn a_panic_leaves_nothing_open() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let broken = || workers.run(10, |item| assert!(item != 3, "item 3"));
        assert!(std::panic::catch_unwind(AssertUnwindSafe(broken)).is_err());
        assert!(workers.open.lock().is_empty());
    }

    #[test]
    fn rows_are_split_without_gaps() {
        let workers = Workers::start(NonZeroUsize::new(3).unwrap()).unwrap();
        for (rows, cols) in [(0, 5), (1, 7), (1000, 33), (3, 40_000)] {
            let mut data = vec![0; rows * cols];
            workers.for_rows(&mut data, cols, |first, part| {
                for (row, values) in part.chunks_mut(cols).enumerate() {
                    values.fill(first + row + 1);
                }
            });
            assert!(data.iter().enumerate().all(|(i, &value)| value == i / cols + 1));
        }
    }
}
