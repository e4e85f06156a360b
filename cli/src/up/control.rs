//! The control socket: who connects may have faults done, one for each connection.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use guildhall_loadtest::chaos::{Reply, Request};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Requests that wait; more wait in their connections.
const ORDERS: usize = 16;
/// Replies to one request, at most.
const REPLIES: usize = 2;
/// A longer line is no request.
const MAX_LINE_BYTES: u64 = 4096;

/// A request, and where its replies go.
pub(super) struct Order {
    pub(super) request: Request,
    pub(super) replies: mpsc::Sender<Reply>,
}

/// A socket that is listened to. Dropping it removes its file.
pub(super) struct Control {
    path: PathBuf,
    /// The task that listens; it ends with this.
    _listening: JoinSet<()>,
    pub(super) orders: mpsc::Receiver<Order>,
}

impl Control {
    /// Begins to listen.
    pub(super) fn listen(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("--control {}: listening (is it there already?)", path.display());
        let listener = UnixListener::bind(path).with_context(what)?;
        let (sender, orders) = mpsc::channel(ORDERS);
        let mut listening = JoinSet::new();
        listening.spawn(accept(listener, sender));
        Ok(Self { path: path.to_owned(), _listening: listening, orders })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The folder may have gone before.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, orders.clone()));
            }
            Err(error) => tracing::warn!(%error, "a connection to the control socket failed"),
        }
        // What has ended is let go, so that the set does not grow.
        while connections.try_join_next().is_some() {}
    }
}

/// Reads one request, and writes what becomes of it.
async fn converse(stream: UnixStream, orders: mpsc::Sender<Order>) {
    let (asked, mut answers) = stream.into_split();
    let mut line = String::new();
    let read = BufReader::new(asked.take(MAX_LINE_BYTES)).read_line(&mut line).await;
    let (replies, mut received) = mpsc::channel(REPLIES);
    let request = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_str(&line).map_err(|error| format!("no request: {error}")));
    match request {
        Ok(request) => {
            if orders.send(Order { request, replies }).await.is_err() {
                return;
            }
        }
        Err(why) => {
            // There is room for the first reply.
            let _ = replies.try_send(Reply::Refused(why));
            drop(replies);
        }
    }
    while let Some(reply) = received.recv().await {
        let Ok(line) = serde_json::to_string(&reply) else { return };
        if answers.write_all((line + "\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
