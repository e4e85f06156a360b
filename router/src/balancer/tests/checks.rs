//! What must hold in a simulated cluster at every moment, and what must come in the end.

use std::collections::BTreeSet;

use guildhall_ids::ExpertId;

use super::node::Node;
use super::router::policy;
use super::{N_EXPERTS, World};

impl World {
    /// The first thing that must not be is kept.
    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// An error that tells how it came to what must not be, if it did.
    pub(super) fn told(&mut self, seed: u64) -> Result<(), String> {
        let Some(broken) = self.broken.take() else { return Ok(()) };
        let log: Vec<String> = self.log.iter().cloned().collect();
        let kind = self.faults;
        Err(format!("seed {seed}, {kind:?}: {broken}\n{}", log.join("\n")))
    }

    /// No node is asked to hold more than fits. A leader that took a living node for dead knows nothing of what that
    /// one loads meanwhile; everywhere else, what is there and not assigned counts too.
    pub(super) fn check(&mut self) {
        let (empty, strict) = (BTreeSet::new(), !self.faults.gaps && !self.faults.losses);
        let mut over = None;
        for node in self.nodes.iter().filter(|node| node.up) {
            let assigned = self.placement.assignments.get(&node.id).unwrap_or(&empty);
            let resident = if strict { &node.resident } else { &empty };
            let held = assigned.union(resident).count();
            if held > node.room {
                over = Some(format!("{} shall hold {held}, over {}", node.id, node.room));
            }
        }
        if let Some(over) = over {
            self.fail(over);
        }
    }

    /// No node forgets the last copy of an expert, unless another that it saw hold it has just crashed. Where changes
    /// come arbitrarily late, it can also be that the other has heard later that it shall not hold it.
    pub(super) fn check_forgotten(&mut self, index: usize, expert: ExpertId) {
        let mut living = self.nodes.iter().filter(|node| node.up);
        if living.any(|node| node.resident.contains(&expert)) {
            return;
        }
        let view = &self.nodes[index].client.view;
        let crashed = self.nodes.iter().any(|node| {
            let seen = view.nodes.get(&node.id).map(|record| record.instance);
            let held = view.resident.get(&node.id);
            held.is_some_and(|of| of.resident.contains_key(&expert))
                && (!node.up || seen != Some(node.instance))
        });
        if !(crashed || self.faults.gaps) {
            self.fail(format!("{} forgets the last copy of {expert}", self.nodes[index].id));
        }
    }

    /// A table has only nodes that are in the router's view, and of each only what it has published.
    pub(super) fn check_table(&mut self, index: usize) {
        let router = &self.routers[index];
        let (view, table) = (&router.client.view, &router.topology.table);
        let mut wrong = None;
        for expert in policy().grid.iter() {
            for &slot in table.replicas(expert) {
                let id = &table.nodes[slot];
                let node = self.nodes.iter().find(|node| node.id == *id).unwrap();
                let instance = view.nodes.get(id).map(|record| record.instance);
                let said = instance.and_then(|instance| node.said.get(&instance));
                if !said.is_some_and(|said| said.contains(&expert)) {
                    wrong = Some(format!("{} asks {id} for {expert}", router.name));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Why not all is as it should be, if it is not.
    pub(super) fn unsettled(&self) -> Option<String> {
        let view = &self.routers[0].client.view;
        let leader = view.leader.as_ref()?;
        let stays = |node: &&Node| !view.drains.contains(&node.id);
        let staying = self.nodes.iter().filter(stays).count();
        for router in &self.routers {
            let known = &router.client.view;
            if !router.topology.complete {
                return Some(format!("{} lacks experts", router.name));
            }
            if known.leader.as_ref() != Some(leader) || known.nodes.len() != self.nodes.len() {
                return Some(format!("{} sees another cluster", router.name));
            }
        }
        let leads = self.routers.iter().find(|router| router.name == *leader);
        let Some(leads) = leads else { return Some(format!("{leader} leads and is dead")) };
        let is_staying = self.nodes.iter().filter(stays);
        let room: usize = is_staying.map(|node| node.room - 1).sum();
        let enough = room >= policy().min_replicas * N_EXPERTS as usize;
        if leads.waits != "steady" && (enough || !leads.waits.ends_with("for want of room")) {
            return Some(format!("the leader waits: {}", leads.waits));
        }
        let least = if enough { policy().min_replicas.min(staying) } else { 1 };
        for expert in policy().grid.iter() {
            let holds = |node: &&Node| stays(node) && node.resident.contains(&expert);
            let replicas = self.nodes.iter().filter(holds).count();
            if replicas < least {
                return Some(format!("{replicas} replicas of {expert}"));
            }
        }
        None
    }
}
