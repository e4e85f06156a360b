//! What routers ask one another, on the port that also serves the store where there is no etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_ids::NodeId;
use guildhall_proto::v1;
use guildhall_proto::v1::peers_client::PeersClient;
use guildhall_proto::v1::peers_server::{Peers, PeersServer};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::balance::{BalanceReport, Rebalanced, slowness_from_wire, slowness_to_wire};
use crate::{Error, RouterRecord};

/// An answer comes from memory.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A load has a number for each expert of the model.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What a router has counted since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterLoad {
    /// Differs after a restart.
    pub instance: u64,
    /// [layer × expert] tokens, over the layers with experts, ascending.
    pub tokens: Vec<u64>,
    /// How long each node takes for a call, over the node in the middle; nothing where too little is known.
    pub slowness: BTreeMap<NodeId, f64>,
}

/// A router as others see it.
pub trait Peer: Clone + Send + Sync + 'static {
    /// What it has counted.
    fn load(&self) -> RouterLoad;

    /// What it says of the balance; nothing if another router leads.
    fn balance(&self) -> Option<BalanceReport>;

    /// Solves a placement now; nothing if another router leads.
    fn rebalance(&self, dry_run: bool) -> Option<Rebalanced>;
}

/// Adds the service to what a server serves.
#[must_use]
pub fn serve_peers<P: Peer>(routes: Routes, peer: P) -> Routes {
    let service = PeersServer::new(Service(peer));
    routes.add_service(service.max_encoding_message_size(MAX_MESSAGE_BYTES))
}

struct Service<P>(P);

fn not_leading() -> Status {
    Status::failed_precondition("another router leads")
}

#[tonic::async_trait]
impl<P: Peer> Peers for Service<P> {
    async fn get_load(
        &self,
        _: Request<v1::GetLoadRequest>,
    ) -> Result<Response<v1::GetLoadResponse>, Status> {
        let RouterLoad { instance, tokens, slowness } = self.0.load();
        let slowness = slowness_to_wire(&slowness);
        Ok(Response::new(v1::GetLoadResponse { instance, tokens, slowness }))
    }

    async fn get_balance(
        &self,
        _: Request<v1::GetBalanceRequest>,
    ) -> Result<Response<v1::GetBalanceResponse>, Status> {
        let report = self.0.balance().ok_or_else(not_leading)?;
        Ok(Response::new(report.to_wire()))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let done = self.0.rebalance(request.into_inner().dry_run).ok_or_else(not_leading)?;
        let Rebalanced { reasons, gain } = done;
        Ok(Response::new(v1::RebalanceResponse { reasons, gain }))
    }
}

/// Asks other routers; keeps a connection to each.
#[derive(Clone, Default)]
pub struct PeerClients {
    by_address: BTreeMap<String, PeersClient<Channel>>,
}

impl PeerClients {
    /// What some routers have counted; those that do not answer are left out.
    pub async fn loads<'a>(
        &mut self,
        routers: impl Iterator<Item = &'a RouterRecord>,
    ) -> Vec<RouterLoad> {
        let addresses: Vec<String> = routers.map(|router| router.address.clone()).collect();
        self.by_address.retain(|address, _| addresses.contains(address));
        let mut loads = Vec::new();
        for address in addresses {
            let Ok(client) = self.client(&address) else { continue };
            let answer = client.get_load(with_timeout(v1::GetLoadRequest {})).await;
            match answer.map(Response::into_inner) {
                Ok(v1::GetLoadResponse { instance, tokens, slowness }) => {
                    let slowness = slowness_from_wire(slowness);
                    loads.push(RouterLoad { instance, tokens, slowness });
                }
                Err(status) => {
                    tracing::debug!(
                        address,
                        error = status.message(),
                        "a router's load is unknown"
                    );
                }
            }
        }
        loads
    }

    /// What the leader says of the balance.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it does not answer or does not lead any more.
    pub async fn balance(&mut self, leader: &RouterRecord) -> Result<BalanceReport, Error> {
        let request = with_timeout(v1::GetBalanceRequest {});
        let answer = self.client(&leader.address)?.get_balance(request).await;
        Ok(BalanceReport::from_wire(answer.map_err(unavailable)?.into_inner()))
    }

    /// Has the leader solve a placement.
    ///
    /// # Errors
    /// As [`Self::balance`].
    pub async fn rebalance(
        &mut self,
        leader: &RouterRecord,
        dry_run: bool,
    ) -> Result<Rebalanced, Error> {
        let request = with_timeout(v1::RebalanceRequest { dry_run });
        let answer = self.client(&leader.address)?.rebalance(request).await;
        let v1::RebalanceResponse { reasons, gain } = answer.map_err(unavailable)?.into_inner();
        Ok(Rebalanced { reasons, gain })
    }

    fn client(&mut self, address: &str) -> Result<&mut PeersClient<Channel>, Error> {
        let failed = |e: tonic::transport::Error| Error::Unavailable(format!("{address}: {e}"));
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(failed)?;
        let connect = || {
            let channel = endpoint.connect_timeout(TIMEOUT).connect_lazy();
            PeersClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
        };
        Ok(self.by_address.entry(address.to_owned()).or_insert_with(connect))
    }
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn unavailable(status: Status) -> Error {
    Error::Unavailable(status.message().to_owned())
}
