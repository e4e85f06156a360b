//! Memory for what stays long, weights and caches, in large pages where the system gives them.
//!
//! A page of 4 KiB is read faster than the processor finds the next one. Most weights are smaller than a large page, so
//! they lie one after the other in chunks that are asked for at once.

use std::alloc::{Layout, alloc, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cpu::Line;
use crate::error::Error;

/// The size of a large page on x86-64, in bytes.
const LARGE_PAGE: usize = 2 << 20;
/// Lines of a chunk for many: 64 MiB.
const CHUNK_LINES: usize = (64 << 20) / size_of::<Line>();

/// Lines that nobody else has.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Inside of the chunk.
    start: NonNull<Line>,
    len: usize,
    /// Frees the memory with the last of its lines.
    _chunk: Arc<Chunk>,
}

// SAFETY: it owns its lines.
unsafe impl Send for Lines {}
// SAFETY: as above; they change through `&mut` only.
unsafe impl Sync for Lines {}

impl Lines {
    /// Returns `count` zero lines for `what`; `None` is a count that overflowed.
    pub(crate) fn zeroed(what: &'static str, count: Option<usize>) -> Result<Self, Error> {
        let bytes = count.and_then(|count| count.checked_mul(size_of::<Line>()));
        let no_room = || Error::OutOfMemory { what, bytes: bytes.unwrap_or(usize::MAX) };
        let len = count.filter(|_| bytes.is_some()).ok_or_else(no_room)?;
        let (chunk, first) =
            CURRENT.lock().unwrap_or_else(PoisonError::into_inner).take(len).ok_or_else(no_room)?;
        // SAFETY: the chunk has `len` lines from there on that were given to nobody else; zeros are lines.
        let start = unsafe {
            let start = chunk.start.add(first);
            start.write_bytes(0, len);
            start
        };
        Ok(Self { start, len, _chunk: chunk })
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: it owns as many lines, which were written once.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Lines {
    /// Gives the pages back at once, whoever else is in the chunk.
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        {
            const PAGE: usize = 4096;
            let address = self.start.as_ptr().addr();
            let first = address.next_multiple_of(PAGE);
            let end = (address + size_of_val(&**self)) / PAGE * PAGE;
            if first < end {
                // SAFETY: whole pages of lines that nobody uses any more.
                unsafe {
                    let start = self.start.as_ptr().byte_add(first - address);
                    libc::madvise(start.cast(), end - first, libc::MADV_DONTNEED);
                }
            }
        }
    }
}

/// Memory of which parts are given away until its end, never twice.
#[derive(Debug)]
struct Chunk {
    start: NonNull<Line>,
    layout: Layout,
}

// SAFETY: only `Lines` uses the memory, each its own part.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(lines: usize) -> Option<Self> {
        let layout = Layout::array::<Line>(lines).ok()?.align_to(LARGE_PAGE).ok()?.pad_to_align();
        // SAFETY: there is at least one line.
        let start: NonNull<Line> = NonNull::new(unsafe { alloc(layout) })?.cast();
        // SAFETY: the memory is ours, and the advice changes nothing but its pages.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE);
        }
        Some(Self { start, layout })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) };
    }
}

/// The chunk that is being given away.
static CURRENT: Mutex<Current> = Mutex::new(Current { chunk: None, used: 0 });

struct Current {
    chunk: Option<Arc<Chunk>>,
    /// Lines.
    used: usize,
}

impl Current {
    /// Returns a chunk and the first of `len` of its lines; nothing if there is no room.
    fn take(&mut self, len: usize) -> Option<(Arc<Chunk>, usize)> {
        if len > CHUNK_LINES / 2 {
            return Some((Arc::new(Chunk::new(len)?), 0));
        }
        if self.chunk.is_none() || self.used + len > CHUNK_LINES {
            *self = Self { chunk: Some(Arc::new(Chunk::new(CHUNK_LINES)?)), used: 0 };
        }
        let first = self.used;
        self.used += len;
        self.chunk.clone().map(|chunk| (chunk, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_apart_and_stay_when_others_go() {
        let sizes =
            [1, 100, CHUNK_LINES / 2, 5000, CHUNK_LINES / 3, CHUNK_LINES, 7, CHUNK_LINES / 2 - 9];
        let mut kept = Vec::new();
        for (number, len) in (1..).zip(sizes.into_iter().cycle().take(24)) {
            let mut lines = Lines::zeroed("a test", Some(len)).unwrap();
            let ends = [0, len - 1];
            assert!(ends.iter().all(|&at| lines[at].0 == [0; 16]), "{number}");
            ends.iter().for_each(|&at| lines[at].0 = [number; 16]);
            if number % 3 != 0 {
                kept.push((number, lines));
            }
        }
        for (number, lines) in &kept {
            assert!(
                [0, lines.len() - 1].iter().all(|&at| lines[at].0 == [*number; 16]),
                "{number}"
            );
        }
    }

    #[test]
    fn no_lines_are_no_lines_and_too_many_are_refused() {
        assert!(Lines::zeroed("nothing", Some(0)).unwrap().is_empty());
        for count in [None, Some(usize::MAX), Some(usize::MAX / 64), Some(1 << 56)] {
            let refused = Lines::zeroed("too much", count);
            assert!(
                matches!(refused, Err(Error::OutOfMemory { what: "too much", .. })),
                "{count:?}"
            );
        }
    }
}
