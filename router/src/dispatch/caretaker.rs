//! A thread that drives a dispatcher while the lane computes something else: frames leave, answers come in, and whoever
//! fails is replaced meanwhile.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::dispatcher::Dispatcher;
use crate::Error;

/// Has a dispatcher or not; whoever lends one knows.
pub(crate) struct Caretaker {
    lent: Option<SyncSender<(Box<Dispatcher>, Arc<Runtime>)>>,
    back: Receiver<Box<Dispatcher>>,
    /// Says that the dispatcher is wanted back.
    wanted: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Caretaker {
    /// Starts the thread, which sleeps until it is lent something.
    pub(crate) fn start() -> Result<Self, Error> {
        let (lent, loans) = sync_channel::<(Box<Dispatcher>, Arc<Runtime>)>(1);
        let (give_back, back) = sync_channel(1);
        let wanted = Arc::new(Notify::new());
        let until = Arc::clone(&wanted);
        let take_care = move || {
            while let Ok((mut dispatcher, runtime)) = loans.recv() {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = until.notified() => {}
                        () = dispatcher.tend_all() => {}
                    }
                });
                if give_back.send(dispatcher).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("lane-0-away".into())
            .spawn(take_care)
            .map_err(|source| Error::System { what: "starting a thread of the lane", source })?;
        Ok(Self { lent: Some(lent), back, wanted, thread: Some(thread) })
    }

    /// Takes the dispatcher, whose connections live on this runtime.
    pub(super) fn lend(&self, dispatcher: Box<Dispatcher>, runtime: &Arc<Runtime>) {
        if let Some(lent) = &self.lent {
            // If the thread has ended it has panicked, which `take_back` passes on.
            let _ = lent.send((dispatcher, Arc::clone(runtime)));
        }
    }

    /// Gives the dispatcher back.
    pub(super) fn take_back(&mut self) -> Box<Dispatcher> {
        self.wanted.notify_one();
        self.back.recv().unwrap_or_else(|_| {
            let ended = self.thread.take().map(JoinHandle::join);
            resume_unwind(ended.and_then(Result::err).unwrap_or_else(|| Box::new("it has ended")))
        })
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        self.wanted.notify_one();
        self.lent = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has shown where it happened.
            let _ = thread.join();
        }
    }
}
