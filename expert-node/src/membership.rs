//! The node's place in the cluster: says who it is, comes to hold what the placement assigns to it, says what it holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guildhall_cluster::{Key, NodeRecord, ResidentRecord, Session, View};
use guildhall_ids::{ExpertId, NodeId};
use guildhall_telemetry::error_chain;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Error;
use crate::reconcile::{Reconciler, Todo};
use crate::shard::{Pace, Shard};

/// Experts that are loaded in one go before it is said what is there.
const BATCH: Duration = Duration::from_millis(100);
/// While everything is served elsewhere, loading takes one part in this many of a core's time.
const LEISURE: u32 = 5;
/// Longest time between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What came of each expert that was tried, and how long all took.
type Loaded = (Vec<(ExpertId, Result<(), Error>)>, Duration);

/// A node that follows the placement.
pub(crate) struct Membership {
    node: NodeId,
    session: Session,
    prefix: String,
    shard: Arc<Shard>,
    reconciler: Reconciler,
    record: NodeRecord,
    loading: Option<JoinHandle<Loaded>>,
    /// Nothing is loaded before, unless somebody waits for it.
    leisure_until: Instant,
}

/// The node's own say about its end.
#[derive(Clone)]
pub(crate) struct Leaving {
    draining: watch::Sender<bool>,
    /// Whether nobody depends on this node.
    free: watch::Receiver<bool>,
}

impl Leaving {
    /// Says that the node is about to leave, and waits until nobody depends on it, at most `patience`. Returns whether
    /// that came to be.
    pub(crate) async fn announce(&mut self, patience: Duration) -> bool {
        self.draining.send_replace(true);
        tokio::time::timeout(patience, self.free.wait_for(|free| *free)).await.is_ok()
    }
}

impl Membership {
    pub(crate) fn new(
        node: NodeId,
        record: NodeRecord,
        shard: Arc<Shard>,
        (session, prefix): (Session, String),
    ) -> Self {
        Self {
            node,
            session,
            prefix,
            shard,
            reconciler: Reconciler::default(),
            record,
            loading: None,
            leisure_until: Instant::now(),
        }
    }

    /// Starts to follow; ends when the session does.
    pub(crate) fn start(self) -> Leaving {
        let (draining, asked) = watch::channel(false);
        let (says_free, free) = watch::channel(false);
        tokio::spawn(self.run(asked, says_free));
        Leaving { draining, free }
    }

