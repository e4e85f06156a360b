//! What goes wrong in a simulated cluster, and how it ends.

use rand::Rng as _;

use guildhall_cluster::store::Expected;
use guildhall_cluster::{Key, encode_drain};

use super::client::PREFIX;
use super::{N_EXPERTS, World};

/// What may go wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Nodes crash, the store loses everything.
    pub(super) losses: bool,
    /// Members are cut off from the store, the store is away.
    pub(super) gaps: bool,
    /// Milliseconds that pass at once.
    pub(super) longest_pause: u64,
}

impl Faults {
    /// Only drains, shifts of load, routers that are killed, watches and answers that are lost.
    pub(super) const NONE: Self = Self { losses: false, gaps: false, longest_pause: 200 };
    pub(super) const GAPS: Self = Self { losses: false, gaps: true, longest_pause: 2000 };
    pub(super) const CRASHES: Self = Self { losses: true, gaps: false, longest_pause: 2000 };
    pub(super) const ANY: Self = Self { losses: true, gaps: true, longest_pause: 2000 };
}

impl World {
    /// One thing goes wrong, or is well again.
    pub(super) fn fault(&mut self) {
        match self.rng.random_range(0..13) {
            0..2 if self.faults.losses => self.crash_or_start(),
            2 if self.faults.losses && self.rng.random_bool(0.3) => {
                self.tell("the store loses everything".into());
                self.wipe();
            }
            3 if self.faults.gaps => {
                self.store.away = !self.store.away;
                let what = if self.store.away { "away" } else { "back" };
                self.tell(format!("the store is {what}"));
            }
            4 if self.faults.gaps => self.cut_off_or_heal(),
            5 => {
                let index = self.any_client();
                self.tell(format!("{} loses its watch", self.name(index)));
                if let Some((client, _)) = self.client(index) {
                    client.disconnect();
                }
            }
            6 => {
                let index = self.any_client();
                if let Some((client, _)) = self.client(index) {
                    client.loses_answer = true;
                }
            }
            7 => {
                let index = self.rng.random_range(0..self.routers.len());
                self.tell(format!("{} is killed", self.routers[index].name));
                self.routers[index].restart();
            }
            8 => {
                let newest = self.store.state.revision();
                self.store.state.compact(newest);
            }
            9..11 => self.drain_or_not(),
            _ => self.shift_load(),
        }
    }

    fn crash_or_start(&mut self) {
        let index = self.any_node();
        let node = &mut self.nodes[index];
        if node.up {
            node.crash()
        } else {
            node.start()
        };
        let what = if node.up { "starts" } else { "is killed" };
        let told = format!("{} {what}", node.id);
        self.tell(told);
    }

    fn cut_off_or_heal(&mut self) {
        let index = self.any_client();
        let Some((client, _)) = self.client(index) else { return };
        client.cut_off = !client.cut_off;
        let what = if client.cut_off { "is cut off" } else { "is not cut off any more" };
        self.tell(format!("{} {what}", self.name(index)));
    }

    fn drain_or_not(&mut self) {
        let index = self.any_node();
        let key = Key::Drain(self.nodes[index].id.clone()).under(PREFIX);
        let state = &mut self.store.state;
        let drained = state.list(&key).iter().any(|entry| entry.key == key);
        let result = match drained {
            true => state.delete(&key, Expected::Anything),
            false => state.put(&key, &encode_drain("admin"), None, Expected::Anything),
        };
        result.unwrap();
        let what = if drained { "is not drained any more" } else { "is drained" };
        self.tell(format!("{} {what}", self.nodes[index].id));
    }

    fn shift_load(&mut self) {
        let tokens = |_| self.rng.random_range(200.0..5000.0);
        self.load = vec![(0..N_EXPERTS).map(tokens).collect()];
        self.tell("the load shifts".into());
    }

    /// All faults end.
    pub(super) fn heal(&mut self) {
        self.tell("all is well from here on".into());
        self.store.away = false;
        for node in &mut self.nodes {
            if !node.up {
                node.start();
            }
            node.client.cut_off = false;
        }
        for router in &mut self.routers {
            router.client.cut_off = false;
        }
        let prefix = Key::Drain(self.nodes[0].id.clone()).under(PREFIX);
        let prefix = prefix.trim_end_matches(self.nodes[0].id.as_str());
        let drains = self.store.state.list(prefix);
        // Two nodes have room for all experts.
        for entry in drains.iter().skip(self.nodes.len() - 2) {
            self.store.state.delete(&entry.key, Expected::Anything).unwrap();
        }
    }
}
