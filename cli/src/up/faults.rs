//! What a fault is made of, and who may have one; pure.

use std::time::Duration;

use guildhall_loadtest::chaos::{Fault, What};

/// A slow node runs once in so long; far below what a step takes to be called late.
const SLICE: Duration = Duration::from_millis(50);

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// SIGKILL.
    Kill,
    /// Start it anew.
    Start,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// The acts of a fault, each with its time from the beginning; the last one ends it.
pub(super) fn acts(fault: &Fault) -> Vec<(Duration, Act)> {
    let (lasts, begin) = (fault.lasts, Duration::ZERO);
    match fault.what {
        What::Kill(_) | What::EtcdDown => vec![(begin, Act::Kill), (lasts, Act::Start)],
        What::Pause(_) => vec![(begin, Act::Stop), (lasts, Act::Continue)],
        What::Slow { factor, .. } => {
            let stopped = SLICE.mul_f64(1.0 - factor.recip());
            let mut acts = Vec::new();
            let mut at = begin;
            while at < lasts {
                acts.extend([(at, Act::Stop), ((at + stopped).min(lasts), Act::Continue)]);
                at += SLICE;
            }
            if acts.is_empty() { vec![(begin, Act::Continue)] } else { acts }
        }
    }
}

/// What a cluster has, as far as faults are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'a> {
    /// Names of the processes; the router is among them.
    pub(super) names: &'a [&'a str],
    /// Names of those that have a fault now.
    pub(super) faulty: &'a [&'a str],
}

/// The process that a fault is for, by its place among the names.
///
/// # Errors
/// A sentence that says why it is refused.
pub(super) fn target(fault: &Fault, present: Present<'_>) -> Result<usize, String> {
    fault.check()?;
    let process = fault.process();
    let Present { names, faulty } = present;
    let is_etcd = fault.what == What::EtcdDown;
    let place = names.iter().position(|name| *name == process);
    match place {
        _ if process == "router" => Err("the router is never killed, paused or slowed down".into()),
        None if is_etcd => Err("this cluster has no etcd: start it with up --etcd etcd".into()),
        Some(_) if process == "etcd" && !is_etcd => {
            Err("etcd can only go down, as etcd-down".into())
        }
        Some(_) if faulty.contains(&process) => Err(format!("{process} has a fault already")),
        Some(place) => Ok(place),
        None => {
            let nodes = names.iter().filter(|name| !["router", "etcd"].contains(name));
            let nodes: Vec<&str> = nodes.copied().collect();
            Err(format!("there is no node {process:?}, only {}", nodes.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_loadtest::chaos::Timed;

    use super::*;

    fn fault(text: &str) -> Fault {
        text.parse::<Timed>().unwrap().fault
    }

    #[test]
    fn what_is_stopped_goes_on_and_what_is_killed_comes_back() {
        let s = Duration::from_secs;
        let check = |text: &str, expected: [(Duration, Act); 2]| {
            assert_eq!(acts(&fault(text)), expected, "{text}");
        };
        check("kill:n@1s+3s", [(s(0), Act::Kill), (s(3), Act::Start)]);
        check("etcd-down@1s+2s", [(s(0), Act::Kill), (s(2), Act::Start)]);
        check("pause:n@1s+4s", [(s(0), Act::Stop), (s(4), Act::Continue)]);
    }

    #[test]
    fn a_slow_node_runs_its_share_of_the_time_and_all_of_it_afterwards() {
        for (text, share) in [("slow:n@1s*4+2s", 0.25), ("slow:n@1s*10+725ms", 0.1)] {
            let fault = fault(text);
            let acts = acts(&fault);
            assert!(acts.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 != pair[1].1));
            let last = acts.last().unwrap();
            assert!(last.1 == Act::Continue && last.0 <= fault.lasts, "{acts:?}");
            let stopped: Duration = acts.chunks(2).map(|pair| pair[1].0 - pair[0].0).sum();
            let runs = 1.0 - stopped.as_secs_f64() / fault.lasts.as_secs_f64();
            assert!((runs - share).abs() < 0.05, "{text}: runs {runs} of the time");
        }
        assert_eq!(acts(&fault("slow:n@1s*4+0s")), [(Duration::ZERO, Act::Continue)]);
    }

    #[test]
    fn refusals_say_why() {
        let without = ["router", "expert-node-0", "expert-node-1"];
        let with = ["etcd", "router", "expert-node-0"];
        fn present<'a>(names: &'a [&'a str]) -> Present<'a> {
            Present { names, faulty: &["expert-node-1"] }
        }
        assert_eq!(target(&fault("kill:expert-node-0@1s"), present(&without)), Ok(1));
        assert_eq!(target(&fault("etcd-down@1s+1s"), present(&with)), Ok(0));
        let check = |text: &str, names: &[&str], expected: &str| {
            let error = target(&fault(text), present(names)).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("kill:router@1s", &without, "the router is never killed");
        check("pause:n@1s+1s", &without, "no node \"n\", only expert-node-0, expert-node-1");
        check("kill:expert-node-1@1s", &without, "expert-node-1 has a fault already");
        check("etcd-down@1s+1s", &without, "up --etcd");
        check("kill:etcd@1s", &with, "as etcd-down");
    }
}
