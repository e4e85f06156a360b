//! API keys: every route but a few asks for one, and they are compared in constant time.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{Either, Ready, ready};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tower::{Layer, Service};

use super::refusal::{Refusal, RefusalKind};
use crate::Error;

/// The keys that are accepted now.
#[derive(Clone)]
pub(crate) struct ApiKeys(Arc<Source>);

struct Source {
    /// Given as settings; they stay.
    fixed: Vec<String>,
    file: Option<PathBuf>,
    /// SHA-256 of each key, so that all are of one length. `None`: everybody may come in.
    accepted: ArcSwap<Option<Vec<[u8; 32]>>>,
}

/// How often the file is read again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

impl ApiKeys {
    /// Keys from settings and from a file with one on each line. Without either, everybody may come in.
    ///
    /// # Errors
    /// When the file cannot be read, or has no key.
    pub(crate) fn open(fixed: Vec<String>, file: Option<PathBuf>) -> Result<Self, Error> {
        let source = Source { fixed, file, accepted: ArcSwap::from_pointee(None) };
        let accepted = source.read().map_err(Error::Config)?;
        source.accepted.store(Arc::new(accepted));
        Ok(Self(Arc::new(source)))
    }

    /// Follows the file until `stop`. A file that cannot be read, or has no key, changes nothing.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        if self.0.file.is_none() {
            return;
        }
        let mut complained = None;
        while stop.run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL)).await.is_some() {
            let failure = match self.0.read() {
                Ok(accepted) if accepted == **self.0.accepted.load() => None,
                Ok(accepted) => {
                    tracing::info!("API keys read again");
                    self.0.accepted.store(Arc::new(accepted));
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) =
                failure.as_ref().filter(|error| complained.as_ref() != Some(*error))
            {
                tracing::warn!(error, "API keys stay as they are");
            }
            complained = failure;
        }
    }

    /// Whether a call may come in by its `authorization` or `x-api-key` header.
    ///
    /// # Errors
    /// What is wrong with its key.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let accepted = self.0.accepted.load();
        let Some(accepted) = accepted.as_ref() else { return Ok(()) };
        let refused = |what: &str| Err(Refusal::new(RefusalKind::Unauthenticated, what));
        let Some(given) = key_in(headers) else {
            return refused("no API key: send the header `authorization: Bearer KEY`");
        };
        let digest: [u8; 32] = Sha256::digest(given).into();
        // Every key is compared, whichever fits.
        let fits = accepted.iter().fold(Choice::from(0), |fits, key| fits | key.ct_eq(&digest));
        if bool::from(fits) { Ok(()) } else { refused("this API key is not accepted") }
    }
}

impl Source {
    fn read(&self) -> Result<Option<Vec<[u8; 32]>>, String> {
        let mut keys = self.fixed.clone();
        if let Some(path) = &self.file {
            let place = path.display();
            let text = std::fs::read_to_string(path).map_err(|e| format!("{place}: {e}"))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            keys.extend(lines.map(ToOwned::to_owned));
            if keys.is_empty() {
                return Err(format!("{place} has no API key"));
            }
        }
        let digests = keys.iter().map(|key| Sha256::digest(key).into()).collect();
        Ok((!keys.is_empty()).then_some(digests))
    }
}

fn key_in(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let value = headers.get("authorization")?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// A layer that lets no call through without a key.
#[derive(Clone)]
pub(crate) struct RequireKey {
    keys: ApiKeys,
    open_paths: &'static [&'static str],
}

impl RequireKey {
    /// Paths that begin with one of `open_paths` need no key; `/` is that one path.
    pub(crate) fn new(keys: ApiKeys, open_paths: &'static [&'static str]) -> Self {
        Self { keys, open_paths }
    }
}

impl<S> Layer<S> for RequireKey {
    type Service = KeyRequired<S>;

    fn layer(&self, inner: S) -> KeyRequired<S> {
        KeyRequired { inner, require: self.clone() }
    }
}

/// See [`RequireKey`].
#[derive(Clone)]
pub(crate) struct KeyRequired<S> {
    inner: S,
    require: RequireKey,
}

impl<S, B, R> Service<Request<B>> for KeyRequired<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if self.require.open_paths.iter().any(|open| opens(open, path)) {
            return Either::Left(self.inner.call(request));
        }
        match self.require.keys.check(request.headers()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Ok(refuse(refusal, request.headers())))),
        }
    }
}

fn opens(open: &str, path: &str) -> bool {
    path == open || open != "/" && path.starts_with(open)
}

/// The refusal as gRPC has it; for others with the status of HTTP.
fn refuse<R: Default>(refusal: Refusal, headers: &HeaderMap) -> Response<R> {
    let mut response = Status::from(refusal).into_http();
    let is_grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let keys = ApiKeys::open(vec!["one".into(), "two".into()], None).unwrap();
        for (name, value) in
            [("authorization", "Bearer one"), ("authorization", "bearer two"), ("x-api-key", "two")]
        {
            assert_eq!(keys.check(&headers(name, value)), Ok(()), "{value}");
        }
        for (name, value) in [
            ("authorization", "Bearer three"),
            ("authorization", "one"),
            ("authorization", "Basic one"),
            ("authorization", "Bearer "),
            ("x-api-key", ""),
            ("cookie", "one"),
        ] {
            let refused = keys.check(&headers(name, value)).unwrap_err();
            assert_eq!(refused.kind, RefusalKind::Unauthenticated);
        }
    }

    #[test]
    fn the_root_opens_nothing_but_itself() {
        let check = |open, path, expected| assert_eq!(opens(open, path), expected, "{open} {path}");
        check("/", "/", true);
        check("/", "/metrics", false);
        check("/page/", "/page/page.js", true);
        check("/page/", "/page", false);
    }

    #[test]
    fn without_keys_everybody_may_come_in() {
        let keys = ApiKeys::open(Vec::new(), None).unwrap();
        assert!(keys.check(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_file_must_have_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        assert!(ApiKeys::open(Vec::new(), Some(path.clone())).is_err());
        std::fs::write(&path, "\n  \n").unwrap();
        assert!(ApiKeys::open(Vec::new(), Some(path.clone())).is_err());
        std::fs::write(&path, "a\n b \n").unwrap();
        let keys = ApiKeys::open(Vec::new(), Some(path)).unwrap();
        assert!(keys.check(&headers("x-api-key", "b")).is_ok());
    }
}
