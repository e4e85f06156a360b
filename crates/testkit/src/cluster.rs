//! A router and its expert nodes, and the models that tests give them.

use std::path::{Path, PathBuf};

use crate::process::Process;

/// A model of the golden tests.
pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../router/tests/golden").join(case)
}

/// The demonstration model.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// A router and its expert nodes, each a process that the test can reach.
pub struct Cluster {
    /// Its router.
    pub router: Process,
    /// Its expert nodes, `node-0` first.
    pub nodes: Vec<Process>,
    /// Where clients connect.
    pub address: String,
    /// Where the admin API is, if the arguments ask for one.
    pub admin: Option<String>,
    sockets: tempfile::TempDir,
}

impl Cluster {
    /// Starts `nodes` expert nodes (none: experts are computed in the router) and a router with more arguments.
    pub fn start(model: &Path, dtype: &str, nodes: usize, more: &[&str]) -> Self {
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
    pub fn restart_node(&mut self, model: &Path, dtype: &str, index: usize) {
        let socket = format!("unix:{}/node-{index}.sock", self.sockets.path().display());
        self.nodes[index] = start_node(model, dtype, index, &socket);
    }
}

/// Starts an expert node and waits until it listens.
pub fn start_node(model: &Path, dtype: &str, index: usize, listen: &str) -> Process {
    let name = format!("node-{index}");
    let model = model.to_str().unwrap();
    let args = ["--model", model, "--dtype", dtype, "--node-id", &name, "--listen", listen];
    let node = Process::start([&["expert-node"], &args[..]].concat());
    node.line_after("listening on ");
    node
}

/// A cluster that `guildhall up` started. Dropping it stops all of it.
pub struct Up {
    process: Process,
    /// Where clients connect.
    pub address: String,
}

impl Up {
    /// Starts a cluster with a model and more arguments; settings of the router are environment variables.
    pub fn start(model: &Path, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let first = ["up", "--grpc-port", "0", "--port", "0", "--model", model.to_str().unwrap()];
        let process = Process::start_with([&first, args].concat(), settings);
        let address = process.line_after("router ");
        Self { process, address }
    }

    /// The id of the process that was started, whose children are the others.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It stops its processes itself, when asked.
        self.process.signal("TERM");
        self.process.wait();
    }
}
