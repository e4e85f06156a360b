//! Addresses of processes: TCP, or Unix sockets for processes of one machine.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::{TcpListener, UnixListener};

use crate::Error;

/// Where a process listens: `http://host:port`, `host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `host:port`
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::InvalidEndpoint { text: text.into(), reason };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(invalid("no path after unix:"))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| invalid("no port"))?;
        if host.is_empty() || host.contains(['/', ' ', '@']) {
            return Err(invalid("not host:port, http://host:port or unix:/path"));
        }
        port.parse::<u16>().map_err(|_| invalid("the port is no number up to 65535"))?;
        Ok(Self::Tcp(authority.into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An open listening socket.
#[derive(Debug)]
pub enum Listener {
    /// Accepts TCP connections.
    Tcp(TcpListener),
    /// Accepts connections of this machine; the path is removed when the server stops.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Opens a socket; port 0 lets the system choose one. A stale Unix socket is replaced.
    ///
    /// # Errors
    /// When the address cannot be resolved or is taken.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, Error> {
        let failed = |source| Error::Listen { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Tcp(authority) => {
                TcpListener::bind(authority.as_str()).await.map(Self::Tcp).map_err(failed)
            }
            Endpoint::Unix(path) => {
                // A socket that nobody accepts on is left over from a process that was killed.
                // Anything else under this path is not ours to remove.
                let is_socket = path.metadata().is_ok_and(|found| found.file_type().is_socket());
                let stale = is_socket && tokio::net::UnixStream::connect(path).await.is_err();
                if stale {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// The address under which this socket is reached, with the real port.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn endpoint(&self) -> std::io::Result<Endpoint> {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map(|address: SocketAddr| Endpoint::Tcp(address.to_string()))
            }
            Self::Unix(_, path) => Ok(Endpoint::Unix(path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed() {
        for (text, printed) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("http://node-0.nodes:7001/", "http://node-0.nodes:7001"),
            ("http://[::1]:5", "http://[::1]:5"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), printed);
        }
        for bad in ["", "host", ":80", "host:99999", "unix:", "https://a:1", "http://a/b:1"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} was accepted");
        }
    }
}
