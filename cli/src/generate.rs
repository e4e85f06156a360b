//! Streams a completion to the terminal.

use std::io::{Read as _, Write as _};

use anyhow::Context as _;
use guildhall_loadtest::target::Api;
use guildhall_proto::v1;
use guildhall_proto::v1::generation_client::GenerationClient;

use crate::config::GenerateOptions;
use crate::local_cluster::LocalCluster;

/// Asks a router and prints text as it comes; says on standard error how it ended.
pub(crate) async fn run(options: GenerateOptions) -> anyhow::Result<()> {
    let prompt = match options.prompt {
        Some(prompt) => prompt,
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading the prompt")?;
            text
        }
    };
    let server = match options.server {
        Some(server) => server,
        None => match LocalCluster::find(&options.runtime.folder())? {
            Some(local) => local.server,
            None => Api::Guildhall.default_server().to_owned(),
        },
    };
    let mut client = GenerationClient::connect(server.clone())
        .await
        .with_context(|| format!("connecting to {server} (is `guildhall up` running?)"))?;
    let request = v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::Text(prompt)),
        sampling: Some(v1::Sampling {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            seed: options.seed,
            ..Default::default()
        }),
        stopping: Some(v1::Stopping {
            max_tokens: Some(options.max_tokens),
            stop: options.stop,
            ..Default::default()
        }),
        ..Default::default()
    };
    let failed = |status: tonic::Status| {
        anyhow::anyhow!("{}: {}", status.code().description(), status.message())
    };
    let mut stream = client.generate_stream(request).await.map_err(failed)?.into_inner();
    let mut stdout = std::io::stdout();
    while let Some(part) = stream.message().await.map_err(failed)? {
        for choice in part.choices {
            stdout.write_all(choice.text.as_bytes())?;
        }
        stdout.flush()?;
    }
    Ok(writeln!(stdout)?)
}
