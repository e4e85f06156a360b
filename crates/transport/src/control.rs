//! Asking a node what it is and telling it what to hold.

use std::time::Duration;

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertId};
use guildhall_proto::v1;
use guildhall_proto::v1::experts_client::ExpertsClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::{Endpoint, Error, Handshake, NodeDescription, Resident, grpc_link, server, wire};

/// A node answers a description from memory.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection for everything but activations.
#[derive(Clone, Debug)]
pub struct NodeControl {
    endpoint: Endpoint,
    client: ExpertsClient<Channel>,
}

impl NodeControl {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let client = ExpertsClient::new(grpc_link::connect(endpoint).await?)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        Ok(Self { endpoint: endpoint.clone(), client })
    }

    /// Asks who the node is and what it holds.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Protocol`].
    pub async fn describe(&mut self) -> Result<NodeDescription, Error> {
        let mut request = Request::new(v1::DescribeRequest {});
        request.set_timeout(DESCRIBE_TIMEOUT);
        let failed = |status| Error::from_status(&self.endpoint, "describing", status);
        let answer = self.client.describe(request).await.map_err(failed)?.into_inner();
        let broken = |what: String| Error::protocol(&self.endpoint, what);
        Ok(NodeDescription {
            node: server::node_id(&answer.node_id).map_err(broken)?,
            instance: answer.instance,
            handshake: Handshake {
                protocol_version: answer.protocol_version,
                model_fingerprint: answer.model_fingerprint.to_vec(),
                dtype: answer.dtype,
                hidden_size: 0,
            },
            instruction_set: answer.instruction_set,
            epoch: Epoch(answer.epoch),
            resident: wire::resident_from_wire(&answer.resident).map_err(broken)?,
            resident_bytes: answer.resident_bytes,
            draining: answer.draining,
        })
    }

    /// Sets what the node should hold and waits until it does.
    ///
    /// # Errors
    /// [`Error::Refused`] for another model or weights that cannot be loaded, [`Error::Unreachable`].
    pub async fn assign(
        &mut self,
        fingerprint: &[u8],
        epoch: Epoch,
        experts: impl Iterator<Item = ExpertId>,
    ) -> Result<Resident, Error> {
        let request = v1::AssignRequest {
            epoch: epoch.0,
            model_fingerprint: Bytes::copy_from_slice(fingerprint),
            experts: wire::experts_to_wire(experts),
        };
        let failed = |status| Error::from_status(&self.endpoint, "assigning experts", status);
        let answer = self.client.assign(request).await.map_err(failed)?.into_inner();
        wire::resident_from_wire(&answer.resident).map_err(|e| Error::protocol(&self.endpoint, e))
    }
}
