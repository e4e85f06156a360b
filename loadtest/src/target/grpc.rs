//! What both gRPC targets need: a connection, a key on each call, and what a status means.

use std::time::Duration;

use guildhall_telemetry::error_chain;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Failure;
use crate::Error;

/// A connection that takes longer is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a stream and of a connection: far above what is on its way, so that the client never holds the server up.
const WINDOW_BYTES: u32 = 8 << 20;

/// Connects to an address with http://.
pub(crate) async fn connect(address: &str) -> Result<Channel, Error> {
    let unreachable = |what: String| Error::Unreachable { address: address.to_owned(), what };
    if !address.starts_with("http://") {
        return Err(Error::Setting(format!("the address {address:?} does not begin with http://")));
    }
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| Error::Setting(format!("{address:?} is no address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint
        .connect()
        .await
        .map_err(|error| unreachable(format!("cannot connect: {}", error_chain(&error))))
}

/// A call with a key, if there is one.
pub(crate) fn with_key<T>(message: T, key: Option<&str>) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse();
        let value = value
            .map_err(|_| Failure::new("no sense", "the key has characters that cannot be sent"))?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = format!("{:?}", status.code());
        Self::new(&code, status.message())
    }
}
