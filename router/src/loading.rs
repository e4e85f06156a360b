//! From settings and a checkpoint to everything that serving needs, but the experts.

use std::num::NonZeroUsize;
use std::sync::Arc;

use guildhall_chat::ChatTemplate;
use guildhall_checkpoint::{Checkpoint, ModelConfig};
use guildhall_kernels::{CpuOptions, Device, KvShape, memory_of_machine};
use tokio_util::sync::CancellationToken;

use crate::api::ServedModel;
use crate::constraint::Grammars;
use crate::engine::{LaneOptions, PingPong};
use crate::model::Model;
use crate::scheduler::{BlockPool, Limits, Scheduler};
use crate::tokenizer::Tokenizer;
use crate::{Error, RouterConfig};

/// Tokens of a block of the KV cache.
pub(crate) const BLOCK_TOKENS: usize = 16;

/// Everything that a lane needs but its experts.
pub(crate) fn lane_options(
    config: &RouterConfig,
    checkpoint: &Checkpoint,
) -> Result<LaneOptions, Error> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = config.threads.unwrap_or(cores);
    let device = Device::cpu(CpuOptions {
        threads,
        instruction_set: config.instruction_set,
        pin_threads: config.pin_threads,
    })?;
    let shape = kv_shape(config, checkpoint.config())?;
    let capacity = shape.blocks * BLOCK_TOKENS;
    let limits = Limits {
        max_running: config.max_num_seqs.get(),
        max_batched_tokens: config.max_num_batched_tokens.get(),
    };
    let blocks = u32::try_from(shape.blocks)
        .map_err(|_| Error::Config(format!("{} KV blocks are too many", shape.blocks)))?;
    let max_positions = max_model_len(config, checkpoint.config(), capacity)?;
    let (formats, moe) = ((config.dtype, config.dense_format()), &checkpoint.config().moe);
    Ok(LaneOptions {
        model: Model::load(checkpoint, &device, formats, max_positions)?,
        cache: device.kv_cache(shape, config.dtype)?,
        scheduler: Scheduler::new(limits, BlockPool::new(blocks, BLOCK_TOKENS)),
        ping_pong: PingPong::new(config.ping_pong, (moe.top_k, moe.n_experts)),
        tokenizer: Tokenizer::open(checkpoint.dir())?,
        max_positions,
        expert_wait_timeout: config.expert_wait_timeout,
        slow_step: config.traces().slow_step_if_tracing(),
        stop: CancellationToken::new(),
    })
}

/// The shape of a model's cache with so many blocks.
pub(crate) fn shape_of_blocks(model: &ModelConfig, blocks: usize) -> KvShape {
    let attention = &model.attention;
    KvShape {
        layers: model.layers.len(),
        blocks,
        block_tokens: BLOCK_TOKENS,
        kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
    }
}

/// As many blocks as the memory holds, but no more than running sequences and some prefixes can fill.
fn kv_shape(config: &RouterConfig, model: &ModelConfig) -> Result<KvShape, Error> {
    let block_bytes = shape_of_blocks(model, 1).bytes(config.dtype);
    let longest = config.max_model_len.map_or(model.max_position_embeddings, NonZeroUsize::get);
    let useful = longest.div_ceil(BLOCK_TOKENS).saturating_mul(config.max_num_seqs.get());
    let memory = config.kv_cache_memory.of(memory_of_machine());
    let blocks = (memory / block_bytes).min(useful.saturating_mul(2));
    if blocks == 0 {
        return Err(Error::Config(format!(
            "--kv-cache-memory, {memory} bytes, does not hold one block of {block_bytes} bytes"
        )));
    }
    Ok(shape_of_blocks(model, blocks))
}

fn max_model_len(
    config: &RouterConfig,
    model: &ModelConfig,
    capacity: usize,
) -> Result<usize, Error> {
    let trained = model.max_position_embeddings;
    match config.max_model_len.map(NonZeroUsize::get) {
        None => Ok(trained.min(capacity)),
        Some(asked) if asked > trained => Err(Error::Config(format!(
            "--max-model-len {asked} is over the model's max_position_embeddings {trained}"
        ))),
        Some(asked) if asked > capacity => Err(Error::Config(format!(
            "--max-model-len {asked} is over the {capacity} tokens that --kv-cache-memory holds"
        ))),
        Some(asked) => Ok(asked),
    }
}

/// What requests are checked against.
pub(crate) fn served_model(
    config: &RouterConfig,
    checkpoint: &Checkpoint,
    options: &LaneOptions,
) -> Result<ServedModel, Error> {
    let model = checkpoint.config();
    let eos_token_ids = checkpoint.generation().eos_token_ids.clone();
    let template = ChatTemplate::open(checkpoint.dir(), config.chat_template.as_deref())?;
    let guessed = template.as_ref().map(ChatTemplate::tool_format);
    Ok(ServedModel {
        name: config.model_name(),
        dir: checkpoint.dir().to_owned(),
        family: model.family.model_type().to_owned(),
        grammars: options.tokenizer.as_ref().and_then(|of| grammars(of, &eos_token_ids)),
        tokenizer: options.tokenizer.clone(),
        tool_format: config
            .tool_call_parser
            .or(guessed)
            .unwrap_or(guildhall_chat::ToolFormat::Hermes),
        chat_template: template.map(Arc::new),
        vocab_size: model.vocab_size,
        eos_token_ids,
        max_model_len: options.max_positions,
        moe_layers: model.moe_layers().map(|layer| layer.0).collect(),
        top_k: model.moe.top_k as u32,
    })
}

fn grammars(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Option<Grammars> {
    let grammars = Grammars::new(tokenizer, eos_token_ids);
    let warn = |why: &String| tracing::warn!(why, "structured output is not possible");
    grammars.inspect_err(warn).ok()
}
