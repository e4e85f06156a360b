//! Links, servers and their ends, over TCP, over Unix sockets and within one process.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::panic, reason = "a test may stop at the first surprise")]

mod broken_nodes;
mod broken_routers;
mod ends;
mod fetching;
mod handshakes;
mod links;
mod sockets;
mod support;
