//! What the engine says of itself to everybody else: numbers that its thread writes and others read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::scheduler::Occupancy;

/// A view of the engine that is as old as its last step.
#[derive(Clone)]
pub(crate) struct EngineStatus(Arc<Shared>);

struct Shared {
    started: Instant,
    steps: AtomicU64,
    /// Those of them that went in two micro-batches.
    steps_in_two: AtomicU64,
    /// Milliseconds after `started`.
    last_progress: AtomicU64,
    /// Whether there is work for a step.
    working: AtomicBool,
    /// Guards nothing but the copy itself.
    occupancy: Mutex<Occupancy>,
}

impl EngineStatus {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            started: Instant::now(),
            steps: AtomicU64::new(0),
            steps_in_two: AtomicU64::new(0),
            last_progress: AtomicU64::new(0),
            working: AtomicBool::new(false),
            occupancy: Mutex::new(Occupancy::default()),
        }))
    }

    /// The engine begins to wait for work, or has finished a step.
    pub(crate) fn progress(&self, working: bool) {
        let now = self.0.started.elapsed().as_millis();
        self.0.last_progress.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.working.store(working, Ordering::Relaxed);
    }

    pub(super) fn step_ended(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn step_in_two(&self) {
        self.0.steps_in_two.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, occupancy: Occupancy) {
        *self.0.occupancy.lock().unwrap_or_else(PoisonError::into_inner) = occupancy;
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    pub(crate) fn steps_in_two(&self) -> u64 {
        self.0.steps_in_two.load(Ordering::Relaxed)
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        *self.0.occupancy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long work has been waiting for a step to end; nothing while there is none.
    pub(crate) fn stalled_for(&self) -> Duration {
        if !self.0.working.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.0.last_progress.load(Ordering::Relaxed));
        self.0.started.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_with_work_can_be_stalled() {
        let status = EngineStatus::new();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(status.stalled_for(), Duration::ZERO);
        status.progress(true);
        std::thread::sleep(Duration::from_millis(5));
        assert!(status.stalled_for() >= Duration::from_millis(4));
        status.progress(false);
        assert_eq!(status.stalled_for(), Duration::ZERO);
    }
}
