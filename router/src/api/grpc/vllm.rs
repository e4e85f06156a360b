//! The gRPC service `vllm.grpc.engine.VllmEngine`, translated to and from `guildhall.v1`.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use guildhall_proto::v1;
use guildhall_proto::vllm as wire;
use guildhall_proto::vllm::vllm_engine_server::VllmEngine;
use tonic::{Request, Response, Status};

use super::ask_of;
use crate::api::ask::Ask;
use crate::api::frontend::{Frontend, Serving};
use crate::api::refusal::Refusal;
use crate::tokenizer::AddSpecial;

pub(super) struct Service(pub(super) Frontend);

type Responses = Pin<Box<dyn Stream<Item = Result<wire::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl VllmEngine for Service {
    type GenerateStream = Responses;

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<Responses>, Status> {
        let beside = ask_of(request.metadata());
        let request = request.into_inner();
        let stream = request.stream;
        let wire = self.translate(request)?;
        let parts = self.0.begin(Ask { wire, ..beside }).await?;
        let mut choices = Choices::default();
        let responses = parts.flat_map(move |part| {
            futures_util::stream::iter(match part {
                Ok(part) => choices.take(part, stream).into_iter().map(Ok).collect(),
                Err(refusal) => vec![Err(Status::from(refusal))],
            })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn health_check(
        &self,
        _: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckResponse>, Status> {
        let takes_traffic = self.0.health().takes_traffic();
        Ok(Response::new(wire::HealthCheckResponse {
            healthy: takes_traffic.is_ok(),
            message: takes_traffic.err().unwrap_or_else(|| "serving".into()),
        }))
    }

    async fn abort(
        &self,
        request: Request<wire::AbortRequest>,
    ) -> Result<Response<wire::AbortResponse>, Status> {
        for id in request.into_inner().request_ids {
            if !self.0.aborts().abort(&id) {
                tracing::debug!(request = id, "nothing to abort");
            }
        }
        Ok(Response::new(wire::AbortResponse {}))
    }

    async fn get_model_info(
        &self,
        _: Request<wire::GetModelInfoRequest>,
    ) -> Result<Response<wire::GetModelInfoResponse>, Status> {
        let Serving { model, .. } = self.0.serving()?;
        let path = model.dir.display().to_string();
        Ok(Response::new(wire::GetModelInfoResponse {
            tokenizer_path: path.clone(),
            model_path: path,
            is_generation: true,
            max_context_length: model.max_model_len as u32,
            vocab_size: model.vocab_size as u32,
            supports_vision: false,
            served_model_name: model.name.clone(),
            model_type: model.family.clone(),
            architectures: Vec::new(),
            eos_token_ids: model.eos_token_ids.iter().map(|&id| id as i32).collect(),
            pad_token_id: 0,
            bos_token_id: 0,
            max_req_input_len: model.max_model_len as i32 - 1,
        }))
    }

    async fn get_server_info(
        &self,
        _: Request<wire::GetServerInfoRequest>,
    ) -> Result<Response<wire::GetServerInfoResponse>, Status> {
        let active = self.0.serving().map_or(0, |serving| serving.admission.taken());
        Ok(Response::new(wire::GetServerInfoResponse {
            active_requests: active as u32,
            is_paused: self.0.health().accepts().is_err(),
            last_receive_timestamp: self.0.last_request().as_secs_f64(),
            uptime_seconds: self.0.uptime().as_secs_f64(),
            server_type: "guildhall".into(),
        }))
    }
}

impl Service {
    /// The same request in the form of `guildhall.v1`.
    fn translate(&self, request: wire::GenerateRequest) -> Result<v1::GenerateRequest, Refusal> {
        use v1::generate_request::Prompt;
        let params = request.sampling_params.unwrap_or_default();
        let keep = params.truncate_prompt_tokens;
        let mut prompt = match request.input {
            None => return Err(Refusal::invalid("input", "neither tokenized nor text is given")),
            Some(wire::generate_request::Input::Tokenized(input)) => {
                Prompt::TokenIds(v1::TokenIds { ids: input.input_ids })
            }
            Some(wire::generate_request::Input::Text(text)) => Prompt::Text(text),
        };
        if let Some(keep) = keep {
            prompt = Prompt::TokenIds(v1::TokenIds { ids: self.truncated(prompt, keep)? });
        }
        let logprobs = |field: &str, n: Option<i32>| match n {
            Some(n) if n < 0 => {
                Err(Refusal::invalid(format!("sampling_params.{field}"), "-1 is not supported"))
            }
            n => Ok(n.map(|n| n.unsigned_abs())),
        };
        let outputs = v1::Outputs {
            top_logprobs: logprobs("logprobs", params.logprobs)?,
            prompt_logprobs: logprobs("prompt_logprobs", params.prompt_logprobs)?,
            // The answer names the tokens beside their probabilities.
            prompt_token_ids: params.prompt_logprobs.is_some(),
            special_tokens: !params.skip_special_tokens,
            routed_experts: false,
        };
        let n = params.n;
        let constraint = params.constraint.clone().map(constraint).transpose()?;
        Ok(v1::GenerateRequest {
            request_id: request.request_id,
            prompt: Some(prompt),
            outputs: Some(outputs),
            stopping: Some(stopping(&params)),
            sampling: Some(sampling(params)?),
            constraint: constraint.flatten(),
            n,
            ..Default::default()
        })
    }

    /// The last tokens of a prompt.
    fn truncated(
        &self,
        prompt: v1::generate_request::Prompt,
        keep: i32,
    ) -> Result<Vec<u32>, Refusal> {
        use v1::generate_request::Prompt;
        let model = &self.0.serving()?.model;
        let mut ids = match prompt {
            Prompt::TokenIds(ids) => ids.ids,
            Prompt::Text(text) => crate::api::validate::encode(model, &text, AddSpecial::Yes)?,
            Prompt::Chat(_) => Vec::new(),
        };
        let keep = match keep {
            -1 => model.max_model_len - 1,
            keep => usize::try_from(keep).ok().filter(|keep| *keep > 0).ok_or_else(|| {
                let field = "sampling_params.truncate_prompt_tokens";
                Refusal::invalid(field, format!("{keep} is neither -1 nor above 0"))
            })?,
        };
        Ok(ids.split_off(ids.len().saturating_sub(keep)))
    }
}

fn sampling(params: wire::SamplingParams) -> Result<v1::Sampling, Refusal> {
    let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
    let bias = |(token, bias): (i32, f32)| match u32::try_from(token) {
        Ok(token) => Ok((token, bias)),
        Err(_) => Err(Refusal::invalid("sampling_params.logit_bias", format!("token {token}"))),
    };
    Ok(v1::Sampling {
        temperature: params.temperature.unwrap_or(1.0),
        top_k: params.top_k,
        top_p: Some(or_one(params.top_p)),
        min_p: params.min_p,
        seed: params.seed.map(|seed| u64::from(seed.cast_unsigned())),
        repetition_penalty: Some(or_one(params.repetition_penalty)),
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        logit_bias: params.logit_bias.into_iter().map(bias).collect::<Result<_, _>>()?,
    })
}

fn stopping(params: &wire::SamplingParams) -> v1::Stopping {
    v1::Stopping {
        max_tokens: params.max_tokens,
        stop: params.stop.clone(),
        stop_token_ids: params.stop_token_ids.clone(),
        ignore_eos: params.ignore_eos,
        min_tokens: params.min_tokens,
        include_stop: params.include_stop_str_in_output,
    }
}

fn constraint(wire: wire::sampling_params::Constraint) -> Result<Option<v1::Constraint>, Refusal> {
    use v1::constraint::Form;
    use wire::sampling_params::Constraint;
    let form = match wire {
        Constraint::JsonSchema(schema) => Form::JsonSchema(schema),
        Constraint::Regex(regex) => Form::Regex(regex),
        Constraint::Grammar(lark) => Form::Lark(lark),
        Constraint::JsonObject(true) => Form::JsonSchema(r#"{"type": "object"}"#.into()),
        Constraint::JsonObject(false) => return Ok(None),
        Constraint::Choice(choice) => Form::Choice(v1::Choices { texts: choice.choices }),
        Constraint::StructuralTag(_) => {
            let what = "is not supported";
            return Err(Refusal::invalid("sampling_params.structural_tag", what));
        }
    };
    Ok(Some(v1::Constraint { form: Some(form) }))
}

/// Puts the parts of each choice together; the complete forms follow when all have ended and the usage is known.
#[derive(Default)]
struct Choices {
    complete: BTreeMap<u32, wire::GenerateComplete>,
    prompt: Option<wire::InputLogProbs>,
}

impl Choices {
    /// The responses that a part gives.
    fn take(&mut self, part: v1::GenerateResponse, stream: bool) -> Vec<wire::GenerateResponse> {
        use wire::generate_response::Response;
        let mut responses = Vec::new();
        let begins = part.prompt.map(input_logprobs);
        self.prompt = begins.clone().or(self.prompt.take());
        for choice in part.choices {
            let index = choice.index;
            let complete = self.complete.entry(index).or_default();
            complete.index = index;
            complete.output_ids.extend(&choice.token_ids);
            complete.completion_tokens = complete.output_ids.len() as u32;
            let logprobs = output_logprobs(&choice);
            append(&mut complete.output_logprobs, logprobs.clone());
            if stream && !choice.token_ids.is_empty() {
                responses.push(Response::Chunk(wire::GenerateStreamChunk {
                    token_ids: choice.token_ids.clone(),
                    completion_tokens: complete.completion_tokens,
                    output_logprobs: logprobs,
                    input_logprobs: begins.clone(),
                    index,
                    ..Default::default()
                }));
            }
            if let Some(reason) = finish_reason(choice.finish_reason()) {
                complete.finish_reason = reason.into();
                complete.matched_stop = choice.matched_stop.map(matched_stop);
            }
        }
        if let Some(usage) = part.usage {
            responses.extend(self.finish(usage).into_iter().map(Response::Complete));
        }
        responses.into_iter().map(|r| wire::GenerateResponse { response: Some(r) }).collect()
    }

    fn finish(&mut self, usage: v1::Usage) -> Vec<wire::GenerateComplete> {
        let complete = std::mem::take(&mut self.complete).into_values();
        let prompt = self.prompt.take();
        let with_usage = |complete: wire::GenerateComplete| wire::GenerateComplete {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            input_logprobs: prompt.clone(),
            ..complete
        };
        complete.map(with_usage).collect()
    }
}

fn finish_reason(reason: v1::FinishReason) -> Option<&'static str> {
    match reason {
        v1::FinishReason::Unspecified => None,
        v1::FinishReason::Stop | v1::FinishReason::ToolCalls => Some("stop"),
        v1::FinishReason::Length => Some("length"),
        v1::FinishReason::Abort => Some("abort"),
    }
}

fn matched_stop(stop: v1::choice::MatchedStop) -> wire::generate_complete::MatchedStop {
    use wire::generate_complete::MatchedStop;
    match stop {
        v1::choice::MatchedStop::StopText(text) => MatchedStop::MatchedStopStr(text),
        v1::choice::MatchedStop::StopTokenId(id) => MatchedStop::MatchedTokenId(id),
    }
}

fn top(of: &v1::TokenLogprobs) -> wire::TopLogProbs {
    wire::TopLogProbs {
        values: of.top.iter().map(|top| top.logprob).collect(),
        token_ids: of.top.iter().map(|top| top.token_id).collect(),
    }
}

fn output_logprobs(choice: &v1::Choice) -> Option<wire::OutputLogProbs> {
    if choice.logprobs.is_empty() {
        return None;
    }
    Some(wire::OutputLogProbs {
        token_logprobs: choice.logprobs.iter().map(|of| of.logprob).collect(),
        token_ids: choice.token_ids.clone(),
        top_logprobs: choice.logprobs.iter().map(top).collect(),
    })
}

fn append(whole: &mut Option<wire::OutputLogProbs>, part: Option<wire::OutputLogProbs>) {
    match (whole, part) {
        (Some(whole), Some(part)) => {
            whole.token_logprobs.extend(part.token_logprobs);
            whole.token_ids.extend(part.token_ids);
            whole.top_logprobs.extend(part.top_logprobs);
        }
        (whole, part) => *whole = part.or(whole.take()),
    }
}

fn input_logprobs(prompt: v1::Prompt) -> wire::InputLogProbs {
    let value = |(position, of): (usize, &v1::TokenLogprobs)| wire::InputTokenLogProb {
        value: (position > 0).then_some(of.logprob),
    };
    wire::InputLogProbs {
        token_logprobs: prompt.logprobs.iter().enumerate().map(value).collect(),
        token_ids: prompt.token_ids,
        top_logprobs: prompt.logprobs.iter().map(top).collect(),
    }
}