    async fn run(mut self, mut draining: watch::Receiver<bool>, free: watch::Sender<bool>) {
        self.publish();
        loop {
            let view = View::read(&self.session.mirror(), &self.prefix);
            free.send_replace(*draining.borrow() && is_free(&view, &self.node));
            let wake = self.act(&view);
            tokio::select! {
                // Others have come, gone, loaded something, or the placement has changed.
                known = self.session.changed() => if !known { return },
                loaded = finished(&mut self.loading) => self.take_loaded(loaded),
                // The process ends soon.
                Ok(()) = draining.changed() => self.record.draining = *draining.borrow(),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.publish();
        }
    }

    /// Does what is to be done now. Returns when to look again.
    fn act(&mut self, view: &View) -> Instant {
        let now = Instant::now();
        if !view.connected {
            self.reconciler.out_of_touch();
        }
        let resident = self.shard.held().ids();
        let elsewhere = |id: &ExpertId| view.connected && is_elsewhere(view, &self.node, *id);
        let todo = self.reconciler.look(self.assigned(view), &resident, elsewhere, now);
        let mut wake = now + LOOK_AGAIN;
        if let Some(again) = todo.look_again {
            wake = wake.min(again);
        }
        if !todo.forget.is_empty() {
            self.shard.forget(&todo.forget);
            self.say(view, "forgotten: the placement has them elsewhere", &todo);
        }
        if self.loading.is_none() && !todo.load.is_empty() {
            let urgent = urgent(view, &self.node, &todo.load);
            if urgent.is_empty() && now < self.leisure_until {
                return wake.min(self.leisure_until);
            }
            let (experts, pace, limit) = match urgent.is_empty() {
                true => (todo.load, Pace::Leisurely, Duration::ZERO),
                false => (urgent, Pace::AtOnce, BATCH),
            };
            let shard = Arc::clone(&self.shard);
            self.loading = Some(tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                (shard.load(&experts, pace, limit), began.elapsed())
            }));
        }
        wake
    }

    /// What the placement wants here; nothing if it is for another model.
    fn assigned<'a>(&self, view: &'a View) -> Option<&'a BTreeSet<ExpertId>> {
        static NONE: BTreeSet<ExpertId> = BTreeSet::new();
        let placement = view.placement.as_ref()?;
        let ours = placement.model_fingerprint == self.record.model_fingerprint;
        ours.then(|| placement.placement.assignments.get(&self.node).unwrap_or(&NONE))
    }

    fn take_loaded(&mut self, loaded: Option<Loaded>) {
        self.loading = None;
        let now = Instant::now();
        let Some((tried, took)) = loaded else {
            tracing::error!("loading experts ended early");
            self.leisure_until = now + LOOK_AGAIN;
            return;
        };
        self.leisure_until = now + (LEISURE - 1) * took;
        for (expert, result) in tried {
            match result {
                Ok(()) => {
                    tracing::debug!(%expert, "loaded: the placement has it here");
                    self.reconciler.loaded(expert);
                }
                Err(error @ (Error::NoGiver { .. } | Error::NoRoom { .. })) => {
                    tracing::warn!(error = error_chain(&error), "trying again soon");
                    self.reconciler.absent(expert, now);
                }
                Err(error) => {
                    let why = error_chain(&error);
                    tracing::error!(%expert, error = why, "an assigned expert cannot be loaded");
                    self.reconciler.failed(expert, why, now);
                }
            }
        }
    }

    fn say(&self, view: &View, what: &str, todo: &Todo) {
        let epoch = view.placement.as_ref().map_or(0, |of| of.placement.epoch.0);
        let experts: Vec<String> = todo.forget.iter().map(ToString::to_string).collect();
        tracing::info!(epoch, experts = experts.join(" "), "{what}");
    }

    fn publish(&self) {
        let node = Key::Node(self.node.clone()).under(&self.prefix);
        self.session.publish(node, self.record.encode());
        let held = self.shard.held();
        let record = ResidentRecord {
            instance: self.record.instance,
            resident: held.hashes(),
            resident_bytes: held.bytes(),
            unloadable: self.reconciler.unloadable(),
        };
        let key = Key::Resident(self.node.clone()).under(&self.prefix);
        self.session.publish(key, record.encode());
    }
}

async fn finished(loading: &mut Option<JoinHandle<Loaded>>) -> Option<Loaded> {
    match loading {
        Some(loading) => loading.await.ok(),
        None => std::future::pending().await,
    }
}

/// Those of `experts` that no other node holds.
fn urgent(view: &View, node: &NodeId, experts: &[ExpertId]) -> Vec<ExpertId> {
    let others = || view.resident.iter().filter(|(other, _)| *other != node);
    let held = |id: &&ExpertId| others().any(|(_, record)| record.resident.contains_key(id));
    experts.iter().filter(|id| !held(id)).copied().collect()
}

/// Whether a node that is leaving can go: everything that the placement has on it is on another node that stays, or
/// there is nobody to wait for.
fn is_free(view: &View, node: &NodeId) -> bool {
    let others = || view.nodes.keys().filter(|other| *other != node);
    if !view.connected || view.routers.is_empty() || !others().any(|other| stays(view, other)) {
        return true;
    }
    let Some(placement) = view.placement.as_ref().map(|of| &of.placement) else { return true };
    let elsewhere = |id: &ExpertId| is_elsewhere(view, node, *id);
    placement.assignments.get(node).is_none_or(|held| held.iter().all(elsewhere))
}

fn stays(view: &View, node: &NodeId) -> bool {
    view.nodes.get(node).is_some_and(|record| !record.draining)
}

