//! A request in the engine, as a stream of wire responses.

use std::collections::HashMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use guildhall_proto::v1;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::admission::Permit;
use super::refusal::Refusal;
use super::responses::Responses;
use crate::engine::Events;
use crate::request::{Chunk, End, EndReason, Failure};
use crate::traces::RequestSpan;

/// Requests by id, so that they can be aborted.
#[derive(Clone, Default)]
pub(crate) struct Aborts(Arc<Mutex<HashMap<String, Vec<CancellationToken>>>>);

/// A request whose sequences are in the engine. Dropping it ends them before the next step.
pub(crate) struct Running {
    events: Events,
    responses: Responses,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    is_aborting: bool,
    over: bool,
    /// Tokens of each sequence so far; nothing once it has ended.
    open: Vec<Option<usize>>,
    /// Recorded when this is dropped.
    span: Option<RequestSpan>,
    _entry: AbortEntry,
    _permit: Permit,
}

/// Keeps a request in [`Aborts`] as long as it runs; dropping it cancels the request.
pub(super) struct AbortEntry {
    aborts: Aborts,
    id: String,
    token: CancellationToken,
}

impl Aborts {
    /// Ends every request of this id, with what it has; says whether there was one.
    pub(crate) fn abort(&self, id: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(id);
        found.into_iter().flatten().for_each(CancellationToken::cancel);
        found.is_some()
    }

    pub(super) fn enter(&self, id: &str) -> AbortEntry {
        let token = CancellationToken::new();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(id.to_owned()).or_default().push(token.clone());
        AbortEntry { aborts: self.clone(), id: id.to_owned(), token }
    }
}

impl AbortEntry {
    /// What is cancelled when the request is aborted or given up.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for AbortEntry {
    fn drop(&mut self) {
        // So that it is told from others of the same id.
        self.token.cancel();
        let mut all = self.aborts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = all.get_mut(&self.id) {
            tokens.retain(|token| !token.is_cancelled());
            if tokens.is_empty() {
                all.remove(&self.id);
            }
        }
    }
}

impl Running {
    pub(super) fn new(
        events: Events,
        responses: Responses,
        deadline: Option<tokio::time::Instant>,
        entry: AbortEntry,
        permit: Permit,
    ) -> Self {
        Self {
            events,
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            aborted: Box::pin(entry.token.clone().cancelled_owned()),
            is_aborting: false,
            over: false,
            open: vec![Some(0); responses.n()],
            responses,
            span: None,
            _entry: entry,
            _permit: permit,
        }
    }

    /// Records what becomes of it.
    pub(super) fn traced(self, span: Option<RequestSpan>) -> Self {
        Self { span, ..self }
    }

    /// All of it, once it is over.
    pub(crate) async fn whole(mut self) -> Result<v1::GenerateResponse, Refusal> {
        let mut whole = v1::GenerateResponse::default();
        while let Some(part) = std::future::poll_fn(|cx| self.poll_part(cx)).await {
            super::responses::append(&mut whole, part?);
        }
        Ok(whole)
    }

    fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<v1::GenerateResponse, Refusal>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let chunk = match ready!(self.poll_chunk(cx)) {
            Ok(chunk) => chunk,
            Err(failure) => {
                self.over = true;
                self.events.close();
                let refusal = Refusal::from(failure);
                if let Some(span) = &mut self.span {
                    span.failed(refusal.kind.name(), refusal.sentence());
                }
                return Poll::Ready(Some(Err(refusal)));
            }
        };
        if let Some(tokens) = &mut self.open[chunk.index] {
            *tokens += chunk.tokens.len();
        }
        if let Some(end) = &chunk.end {
            self.open[chunk.index] = None;
            self.span.iter_mut().for_each(|span| span.ended(end));
        }
        self.over = self.open.iter().all(Option::is_none);
        Poll::Ready(Some(Ok(self.responses.part(chunk, self.over))))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Failure>> {
        if self.is_aborting {
            return Poll::Ready(Ok(self.aborted_chunk()));
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(Failure::DeadlineExceeded));
        }
        if self.aborted.as_mut().poll(cx).is_ready() {
            self.is_aborting = true;
            self.events.close();
            return Poll::Ready(Ok(self.aborted_chunk()));
        }
        let event = ready!(self.events.poll_recv(cx));
        // Without a last chunk the engine has given the request up.
        Poll::Ready(event.unwrap_or(Err(Failure::SlowReader)))
    }

    /// The end of the first sequence that has none.
    fn aborted_chunk(&self) -> Chunk {
        let index = self.open.iter().position(Option::is_some).unwrap_or(0);
        let end = End {
            reason: EndReason::Abort,
            prompt_tokens: self.responses.prompt_tokens(),
            completion_tokens: self.open[index].unwrap_or(0),
            cached_tokens: 0,
        };
        Chunk { index, end: Some(end), ..Chunk::default() }
    }
}

impl Stream for Running {
    type Item = Result<v1::GenerateResponse, Refusal>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_part(cx)
    }
}
