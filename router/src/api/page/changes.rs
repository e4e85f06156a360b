//! What has happened to the cluster of late: placements with their reasons, nodes that came and went. No IO.

use std::collections::VecDeque;

use serde::Serialize;

use super::roster::{NodeState, Turn};
use crate::balancer::KEPT_REASONS as TOLD_REASONS;

/// Changes that are kept.
const KEPT: usize = 100;
/// Reasons that are kept of a placement.
const KEPT_REASONS: usize = 40;
/// Placements that follow each other this closely, without new reasons, are steps of one roll-out.
const ROLL_OUT_MS: u64 = 10_000;

/// Reasons are learnt this much after their placement at most.
const LATE_MS: u64 = 3_000;

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Change {
    /// When it began, in milliseconds since 1970.
    pub(super) unix_ms: u64,
    #[serde(flatten)]
    pub(super) what: What,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum What {
    /// The leader published a placement, or several on the way to one.
    Placement {
        epoch: u64,
        /// Placements on the way.
        steps: u32,
        loads: usize,
        drops: usize,
        /// The first of them, a sentence each; the others are in the log.
        reasons: Vec<String>,
        /// There may be more loads and drops than the leader tells of.
        more: bool,
    },
    /// A node is in another state.
    Node { node: String, from: Option<NodeState>, to: NodeState, reason: String },
}

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    log: VecDeque<Change>,
    /// Nothing until the cluster has been looked at.
    epoch: Option<u64>,
    reasons: Vec<String>,
    /// When a placement was last published.
    last_step_ms: u64,
}

impl Changes {
    /// The youngest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.log.iter().rev()
    }

    /// Takes in which nodes are in another state.
    pub(super) fn note_turns(&mut self, turns: Vec<Turn>, unix_ms: u64) {
        for Turn { node, from, to, reason } in turns {
            let what = What::Node { node: node.to_string(), from, to, reason };
            self.push(Change { unix_ms, what });
        }
    }

    /// Takes in the placement of now and why the leader last changed one; the two are not learnt at the same moment.
    pub(super) fn note_placement(&mut self, now: u64, reasons: &[String], unix_ms: u64) {
        let before = self.epoch.replace(now);
        let is_news = !reasons.is_empty() && reasons != self.reasons;
        // A first placement may be there before the first look.
        let is_moved = before.map_or(is_news, |before| before != now);
        let told = reasons.to_vec();
        let last = self.log.iter_mut().rev().find(|of| matches!(of.what, What::Placement { .. }));
        let goes_on = is_moved && !is_news && unix_ms < self.last_step_ms + ROLL_OUT_MS;
        if is_moved {
            self.last_step_ms = unix_ms;
        }
        if let Some(Change { what: What::Placement { epoch, steps, .. }, .. }) = last
            && goes_on
        {
            (*epoch, *steps) = (now, *steps + 1);
        } else if is_news && !is_moved && unix_ms < self.last_step_ms + LATE_MS {
            // The placement was seen before its reasons, and may have been taken for a step of the one before.
            match last.map(|last| &mut last.what) {
                Some(What::Placement { reasons, steps, .. }) if !reasons.is_empty() => {
                    *steps = steps.saturating_sub(1).max(1);
                    self.push(Change { unix_ms, what: placement(now, &told) });
                }
                Some(what) => *what = placement(now, &told),
                None => {}
            }
            self.reasons = told;
        } else if is_moved {
            let why = if is_news { reasons } else { &[] };
            self.push(Change { unix_ms, what: placement(now, why) });
            self.reasons = told;
        }
    }

    fn push(&mut self, change: Change) {
        self.log.push_back(change);
        if self.log.len() > KEPT {
            self.log.pop_front();
        }
    }
}

fn placement(epoch: u64, reasons: &[String]) -> What {
    let loads = reasons.iter().filter(|reason| reason.starts_with("load ")).count();
    let drops = reasons.len() - loads;
    let more = reasons.len() >= TOLD_REASONS;
    let reasons = reasons.iter().take(KEPT_REASONS).cloned().collect();
    What::Placement { epoch, steps: 1, loads, drops, reasons, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of placements, as (epoch, steps, loads, drops), the youngest first.
    fn told(changes: &Changes) -> Vec<(u64, u32, usize, usize)> {
        let of = |change: &Change| match change.what {
            What::Placement { epoch, steps, loads, drops, .. } => {
                Some((epoch, steps, loads, drops))
            }
            What::Node { .. } => None,
        };
        changes.iter().filter_map(of).collect()
    }

    #[test]
    fn steps_of_a_roll_out_are_one_change_with_its_reasons() {
        let mut changes = Changes::default();
        let why = ["load 0/1 on a: why".to_owned(), "drop 0/2 from a: why".to_owned()];
        changes.note_placement(7, &[], 0);
        assert_eq!(told(&changes), [], "it was there before");
        changes.note_placement(8, &why, 1000);
        changes.note_placement(9, &why, 2000);
        assert_eq!(told(&changes), [(9, 2, 1, 1)]);
        changes.note_placement(10, &why, 60_000);
        assert_eq!(told(&changes), [(10, 1, 0, 0), (9, 2, 1, 1)], "without reasons, much later");
        changes.note_placement(11, &why[..1], 61_000);
        assert_eq!(told(&changes)[0], (11, 1, 1, 0));
    }

    #[test]
    fn reasons_that_are_learnt_later_belong_to_the_placement() {
        let mut changes = Changes::default();
        changes.note_placement(0, &[], 0);
        changes.note_placement(1, &[], 1000);
        changes.note_placement(1, &["load 0/1 on a: why".to_owned()], 2000);
        assert_eq!(told(&changes), [(1, 1, 1, 0)]);
        changes.note_placement(2, &["load 0/1 on a: why".to_owned()], 4000);
        assert_eq!(told(&changes), [(2, 2, 1, 0)], "taken for a step");
        changes.note_placement(2, &["drop 0/1 from a: why".to_owned()], 5000);
        assert_eq!(told(&changes), [(2, 1, 0, 1), (2, 1, 1, 0)]);
    }

    #[test]
    fn only_the_last_changes_are_kept() {
        let mut changes = Changes::default();
        let turn = |to| Turn { node: "a".parse().unwrap(), from: None, to, reason: String::new() };
        for second in 0..500 {
            changes.note_turns(vec![turn(NodeState::Dead)], second);
        }
        assert_eq!(changes.iter().count(), 100);
        assert_eq!(changes.iter().next().unwrap().unix_ms, 499);
    }

    #[test]
    fn changes_are_json_with_a_kind() {
        let reason = "</script>\"<img src=x>".to_owned();
        let (node, from, to) = ("a".into(), Some(NodeState::Serving), NodeState::Dead);
        let change = Change { unix_ms: 5, what: What::Node { node, from, to, reason } };
        let expected = serde_json::json!({
            "unix_ms": 5, "kind": "node", "node": "a", "from": "serving", "to": "dead",
            "reason": "</script>\"<img src=x>",
        });
        assert_eq!(serde_json::to_value(change).unwrap(), expected);
    }
}
