//! The gRPC service `guildhall.v1.Generation`.

use std::pin::Pin;

use guildhall_proto::v1;
use guildhall_proto::v1::generation_server::Generation;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::ask_of;
use crate::api::ask::Ask;
use crate::api::frontend::Frontend;

pub(super) struct Service(pub(super) Frontend);

fn ask(request: Request<v1::GenerateRequest>) -> Ask {
    let beside = ask_of(request.metadata());
    Ask { wire: request.into_inner(), ..beside }
}

#[tonic::async_trait]
impl Generation for Service {
    type GenerateStreamStream =
        Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::GenerateResponse>, Status> {
        let running = self.0.begin(ask(request)).await?;
        Ok(Response::new(running.whole().await?))
    }

    async fn generate_stream(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let running = self.0.begin(ask(request)).await?;
        Ok(Response::new(Box::pin(running.map(|part| part.map_err(Status::from)))))
    }
}
