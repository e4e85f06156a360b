//! What the benchmarks of a whole cluster share: processes, requests, a model.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guildhall_proto::v1;

pub(crate) mod model;

/// The directory of the model, made when it is first needed.
pub(crate) fn model_dir() -> PathBuf {
    model::make(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A running cluster; dropping it stops its processes.
pub(crate) struct Cluster {
    up: Child,
    /// Of the gRPC port.
    pub(crate) address: String,
    /// Kept open, because the processes go on printing.
    _stdout: Box<dyn Iterator<Item = String>>,
}

impl Cluster {
    /// Starts `guildhall up` with a model and more arguments; settings of the router are environment variables.
    pub(crate) fn start(model: &Path, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut up = Command::new(env!("CARGO_BIN_EXE_guildhall"))
            .args(["up", "--grpc-port", "0", "--port", "0", "--model", model.to_str().unwrap()])
            .args(args)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(up.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let router = lines.find(|line| line.contains("router ")).expect("the cluster starts");
        let address = router.trim().trim_start_matches("router").trim().to_owned();
        Self { up, address, _stdout: Box::new(lines) }
    }

    /// The id of the process that was started.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub(crate) fn id(&self) -> u32 {
        self.up.id()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let id = self.up.id().to_string();
        // It stops its processes itself, when asked.
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.up.wait();
    }
}

/// A request whose tokens differ from those of other streams, so that they choose other experts.
pub(crate) fn request(stream: u32, prompt_tokens: u32, max_tokens: u32) -> v1::GenerateRequest {
    let ids = (0..prompt_tokens)
        .map(|i| stream.wrapping_mul(104_729).wrapping_add(i * 7919 + 13) % model::VOCAB)
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
