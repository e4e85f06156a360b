//! When a process should stop: SIGTERM, Ctrl-C, or the end of the process that started it.

use std::io::Read as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled when this process should stop. The watching task lives as long as the process.
pub(crate) fn on_signal(stop_on_stdin_close: bool) -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let shutdown = CancellationToken::new();
    if stop_on_stdin_close {
        cancel_when_stdin_closes(shutdown.clone());
    }
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}

/// A thread of its own, which ends with the process: a read from standard input cannot be given up, and a runtime
/// would wait for it when it is dropped.
fn cancel_when_stdin_closes(token: CancellationToken) {
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        while matches!(std::io::stdin().read(&mut ignored), Ok(n) if n > 0) {}
        token.cancel();
    });
}
