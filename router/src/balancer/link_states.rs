//! What a lane knows of its links to nodes, for whoever shows it: a link breaks seconds before a lease ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use guildhall_ids::NodeId;

/// How a lane's link to a node is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LinkState {
    /// The process that it is about; another one of the same name has a link of its own.
    pub(crate) instance: Option<u64>,
    /// Since when there is no link.
    pub(crate) lost: Option<Instant>,
    /// Until when the node is asked for nothing that others have, and why.
    pub(crate) quarantine: Option<(Instant, String)>,
}

impl LinkState {
    /// Every name that [`Self::name`] gives.
    pub(crate) const NAMES: [&str; 3] = ["open", "lost", "quarantine"];

    /// In a word.
    pub(crate) fn name(&self, now: Instant) -> &'static str {
        let [open, lost, quarantine] = Self::NAMES;
        match (&self.quarantine, self.lost) {
            (Some((until, _)), _) if *until > now => quarantine,
            (_, Some(_)) => lost,
            (_, None) => open,
        }
    }
}

/// The links to all nodes.
#[derive(Debug, Default)]
pub(crate) struct LinkStates {
    /// Held for no longer than a copy takes.
    by_node: Mutex<BTreeMap<NodeId, LinkState>>,
}

impl LinkStates {
    /// Calls can go to the node.
    pub(crate) fn opened(&self, node: &NodeId, instance: Option<u64>) {
        self.change(node, |state| (state.instance, state.lost) = (instance, None));
    }

    /// The link broke, or could not be opened; the first time counts until there is one again.
    pub(crate) fn lost(&self, node: &NodeId, instance: Option<u64>, now: Instant) {
        self.change(node, |state| {
            if state.lost.is_none() || state.instance != instance {
                (state.instance, state.lost) = (instance, Some(now));
            }
        });
    }

    /// The node sent what no correct node sends.
    pub(crate) fn quarantined(&self, node: &NodeId, until: Instant, why: &str) {
        self.change(node, |state| state.quarantine = Some((until, why.to_owned())));
    }

    /// It was not the node's fault.
    pub(crate) fn pardoned(&self, node: &NodeId) {
        self.change(node, |state| state.quarantine = None);
    }

    /// How each link is. A node to which there never was one has no entry.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, LinkState> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, node: &NodeId, change: impl FnOnce(&mut LinkState)) {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        change(by_node.entry(node.clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_loss_counts_until_the_link_is_open_again() {
        let (states, node) = (LinkStates::default(), "a".parse::<NodeId>().unwrap());
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let lost = || states.all()[&node].lost;
        states.lost(&node, Some(1), first);
        states.lost(&node, Some(1), second);
        assert_eq!(lost(), Some(first));
        states.lost(&node, Some(2), second);
        assert_eq!(lost(), Some(second), "another process");
        let name = |now| states.all()[&node].name(now);
        assert_eq!(name(first), "lost");
        states.opened(&node, Some(2));
        assert_eq!((lost(), name(first)), (None, "open"));
        states.quarantined(&node, second, "nonsense");
        assert_eq!((name(first), name(second)), ("quarantine", "open"));
    }
}
