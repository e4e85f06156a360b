//! The API that gateways of the field speak, `vllm.grpc.engine.VllmEngine`.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use guildhall_proto::vllm;
use guildhall_proto::vllm::generate_response::Response;
use guildhall_proto::vllm::vllm_engine_client::VllmEngineClient;
use tonic::transport::Channel;

use super::grpc::{connect, with_key};
use super::{Failure, Heard, Server, Target, Usage};
use crate::Error;
use crate::schedule::{Planned, Prompt};

pub(crate) struct Vllm {
    client: VllmEngineClient<Channel>,
    server: Server,
    /// Tells the requests of this run from those of others: when it began, in nanoseconds.
    run: u128,
}

impl Vllm {
    pub(crate) async fn connect(server: Server) -> Result<Self, Error> {
        if server.model.is_some() {
            let what = "--model-name: VllmEngine serves one model, which requests do not name";
            return Err(Error::Setting(what.into()));
        }
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Self { client: VllmEngineClient::new(connect(&server.address).await?), server, run })
    }

    fn request(&self, planned: &Planned) -> vllm::GenerateRequest {
        let input = match planned.prompt.clone() {
            Prompt::Text(text) => vllm::generate_request::Input::Text(text),
            Prompt::TokenIds(input_ids) => {
                let original_text = String::new();
                let tokenized = vllm::TokenizedInput { original_text, input_ids };
                vllm::generate_request::Input::Tokenized(tokenized)
            }
        };
        vllm::GenerateRequest {
            request_id: format!("loadtest-{:x}-{}", self.run, planned.number),
            input: Some(input),
            sampling_params: Some(vllm::SamplingParams {
                temperature: Some(0.0),
                max_tokens: Some(planned.output_tokens),
                ignore_eos: !self.server.heed_eos,
                ..Default::default()
            }),
            stream: true,
        }
    }

    async fn stream(&self, planned: &Planned, heard: &mut Heard) -> Result<(), Failure> {
        let request = with_key(self.request(planned), self.server.api_key.as_deref())?;
        let mut stream = self.client.clone().generate(request).await?.into_inner();
        let mut finish_reason = String::new();
        while let Some(part) = stream.message().await? {
            match part.response {
                Some(Response::Chunk(chunk)) => heard.token_ids(&chunk.token_ids),
                Some(Response::Complete(complete)) => {
                    heard.usage = Usage {
                        prompt: complete.prompt_tokens,
                        output: complete.completion_tokens,
                        cached: complete.cached_tokens,
                    };
                    finish_reason = complete.finish_reason;
                }
                None => {}
            }
        }
        match finish_reason.as_str() {
            "stop" | "length" => Ok(()),
            "" => Err(Failure::new("cut off", "the stream has no complete form")),
            other => Err(Failure::new(other, "it ended before it was finished")),
        }
    }
}

impl Target for Vllm {
    fn ask<'a>(
        &'a self,
        planned: &'a Planned,
        heard: &'a mut Heard,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.stream(planned, heard).boxed()
    }
}
