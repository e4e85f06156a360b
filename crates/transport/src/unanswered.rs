//! The calls of one link that have not been answered, and whether an answer fits.

use std::collections::HashMap;

use crate::{Call, FrameShape, NodeEvent};

/// What every kind of link checks its peer against.
pub(crate) struct Unanswered {
    shape: FrameShape,
    limit: usize,
    // Call id → pairs asked for.
    pairs: HashMap<u64, usize>,
}

impl Unanswered {
    pub(crate) fn new(shape: FrameShape, limit: usize) -> Self {
        Self { shape, limit, pairs: HashMap::new() }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pairs.len() >= self.limit
    }

    pub(crate) fn add(&mut self, call: &Call) {
        self.pairs.insert(call.id, call.pairs.len());
    }

    /// Removes the call that `event` answers; fails if there is none or the outputs are of another length.
    pub(crate) fn settle(&mut self, event: &NodeEvent) -> Result<(), String> {
        let id = match event {
            NodeEvent::Outputs(outputs) => outputs.id,
            NodeEvent::Failure(failure) => failure.id,
            NodeEvent::Draining => return Ok(()),
        };
        let Some(pairs) = self.pairs.remove(&id) else {
            return Err(format!("an answer to unknown call {id}"));
        };
        if let NodeEvent::Outputs(outputs) = event {
            let (given, expected) = (outputs.values.len(), pairs * self.shape.row_bytes());
            if given != expected {
                return Err(format!("{given} bytes of outputs for {pairs} pairs, not {expected}"));
            }
        }
        Ok(())
    }
}
