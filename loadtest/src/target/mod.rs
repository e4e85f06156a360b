//! Whom the requests go to, and what is heard of the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::schedule::Planned;

pub(crate) use guildhall::Guildhall;
pub(crate) use openai::OpenAi;
pub(crate) use vllm::Vllm;

pub(crate) mod grpc;
mod guildhall;
mod vllm;
mod openai;
mod events;

/// Which API is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// guildhall.v1.Generation.
    Guildhall,
    /// vllm.grpc.engine.VllmEngine.
    Vllm,
    /// OpenAI's completions over HTTP.
    Openai,
}

impl Api {
    /// Where `guildhall up` listens for it.
    #[must_use]
    pub fn default_server(self) -> &'static str {
        match self {
            Self::Guildhall | Self::Vllm => "http://127.0.0.1:50051",
            Self::Openai => "http://127.0.0.1:8000",
        }
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// Nobody listens there, or it serves no model of this name.
    pub(crate) async fn connect(self, server: Server) -> Result<Box<dyn Target>, Error> {
        Ok(match self {
            Self::Guildhall => Box::new(Guildhall::connect(server).await?),
            Self::Vllm => Box::new(Vllm::connect(server).await?),
            Self::Openai => Box::new(OpenAi::connect(server).await?),
        })
    }
}

/// Where an API is, and what it wants of everybody.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// Its address, with http://.
    pub address: String,
    /// Its key.
    pub api_key: Option<String>,
    /// Model to ask for; absent: the one that is served.
    pub model: Option<String>,
    /// Whether answers may end before they have as many tokens as were asked for.
    pub heed_eos: bool,
}

/// An API that generates tokens as a stream.
pub(crate) trait Target: Send + Sync {
    /// Asks, and says what it hears as it comes. Giving it up ends the request.
    fn ask<'a>(
        &'a self,
        planned: &'a Planned,
        heard: &'a mut Heard,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One of few: a gRPC code, an HTTP status, `connection`, `timeout`, `cut off` or `no sense`.
    pub(crate) code: String,
    /// In the server's words.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: &str, message: impl ToString) -> Self {
        Self { code: code.to_owned(), message: message.to_string() }
    }
}

/// The SHA-256 of the tokens of an answer, or of its text where the server says no tokens.
pub(crate) type Digest = [u8; 32];

/// What has been heard of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    began: Instant,
    content: Sha256,
    /// Of all answers, for who watches.
    all_tokens: Arc<AtomicU64>,
    /// When tokens came, from the beginning of the run, and how many.
    pub(crate) parts: Vec<(Duration, u32)>,
    /// In the server's count, where it gives one.
    pub(crate) usage: Usage,
}

/// Tokens as a server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    /// Of the prompt: found in a cache.
    pub(crate) cached: u32,
}

impl Heard {
    /// Nothing yet, in a run that began then.
    #[cfg(test)]
    pub(crate) fn new(began: Instant) -> Self {
        Self::counted(began, Arc::default())
    }

    /// Nothing yet, in a run that began then and counts the tokens of all answers there.
    pub(crate) fn counted(began: Instant, all_tokens: Arc<AtomicU64>) -> Self {
        let (content, usage) = (Sha256::new(), Usage::default());
        Self { began, content, all_tokens, parts: Vec::new(), usage }
    }

    /// These tokens came just now.
    pub(crate) fn token_ids(&mut self, ids: &[u32]) {
        for id in ids {
            self.content.update(id.to_le_bytes());
        }
        self.tokens(ids.len());
    }

    /// This text came just now, and counts as a token if there is any.
    pub(crate) fn text(&mut self, text: &str) {
        self.content.update(text);
        self.tokens(usize::from(!text.is_empty()));
    }

    /// Of all that came.
    pub(crate) fn digest(&self) -> Digest {
        self.content.clone().finalize().into()
    }

    fn tokens(&mut self, count: usize) {
        if count > 0 {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.parts.push((self.began.elapsed(), count));
            self.all_tokens.fetch_add(u64::from(count), Ordering::Relaxed);
        }
    }

    /// Tokens of the answer: in the server's count, or those that came.
    pub(crate) fn output_tokens(&self) -> u32 {
        let came = self.parts.iter().map(|(_, count)| count).sum();
        if self.usage.output > 0 { self.usage.output } else { came }
    }
}
