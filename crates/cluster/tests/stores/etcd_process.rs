//! A real etcd, on ports and in a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guildhall_cluster::store::{EtcdOptions, Revision};

use super::certificates::Certificates;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd. Dropping it kills it.
pub(crate) struct EtcdProcess {
    data: tempfile::TempDir,
    ports: [u16; 2],
    /// Whom it trusts and what it shows to clients, if connections are encrypted.
    certificates: Option<Certificates>,
    /// The name and password that it wants to hear.
    user: Option<(&'static str, &'static str)>,
    process: Option<Child>,
}

impl EtcdProcess {
    /// One that talks to everybody.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// One that talks only to who shows a certificate of the same authority as its own.
    pub(crate) fn start_with_certificates() -> Self {
        Self::start_with(Some(Certificates::new()))
    }

    /// One that wants a name and a password.
    pub(crate) fn start_with_password() -> Self {
        let mut etcd = Self::start();
        assert!(etcd.control(&["user", "add", "root:a secret"]));
        assert!(etcd.control(&["auth", "enable"]));
        etcd.user = Some(("root", "a secret"));
        etcd
    }

    fn start_with(certificates: Option<Certificates>) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let data = tempfile::tempdir().unwrap();
        let mut etcd = Self { data, ports, certificates, user: None, process: None };
        etcd.restart();
        etcd
    }

    /// What a client has to know.
    pub(crate) fn options(&self) -> EtcdOptions {
        let certificates = self.certificates.as_ref();
        EtcdOptions {
            endpoints: vec![format!("127.0.0.1:{}", self.ports[0])],
            user: self.user.map(|(name, password)| (name.into(), password.into())),
            ca_certificate: certificates.map(|found| found.authority.clone().into()),
            identity: certificates.map(|found| {
                let identity = found.identity.clone();
                (identity.certificate.into(), identity.key.into())
            }),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[0])
    }

    /// Starts it with the data that it has, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        let clients = self.url();
        let peers = format!("http://127.0.0.1:{}", self.ports[1]);
        let mut etcd = Command::new(tool("etcd"));
        etcd.args(["--data-dir", self.data.path().to_str().unwrap()])
            .args(["--log-level", "error", "--name", "default"])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")]);
        if let Some(certificates) = &self.certificates {
            etcd.arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(certificates.authority_file())
                .arg("--cert-file")
                .arg(certificates.certificate_file())
                .arg("--key-file")
                .arg(certificates.key_file());
        }
        self.process = Some(etcd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
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

    /// Whether an `etcdctl` that may do everything succeeds.
    pub(crate) fn control(&self, command: &[&str]) -> bool {
        let mut etcdctl = Command::new(tool("etcdctl"));
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        if let Some((name, password)) = self.user {
            etcdctl.arg("--user").arg(format!("{name}:{password}"));
        }
        if let Some(certificates) = &self.certificates {
            etcdctl
                .arg("--cacert")
                .arg(certificates.authority_file())
                .arg("--cert")
                .arg(certificates.certificate_file())
                .arg("--key")
                .arg(certificates.key_file());
        }
        etcdctl.args(command);
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
