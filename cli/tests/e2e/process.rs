//! Starts processes of the binary, waits until they are ready, and ends them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Far above what anything here takes; a test that runs into it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A model of the golden tests.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../router/tests/golden").join(case)
}

/// The demonstration model.
pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}

/// A running `guildhall`. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `guildhall` with these arguments.
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_guildhall"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let (copy, mut stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = stderr.read(&mut buffer) {
                if n == 0 {
                    return;
                }
                copy.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { child, lines, log }
    }

    /// The rest of the first line that contains `before`.
    pub(crate) fn line_after(&self, before: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            if let Some((_, rest)) = line.split_once(before) {
                return rest.trim().to_owned();
            }
        }
        panic!("no line with {before:?}; the log:\n{}", self.log());
    }

    /// What the process has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(id).status().unwrap().success());
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "does not end; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of process {}:\n{}", self.child.id(), self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A router and its expert nodes, each a process that the test can reach.
pub(crate) struct Cluster {
    pub(crate) router: Process,
    pub(crate) nodes: Vec<Process>,
    /// Where clients connect.
    pub(crate) address: String,
    /// Where the admin API is, if the arguments ask for one.
    #[allow(dead_code, reason = "the soak test reads it")]
    pub(crate) admin: Option<String>,
    sockets: tempfile::TempDir,
}

impl Cluster {
    /// Starts `nodes` expert nodes (none: experts are computed in the router) and a router with more arguments.
    pub(crate) fn start(model: &Path, dtype: &str, nodes: usize, more: &[&str]) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let socket = |index| format!("unix:{}/node-{index}.sock", sockets.path().display());
        let started: Vec<Process> =
            (0..nodes).map(|index| start_node(model, dtype, index, &socket(index))).collect();
        let addresses: Vec<String> = (0..nodes).map(socket).collect();
        let mut args =
            vec!["router", "--grpc-port", "0", "--port", "0", "--dtype", dtype, "--model"];
        args.push(model.to_str().unwrap());
        let list = addresses.join(",");
        if nodes == 0 {
            args.extend(["--experts", "local"]);
        } else {
            args.extend(["--nodes", &list]);
        }
        args.extend(more);
        let router = Process::start(args);
        let admin = more.contains(&"--admin-port").then(|| router.line_after("admin API on "));
        let address = router.line_after("router listening on ");
        Self { router, nodes: started, address, admin, sockets }
    }

    /// Starts a node again that has ended.
    pub(crate) fn restart_node(&mut self, model: &Path, dtype: &str, index: usize) {
        let socket = format!("unix:{}/node-{index}.sock", self.sockets.path().display());
        self.nodes[index] = start_node(model, dtype, index, &socket);
    }
}

/// Starts an expert node and waits until it listens.
pub(crate) fn start_node(model: &Path, dtype: &str, index: usize, listen: &str) -> Process {
    let name = format!("node-{index}");
    let model = model.to_str().unwrap();
    let args = ["--model", model, "--dtype", dtype, "--node-id", &name, "--listen", listen];
    let node = Process::start([&["expert-node"], &args[..]].concat());
    node.line_after("listening on ");
    node
}