/// Whether another node that stays shall hold an expert, and does.
fn is_elsewhere(view: &View, node: &NodeId, expert: ExpertId) -> bool {
    let Some(placement) = view.placement.as_ref().map(|of| &of.placement) else { return false };
    let holds = |other: &NodeId| {
        view.resident.get(other).is_some_and(|of| of.resident.contains_key(&expert))
    };
    let mut others = placement.assignments.iter().filter(|(other, _)| *other != node);
    others.any(|(other, held)| held.contains(&expert) && stays(view, other) && holds(other))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use guildhall_cluster::{PlacementRecord, RouterRecord};
    use guildhall_ids::Epoch;
    use guildhall_placement::Placement;

    fn id(node: &str) -> NodeId {
        node.parse().unwrap()
    }

    /// Nodes with what is placed on them and what they hold; a name with a `-` is leaving.
    fn view(nodes: &[(&str, &[u32], &[u32])]) -> View {
        let mut view = View { connected: true, ..View::default() };
        view.routers.insert("r".into(), RouterRecord::default());
        let mut assignments = BTreeMap::new();
        for (name, placed, held) in nodes {
            let (node, draining) = (id(name.trim_end_matches('-')), name.ends_with('-'));
            let record = NodeRecord { draining, speed: 1.0, ..NodeRecord::default() };
            view.nodes.insert(node.clone(), record);
            let resident = held.iter().map(|&e| (ExpertId::new(0, e), [0; 32])).collect();
            let resident = ResidentRecord { resident, ..ResidentRecord::default() };
            view.resident.insert(node.clone(), resident);
            assignments.insert(node, placed.iter().map(|&e| ExpertId::new(0, e)).collect());
        }
        let placement = Placement { epoch: Epoch(1), assignments };
        view.placement = Some(PlacementRecord { placement, ..PlacementRecord::default() });
        view
    }

    #[test]
    fn a_node_goes_when_all_it_has_is_elsewhere() {
        let check = |nodes: &[(&str, &[u32], &[u32])], expected: bool| {
            assert_eq!(is_free(&view(nodes), &id("a")), expected, "{nodes:?}");
        };
        check(&[("a-", &[1, 2], &[1, 2]), ("b", &[1, 2], &[1, 2])], true);
        check(&[("a-", &[1, 2], &[1, 2]), ("b", &[1, 2], &[1])], false);
        check(&[("a-", &[1, 2], &[1, 2]), ("b", &[1], &[1, 2])], false);
        check(&[("a-", &[], &[1, 2]), ("b", &[1, 2], &[1])], true);
        // Nobody else stays, so there is nobody to wait for.
        check(&[("a-", &[1], &[1]), ("b-", &[1], &[1])], true);
        check(&[("a-", &[1], &[1])], true);
        let mut cut_off = view(&[("a-", &[1], &[1]), ("b", &[], &[])]);
        assert!(!is_free(&cut_off, &id("a")));
        cut_off.connected = false;
        assert!(is_free(&cut_off, &id("a")));
    }

    #[test]
    fn what_others_hold_counts_if_they_shall_hold_it_and_stay() {
        let check = |other: (&str, &[u32], &[u32]), expected: bool| {
            let view = view(&[("a", &[], &[1]), other]);
            assert_eq!(is_elsewhere(&view, &id("a"), ExpertId::new(0, 1)), expected, "{other:?}");
        };
        check(("b", &[1], &[1]), true);
        check(("b", &[1], &[]), false);
        check(("b", &[], &[1]), false);
        check(("b-", &[1], &[1]), false);
    }

    #[test]
    fn what_nobody_else_holds_is_urgent() {
        let view = view(&[("a", &[1, 2], &[]), ("b", &[1, 2], &[2])]);
        let both = [ExpertId::new(0, 1), ExpertId::new(0, 2)];
        assert_eq!(urgent(&view, &id("a"), &both), [ExpertId::new(0, 1)]);
    }
}
