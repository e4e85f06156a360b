//! Staying awake while a step is in flight: to wake a thread takes longer than a round trip.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a thread that waits for the next message looks for it again and again before it sleeps. Between two looks
/// it offers its core to other threads. Zero: it sleeps at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BusyPoll(pub Duration);

impl BusyPoll {
    /// Waits for `work` on a single-threaded runtime.
    pub async fn wait<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let until = Instant::now() + self.0;
        while Instant::now() < until {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = offer_core() => {}
            }
        }
        work.await
    }

    /// Waits for the next of some messages; nothing when there will be none.
    pub fn receive<T>(self, messages: &Receiver<T>) -> Option<T> {
        let until = Instant::now() + self.0;
        while Instant::now() < until {
            if let Ok(message) = messages.try_recv() {
                return Some(message);
            }
            std::thread::yield_now();
        }
        messages.recv().ok()
    }
}

/// Lets the runtime look for what has come, and other threads compute.
async fn offer_core() {
    tokio::task::yield_now().await;
    std::thread::yield_now();
}

/// Keeps the thread of a single-threaded runtime awake for a while after each message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakefulness {
    seen: Arc<AtomicBool>,
    begins: Arc<Notify>,
}

impl Wakefulness {
    /// A message has come or gone.
    pub(crate) fn note(&self) {
        self.seen.store(true, Ordering::Relaxed);
        self.begins.notify_one();
    }

    /// Never ends.
    pub(crate) async fn keep(&self, BusyPoll(time): BusyPoll) {
        if time.is_zero() {
            return std::future::pending().await;
        }
        loop {
            self.begins.notified().await;
            let mut until = Instant::now() + time;
            while Instant::now() < until {
                offer_core().await;
                if self.seen.swap(false, Ordering::Relaxed) {
                    until = Instant::now() + time;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    const POLLS: [BusyPoll; 2] = [BusyPoll(Duration::ZERO), BusyPoll(Duration::from_millis(20))];

    #[tokio::test]
    async fn work_that_is_late_is_waited_for() {
        for poll in POLLS {
            for late in [0, 5, 50] {
                let work = tokio::time::sleep(Duration::from_millis(late)).map(|()| late);
                assert_eq!(poll.wait(work).await, late);
            }
        }
    }

    #[test]
    fn messages_are_received_until_there_are_no_more() {
        for poll in POLLS {
            let (sender, receiver) = mpsc::channel();
            let sending = std::thread::spawn(move || {
                for late in [0, 5, 50] {
                    std::thread::sleep(Duration::from_millis(late));
                    sender.send(late).unwrap();
                }
            });
            let received: Vec<u64> = std::iter::from_fn(|| poll.receive(&receiver)).collect();
            assert_eq!(received, [0, 5, 50]);
            sending.join().unwrap();
        }
    }

    #[tokio::test]
    async fn a_thread_stays_awake_after_a_message_and_sleeps_later() {
        let awake = Wakefulness::default();
        let keeping = tokio::spawn({
            let awake = awake.clone();
            async move { awake.keep(BusyPoll(Duration::from_millis(20))).await }
        });
        awake.note();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // It has stopped looking: what was noted since is still there.
        awake.seen.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(awake.seen.load(Ordering::Relaxed));
        awake.note();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!awake.seen.load(Ordering::Relaxed));
        keeping.abort();
    }
}
