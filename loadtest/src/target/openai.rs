//! OpenAI's completions over HTTP, as server-sent events.

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use guildhall_telemetry::error_chain;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::json;

use super::events::Events;
use super::{Failure, Heard, Server, Target, Usage};
use crate::Error;
use crate::schedule::{Planned, Prompt};

/// No more of a refusal is kept.
const MAX_REFUSAL_CHARS: usize = 300;

pub(crate) struct OpenAi {
    client: Client<HttpConnector, Full<Bytes>>,
    server: Server,
    model: String,
}

/// What of an event of a stream counts.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<EventUsage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
    token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct EventUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl OpenAi {
    /// Connects, and asks which model is served unless one is named.
    pub(crate) async fn connect(mut server: Server) -> Result<Self, Error> {
        let address = server.address.trim_end_matches('/');
        server.address = address.strip_suffix("/v1").unwrap_or(address).to_owned();
        if !server.address.starts_with("http://") {
            let what = format!("the address {:?} does not begin with http://", server.address);
            return Err(Error::Setting(what));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let mut target = Self { client, model: server.model.clone().unwrap_or_default(), server };
        if target.model.is_empty() {
            target.model = target.served_model().await.map_err(|failure| Error::Unreachable {
                address: target.server.address.clone(),
                what: format!("asking for its models: {}: {}", failure.code, failure.message),
            })?;
        }
        Ok(target)
    }

    async fn served_model(&self) -> Result<String, Failure> {
        let response = self.send(Method::GET, "/v1/models", Bytes::new()).await?;
        let body = response.into_body().collect().await.map_err(cut_off)?.to_bytes();
        let models: Models =
            serde_json::from_slice(&body).map_err(|error| Failure::new("no sense", error))?;
        let first = models.data.into_iter().next();
        Ok(first.ok_or_else(|| Failure::new("no sense", "it serves no model"))?.id)
    }

    /// Sends a request; an answer with a status of failure is one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<hyper::body::Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server.address))
            .header("content-type", "application/json");
        if let Some(key) = &self.server.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request =
            request.body(Full::new(body)).map_err(|error| Failure::new("no sense", error))?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| Failure::new("connection", error_chain(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16().to_string();
        let body = response.into_body().collect().await.map_err(cut_off)?.to_bytes();
        let message = String::from_utf8_lossy(&body).chars().take(MAX_REFUSAL_CHARS).collect();
        Err(Failure { code, message })
    }

    fn body(&self, planned: &Planned) -> Bytes {
        let prompt = match &planned.prompt {
            Prompt::Text(text) => json!(text),
            Prompt::TokenIds(ids) => json!(ids),
        };
        let body = json!({
            "model": self.model,
            "prompt": prompt,
            "max_tokens": planned.output_tokens,
            "temperature": 0,
            "ignore_eos": !self.server.heed_eos,
            "return_token_ids": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        body.to_string().into()
    }

    async fn stream(&self, planned: &Planned, heard: &mut Heard) -> Result<(), Failure> {
        let response = self.send(Method::POST, "/v1/completions", self.body(planned)).await?;
        let mut body = response.into_body();
        let mut events = Events::default();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(cut_off)?.into_data() else { continue };
            for event in events.feed(&bytes)? {
                if event == "[DONE]" {
                    return Ok(());
                }
                hear(&event, heard)?;
            }
        }
        Err(Failure::new("cut off", "the stream has no end"))
    }
}

/// Takes in one event. A server that says no token ids sends a token in each event.
fn hear(event: &str, heard: &mut Heard) -> Result<(), Failure> {
    let event: Event = serde_json::from_str(event).map_err(|error| {
        Failure::new("no sense", format!("an event is no JSON of ours: {error}"))
    })?;
    if let Some(error) = event.error {
        let code = error.get("code").and_then(|code| match code {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        return Err(Failure::new(code.as_deref().unwrap_or("error event"), error));
    }
    for choice in event.choices {
        match choice.token_ids {
            Some(ids) => heard.token_ids(&ids),
            None => heard.text(&choice.text),
        }
    }
    if let Some(usage) = event.usage {
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        heard.usage = Usage {
            prompt: usage.prompt_tokens,
            output: usage.completion_tokens,
            cached: cached.unwrap_or(0),
        };
    }
    Ok(())
}

fn cut_off(error: hyper::Error) -> Failure {
    Failure::new("cut off", error_chain(&error))
}

impl Target for OpenAi {
    fn ask<'a>(
        &'a self,
        planned: &'a Planned,
        heard: &'a mut Heard,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.stream(planned, heard).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn heard(events: &[&str]) -> (Heard, Result<(), Failure>) {
        let mut heard = Heard::new(Instant::now());
        let result = events.iter().try_for_each(|event| hear(event, &mut heard));
        (heard, result)
    }

    #[test]
    fn tokens_are_counted_by_their_ids_or_by_events() {
        let with_ids = r#"{"choices": [{"text": "a", "token_ids": [1, 2]}], "usage": null}"#;
        let without = r#"{"choices": [{"text": "a"}]}"#;
        let empty = r#"{"choices": [{"text": "", "finish_reason": "length"}]}"#;
        let counts = |events| heard(events).0.parts.iter().map(|part| part.1).collect::<Vec<_>>();
        assert_eq!(counts(&[with_ids, without, empty]), [2, 1]);
        let cut = [r#"{"choices": [{"text": "ab"}]}"#, r#"{"choices": [{"text": "c"}]}"#];
        let whole = r#"{"choices": [{"text": "abc"}]}"#;
        assert_eq!(heard(&cut).0.digest(), heard(&[whole]).0.digest());
        assert_ne!(heard(&cut).0.digest(), heard(&cut[..1]).0.digest());
    }

    #[test]
    fn usage_and_errors_are_heard() {
        let usage = r#"{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 2}}}"#;
        assert_eq!(heard(&[usage]).0.usage, Usage { prompt: 3, output: 4, cached: 2 });
        let error = heard(&[r#"{"error": {"message": "late", "code": 504}}"#]).1.unwrap_err();
        assert!(error.code == "504" && error.message.contains("late"), "{error:?}");
        assert_eq!(heard(&["nonsense"]).1.unwrap_err().code, "no sense");
    }
}
