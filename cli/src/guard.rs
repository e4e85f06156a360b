//! Runs another program that ends with this process, however that ends: what `up` starts leaves nothing behind.

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::config::GuardOptions;
use crate::shutdown;

/// Runs a program until it ends, or until standard input is closed or a signal comes; then it is killed.
pub(crate) async fn run(options: GuardOptions) -> anyhow::Result<()> {
    let stop = shutdown::on_signal(true)?;
    let name = options.program.display().to_string();
    let mut command = Command::new(options.program);
    command.args(options.arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    tokio::select! {
        status = child.wait() => bail!("{name} ended: {}", status.context("waiting for it")?),
        () = stop.cancelled() => child.kill().await.with_context(|| format!("killing {name}")),
    }
}
