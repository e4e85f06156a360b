//! A whole cluster on this machine: a router and its expert nodes as processes that live and end together.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use guildhall_router::ExpertsMode;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;

use crate::config::{LogOptions, UpOptions};
use crate::shutdown;

/// A process gets this long to end by itself; above its own time to drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Starts everything, waits until it is ready, and stops it on Ctrl-C, SIGTERM, or when one process fails.
pub(crate) async fn run(options: UpOptions, logs: &LogOptions) -> anyhow::Result<()> {
    let stop = shutdown::on_signal(false)?;
    // Sockets of the nodes; the folder goes when this function returns.
    let sockets = tempfile::Builder::new().prefix("guildhall-").tempdir()?;
    let mut cluster =
        Cluster { options: &options, logs, members: Vec::new(), copies: JoinSet::new() };
    let ended = tokio::select! {
        ended = cluster.serve(sockets.path()) => ended,
        () = stop.cancelled() => Ok(()),
    };
    cluster.stop().await;
    ended
}

struct Cluster<'a> {
    options: &'a UpOptions,
    logs: &'a LogOptions,
    /// The nodes, then the router.
    members: Vec<Member>,
    /// Tasks that copy the processes' log lines; each ends with its process.
    copies: JoinSet<()>,
}

struct Member {
    name: String,
    process: Child,
    /// The process stops when this is closed. Kept apart from `process`, which would close it when waited for.
    stdin: Option<ChildStdin>,
}

/// Where a process listens.
struct Addresses {
    /// For gRPC.
    listening: String,
    http: Option<String>,
}

impl Cluster<'_> {
    /// Returns when a process ends, which none should.
    async fn serve(&mut self, sockets: &Path) -> anyhow::Result<()> {
        let mut addresses = Vec::new();
        if self.options.experts == ExpertsMode::Remote {
            for index in 0..self.options.expert_nodes.get() {
                addresses.push(self.start_node(sockets, index).await?);
            }
        }
        let router = self.start_router(&addresses).await?;
        print_ready(&router, &addresses);
        self.first_to_end().await
    }

    async fn start_node(&mut self, sockets: &Path, index: usize) -> anyhow::Result<String> {
        let name = format!("expert-node-{index}");
        let socket = sockets.join(format!("{name}.sock"));
        let mut command = self.guildhall("expert-node")?;
        command.arg("--node-id").arg(&name);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        Ok(self.start(name, command).await?.listening)
    }

    async fn start_router(&mut self, nodes: &[String]) -> anyhow::Result<Addresses> {
        let mut command = self.guildhall("router")?;
        command.arg("--grpc-port").arg(self.options.grpc_port.to_string());
        command.arg("--port").arg(self.options.port.to_string());
        command.arg("--experts").arg(self.options.experts.to_string());
        if !nodes.is_empty() {
            command.arg("--nodes").arg(nodes.join(","));
            command.arg("--min-replicas").arg(self.options.min_replicas.to_string());
        }
        self.start("router".into(), command).await
    }

    /// This binary in another role, with what all roles share.
    fn guildhall(&self, role: &str) -> anyhow::Result<Command> {
        let binary = std::env::current_exe().context("finding the own binary")?;
        let mut command = Command::new(binary);
        command.arg(role).arg("--stop-on-stdin-close");
        command.arg("--model").arg(&self.options.model);
        command.arg("--dtype").arg(&self.options.dtype);
        command.arg("--log-format").arg(self.logs.log_format.to_string());
        command.arg("--log").arg(&self.logs.log);
        // Ctrl-C reaches the whole group of processes; this process alone decides when the others stop.
        command.process_group(0);
        Ok(command)
    }

    /// Starts a process and waits for the line that says that it is ready.
    async fn start(&mut self, name: String, mut command: Command) -> anyhow::Result<Addresses> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = process.stdout.take().context("standard output is a pipe")?;
        let stderr = process.stderr.take().context("standard error is a pipe")?;
        self.copies.spawn(copy_log(name.clone(), stderr));
        let stdin = process.stdin.take();
        self.members.push(Member { name: name.clone(), process, stdin });
        let mut lines = BufReader::new(stdout).lines();
        let mut http = None;
        while let Some(line) =
            lines.next_line().await.with_context(|| format!("reading from {name}"))?
        {
            if let Some((_, address)) = line.split_once("HTTP API on ") {
                http = Some(address.to_owned());
            }
            if let Some((_, address)) = line.split_once(" listening on ") {
                return Ok(Addresses { listening: address.to_owned(), http });
            }
        }
        bail!("{name} ended before it was ready; its log says why")
    }

    async fn first_to_end(&mut self) -> anyhow::Result<()> {
        let watching = self
            .members
            .iter_mut()
            .map(|member| Box::pin(async { (member.name.clone(), member.process.wait().await) }));
        let (name, status) = first(watching.collect()).await;
        bail!("{name} ended: {}", status.context("waiting for it")?)
    }

    /// Stops the router first, so that running requests can end, then the nodes.
    async fn stop(&mut self) {
        while let Some(mut member) = self.members.pop() {
            drop(member.stdin.take());
            if tokio::time::timeout(STOP_TIMEOUT, member.process.wait()).await.is_err() {
                tracing::warn!(process = member.name, "did not stop in time; killed");
                // It may have ended meanwhile.
                let _ = member.process.kill().await;
            }
        }
        while self.copies.join_next().await.is_some() {}
    }
}

/// The first of some futures to be ready.
async fn first<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    std::future::poll_fn(|cx| {
        for future in &mut futures {
            let ready = std::pin::Pin::new(future).poll(cx);
            if ready.is_ready() {
                return ready;
            }
        }
        std::task::Poll::Pending
    })
    .await
}

#[expect(clippy::print_stderr, reason = "the processes' own log lines, passed on as they are")]
async fn copy_log(name: String, stderr: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{name} | {line}");
    }
}

fn print_ready(router: &Addresses, nodes: &[String]) {
    let Addresses { listening, http } = router;
    let http = http.iter().map(|http| format!("  OpenAI API     {http}/v1\n")).collect::<String>();
    let nodes = nodes.iter().enumerate();
    let nodes: String = nodes.map(|(n, node)| format!("  expert-node-{n}  {node}\n")).collect();
    // As this process was called, so that the line can be copied.
    let binary = std::env::args().next().unwrap_or_else(|| "guildhall".into());
    let server = match listening.as_str() {
        "http://127.0.0.1:50051" => String::new(),
        other => format!(" --server {other}"),
    };
    let text = format!(
        "\n  router         {listening}\n{http}{nodes}\n  Ready. In another terminal:\n    \
         {binary} generate{server} \"Once upon a time\"\n  Ctrl-C stops everything.\n\n"
    );
    let mut stdout = std::io::stdout();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        tracing::debug!("nobody reads standard output");
    }
}
