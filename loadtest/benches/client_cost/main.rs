//! What the load test itself costs: 1,000 streams with 5,000 tokens a second in all, from a server in another process.
//!
//! The server (this program again) sends a token to each stream every 200 ms and computes nothing; the clients are the
//! load test as it is, with a connection over the loopback. Printed is the processor time of the client's process.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, reason = "a benchmark")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser as _;
use guildhall_loadtest::{LoadtestConfig, Progress};
use tokio_util::sync::CancellationToken;

mod server;

/// Streams that run at once.
const STREAMS: usize = 1000;
/// Of each answer: 20 s.
const TOKENS: u32 = 100;
/// Measured after the streams have begun, and before the first end.
const FROM: Duration = Duration::from_secs(3);
const TO: Duration = Duration::from_secs(18);
/// The share of a core that it may cost.
const LIMIT: f64 = 0.2;

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    config: LoadtestConfig,
}

/// A server that ends with this process.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program as a server; also its addresses for gRPC and for HTTP.
fn start() -> (Server, [String; 2]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(server::ROLE)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addresses = [(); 2].map(|()| lines.next().unwrap().unwrap());
    (Server(child), addresses)
}

/// Processor time of this process, all threads together: fields 14 and 15 of its line, in hundredths of a second.
fn processor_time() -> Duration {
    let line = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The second field is the name, which may have spaces in it; the third comes after its parenthesis.
    let (_, fields) = line.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(11).take(2);
    fields.map(|ticks| Duration::from_millis(10 * ticks.parse::<u64>().unwrap())).sum()
}

/// A look at the run.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    used: Duration,
    tokens: u64,
    running: usize,
}

/// Loads the server, and gives tokens a second, running streams and the share of a core.
async fn measure(target: &str, address: &str) -> (f64, usize, f64) {
    let (streams, tokens) = (STREAMS.to_string(), TOKENS.to_string());
    let args = [
        "loadtest",
        "--target",
        target,
        "--server",
        address,
        "--concurrency",
        &streams,
        "--output-tokens",
        &tokens,
        "--warmup",
        "0s",
        "--duration",
        "19s",
        "--model-name",
        "none",
    ];
    let config = Options::try_parse_from(args).unwrap().config;
    let began = Instant::now();
    let mut looks: Vec<Look> = Vec::new();
    let progress = |progress: Progress| {
        if (FROM..=TO).contains(&began.elapsed()) {
            let (tokens, running) = (progress.tokens, progress.running);
            looks.push(Look { at: Instant::now(), used: processor_time(), tokens, running });
        }
    };
    let outcome = guildhall_loadtest::run(&config, CancellationToken::new(), progress).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(outcome.n_failed(), 0, "{:?}", outcome.requests.failed);
    let (first, last) = (*looks.first().unwrap(), *looks.last().unwrap());
    let seconds = (last.at - first.at).as_secs_f64();
    let rate = (last.tokens - first.tokens) as f64 / seconds;
    let share = (last.used - first.used).as_secs_f64() / seconds;
    (rate, looks.iter().map(|look| look.running).min().unwrap(), share)
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(server::ROLE) {
        return server::run(STREAMS);
    }
    // As `guildhall loadtest` has it.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let (_server, [grpc, http]) = start();
    println!("| API | streams | tokens/s | of a core |\n|---|---|---|---|");
    let mut shares = Vec::new();
    for (target, address) in [("guildhall", &grpc), ("openai", &http)] {
        let (rate, streams, share) = runtime.block_on(measure(target, address));
        println!("| {target} | {streams} | {rate:.0} | {:.1} % |", share * 100.0);
        shares.push((target, share));
    }
    let over = shares.iter().find(|(_, share)| *share >= LIMIT);
    assert!(over.is_none(), "{over:?} is over {LIMIT}");
}
