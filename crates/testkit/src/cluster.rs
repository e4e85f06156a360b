//! A router and its expert nodes, and the models that tests give them.

use std::path::{Path, PathBuf};

use crate::impostor::Impostor;
use crate::process::Process;
use crate::proxy::Proxy;

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
    /// Where the cluster's state is.
    pub store: String,
    /// What every node is told besides.
    node_args: Vec<String>,
    sockets: tempfile::TempDir,
}

impl Cluster {
    /// Starts a router with more arguments, which keeps the cluster's state unless these say otherwise, and `nodes`
    /// expert nodes (none: experts are computed in the router).
    pub fn start(model: &Path, dtype: &str, nodes: usize, more: &[&str]) -> Self {
        Self::start_with(model, dtype, nodes, &[], more)
    }

    /// The same with more arguments for the nodes, too.
    pub fn start_with(
        model: &Path,
        dtype: &str,
        nodes: usize,
        node_args: &[&str],
        more: &[&str],
    ) -> Self {
        let mut cluster = Self::start_router(model, dtype, nodes, more);
        cluster.node_args = node_args.iter().map(ToString::to_string).collect();
        for index in 0..nodes {
            let node = cluster.start_node(model, dtype, index);
            cluster.nodes.push(node);
        }
        cluster.address = cluster.router.line_after("router listening on ");
        cluster
    }

    /// The same with a proxy before each node, through which the router talks to it.
    pub fn start_behind_proxies(
        model: &Path,
        dtype: &str,
        nodes: usize,
        more: &[&str],
    ) -> (Self, Vec<Proxy>) {
        let proxy = |target: &str| {
            let proxy = Proxy::start(target);
            (proxy.address().to_owned(), proxy)
        };
        Self::start_behind(model, dtype, (nodes, proxy), more)
    }

    /// The same with an impostor in the place of each node.
    pub fn start_behind_impostors(
        model: &Path,
        dtype: &str,
        nodes: usize,
        more: &[&str],
    ) -> (Self, Vec<Impostor>) {
        let impostor = |target: &str| {
            let impostor = Impostor::start(target);
            (impostor.address().to_owned(), impostor)
        };
        Self::start_behind(model, dtype, (nodes, impostor), more)
    }

    /// Starts nodes with something before each, which routers connect to; `start` starts it, and says where.
    fn start_behind<T>(
        model: &Path,
        dtype: &str,
        (nodes, start): (usize, impl Fn(&str) -> (String, T)),
        more: &[&str],
    ) -> (Self, Vec<T>) {
        let mut cluster = Self::start_router(model, dtype, nodes, more);
        let mut all_before = Vec::new();
        for index in 0..nodes {
            let (address, before) = start(&cluster.socket(index));
            cluster.node_args = vec!["--advertise".into(), address];
            let node = cluster.start_node(model, dtype, index);
            cluster.nodes.push(node);
            all_before.push(before);
        }
        cluster.address = cluster.router.line_after("router listening on ");
        (cluster, all_before)
    }

    /// Starts the router alone, which waits for `nodes` nodes.
    fn start_router(model: &Path, dtype: &str, nodes: usize, more: &[&str]) -> Self {
        let router = start_router(model, dtype, nodes, more);
        let admin = more.contains(&"--admin-port").then(|| router.line_after("admin API on "));
        let given = more.iter().skip_while(|arg| **arg != "--store").nth(1);
        let store = match given {
            _ if nodes == 0 => String::new(),
            Some(store) => (*store).to_owned(),
            None => router.line_after("cluster port on "),
        };
        Self {
            router,
            nodes: Vec::new(),
            address: String::new(),
            admin,
            store,
            node_args: Vec::new(),
            sockets: tempfile::tempdir().unwrap(),
        }
    }

    fn socket(&self, index: usize) -> String {
        format!("unix:{}/node-{index}.sock", self.sockets.path().display())
    }

    /// Starts a node again that has ended.
    pub fn restart_node(&mut self, model: &Path, dtype: &str, index: usize) {
        self.nodes[index] = self.start_node(model, dtype, index);
    }

    /// Starts one more node of this cluster.
    pub fn start_node(&self, model: &Path, dtype: &str, index: usize) -> Process {
        let listen = self.socket(index);
        let more = ["--listen", &listen, "--store", &self.store];
        let own = self.node_args.iter().map(String::as_str);
        start_node(model, dtype, index, &more.into_iter().chain(own).collect::<Vec<_>>())
    }
}

/// Starts a router with more arguments on free ports, which waits for `nodes` nodes (none: it needs none).
pub fn start_router(model: &Path, dtype: &str, nodes: usize, more: &[&str]) -> Process {
    let count = nodes.to_string();
    let model = model.to_str().unwrap();
    let mut args = vec!["router", "--grpc-port", "0", "--port", "0", "--dtype", dtype];
    args.extend(["--model", model]);
    match nodes {
        0 => args.extend(["--experts", "local"]),
        _ => args.extend(["--cluster-port", "0", "--min-nodes", &count]),
    }
    args.extend(more);
    Process::start(args)
}

/// Starts the expert node `node-<index>` with more arguments and waits until it listens.
pub fn start_node(model: &Path, dtype: &str, index: usize, more: &[&str]) -> Process {
    let name = format!("node-{index}");
    let model = model.to_str().unwrap();
    let args = ["--model", model, "--dtype", dtype, "--node-id", &name];
    let node = Process::start([&["expert-node"], &args[..], more].concat());
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

    /// Where faults are asked for; to be called once.
    #[must_use]
    pub fn control(&self) -> String {
        self.process.line_after("control ")
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
