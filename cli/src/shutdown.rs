//! When a process should stop: SIGTERM, Ctrl-C, or the end of the process that started it.

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled when this process should stop. The watching task lives as long as the process.
pub(crate) fn on_signal(stop_on_stdin_close: bool) -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stdin_closed(), if stop_on_stdin_close => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while matches!(stdin.read(&mut ignored).await, Ok(n) if n > 0) {}
}
