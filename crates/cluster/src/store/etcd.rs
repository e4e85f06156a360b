//! A store in etcd, or in a router that serves etcd's API.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity,
    PutOptions, TlsOptions, Txn, TxnOp, WatchOptions, WatchStream,
};

use super::{Change, Entry, Expected, LeaseId, Listing, Revision, Store, Watch};
use crate::Error;

/// An operation that takes longer has failed; the session tries again.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A connection without a sign of life for this long is broken.
const SILENCE: Duration = Duration::from_secs(2);
/// With TLS a client hears that it is not wanted only after its first request, and often no more than a closed door.
const UNWANTED: &str = " (etcd also closes connections that are not encrypted, or show no certificate that it accepts)";
/// What a node holds can be some hundred KiB, and there can be hundreds of nodes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// How to reach etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `host:port` or a URL, any member of the cluster; at least one.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// PEM of who signed etcd's certificate. With it, connections are encrypted.
    pub ca_certificate: Option<Vec<u8>>,
    /// PEM of our own certificate and its key, where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A client that connects when it is first used, and again after a failure.
#[derive(Clone)]
pub struct Etcd {
    options: Arc<EtcdOptions>,
    /// The current connection; held for no longer than a copy takes.
    client: Arc<Mutex<Option<Client>>>,
}

impl Etcd {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        Self { options: Arc::new(options), client: Arc::default() }
    }

    async fn client(&self) -> Result<Client, Error> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = Client::connect(&self.endpoints(), Some(self.connect_options())).await?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    fn endpoints(&self) -> Vec<String> {
        let scheme = if self.options.ca_certificate.is_some() { "https" } else { "http" };
        let url = |text: &String| match text.contains("://") {
            true => text.clone(),
            false => format!("{scheme}://{text}"),
        };
        self.options.endpoints.iter().map(url).collect()
    }

    fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(TIMEOUT)
            .with_keep_alive(SILENCE, SILENCE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.options.user {
            options = options.with_user(name, password);
        }
        if let Some(ca) = &self.options.ca_certificate {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((certificate, key)) = &self.options.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        options
    }

    /// Runs one operation within [`TIMEOUT`]. After a failure of the connection the next one connects again.
    async fn run<T>(
        &self,
        operation: impl AsyncFnOnce(Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // The client's own futures are large.
        let whole = Box::pin(async { operation(self.client().await?).await });
        let result = match tokio::time::timeout(TIMEOUT, whole).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unavailable(format!("no answer within {TIMEOUT:?}"))),
        };
        if matches!(result, Err(Error::Unavailable(_))) {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }
}

impl From<etcd_client::Error> for Error {
    fn from(error: etcd_client::Error) -> Self {
        match &error {
            etcd_client::Error::LeaseKeepAliveError(_) => Self::NoLease,
            etcd_client::Error::GRpcStatus(status) => match status.code() {
                // It says NOT_FOUND for nothing else.
                tonic::Code::NotFound => Self::NoLease,
                _ => Self::Unavailable(reason(status)),
            },
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// What etcd said, or what became of the connection to it.
fn reason(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let broke = text.contains("connection closed") || text.contains("connection error");
    if broke && !text.contains("ertificate") { text + UNWANTED } else { text }
}

/// What must hold of a key before a transaction does anything.
fn condition(key: &str, expected: Expected) -> Vec<Compare> {
    match expected {
        Expected::Anything => Vec::new(),
        Expected::Absent => vec![Compare::mod_revision(key, CompareOp::Equal, 0)],
        Expected::Revision(Revision(at)) => vec![Compare::mod_revision(key, CompareOp::Equal, at)],
    }
}

async fn transact(
    mut client: Client,
    condition: Vec<Compare>,
    operation: TxnOp,
) -> Result<Revision, Error> {
    let response = client.txn(Txn::new().when(condition).and_then([operation])).await?;
    if !response.succeeded() {
        return Err(Error::Conflict);
    }
    Ok(revision(response.header()))
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, etcd_client::ResponseHeader::revision))
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl Store for Etcd {
    type Watch = EtcdWatch;

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.run(async |client| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
            let response = kv.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            let entry = |kv: &etcd_client::KeyValue| Entry {
                key: text(kv.key()),
                value: kv.value().to_vec(),
                revision: Revision(kv.mod_revision()),
            };
            Ok(Listing {
                entries: response.kvs().iter().map(entry).collect(),
                revision: revision(response.header()),
            })
        })
        .await
    }

    async fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        expected: Expected,
    ) -> Result<Revision, Error> {
        self.run(async |client| {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            transact(client, condition(key, expected), TxnOp::put(key, value, options)).await
        })
        .await
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<Revision, Error> {
        self.run(async |client| {
            transact(client, condition(key, expected), TxnOp::delete(key, None)).await
        })
        .await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<EtcdWatch, Error> {
        self.run(async |client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(after.0 + 1);
            let mut watching = client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok(EtcdWatch(watching.watch(prefix, Some(options)).await?))
        })
        .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = ttl.as_secs_f64().ceil().max(1.0) as i64;
        self.run(async |mut client| Ok(LeaseId(client.lease_grant(seconds, None).await?.id())))
            .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.run(async |mut client| {
            client.lease_keep_alive(lease.0).await?;
            Ok(())
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoked = self.run(async |mut client| {
            client.lease_revoke(lease.0).await?;
            Ok(())
        });
        match revoked.await {
            Err(Error::NoLease) => Ok(()),
            other => other,
        }
    }
}

/// Changes from etcd.
pub struct EtcdWatch(WatchStream);

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<Change>, Error> {
        loop {
            let response = self.0.message().await?;
            let Some(response) = response else {
                return Err(Error::Unavailable("etcd closed the watch".into()));
            };
            if response.compact_revision() > 0 {
                return Err(Error::Compacted);
            }
            if response.canceled() {
                return Err(Error::Unavailable(response.cancel_reason().to_owned()));
            }
            let change = |event: &etcd_client::Event| {
                let kv = event.kv()?;
                let put = event.event_type() == EventType::Put;
                Some(Change {
                    key: text(kv.key()),
                    value: put.then(|| kv.value().to_vec()),
                    revision: Revision(kv.mod_revision()),
                })
            };
            let changes: Vec<Change> = response.events().iter().filter_map(change).collect();
            // The first response only says that the watch has begun.
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}
