//! The node as routers see it: who it is, what it holds, where calls go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use guildhall_checkpoint::Checkpoint;
use guildhall_ids::{Epoch, ExpertId, NodeId};
use guildhall_kernels::{CpuOptions, Device, Dtype};
use guildhall_proto::EXPERT_PROTOCOL_VERSION;
use guildhall_transport::{
    AssignError, Call, ExpertBackend, FrameShape, Handshake, NodeDescription, Refusal, ReplySlot,
    Resident,
};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::compute::{ComputeQueue, Worker};
use crate::shard::Shard;

/// An expert node without its server; cheap to clone.
#[derive(Clone)]
pub struct Node {
    identity: Arc<Identity>,
    shard: Arc<Shard>,
    queue: ComputeQueue,
    draining: CancellationToken,
}

struct Identity {
    node: NodeId,
    instance: u64,
    handshake: Handshake,
    instruction_set: String,
    dtype: Dtype,
}

/// What a [`Node`] is made of.
pub struct NodeOptions<'a> {
    /// Its name.
    pub node_id: NodeId,
    /// What it computes in.
    pub dtype: Dtype,
    /// Its device.
    pub device: CpuOptions,
    /// Where expert hashes are recorded; `None` is beside the weights.
    pub hash_cache: Option<&'a Path>,
    /// Calls that may wait.
    pub max_queued_calls: usize,
    /// Pairs of one batch.
    pub max_batch_pairs: usize,
}

impl Node {
    /// Opens the model and starts the compute thread, which ends when the last clone of the node is dropped.
    ///
    /// # Errors
    /// A broken model, or a device that cannot be had.
    pub fn start(
        checkpoint: Checkpoint,
        options: NodeOptions<'_>,
        draining: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let device = Device::cpu(options.device)?;
        let dtype = options.dtype;
        let identity = Identity {
            node: options.node_id,
            instance: rand::random(),
            handshake: Handshake {
                protocol_version: EXPERT_PROTOCOL_VERSION,
                model_fingerprint: checkpoint.fingerprint().0.to_vec(),
                dtype: dtype.to_string(),
                hidden_size: u32::try_from(checkpoint.config().hidden_size).unwrap_or(u32::MAX),
            },
            instruction_set: device.instruction_set().to_string(),
            dtype,
        };
        let shard = Arc::new(Shard::new(checkpoint, device.clone(), dtype, options.hash_cache)?);
        let max_batch_pairs = options.max_batch_pairs;
        let worker = Worker { device, dtype, shard: Arc::clone(&shard), max_batch_pairs };
        let (queue, thread) = worker.start(options.max_queued_calls)?;
        Ok((Self { identity: Arc::new(identity), shard, queue, draining }, thread))
    }
}

impl ExpertBackend for Node {
    fn describe(&self) -> NodeDescription {
        let held = self.shard.held();
        NodeDescription {
            node: self.identity.node.clone(),
            instance: self.identity.instance,
            handshake: self.identity.handshake.clone(),
            instruction_set: self.identity.instruction_set.clone(),
            epoch: held.epoch,
            resident: held.resident(),
            resident_bytes: held.bytes(),
            draining: self.draining.is_cancelled(),
        }
    }

    async fn assign(
        &self,
        fingerprint: &[u8],
        epoch: Epoch,
        experts: BTreeSet<ExpertId>,
    ) -> Result<Resident, AssignError> {
        let (shard, fingerprint) = (Arc::clone(&self.shard), fingerprint.to_vec());
        let loading =
            tokio::task::spawn_blocking(move || shard.assign(&fingerprint, epoch, &experts));
        match loading.await {
            Ok(held) => held.map(|held| held.resident()),
            Err(panic) => Err(AssignError::Load(format!("loading ended early: {panic}"))),
        }
    }

    fn accept(&self, router: &Handshake) -> Result<FrameShape, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::Draining);
        }
        self.identity.handshake.accept(router)?;
        Ok(FrameShape {
            hidden_size: self.shard.checkpoint().config().hidden_size,
            value_bytes: self.identity.dtype.size_bytes(),
        })
    }

    fn submit(&self, call: Call, reply: ReplySlot) {
        self.queue.submit(call, reply);
    }
}
