//! Asks the admin API how often experts were used, again and again.

use std::time::{Duration, Instant};

use guildhall_proto::v1;
use guildhall_proto::v1::admin_client::AdminClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::series::{Sample, Series};
use super::summary::{Talk, summary};
use super::{Experts, Said, Strip};
use crate::Error;
use crate::target::{Failure, grpc};

/// Time between two samples.
const EVERY: Duration = Duration::from_millis(500);
/// A sample that takes longer is missed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Moves that are kept with their reason.
const MAX_REASONS: usize = 500;
/// The counts of the largest models are far below.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Where the admin API is.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) address: String,
    pub(crate) key: String,
}

/// A connection to the admin API, and what it has said so far.
pub(crate) struct Sampler {
    client: AdminClient<Channel>,
    watch: Watch,
    began: Instant,
    series: Series,
    talk: Talk,
    /// What the balancer gave as reasons when it was last asked.
    reasons: Option<Vec<String>>,
    /// The last interval in short, for who watches.
    strip: watch::Sender<Option<Strip>>,
}

impl Sampler {
    /// Connects, and takes the first sample of a run that begins now.
    ///
    /// # Errors
    /// The API is not there, or does not know the key.
    pub(crate) async fn connect(watch: Watch, began: Instant) -> Result<Self, Error> {
        let address = watch.address.clone();
        let channel = grpc::connect(&address).await?;
        let client = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (series, talk) = (Series::default(), Talk::default());
        let strip = watch::Sender::new(None);
        let mut sampler = Self { client, watch, began, series, talk, reasons: None, strip };
        let first = sampler.sample().await;
        first.map_err(|Failure { code, message }| {
            let what = format!("asking for the use of experts: {code}: {message}");
            Error::Unreachable { address, what }
        })?;
        Ok(sampler)
    }

    /// Where the last interval is seen.
    pub(crate) fn strips(&self) -> watch::Receiver<Option<Strip>> {
        self.strip.subscribe()
    }

    /// Takes samples until it is stopped, and then a last one. What cannot be had is counted.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Experts {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                _ = ticks.tick() => false,
                () = stop.cancelled() => true,
            };
            let sample = tokio::time::timeout(PATIENCE, self.sample()).await;
            self.talk.missed += u64::from(!matches!(sample, Ok(Ok(()))));
            if stopped {
                return summary(self.series, self.talk);
            }
        }
    }

    async fn sample(&mut self) -> Result<(), Failure> {
        let key = Some(self.watch.key.as_str());
        let request = grpc::with_key(v1::GetExpertsRequest {}, key)?;
        let experts = self.client.get_experts(request).await?.into_inner();
        let at = self.began.elapsed().as_secs_f64();
        let request = grpc::with_key(v1::GetClusterRequest {}, key)?;
        let cluster = self.client.get_cluster(request).await?.into_inner();
        self.series.push(from_wire(at, experts));
        self.strip.send_replace(self.series.intervals().last().and_then(Strip::of));
        if let Some(balance) = cluster.balance {
            self.hear(at, balance);
        }
        Ok(())
    }

    /// Keeps what the balancer says, if it is new. Reasons of the first sample are of moves before the run.
    fn hear(&mut self, at: f64, balance: v1::GetBalanceResponse) {
        if self.talk.states.last().is_none_or(|last| last.text != balance.state) {
            self.talk.states.push(Said { at, text: balance.state });
        }
        if let Some(known) = &self.reasons {
            let new = balance.reasons.iter().filter(|reason| !known.contains(reason));
            let new = new.map(|text| Said { at, text: text.clone() });
            let room = MAX_REASONS.saturating_sub(self.talk.reasons.len());
            self.talk.reasons.extend(new.take(room));
        }
        self.reasons = Some(balance.reasons);
    }
}

fn from_wire(at: f64, experts: v1::GetExpertsResponse) -> Sample {
    let mut sample = Sample { at, epoch: experts.epoch, ..Sample::default() };
    let n_layers = experts.layers.len();
    for (place, layer) in experts.layers.into_iter().enumerate() {
        sample.layers.push(layer.layer);
        sample.experts.push(layer.pairs);
        for node in layer.nodes {
            let of_layers = sample.nodes.entry(node.node_id);
            of_layers.or_insert_with(|| vec![0; n_layers])[place] = node.pairs;
        }
    }
    sample
}
