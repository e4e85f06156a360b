//! What the router says of itself.

use std::time::{Duration, Instant};

use guildhall_proto::v1;
use guildhall_testkit::client::status;

/// The key of the admin API.
pub(crate) const KEY: &str = "soak";

/// Nothing may be left this long after the last client has its answer.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

/// The status once no sequence, request or held block is left.
pub(crate) async fn wait_until_idle(address: &str) -> v1::GetStatusResponse {
    let deadline = Instant::now() + QUIET_WITHIN;
    loop {
        let status = status(address, KEY).await;
        let sequences = status.running_sequences + status.waiting_sequences;
        if sequences + status.requests + status.kv_blocks_used == 0 {
            assert!(status.ready && status.takes_traffic, "{status:?}");
            return status;
        }
        assert!(Instant::now() < deadline, "something is left behind: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
