//! A whole cluster on this machine: a router and its expert nodes as processes that live and end together.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use guildhall_router::ExpertsMode;
use guildhall_telemetry::OtlpConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::config::{LogOptions, UpOptions};
use crate::shutdown;

/// A process gets this long to end by itself; above its own times to leave and to drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(70);

/// Starts everything, waits until it is ready, and stops it on Ctrl-C, SIGTERM, or when one process fails.
pub(crate) async fn run(
    options: UpOptions,
    logs: &LogOptions,
    otlp: &OtlpConfig,
) -> anyhow::Result<()> {
    let stop = shutdown::on_signal(false)?;
    // Sockets of the nodes; the folder goes when this function returns.
    let sockets = tempfile::Builder::new().prefix("guildhall-").tempdir()?;
    let mut cluster =
        Cluster { options: &options, logs, otlp, members: Vec::new(), copies: JoinSet::new() };
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
    otlp: &'a OtlpConfig,
    /// The router, then the nodes.
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

/// Standard output of a process that is starting.
struct Starting {
    name: String,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has said so far.
    said: Vec<String>,
}

impl Starting {
    /// The rest of the line with `before`; waits for it.
    async fn address(&mut self, before: &str) -> anyhow::Result<String> {
        let rest = |line: &String| line.split_once(before).map(|(_, rest)| rest.to_owned());
        if let Some(address) = self.said.iter().find_map(rest) {
            return Ok(address);
        }
        let name = &self.name;
        while let Some(line) =
            self.lines.next_line().await.with_context(|| format!("reading from {name}"))?
        {
            let found = rest(&line);
            self.said.push(line);
            if let Some(address) = found {
                return Ok(address);
            }
        }
        bail!("{name} ended before it was ready; its log says why")
    }
}

impl Cluster<'_> {
    /// Returns when a process ends, which none should.
    async fn serve(&mut self, sockets: &Path) -> anyhow::Result<()> {
        let admin_key = self
            .options
            .admin_api_key
            .clone()
            .unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
        let mut router = self.start_router(&admin_key)?;
        let mut nodes = Vec::new();
        if self.options.experts == ExpertsMode::Remote {
            let store = router.address("cluster port on ").await?;
            let count = self.options.expert_nodes.get();
            let started: Vec<_> = (0..count)
                .map(|index| self.start_node(sockets, index, &store))
                .collect::<anyhow::Result<_>>()?;
            for mut node in started {
                nodes.push(node.address(" listening on ").await?);
            }
        }
        let listening = self.ready(&mut router).await?;
        let http = router.address("HTTP API on ").await?;
        let admin = router.address("admin API on ").await?;
        print_ready(&Ready { listening, http, nodes, admin, admin_key });
        self.first_to_end().await
    }

    /// Waits until the router takes requests, which it never does if a node ends before.
    async fn ready(&mut self, router: &mut Starting) -> anyhow::Result<String> {
        tokio::select! {
            listening = router.address("router listening on ") => listening,
            ended = self.first_to_end() => Err(ended.err().context("a process ended")?),
        }
    }

    fn start_node(
        &mut self,
        sockets: &Path,
        index: usize,
        store: &str,
    ) -> anyhow::Result<Starting> {
        let name = format!("expert-node-{index}");
        let socket = sockets.join(format!("{name}.sock"));
        let mut command = self.guildhall("expert-node")?;
        command.arg("--node-id").arg(&name).arg("--store").arg(store);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        self.start(name, command)
    }

    fn start_router(&mut self, admin_key: &str) -> anyhow::Result<Starting> {
        let mut command = self.guildhall("router")?;
        command.arg("--grpc-port").arg(self.options.grpc_port.to_string());
        command.arg("--port").arg(self.options.port.to_string());
        command.arg("--admin-port").arg(self.options.admin_port.to_string());
        // Arguments can be seen by every user of the machine.
        command.env("GUILDHALL_ADMIN_API_KEY", admin_key);
        command.arg("--experts").arg(self.options.experts.to_string());
        if let Some(format) = self.options.dense_weights {
            command.arg("--dense-weights").arg(format.to_string());
        }
        if self.options.experts == ExpertsMode::Remote {
            command.arg("--cluster-port").arg("0");
            command.arg("--min-nodes").arg(self.options.expert_nodes.to_string());
            command.arg("--min-replicas").arg(self.options.min_replicas.to_string());
        }
        self.start("router".into(), command)
    }

    /// Whether there are more processes than cores: one that looks for messages would take another one's.
    fn crowded(&self) -> bool {
        let nodes = match self.options.experts {
            ExpertsMode::Remote => self.options.expert_nodes.get(),
            ExpertsMode::Local => 0,
        };
        std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 1 + nodes)
    }

    /// This binary in another role, with what all roles share.
    fn guildhall(&self, role: &str) -> anyhow::Result<Command> {
        let binary = std::env::current_exe().context("finding the own binary")?;
        let mut command = Command::new(binary);
        command.arg(role).arg("--stop-on-stdin-close");
        command.arg("--model").arg(&self.options.model);
        command.arg("--dtype").arg(&self.options.dtype);
        if let Some(format) = self.options.expert_weights {
            command.arg("--expert-weights").arg(format.to_string());
        }
        if let Some(busy_poll) = self.options.busy_poll.or_else(|| self.crowded().then_some(0)) {
            command.arg("--busy-poll").arg(busy_poll.to_string());
        }
        command.arg("--log-format").arg(self.logs.log_format.to_string());
        command.arg("--log").arg(&self.logs.log);
        command.args(self.otlp.flags());
        // Ctrl-C reaches the whole group of processes; this process alone decides when the others stop.
        command.process_group(0);
        Ok(command)
    }

    fn start(&mut self, name: String, mut command: Command) -> anyhow::Result<Starting> {
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
        Ok(Starting { name, lines: BufReader::new(stdout).lines(), said: Vec::new() })
    }

    async fn first_to_end(&mut self) -> anyhow::Result<()> {
        let watching = self
            .members
            .iter_mut()
            .map(|member| Box::pin(async { (member.name.clone(), member.process.wait().await) }));
        let (name, status) = first(watching.collect()).await;
        bail!("{name} ended: {}", status.context("waiting for it")?)
    }

    /// Stops the router first, so that running requests can end, then all nodes at once.
    async fn stop(&mut self) {
        let mut members = std::mem::take(&mut self.members).into_iter();
        if let Some(router) = members.next() {
            stop(router).await;
        }
        members.map(stop).collect::<JoinSet<()>>().join_all().await;
        while self.copies.join_next().await.is_some() {}
    }
}

