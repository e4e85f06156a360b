//! Server-sent events: parts of answers as they come, and what a client wants to see in them.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use futures_util::stream::{self, select_all};
use guildhall_proto::v1;
use serde::Serialize;

use super::chat::ChoiceExtensions;
use super::errors::ErrorBody;
use super::requests::Common;
use super::tokens;
use crate::api::refusal::Refusal;
use crate::api::running::Running;

/// What of an answer a client wants to see.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) stream: bool,
    /// At the end of a stream.
    pub(super) usage: bool,
    pub(super) token_ids: bool,
    pub(super) prompt_logprobs: bool,
}

impl Wanted {
    pub(super) fn of(common: &Common) -> Self {
        let usage = common.stream_options.and_then(|options| options.include_usage);
        Self {
            stream: common.stream.unwrap_or(false),
            usage: usage.unwrap_or(false),
            token_ids: common.return_token_ids.unwrap_or(false),
            prompt_logprobs: common.prompt_logprobs.is_some(),
        }
    }

    pub(super) fn extensions(self, choice: &v1::Choice) -> ChoiceExtensions {
        use v1::choice::MatchedStop;
        ChoiceExtensions {
            stop_reason: choice.matched_stop.as_ref().map(|stop| match stop {
                MatchedStop::StopText(text) => text.as_str().into(),
                MatchedStop::StopTokenId(id) => (*id).into(),
            }),
            token_ids: self.token_ids.then(|| choice.token_ids.clone()),
            routed_experts: choice.routed_experts.as_ref().map(tokens::routed_experts),
        }
    }
}

/// Sends what `shape` makes of the parts of several requests, which it gets with the number of their request. What
/// goes wrong before the first part is the response; what goes wrong later is the last event.
pub(super) async fn stream<T: Serialize>(
    requests: Vec<Running>,
    mut shape: impl FnMut(usize, v1::GenerateResponse) -> Vec<T> + Send + 'static,
) -> Result<Response, Refusal> {
    let numbered = requests.into_iter().enumerate();
    let parts = numbered.map(|(number, running)| running.map(move |part| (number, part)).boxed());
    let mut parts = select_all(parts);
    let first = match parts.next().await {
        Some((_, Err(refusal))) => return Err(refusal),
        first => stream::iter(first),
    };
    let mut failed = false;
    let events = first.chain(parts).flat_map(move |(number, part)| {
        let events = match part {
            // One request that failed ends all.
            _ if failed => Vec::new(),
            Ok(part) => shape(number, part).iter().map(json_event).collect(),
            Err(refusal) => {
                failed = true;
                vec![json_event(&ErrorBody::of(&refusal))]
            }
        };
        stream::iter(events)
    });
    let done = stream::iter([Event::default().data("[DONE]")]);
    let events = events.chain(done).map(Ok::<_, Infallible>);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn json_event<T: Serialize>(value: &T) -> Event {
    // Our own types have only keys that are strings, so this cannot fail.
    Event::default().json_data(value).unwrap_or_default()
}
