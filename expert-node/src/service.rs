//! The node as routers see it: who it is and where calls go.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;

use guildhall_ids::{ExpertId, NodeId};
use guildhall_kernels::{CpuOptions, Device, Dtype, WeightFormat};
use guildhall_proto::EXPERT_PROTOCOL_VERSION;
use guildhall_transport::{
    BusyPoll, Call, ExpertBackend, FrameShape, Handshake, Lifecycle, Refusal, ReplySlot,
    StoredExpert,
};

use crate::Error;
use crate::compute::{ComputeQueue, Worker};
use crate::meters::Meters;
use crate::shard::Shard;
use crate::supply::Supply;

/// An expert node without its server; cheap to clone.
#[derive(Clone)]
pub(crate) struct Node {
    identity: Arc<Identity>,
    shard: Arc<Shard>,
    queue: ComputeQueue,
    lifecycle: Lifecycle,
}

pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) instance: u64,
    pub(crate) handshake: Handshake,
    pub(crate) instruction_set: String,
    dtype: Dtype,
}

/// What a [`Node`] is made of.
pub(crate) struct NodeOptions {
    pub(crate) node_id: NodeId,
    pub(crate) dtype: Dtype,
    /// What experts are kept in; `None`: values of the dtype.
    pub(crate) expert_weights: Option<WeightFormat>,
    pub(crate) device: CpuOptions,
    /// Bytes of packed weights that it may hold.
    pub(crate) capacity: u64,
    /// Calls that may wait.
    pub(crate) max_queued_calls: usize,
    /// Pairs of one batch.
    pub(crate) max_batch_pairs: usize,
    /// How long its threads look for calls before they sleep.
    pub(crate) busy_poll: BusyPoll,
}

impl Node {
    /// Takes the device and starts the compute thread, which ends when the last clone of the node is dropped.
    ///
    /// # Errors
    /// Says how many calls wait.
    pub(crate) fn waiting(&self) -> impl Fn() -> usize + Send + 'static {
        self.queue.waiting()
    }

    /// A format of weights that does not go with the dtype, or a device that cannot be had.
    pub(crate) fn start(
        supply: Supply,
        options: NodeOptions,
        lifecycle: Lifecycle,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let device = Device::cpu(options.device)?;
        let dtype = options.dtype;
        let format = WeightFormat::choose(options.expert_weights, dtype)?;
        let identity = Identity {
            node: options.node_id,
            instance: rand::random(),
            handshake: Handshake {
                protocol_version: EXPERT_PROTOCOL_VERSION,
                model_fingerprint: supply.fingerprint().0.to_vec(),
                dtype: dtype.to_string(),
                hidden_size: u32::try_from(supply.config().hidden_size).unwrap_or(u32::MAX),
                expert_weights: format.to_string(),
            },
            instruction_set: device.instruction_set().to_string(),
            dtype,
        };
        let alone = CpuOptions {
            instruction_set: Some(device.instruction_set()),
            ..CpuOptions::of_threads(NonZeroUsize::MIN)
        };
        let devices = (device.clone(), Device::cpu(alone)?);
        let shard = Arc::new(Shard::new(supply, devices, (format, options.capacity)));
        let worker = Worker {
            device,
            dtype,
            shard: Arc::clone(&shard),
            max_batch_pairs: options.max_batch_pairs,
            busy_poll: options.busy_poll,
            meters: Meters::new(shard.supply().config().moe_layers()),
        };
        let (queue, thread) = worker.start(options.max_queued_calls)?;
        Ok((Self { identity: Arc::new(identity), shard, queue, lifecycle }, thread))
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }
}

impl ExpertBackend for Node {
    fn identity(&self) -> (NodeId, u64) {
        (self.identity.node.clone(), self.identity.instance)
    }

    fn accept(&self, router: &Handshake) -> Result<FrameShape, Refusal> {
        if self.lifecycle.draining().is_cancelled() {
            return Err(Refusal::Draining);
        }
        self.identity.handshake.accept(router)?;
        Ok(FrameShape {
            hidden_size: self.shard.supply().config().hidden_size,
            value_bytes: self.identity.dtype.size_bytes(),
        })
    }

    fn stored(&self, model_fingerprint: &[u8], expert: ExpertId) -> Result<StoredExpert, String> {
        self.shard.supply().stored(model_fingerprint, expert)
    }

    fn submit(&self, call: Call, reply: ReplySlot) {
        self.queue.submit(call, reply, self.lifecycle.streams() < 2);
    }
}
