//! The ports of a router: bound first, served from then on.

use std::io::Write as _;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiKeys, Frontend, grpc, openai};
use crate::{Error, RouterConfig};

/// The tasks behind the ports. Dropping it ends them.
pub(crate) struct Servers(JoinSet<Result<(), Error>>);

impl Servers {
    /// Binds every port and serves it until `shutdown` and the end of its last request; follows the files with keys
    /// until `ended`. Returns the address of the gRPC port too.
    pub(crate) async fn start(
        config: &RouterConfig,
        frontend: &Frontend,
        (shutdown, ended): (CancellationToken, CancellationToken),
    ) -> Result<(Self, SocketAddr), Error> {
        let mut tasks = JoinSet::new();
        let keys = ApiKeys::open(config.api_key.clone(), config.api_key_file.clone())?;
        let (listener, address) = bind(&config.host, config.grpc_port).await?;
        tasks.spawn(grpc::serve(listener, frontend.clone(), keys.clone(), shutdown.clone()));
        let (listener, http) = bind(&config.host, config.port).await?;
        tasks.spawn(openai::serve(listener, frontend.clone(), keys.clone(), shutdown.clone()));
        print_line(&format!("HTTP API on http://{http}"))?;
        if let Some(port) = config.admin_port {
            let file = config.admin_api_key_file.clone();
            let keys = ApiKeys::open(config.admin_api_key.clone(), file)?;
            let (listener, address) = bind(&config.host, port).await?;
            tasks.spawn(grpc::serve_admin(listener, frontend.clone(), keys.clone(), shutdown));
            tokio::spawn(keys.watch(ended.clone()));
            print_line(&format!("admin API on http://{address}"))?;
        }
        tokio::spawn(keys.watch(ended));
        Ok((Self(tasks), address))
    }

    /// Ends when every server has, or one has failed.
    pub(crate) async fn end(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.0.join_next().await {
            ended.map_err(|e| Error::Engine(format!("a server panicked: {e}")))??;
        }
        Ok(())
    }
}

/// Listens on a port of an address; 0 is any free one.
pub(crate) async fn bind(host: &str, port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address: format!("{host}:{port}"), source };
    let listener = TcpListener::bind((host, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Writes a line to standard output at once.
pub(crate) fn print_line(line: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|source| Error::System { what: "printing an address", source })
}
