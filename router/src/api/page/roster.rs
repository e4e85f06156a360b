//! The nodes and how they are, those that died a while ago too. No IO; time is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guildhall_cluster::NodeRecord;
use guildhall_ids::NodeId;
use serde::Serialize;

use crate::balancer::LinkState;
use crate::membership::Members;

/// A node that is gone is shown for so long.
const SHOWN_GONE: Duration = Duration::from_secs(300);
/// A node without a link that still has its lease after this is no dead process: a dead one's lease has ended by then.
const LEASE_ENDS: Duration = Duration::from_secs(8);

/// How a node is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeState {
    /// It has what it should hold, and answers.
    Serving,
    /// It does not have all that it should hold yet.
    Loading,
    /// It takes much longer for a call than the others.
    Slow,
    /// It sent what no correct node sends.
    Quarantined,
    /// It ends soon.
    Leaving,
    /// It shall hold nothing.
    Drained,
    /// It does not fit this router.
    Refused,
    /// It is there, and there is no connection to it.
    Unreachable,
    /// It was there, and ended without a word.
    Dead,
    /// It ended as it should.
    Left,
}

/// What is known of the nodes at one moment.
pub(super) struct Seen<'a> {
    pub(super) members: &'a Members,
    pub(super) links: &'a BTreeMap<NodeId, LinkState>,
    /// How many times as long as expected those take that are slow.
    pub(super) slow: &'a BTreeMap<NodeId, f64>,
    pub(super) now: Instant,
    pub(super) unix_ms: u64,
}

/// A node, as it is now or was when it was last seen.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) record: NodeRecord,
    pub(super) state: NodeState,
    /// Why, or how far; may be empty.
    pub(super) reason: String,
    /// When it came into this state, in milliseconds since 1970.
    pub(super) since_unix_ms: u64,
    /// Since when it is not registered.
    gone: Option<Instant>,
}

/// A node that is in another state than before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) node: NodeId,
    /// Nothing for a node that is new.
    pub(super) from: Option<NodeState>,
    pub(super) to: NodeState,
    pub(super) reason: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) nodes: BTreeMap<NodeId, Known>,
}

impl Roster {
    /// Takes in how the nodes are now. Returns what has changed.
    pub(super) fn update(&mut self, seen: &Seen<'_>) -> Vec<Turn> {
        let mut turns = Vec::new();
        let view = &seen.members.view;
        let names: BTreeSet<NodeId> = self.nodes.keys().chain(view.nodes.keys()).cloned().collect();
        for node in names {
            let before = self.nodes.get(&node);
            let from = before.map(|known| known.state);
            let (state, reason) = state_of(seen, &node, from);
            let gone = match view.nodes.contains_key(&node) {
                true => None,
                false => before.and_then(|known| known.gone).or(Some(seen.now)),
            };
            if gone.is_some_and(|gone| seen.now >= gone + SHOWN_GONE) {
                self.nodes.remove(&node);
                continue;
            }
            let since = before.filter(|known| known.state == state).map(|of| of.since_unix_ms);
            let record = view.nodes.get(&node).or(before.map(|known| &known.record));
            let record = record.cloned().unwrap_or_default();
            if from != Some(state) {
                turns.push(Turn { node: node.clone(), from, to: state, reason: reason.clone() });
            }
            let since_unix_ms = since.unwrap_or(seen.unix_ms);
            self.nodes.insert(node, Known { record, state, reason, since_unix_ms, gone });
        }
        turns
    }
}

/// How many experts a node should hold, and how many of those it has.
pub(super) fn progress(members: &Members, node: &NodeId) -> (usize, usize) {
    let placement = members.view.placement.as_ref();
    let Some(assigned) = placement.and_then(|of| of.placement.assignments.get(node)) else {
        return (0, 0);
    };
    let held = members.view.resident.get(node);
    let there =
        held.map_or(0, |held| assigned.iter().filter(|id| held.resident.contains_key(id)).count());
    (assigned.len(), there)
}

/// Goes from what matters most to what matters least. A broken link counts before the lease, which ends seconds later.
fn state_of(seen: &Seen<'_>, node: &NodeId, before: Option<NodeState>) -> (NodeState, String) {
    let view = &seen.members.view;
    let Some(record) = view.nodes.get(node) else {
        return match before {
            Some(NodeState::Leaving | NodeState::Drained | NodeState::Left) => {
                (NodeState::Left, String::new())
            }
            _ => (NodeState::Dead, "its lease has ended".into()),
        };
    };
    if let Some(reason) = seen.members.fit.refused.get(node) {
        return (NodeState::Refused, reason.clone());
    }
    if record.draining {
        return (NodeState::Leaving, "it ends when nobody needs it".into());
    }
    let link = seen.links.get(node).filter(|link| link.instance == Some(record.instance));
    if let Some(lost) = link.and_then(|link| link.lost) {
        return match seen.now.duration_since(lost) < LEASE_ENDS {
            true => (NodeState::Dead, "its connection broke".into()),
            false => (NodeState::Unreachable, "no connection; it still renews its lease".into()),
        };
    }
    if let Some((until, why)) = link.and_then(|link| link.quarantine.as_ref())
        && *until > seen.now
    {
        return (NodeState::Quarantined, why.clone());
    }
    state_of_connected(seen, node)
}

