//! Memory for activations that is used again: fresh pages would cost more than many an operation.

use std::sync::{Mutex, PoisonError};

use crate::cpu::{LANES, Line};

/// Shorter ones are the allocator's business.
const LEAST_LINES: usize = 64;
/// The most lines that are kept for later: 256 MiB.
const MOST_LINES: usize = 4 << 20;

/// Words that begin at a cache line, kept for the next buffer when this one is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    words: usize,
}

impl Buffer {
    /// Returns `words` words with any values: those of an earlier use.
    pub(crate) fn stale(words: usize) -> Self {
        let count = words.div_ceil(LANES);
        let mut pool = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool.take(count);
        drop(pool);
        // Sizes of a few kinds, so that one buffer serves steps of somewhat different sizes.
        let lines = kept.unwrap_or_else(|| bytemuck::zeroed_vec(count.next_power_of_two()));
        Self { lines, words }
    }

    /// Returns `words` zeros.
    pub(crate) fn zeroed(words: usize) -> Self {
        let mut buffer = Self::stale(words);
        buffer.words_mut().fill(0);
        buffer
    }

    pub(crate) fn words(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.words]
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.words]
    }

    pub(crate) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(self.words())
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.words_mut())
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::stale(self.words);
        copy.words_mut().copy_from_slice(self.words());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).give(lines);
    }
}

/// What buffers have left.
static FREE: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), lines: 0 });

struct Pool {
    free: Vec<Vec<Line>>,
    /// Of all that are free.
    lines: usize,
}

impl Pool {
    /// The smallest that is long enough and not much longer.
    fn take(&mut self, count: usize) -> Option<Vec<Line>> {
        let fits = |lines: &Vec<Line>| (count..=count.saturating_mul(4)).contains(&lines.len());
        let fitting = self.free.iter().enumerate().filter(|(_, lines)| fits(lines));
        let (at, _) = fitting.min_by_key(|(_, lines)| lines.len())?;
        let lines = self.free.swap_remove(at);
        self.lines -= lines.len();
        Some(lines)
    }

    fn give(&mut self, lines: Vec<Line>) {
        if lines.len() >= LEAST_LINES && self.lines + lines.len() <= MOST_LINES {
            self.lines += lines.len();
            self.free.push(lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_used_again() {
        let mut pool = Pool { free: Vec::new(), lines: 0 };
        for count in [1, 64, 128, 1024, MOST_LINES] {
            pool.give(bytemuck::zeroed_vec(count));
        }
        assert_eq!(pool.lines, 64 + 128 + 1024);
        assert_eq!(pool.take(70).map(|lines| lines.len()), Some(128));
        assert_eq!(pool.take(70), None, "1024 is too long");
        assert_eq!(pool.take(1024).map(|lines| lines.len()), Some(1024));
        assert_eq!(pool.lines, 64);
    }

    #[test]
    fn a_buffer_is_as_long_as_asked_for_and_begins_with_a_line() {
        for words in [0, 1, 17, 5000] {
            let mut buffer = Buffer::zeroed(words);
            assert_eq!(buffer.words(), vec![0; words]);
            assert!(buffer.words().as_ptr().addr().is_multiple_of(64));
            buffer.words_mut().fill(7);
            assert_eq!(buffer.clone().words(), buffer.words());
        }
    }
}
