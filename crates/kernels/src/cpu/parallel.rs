//! Threads that share the items of one operation.

use std::hint::spin_loop;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Error;

/// Elements that take a thread some ten microseconds: fewer are not worth waking another one.
pub(crate) const ENOUGH_ELEMENTS: usize = 1 << 14;
/// How often the calling thread looks whether the others are done before it offers them its
/// core: some tens of microseconds.
const SPINS: usize = 1_000;

/// A calling thread and the threads that help it.
#[derive(Debug)]
pub(crate) struct Workers {
    /// One thread fewer than share the work; `None` when the calling thread works alone.
    helpers: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Workers {
    pub(crate) fn start(threads: NonZeroUsize) -> Result<Self, Error> {
        let threads = threads.get();
        if threads == 1 {
            return Ok(Self { helpers: None, threads });
        }
        let helpers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .thread_name(|index| format!("kernel-{}", index + 1))
            .build()
            .map_err(Error::Threads)?;
        Ok(Self { helpers: Some(helpers), threads })
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` once for each of `0..items`, on any of the threads, in any order.
    ///
    /// The calling thread takes items too, and waits only for items that a helper has begun:
    /// helpers whose cores are busy with something else delay nothing.
    pub(crate) fn run(&self, items: usize, work: impl Fn(usize) + Sync) {
        let helping = self.threads.min(items).saturating_sub(1);
        let (Some(pool), true) = (&self.helpers, helping > 0) else {
            return (0..items).for_each(work);
        };
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: this only makes the lifetime longer. The reference is used between the claim
        // of an item and the count of its end, and `AllDone` does not let this call return, nor
        // unwind, before each claimed item is counted and all others are beyond claim.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        let region =
            Arc::new(Region { work, items, next: AtomicUsize::new(0), done: AtomicUsize::new(0) });
        let all_done = AllDone(&region);
        for _ in 0..helping {
            let region = Arc::clone(&region);
            pool.spawn(move || region.drain());
        }
        region.drain();
        drop(all_done);
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
            (ENOUGH_ELEMENTS / cols.max(1)).max(rows.div_ceil(self.threads * 8)).max(1);
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

/// The items of one call.
struct Region {
    work: &'static (dyn Fn(usize) + Sync),
    items: usize,
    /// The next item that nobody has claimed.
    next: AtomicUsize,
    /// How many claimed items have ended.
    done: AtomicUsize,
}

impl Region {
    /// Claims and runs items until there are none.
    fn drain(&self) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= self.items {
                return;
            }
            let _count = Count(&self.done);
            (self.work)(item);
        }
    }
}

/// Counts an item when it ends, even by a panic.
struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Waits, when dropped, for all claimed items of a region, and leaves no others to claim.
struct AllDone<'a>(&'a Region);

impl Drop for AllDone<'_> {
    fn drop(&mut self) {
        let claimed = self.0.next.swap(self.0.items, Ordering::Relaxed).min(self.0.items);
        let mut looks = 0;
        while self.0.done.load(Ordering::Acquire) < claimed {
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
    use super::*;

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

    #[test]
    fn a_busy_helper_delays_nothing() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        workers.helpers.as_ref().unwrap().spawn(move || blocked.recv().unwrap_or(()));
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
        workers.helpers.as_ref().unwrap().spawn(move || blocked.recv().unwrap_or(()));
        let _release = release;
        workers.run(10, |item| assert!(item != 3, "item 3"));
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