async fn stop(mut member: Member) {
    drop(member.stdin.take());
    if tokio::time::timeout(STOP_TIMEOUT, member.process.wait()).await.is_err() {
        tracing::warn!(process = member.name, "did not stop in time; killed");
        // It may have ended meanwhile.
        let _ = member.process.kill().await;
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

/// What there is to say once everything is ready.
struct Ready {
    listening: String,
    http: String,
    nodes: Vec<String>,
    admin: String,
    admin_key: String,
}

fn print_ready(ready: &Ready) {
    let Ready { listening, http, nodes, admin, admin_key } = ready;
    let in_address = percent_encoded(admin_key);
    let nodes = nodes.iter().enumerate();
    let nodes: String = nodes.map(|(n, node)| format!("  expert-node-{n}  {node}\n")).collect();
    // As this process was called, so that the line can be copied.
    let binary = std::env::args().next().unwrap_or_else(|| "guildhall".into());
    let server = match listening.as_str() {
        "http://127.0.0.1:50051" => String::new(),
        other => format!(" --server {other}"),
    };
    let text = format!(
        "\n  router         {listening}\n  OpenAI API     {http}/v1\n  live page      {admin}/#key={in_address}\n{nodes}\n  Ready. In another terminal:\n    \
         {binary} generate{server} \"Once upon a time\"\n    \
         {binary} status --admin {admin} --admin-api-key {admin_key}\n    \
         {binary} loadtest{server} --skew hot-set --report report.html --admin {admin} --admin-api-key {admin_key}\n  Ctrl-C stops everything.\n\n"
    );
    let mut stdout = std::io::stdout();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        tracing::debug!("nobody reads standard output");
    }
}

/// A text as part of an address.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_part_of_an_address() {
        assert_eq!(percent_encoded("9d0a-._~"), "9d0a-._~");
        assert_eq!(percent_encoded("a&b+%é"), "a%26b%2B%25%C3%A9");
    }
}
