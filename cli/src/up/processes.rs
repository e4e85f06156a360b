//! Processes of a cluster: started, heard, and stopped.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// A process gets this long to end by itself; above its own times to leave and to drain.
const STOP_TIMEOUT: Duration = Duration::from_secs(70);

/// A process.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) process: Child,
    /// The process stops when this is closed. Kept apart from `process`, which would close it when waited for.
    pub(super) stdin: Option<ChildStdin>,
    /// Whether it was killed on request, and is to be started again.
    pub(super) down: bool,
}

/// Standard output of a process that is starting.
pub(super) struct Starting {
    name: String,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has said so far.
    said: Vec<String>,
}

impl Member {
    /// Starts a process; also gives what it says while it starts, and what it logs.
    pub(super) fn start(
        name: &str,
        mut command: Command,
    ) -> anyhow::Result<(Self, Starting, ChildStderr)> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = process.stdout.take().context("standard output is a pipe")?;
        let stderr = process.stderr.take().context("standard error is a pipe")?;
        let stdin = process.stdin.take();
        let name = name.to_owned();
        let lines = BufReader::new(stdout).lines();
        let starting = Starting { name: name.clone(), lines, said: Vec::new() };
        Ok((Self { name, process, stdin, down: false }, starting, stderr))
    }

    /// Sends a signal; a process that has ended gets none.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(id) = id else { return Ok(()) };
        kill_process(id, signal).with_context(|| format!("sending a signal to {}", self.name))
    }

    /// Has it end by itself, and kills it if it does not.
    pub(super) async fn stop(mut self) {
        // One that is paused would not see that it should end.
        if let Err(error) = self.signal(Signal::CONT) {
            tracing::debug!(process = self.name, "it does not go on: {error:#}");
        }
        drop(self.stdin.take());
        if tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await.is_err() {
            tracing::warn!(process = self.name, "did not stop in time; killed");
            // It may have ended meanwhile.
            let _ = self.process.kill().await;
        }
    }
}

impl Starting {
    /// The rest of the line with `before`; waits for it.
    pub(super) async fn address(&mut self, before: &str) -> anyhow::Result<String> {
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

/// The first of some futures to be ready; never, if there is none.
pub(super) async fn first<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
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
pub(super) async fn copy_log(name: String, stderr: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{name} | {line}");
    }
}
