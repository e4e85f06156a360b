//! Goodput at the load that a router can carry, and at three times as much.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::cluster::Up;
use rand::{Rng as _, SeedableRng as _};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::Client;
use super::support::request;

const PROMPT: u32 = 32;
const TOKENS: u32 = 32;
const SATURATION: Duration = Duration::from_secs(15);
const OVERLOAD: Duration = Duration::from_secs(30);
/// What runs at a time, and what waits.
const LIMITS: [(&str, &str); 2] =
    [("GUILDHALL_MAX_NUM_SEQS", "32"), ("GUILDHALL_MAX_WAITING", "32")];

/// How requests ended.
#[derive(Default)]
struct Outcome {
    served: u32,
    /// Seconds until each refusal; all of them said when to come again.
    refused: Vec<f64>,
}

async fn ask(mut client: Client, number: u32) -> Result<(), f64> {
    let started = Instant::now();
    match client.generate(request(number, PROMPT, TOKENS)).await {
        Ok(answer) => {
            assert_eq!(answer.into_inner().choices[0].token_ids.len(), TOKENS as usize);
            Ok(())
        }
        Err(status) => {
            let waited = started.elapsed().as_secs_f64();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
            Err(waited)
        }
    }
}

/// Requests per second when there is always another one waiting; `first` numbers their prompts.
async fn saturate(client: &Client, first: u32) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let workers: Vec<_> = (0..48u32)
        .map(|worker| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    ask(client.clone(), first + worker * 10_000 + served).await.unwrap();
                    served += 1;
                }
                served
            })
        })
        .collect();
    tokio::time::sleep(SATURATION).await;
    stop.store(true, Ordering::Relaxed);
    let mut served = 0;
    for worker in workers {
        served += worker.await.unwrap();
    }
    f64::from(served) / started.elapsed().as_secs_f64()
}

/// Requests that arrive at random moments (Poisson), `rate` each second, whatever becomes of them.
async fn overload(client: &Client, rate: f64) -> (Outcome, f64) {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let started = tokio::time::Instant::now();
    let mut next = started;
    let mut tasks = Vec::new();
    while next < started + OVERLOAD {
        tokio::time::sleep_until(next).await;
        tasks.push(tokio::spawn(ask(client.clone(), 20_000_000 + tasks.len() as u32)));
        next += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
    }
    let mut outcome = Outcome::default();
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => outcome.served += 1,
            Err(waited) => outcome.refused.push(waited),
        }
    }
    (outcome, started.elapsed().as_secs_f64())
}

/// Resident memory of a process and its children, in MiB.
fn resident_mib(id: u32) -> u64 {
    let of = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) / 1024
    };
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let children = children.unwrap_or_default();
    of(id) + children.split_whitespace().filter_map(|id| id.parse().ok()).map(of).sum::<u64>()
}

pub(crate) async fn run(model: &Path) {
    let cluster = Up::start(model, &["--experts", "local"], &LIMITS);
    let client = GenerationClient::connect(cluster.address.clone()).await.unwrap();
    let warm = saturate(&client, 0).await;
    let before = resident_mib(cluster.id());
    let (outcome, seconds) = overload(&client, 3.0 * warm).await;
    let after = resident_mib(cluster.id());
    // Before and after, because other tenants of the machine come and go.
    let most = f64::midpoint(warm, saturate(&client, 10_000_000).await);
    let goodput = f64::from(outcome.served) / seconds;
    println!(
        "| requests per second: at 3× the load, at most | {goodput:.1} | {most:.1} | {:.2} |",
        goodput / most
    );
    let mut refused = outcome.refused;
    refused.sort_by(f64::total_cmp);
    let at = |share: f64| refused[((refused.len() - 1) as f64 * share) as usize] * 1e3;
    println!(
        "| ms to each of {} refusals: p50, p99 (worst {:.0}) | {:.1} | {:.1} | |",
        refused.len(),
        at(1.0),
        at(0.5),
        at(0.99)
    );
    println!("| MiB of the cluster: after, before | {after} | {before} | |");
}
