//! Who is in the cluster and what it agrees on; the only crate that knows etcd.

pub use balance::{BalanceReport, LayerBalance, Rebalanced};
pub use config::StoreConfig;
pub use error::Error;
pub use keys::{DEFAULT_PREFIX, Key};
pub use mirror::{Known, Mirror};
pub use peers::{Peer, PeerClients, RouterLoad, serve_peers};
pub use records::{
    ExpertHash, NodeRecord, PlacementRecord, ResidentRecord, RouterRecord, encode_drain,
};
pub use session::{Session, SessionOptions, SessionTask};
pub use view::{ExpectedKey, View};

mod keys;
mod records;
mod view;
mod session;
mod mirror;
pub mod store;
mod balance;
mod peers;
mod config;
mod error;
