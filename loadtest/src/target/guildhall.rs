//! Guildhall's own API, `guildhall.v1.Generation`.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use guildhall_proto::v1;
use guildhall_proto::v1::generation_client::GenerationClient;
use tonic::transport::Channel;

use super::grpc::{connect, with_key};
use super::{Failure, Heard, Server, Target, Usage};
use crate::Error;
use crate::schedule::{Planned, Prompt};

pub(crate) struct Guildhall {
    client: GenerationClient<Channel>,
    server: Server,
}

impl Guildhall {
    pub(crate) async fn connect(server: Server) -> Result<Self, Error> {
        Ok(Self { client: GenerationClient::new(connect(&server.address).await?), server })
    }

    fn request(&self, planned: &Planned) -> v1::GenerateRequest {
        let prompt = match planned.prompt.clone() {
            Prompt::Text(text) => v1::generate_request::Prompt::Text(text),
            Prompt::TokenIds(ids) => v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids }),
        };
        v1::GenerateRequest {
            model: self.server.model.clone().unwrap_or_default(),
            prompt: Some(prompt),
            stopping: Some(v1::Stopping {
                max_tokens: Some(planned.output_tokens),
                ignore_eos: !self.server.heed_eos,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn stream(&self, planned: &Planned, heard: &mut Heard) -> Result<(), Failure> {
        let request = with_key(self.request(planned), self.server.api_key.as_deref())?;
        let mut stream = self.client.clone().generate_stream(request).await?.into_inner();
        let mut finished = false;
        while let Some(part) = stream.message().await? {
            for choice in part.choices {
                heard.token_ids(&choice.token_ids);
                finished |= choice.finish_reason() != v1::FinishReason::Unspecified;
            }
            if let Some(usage) = part.usage {
                heard.usage = Usage {
                    prompt: usage.prompt_tokens,
                    output: usage.completion_tokens,
                    cached: usage.cached_tokens,
                };
            }
        }
        if finished { Ok(()) } else { Err(Failure::new("cut off", "the stream has no end")) }
    }
}

impl Target for Guildhall {
    fn ask<'a>(
        &'a self,
        planned: &'a Planned,
        heard: &'a mut Heard,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.stream(planned, heard).boxed()
    }
}
