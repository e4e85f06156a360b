//! A real etcd beside the cluster, with its data in the cluster's folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::Command;

/// It answers within this time, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks whether it answers.
const LOOK: Duration = Duration::from_millis(20);

/// Where an etcd is, and how it is started: always in the same place with the same data.
#[derive(Clone, Debug)]
pub(super) struct Etcd {
    program: PathBuf,
    data: PathBuf,
    clients: SocketAddr,
    peers: SocketAddr,
}

impl Etcd {
    /// Finds ports for it.
    pub(super) fn prepare(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        // Both are held until both are known, so that they differ.
        let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a port for etcd");
        let (clients, peers) = (any()?, any()?);
        Ok(Self {
            program: program.to_owned(),
            data: folder.join("etcd"),
            clients: clients.local_addr()?,
            peers: peers.local_addr()?,
        })
    }

    /// What `--store` is.
    pub(super) fn address(&self) -> String {
        self.clients.to_string()
    }

    /// The arguments of `guildhall guard` that run it.
    pub(super) fn arguments(&self, command: &mut Command) {
        let (clients, peers) =
            (format!("http://{}", self.clients), format!("http://{}", self.peers));
        command.arg("--").arg(&self.program).arg("--data-dir").arg(&self.data);
        command.args(["--name", "default", "--log-level", "error"]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        command.args(["--auto-compaction-retention", "1h"]);
    }

    /// Waits until somebody listens there.
    pub(super) async fn wait(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(self.clients).await {
            if tokio::time::Instant::now() >= deadline {
                bail!("etcd does not answer on {}: {error}", self.clients);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
