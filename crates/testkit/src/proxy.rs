//! A proxy between two processes that can be cut, stalled, slowed and made to corrupt what it passes on.
//!
//! It runs on a thread of its own, so a test may block while it works.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

#[cfg(test)]
mod tests;

/// Only chunks of more bytes than this are corrupted: their middle lies within the payload of a frame of HTTP/2, not
/// within its header.
pub const CORRUPTED_ABOVE: usize = 256;

/// The most that is passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Listens on a free port of this machine and passes bytes on to a target, both ways. Dropping it cuts it for good.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
    /// What the thread is to do, with whom to tell when it is done; the thread ends with this.
    commands: Option<mpsc::UnboundedSender<(Command, Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
enum Command {
    Cut,
    Restore,
}

/// What the test and the connections look at.
struct Shared {
    target: Target,
    manner: watch::Sender<Manner>,
    /// Chunks that are still to be corrupted.
    to_corrupt: AtomicU64,
    corrupted: AtomicU64,
    bytes_to_target: AtomicU64,
    bytes_from_target: AtomicU64,
}

/// How bytes are passed on.
#[derive(Clone, Copy, Default)]
struct Manner {
    stalled: bool,
    delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp(String),
    Unix(String),
}

impl Target {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.strip_prefix("//").unwrap_or(path).to_owned()),
            None => {
                let authority = text.strip_prefix("http://").unwrap_or(text);
                Self::Tcp(authority.trim_end_matches('/').to_owned())
            }
        }
    }
}

impl Proxy {
    /// Starts one for a target, `http://host:port`, `host:port` or `unix:/path`, which need not be there yet.
    pub fn start(target: &str) -> Self {
        let shared = Arc::new(Shared {
            target: Target::parse(target),
            manner: watch::channel(Manner::default()).0,
            to_corrupt: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            bytes_to_target: AtomicU64::new(0),
            bytes_from_target: AtomicU64::new(0),
        });
        let (commands, received) = mpsc::unbounded_channel();
        let (sender, address) = channel();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run(for_thread, received, sender));
        });
        let address = format!("http://{}", address.recv().unwrap());
        Self { address, shared, commands: Some(commands), thread: Some(thread) }
    }

    /// Where clients connect: `http://127.0.0.1:port`, the same for as long as it lives.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes all connections and refuses new ones; both are so when it returns.
    pub fn cut(&self) {
        self.command(Command::Cut);
    }

    /// Lets clients connect again.
    pub fn restore(&self) {
        self.command(Command::Restore);
    }

    /// Keeps all connections and passes nothing on, not even the end of one.
    pub fn stall(&self) {
        self.shared.manner.send_modify(|manner| manner.stalled = true);
    }

    /// Passes on what has been held back, and what comes.
    pub fn resume(&self) {
        self.shared.manner.send_modify(|manner| manner.stalled = false);
    }

    /// Holds each chunk back for so long, one after another.
    pub fn delay(&self, delay: Duration) {
        self.shared.manner.send_modify(|manner| manner.delay = delay);
    }

    /// Turns one bit in the middle of each of the next `chunks` from the target that are larger than
    /// [`CORRUPTED_ABOVE`].
    pub fn corrupt(&self, chunks: u64) {
        self.shared.to_corrupt.store(chunks, Ordering::SeqCst);
    }

    /// How many chunks have been corrupted.
    pub fn corrupted(&self) -> u64 {
        self.shared.corrupted.load(Ordering::SeqCst)
    }

    /// How many bytes the target was sent.
    pub fn bytes_to_target(&self) -> u64 {
        self.shared.bytes_to_target.load(Ordering::SeqCst)
    }

    /// How many bytes of the target were passed on.
    pub fn bytes_from_target(&self) -> u64 {
        self.shared.bytes_from_target.load(Ordering::SeqCst)
    }

    fn command(&self, command: Command) {
        let (sender, done) = channel();
        self.commands.as_ref().unwrap().send((command, sender)).unwrap();
        done.recv().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed already.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until nobody can send a command any more.
async fn run(
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<(Command, Sender<()>)>,
    started: Sender<SocketAddr>,
) {
    // Never listens: it keeps the port while connections are refused.
    let keeper = bind("127.0.0.1:0".parse().unwrap());
    let address = keeper.local_addr().unwrap();
    let mut listener = Some(bind(address).listen(1024).unwrap());
    let _ = started.send(address);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // The test wants something, or is over.
            command = commands.recv() => {
                let Some((command, done)) = command else { return };
                match command {
                    Command::Cut => {
                        listener = None;
                        connections.shutdown().await;
                    }
                    Command::Restore if listener.is_none() => {
                        listener = Some(bind(address).listen(1024).unwrap());
                    }
                    Command::Restore => {}
                }
                let _ = done.send(());
            }
            // A client comes.
            client = accept(listener.as_ref()) => {
                connections.spawn(serve(client, Arc::clone(&shared)));
            }
            // A connection has ended: it is forgotten.
            Some(_) = connections.join_next() => {}
        }
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

/// One connection, until either end breaks it or both have closed it.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let served = match &shared.target {
        Target::Tcp(authority) => match TcpStream::connect(authority.as_str()).await {
            Ok(target) => {
                let _ = target.set_nodelay(true);
                forward(client, target, &shared).await
            }
            Err(error) => Err(error),
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(target) => forward(client, target, &shared).await,
            Err(error) => Err(error),
        },
    };
    // Both ends see that the connection is gone; nobody else needs to know why.
    drop(served);
}

async fn forward(
    client: TcpStream,
    target: impl AsyncRead + AsyncWrite,
    shared: &Shared,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_target, to_target) = tokio::io::split(target);
    let forth = pump(from_client, to_target, shared, |chunk| {
        shared.bytes_to_target.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    });
    let back = pump(from_target, to_client, shared, |chunk| {
        shared.spoil(chunk);
        shared.bytes_from_target.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    });
    tokio::try_join!(forth, back).map(drop)
}

/// Passes on what comes, in chunks that `pass` may change, until the end, which is passed on too.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    pass: impl Fn(&mut [u8]),
) -> std::io::Result<()> {
    let mut manner = shared.manner.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        let delay = manner.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // The sender is in `shared`, so it is there.
        let _ = manner.wait_for(|manner| !manner.stalled).await;
        if read == 0 {
            return to.shutdown().await;
        }
        pass(&mut buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
}

impl Shared {
    /// Turns a bit of a chunk, if it is to be corrupted.
    fn spoil(&self, chunk: &mut [u8]) {
        if chunk.len() <= CORRUPTED_ABOVE {
            return;
        }
        let one_less = |left: u64| left.checked_sub(1);
        if self.to_corrupt.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            chunk[chunk.len() / 2] ^= 1 << 4;
            self.corrupted.fetch_add(1, Ordering::SeqCst);
        }
    }
}
