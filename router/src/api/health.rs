//! Whether the process lives, could serve, and should get traffic: three questions.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::engine::EngineStatus;
use crate::nodes::Topology;

/// Answers for whoever asks, from the moment the process listens.
#[derive(Clone)]
pub(crate) struct Health {
    loaded: Arc<OnceLock<Loaded>>,
    draining: CancellationToken,
    /// Longest time that work may wait for a step to end.
    max_stall: Duration,
}

/// What there is to look at once the model is loaded.
pub(crate) struct Loaded {
    pub(crate) engine: EngineStatus,
    /// `None` when experts are computed in this process.
    pub(crate) topology: Option<Arc<ArcSwap<Topology>>>,
}

impl Health {
    pub(crate) fn new(draining: CancellationToken, max_stall: Duration) -> Self {
        Self { loaded: Arc::default(), draining, max_stall }
    }

    /// The model is loaded.
    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        // It is loaded once.
        let _ = self.loaded.set(loaded);
    }

    /// Takes no more requests.
    pub(crate) fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether a request can be taken: everything is loaded, each expert has a home, and nobody said to stop.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn accepts(&self) -> Result<(), String> {
        if self.draining.is_cancelled() {
            return Err("this router is shutting down".into());
        }
        self.serves()
    }

    fn serves(&self) -> Result<(), String> {
        let Some(loaded) = self.loaded.get() else {
            return Err("the model is being loaded".into());
        };
        let complete = loaded.topology.as_ref().is_none_or(|topology| topology.load().complete);
        if complete { Ok(()) } else { Err("some experts are on no node that stays".into()) }
    }

    /// Whether requests can be answered: also, the engine gets on.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.serves()?;
        let stalled = self.loaded.get().map(|loaded| loaded.engine.stalled_for());
        match stalled.filter(|time| *time > self.max_stall) {
            Some(time) => {
                let seconds = time.as_secs_f64();
                Err(format!("work is waiting, and no step has ended for {seconds:.1} s"))
            }
            None => Ok(()),
        }
    }

    /// Whether somebody who chooses between routers should choose this one: ready, and not draining.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn takes_traffic(&self) -> Result<(), String> {
        self.accepts()?;
        self.ready()
    }

    /// Where experts are on other processes, and it is known which: who can be asked for each.
    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        let topology = self.loaded.get().and_then(|loaded| loaded.topology.as_ref());
        topology.map(|topology| topology.load_full())
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let health = Self::new(CancellationToken::new(), Duration::from_secs(1));
        health.set_loaded(Loaded { engine: EngineStatus::new(), topology: None });
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_stalling_and_draining_are_told_apart() {
        let health = Health::new(CancellationToken::new(), Duration::from_millis(1));
        assert!(health.ready().unwrap_err().contains("loaded"));
        let engine = EngineStatus::new();
        health.set_loaded(Loaded { engine: engine.clone(), topology: None });
        assert_eq!((health.ready(), health.takes_traffic()), (Ok(()), Ok(())));
        engine.progress(true);
        std::thread::sleep(Duration::from_millis(5));
        assert!(health.ready().unwrap_err().contains("no step has ended"));
        assert_eq!(health.accepts(), Ok(()), "a slow step is no reason to refuse");
        engine.progress(false);
        health.drain();
        assert_eq!(health.ready(), Ok(()));
        assert!(health.takes_traffic().is_err());
    }
}
