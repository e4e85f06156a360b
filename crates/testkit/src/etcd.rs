//! A real etcd, on ports and in a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guildhall_cluster::store::{EtcdOptions, Revision};

use crate::certificates::Certificates;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd. Dropping it kills it.
pub struct EtcdProcess {
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
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that talks only to who shows a certificate of the same authority as its own.
    pub fn start_with_certificates() -> Self {
        Self::start_with(Some(Certificates::generate()))
    }

    /// One that wants a name and a password.
    pub fn start_with_password() -> Self {
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
    pub fn options(&self) -> EtcdOptions {
        let certificates = self.certificates.as_ref();
        EtcdOptions {
            endpoints: vec![self.address()],
            user: self.user.map(|(name, password)| (name.into(), password.into())),
            ca_certificate: certificates.map(|found| found.authority.clone().into()),
            identity: certificates.map(|found| {
                let identity = found.identity.clone();
                (identity.certificate.into(), identity.key.into())
            }),
        }
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[0])
    }

    /// Starts it with the data that it has, and waits until it answers.
    pub fn restart(&mut self) {
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

    /// Kills it; its data stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Loses everything; for a stopped etcd.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none());
        self.data = tempfile::tempdir().unwrap();
    }

    /// Forgets changes up to a revision.
    pub fn compact(&self, revision: Revision) {
        assert!(self.control(&["compact", &revision.0.to_string()]));
    }

    /// Whether a key is there.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        !self.output(&["get", "--keys-only", key]).is_empty()
    }

    /// The newest change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        let output = self.output(&["endpoint", "status", "--write-out", "json"]);
        let text = String::from_utf8(output).unwrap();
        let (_, rest) = text.split_once("\"revision\":").unwrap();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        Revision(rest[..end].parse().unwrap())
    }

    /// Whether an `etcdctl` that may do everything succeeds.
    pub fn control(&self, command: &[&str]) -> bool {
        let mut etcdctl = self.etcdctl(command);
        etcdctl.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn output(&self, command: &[&str]) -> Vec<u8> {
        self.etcdctl(command).stderr(Stdio::null()).output().unwrap().stdout
    }

    fn etcdctl(&self, command: &[&str]) -> Command {
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
        etcdctl
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, for who starts it otherwise.
#[must_use]
pub fn program() -> PathBuf {
    tool("etcd")
}

/// `make test` unpacks etcd under target/; elsewhere it is looked for in the path.
fn tool(name: &str) -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/etcd/usr/bin");
    let ours = ours.join(name);
    if ours.exists() { ours } else { name.into() }
}
