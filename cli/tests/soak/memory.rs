//! How much memory a process takes over time.

use std::fmt;
use std::time::{Duration, Instant};

/// The memory of one process, looked at each second.
pub(crate) struct Memory {
    name: String,
    /// In KiB.
    samples: Vec<u64>,
}

const EACH: Duration = Duration::from_secs(1);
/// By how much memory may seem to grow when it does not: so many KiB, and a tenth.
const SLACK_KIB: u64 = 16 << 10;

impl Memory {
    /// Looks at processes, given by name and id, until the time is over.
    pub(crate) async fn watch(processes: Vec<(String, u32)>, until: Instant) -> Vec<Self> {
        let start = |(name, id)| (id, Self { name, samples: Vec::new() });
        let mut watched: Vec<(u32, Self)> = processes.into_iter().map(start).collect();
        while Instant::now() < until {
            for (id, memory) in &mut watched {
                memory.samples.push(resident_kib(*id));
            }
            tokio::time::sleep(EACH).await;
        }
        watched.into_iter().map(|(_, memory)| memory).collect()
    }

    /// The medians of the second and the last third, in KiB. The first third is for warming up.
    fn second_and_last(&self) -> (u64, u64) {
        let third = self.samples.len() / 3;
        let rest = &self.samples[self.samples.len() - 2 * third..];
        (median(&rest[..third]), median(&rest[third..]))
    }

    /// Fails if it grows.
    pub(crate) fn assert_flat(&self) {
        let (second, last) = self.second_and_last();
        let most = second + second / 10 + SLACK_KIB;
        assert!(last <= most, "{self}: grows over {most} KiB; each second: {:?}", self.samples);
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// What Linux says of a process.
fn resident_kib(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (second, last) = self.second_and_last();
        let first = self.samples.first().copied().unwrap_or(0);
        let (name, first, second, last) = (&self.name, mib(first), mib(second), mib(last));
        write!(
            f,
            "{name}: {first:.1} MiB at first, {second:.1} in the second third, {last:.1} in the last"
        )
    }
}
