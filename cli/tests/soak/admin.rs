//! What the router says of itself.

use std::time::{Duration, Instant};

use guildhall_proto::v1;
use guildhall_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

/// The key of the admin API.
pub(crate) const KEY: &str = "soak";

/// Nothing may be left this long after the last client has its answer.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Admin(AdminClient<Channel>);

impl Admin {
    pub(crate) async fn connect(address: &str) -> Self {
        Self(AdminClient::connect(address.to_owned()).await.unwrap())
    }

    async fn status(&mut self) -> v1::GetStatusResponse {
        let mut request = tonic::Request::new(v1::GetStatusRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
        self.0.get_status(request).await.unwrap().into_inner()
    }

    /// The status once no sequence, request or held block is left.
    pub(crate) async fn wait_until_idle(&mut self) -> v1::GetStatusResponse {
        let deadline = Instant::now() + QUIET_WITHIN;
        loop {
            let status = self.status().await;
            let sequences = status.running_sequences + status.waiting_sequences;
            if sequences + status.requests + status.kv_blocks_used == 0 {
                assert!(status.ready && status.takes_traffic, "{status:?}");
                return status;
            }
            assert!(Instant::now() < deadline, "something is left behind: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
