//! Who is in the cluster and what it agrees on; the only crate that knows etcd.

pub use error::Error;
pub use mirror::{Known, Mirror};
pub use session::{Session, SessionOptions, SessionTask};

mod session;
mod mirror;
pub mod store;
mod error;
