//! What the benchmarks of a whole cluster share: requests and a model.

use std::path::{Path, PathBuf};

use guildhall_proto::v1;

pub(crate) mod model;

/// The directory of a model, made when it is first needed.
pub(crate) fn model_dir(shape: model::Shape) -> PathBuf {
    model::make(Path::new(env!("CARGO_TARGET_TMPDIR")), &shape)
}

/// A request whose tokens differ from those of other streams, so that they choose other experts.
pub(crate) fn request(stream: u32, prompt_tokens: u32, max_tokens: u32) -> v1::GenerateRequest {
    let ids = (0..prompt_tokens)
        .map(|i| stream.wrapping_mul(104_729).wrapping_add(i * 7919 + 13) % model::TOKEN_IDS)
        .collect();
    v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids })),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}
