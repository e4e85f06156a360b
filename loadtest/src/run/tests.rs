//! Runs against targets that are no servers.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::schedule::Planned;
use crate::schedule::{Arrivals, Drawn, Pace, Process, Prompts, Skew};
use crate::target::{Failure, Heard};
use crate::units::Count;

/// Answers each request after some time, one after the other, as a server that is too slow does.
struct OneByOne {
    takes: Duration,
    busy: tokio::sync::Mutex<()>,
}

impl Target for OneByOne {
    fn ask<'a>(
        &'a self,
        planned: &'a Planned,
        heard: &'a mut Heard,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let _busy = self.busy.lock().await;
            tokio::time::sleep(self.takes).await;
            heard.token_ids(&vec![7; planned.output_tokens as usize]);
            Ok(())
        }
        .boxed()
    }
}

fn load(arrivals: Arrivals) -> Load {
    Load::Drawn(Drawn {
        arrivals,
        prompts: Prompts::DemoKinds,
        skew: Skew::Natural,
        skew_period: 10,
        output_tokens: Count { from: 2, to: 2 },
        seed: 1,
    })
}

/// The requests that were sent, by number.
async fn sent(load: Load, at_once: usize, requests: u64) -> BTreeMap<u64, Record> {
    let (records, mut received) = mpsc::channel(RECORDS);
    let target = OneByOne { takes: Duration::from_millis(30), busy: tokio::sync::Mutex::new(()) };
    let sender = Sender {
        target: Arc::new(target),
        began: Instant::now(),
        timeout: Duration::from_secs(60),
        records,
        meters: Arc::default(),
    };
    let plan = Plan {
        open: load.is_open(),
        schedule: Schedule::new(load),
        at_once,
        until: Duration::MAX,
        requests,
    };
    send(sender, plan, CancellationToken::new()).await;
    let mut all = BTreeMap::new();
    while let Some(record) = received.recv().await {
        all.insert(record.number, record);
    }
    all
}

#[tokio::test]
async fn a_closed_loop_sends_each_request_once() {
    let all = sent(load(Arrivals::Closed), 3, 10).await;
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert!(all.values().all(|record| record.intended == record.sent && record.failure.is_none()));
}

#[tokio::test]
async fn an_open_loop_counts_the_queue_of_a_slow_server() {
    let pace = Pace::Steady(100.0);
    let all = sent(load(Arrivals::Open { pace, process: Process::Constant }), 1000, 12).await;
    // Every 10 ms a request, each takes 30 ms: the twelfth waits for more than 200 ms.
    assert_eq!(all.len(), 12);
    assert!(all[&11].ttft().unwrap() > Duration::from_millis(200), "{:?}", all[&11]);
    assert_eq!(all[&11].intended, Duration::from_millis(120));
}

#[tokio::test]
async fn a_request_that_the_client_holds_back_counts_from_its_time() {
    let pace = Pace::Steady(100.0);
    let all = sent(load(Arrivals::Open { pace, process: Process::Constant }), 1, 12).await;
    let last = &all[&11];
    assert!(last.sent - last.intended > Duration::from_millis(150), "{last:?}");
    assert!(last.ttft().unwrap() > Duration::from_millis(200), "{last:?}");
}

#[tokio::test]
async fn a_request_without_an_end_times_out() {
    let target = OneByOne { takes: Duration::from_secs(60), busy: tokio::sync::Mutex::new(()) };
    let (records, mut received) = mpsc::channel(1);
    let timeout = Duration::from_millis(10);
    let (target, began, meters) = (Arc::new(target), Instant::now(), Arc::default());
    let sender = Sender { target, began, timeout, records, meters };
    let planned = Schedule::new(load(Arrivals::Closed)).next().unwrap();
    sender.ask(&planned, None).await;
    assert_eq!(received.recv().await.unwrap().failure.unwrap().code, "timeout");
}
