//! A real etcd, on ports and in a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guildhall_cluster::store::Revision;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd. Dropping it kills it.
pub(crate) struct EtcdProcess {
    data: tempfile::TempDir,
    ports: [u16; 2],
    process: Option<Child>,
}

impl EtcdProcess {
    pub(crate) fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut etcd = Self { data: tempfile::tempdir().unwrap(), ports, process: None };
        etcd.restart();
        etcd
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Starts it with the data that it has, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        let [clients, peers] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let data = self.data.path().to_str().unwrap();
        let process = Command::new(tool("etcd"))
            .args(["--data-dir", data, "--log-level", "error", "--name", "default"])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + PATIENCE;
        while !self.control(&["endpoint", "health"]) {
            assert!(Instant::now() < deadline, "etcd does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Loses everything; for a stopped etcd.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none());
        self.data = tempfile::tempdir().unwrap();
    }

    pub(crate) fn compact(&self, revision: Revision) {
        assert!(self.control(&["compact", &revision.0.to_string()]));
    }

    fn control(&self, command: &[&str]) -> bool {
        let mut etcdctl = Command::new(tool("etcdctl"));
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.address()]).args(command);
        etcdctl.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `make test` unpacks etcd under target/; elsewhere it is looked for in the path.
fn tool(name: &str) -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/etcd/usr/bin");
    let ours = ours.join(name);
    if ours.exists() { ours } else { name.into() }
}
