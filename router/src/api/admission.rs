//! Who may come in: so many requests and so many waiting tokens, and none while experts are missing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::Health;
use super::refusal::{Refusal, RefusalKind};

/// More than any machine can hold.
const MAX_REQUESTS: usize = 1 << 20;
/// What a refused client is told to wait at least and at most.
const RETRY_BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Decides whether a request is taken now.
#[derive(Clone)]
pub(crate) struct Admission {
    room: Arc<Semaphore>,
    limits: AdmissionLimits,
    waiting_tokens: Arc<AtomicUsize>,
    /// Guards nothing but the pace itself.
    pace: Arc<Mutex<Pace>>,
    health: Health,
}

/// How much is taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    /// Sequences, running and waiting.
    pub(crate) sequences: usize,
    /// Tokens of prompts that wait; one prompt is taken however long it is.
    pub(crate) waiting_tokens: usize,
}

/// A place for a request; dropping it makes room for the next.
#[derive(Debug)]
pub(crate) struct Permit {
    _room: OwnedSemaphorePermit,
    pace: Arc<Mutex<Pace>>,
}

/// Tokens of a prompt in the queue; dropped when the prompt is computed.
#[derive(Debug)]
pub(crate) struct WaitingTokens {
    waiting: Arc<AtomicUsize>,
    tokens: usize,
}

/// How fast places become free.
#[derive(Debug)]
struct Pace {
    last: Instant,
    /// Moving average of the time between two.
    interval: Duration,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits, health: Health) -> Self {
        let sequences = limits.sequences.min(MAX_REQUESTS);
        Self {
            room: Arc::new(Semaphore::new(sequences)),
            limits: AdmissionLimits { sequences, ..limits },
            waiting_tokens: Arc::default(),
            pace: Arc::new(Mutex::new(Pace { last: Instant::now(), interval: Duration::ZERO })),
            health,
        }
    }

    /// Sequences that are running or waiting.
    pub(crate) fn taken(&self) -> usize {
        self.limits.sequences - self.room.available_permits()
    }

    /// Ends when no request is running or waiting any more.
    pub(crate) async fn emptied(&self) {
        let all = u32::try_from(self.limits.sequences).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.room.acquire_many(all).await;
    }

    /// A place for a request of `n` sequences.
    pub(crate) fn enter(&self, n: usize) -> Result<Permit, Refusal> {
        let limit = self.limits.sequences;
        if n > limit {
            return Err(Refusal::invalid("n", format!("{n} is over {limit}, all that can wait")));
        }
        self.health.accepts().map_err(|why| {
            Refusal::new(RefusalKind::Unavailable, why).retry_after(RETRY_BETWEEN.0)
        })?;
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(n) {
            Ok(room) => Ok(Permit { _room: room, pace: Arc::clone(&self.pace) }),
            Err(_) => {
                let what = format!("{limit} sequences are running or waiting");
                Err(Refusal::new(RefusalKind::Full, what).retry_after(self.retry_after()))
            }
        }
    }

    /// Room in the queue for a prompt.
    pub(crate) fn queue(&self, tokens: usize) -> Result<WaitingTokens, Refusal> {
        let limit = self.limits.waiting_tokens;
        let fits = |waiting| match waiting {
            0 => Some(tokens),
            _ => Some(waiting + tokens).filter(|sum| *sum <= limit),
        };
        match self.waiting_tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(WaitingTokens { waiting: Arc::clone(&self.waiting_tokens), tokens }),
            Err(waiting) => {
                let what = format!(
                    "{waiting} tokens are waiting, and with {tokens} more it would be over {limit}"
                );
                Err(Refusal::new(RefusalKind::Full, what).retry_after(self.retry_after()))
            }
        }
    }

    /// About how long until a tenth of all places have become free.
    fn retry_after(&self) -> Duration {
        let interval = self.pace.lock().unwrap_or_else(PoisonError::into_inner).interval;
        let places = u32::try_from(self.limits.sequences / 10).unwrap_or(u32::MAX).max(1);
        interval.saturating_mul(places).clamp(RETRY_BETWEEN.0, RETRY_BETWEEN.1)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.interval = pace.interval.mul_f64(0.9) + (now - pace.last).mul_f64(0.1);
        pace.last = now;
    }
}

impl Drop for WaitingTokens {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(sequences: usize, waiting_tokens: usize) -> Admission {
        Admission::new(AdmissionLimits { sequences, waiting_tokens }, Health::for_tests())
    }

    #[test]
    fn places_come_back() {
        let admission = admission(3, 10);
        let first = admission.enter(2).unwrap();
        assert_eq!(admission.taken(), 2);
        let refused = admission.enter(2).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Full);
        assert!(refused.retry_after.unwrap() >= Duration::from_secs(1));
        assert_eq!(admission.enter(4).unwrap_err().field.as_deref(), Some("n"), "never");
        drop(first);
        assert!(admission.enter(3).is_ok());
        assert_eq!(admission.taken(), 0);
    }

    #[test]
    fn the_queue_is_bounded_by_tokens_but_takes_any_first_prompt() {
        let admission = admission(3, 10);
        let long = admission.queue(50).unwrap();
        assert_eq!(admission.queue(1).unwrap_err().kind, RefusalKind::Full);
        drop(long);
        let _six = admission.queue(6).unwrap();
        let _four = admission.queue(4).unwrap();
        assert!(admission.queue(1).is_err());
    }
}