fn state_of_connected(seen: &Seen<'_>, node: &NodeId) -> (NodeState, String) {
    let view = &seen.members.view;
    if view.drains.contains(node) {
        return (NodeState::Drained, "an admin wants it empty".into());
    }
    let (assigned, there) = progress(seen.members, node);
    if there < assigned {
        let unloadable = view.resident.get(node).and_then(|of| of.unloadable.values().next());
        let so_far = format!("{there} of {assigned} experts are loaded");
        return (NodeState::Loading, unloadable.cloned().unwrap_or(so_far));
    }
    match seen.slow.get(node) {
        Some(times) => (NodeState::Slow, format!("{times:.1} times as long as expected")),
        None => (NodeState::Serving, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        members: Members,
        links: BTreeMap<NodeId, LinkState>,
        slow: BTreeMap<NodeId, f64>,
        start: Instant,
        roster: Roster,
    }

    fn a() -> NodeId {
        "a".parse().unwrap()
    }

    impl Scene {
        fn new() -> Self {
            let mut members = Members::default();
            members.view.nodes.insert(a(), NodeRecord { instance: 1, ..NodeRecord::default() });
            let (links, slow, roster) = <_>::default();
            Self { members, links, slow, start: Instant::now(), roster }
        }

        /// The state of node a after so many seconds.
        fn at(&mut self, second: u64) -> Option<NodeState> {
            let now = self.start + Duration::from_secs(second);
            let (members, links, slow) = (&self.members, &self.links, &self.slow);
            self.roster.update(&Seen { members, links, slow, now, unix_ms: second * 1000 });
            self.roster.nodes.get(&a()).map(|known| known.state)
        }

        fn lose_link(&mut self, instance: u64, second: u64) {
            let lost = Some(self.start + Duration::from_secs(second));
            let state = LinkState { instance: Some(instance), lost, quarantine: None };
            self.links.insert(a(), state);
        }
    }

    #[test]
    fn a_node_is_dead_when_its_link_breaks_and_shown_for_minutes() {
        let mut scene = Scene::new();
        assert_eq!(scene.at(0), Some(NodeState::Serving));
        scene.lose_link(1, 10);
        assert_eq!(scene.at(10), Some(NodeState::Dead));
        scene.members.view.nodes.clear();
        assert_eq!(scene.at(15), Some(NodeState::Dead));
        assert_eq!(scene.roster.nodes[&a()].since_unix_ms, 10_000);
        assert_eq!(scene.at(314), Some(NodeState::Dead));
        assert_eq!(scene.at(315), None);
    }

    #[test]
    fn a_node_that_is_started_again_is_not_its_predecessor() {
        let mut scene = Scene::new();
        scene.lose_link(1, 0);
        assert_eq!(scene.at(1), Some(NodeState::Dead));
        scene.members.view.nodes.get_mut(&a()).unwrap().instance = 2;
        assert_eq!(scene.at(2), Some(NodeState::Serving));
    }

    #[test]
    fn a_node_that_renews_its_lease_is_not_dead() {
        let mut scene = Scene::new();
        scene.lose_link(1, 0);
        assert_eq!(scene.at(7), Some(NodeState::Dead));
        assert_eq!(scene.at(8), Some(NodeState::Unreachable));
    }

    #[test]
    fn a_node_that_says_goodbye_has_left() {
        let mut scene = Scene::new();
        scene.members.view.nodes.get_mut(&a()).unwrap().draining = true;
        scene.lose_link(1, 1);
        assert_eq!(scene.at(1), Some(NodeState::Leaving));
        scene.members.view.nodes.clear();
        assert_eq!(scene.at(2), Some(NodeState::Left));
        assert_eq!(scene.at(3), Some(NodeState::Left));
    }

    #[test]
    fn what_matters_most_is_said() {
        let mut scene = Scene::new();
        scene.slow.insert(a(), 7.5);
        assert_eq!(scene.at(0), Some(NodeState::Slow));
        scene.members.view.drains.insert(a());
        assert_eq!(scene.at(1), Some(NodeState::Drained));
        let quarantine = Some((scene.start + Duration::from_secs(9), "it lied".to_owned()));
        scene.links.insert(a(), LinkState { instance: Some(1), lost: None, quarantine });
        assert_eq!(scene.at(2), Some(NodeState::Quarantined));
        assert_eq!(scene.at(9), Some(NodeState::Drained));
        scene.members.fit.refused.insert(a(), "another model".into());
        assert_eq!(scene.at(10), Some(NodeState::Refused));
        assert_eq!(scene.roster.nodes[&a()].reason, "another model");
    }
}
