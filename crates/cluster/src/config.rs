//! Settings of the store, the same for every process that uses it.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use crate::keys::DEFAULT_PREFIX;
use crate::store::{Etcd, EtcdOptions};

/// Where the cluster's state is, and how to get at it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoreConfig {
    /// Where the cluster's state is: members of an etcd, separated by commas, or the cluster port of a router that keeps
    /// the state itself. Give an etcd --auto-compaction-retention, or it keeps everything that ever was.
    #[arg(long, env = "GUILDHALL_STORE", value_delimiter = ',', value_name = "ADDR,...")]
    pub store: Vec<String>,

    /// What the keys of this cluster begin with, so that several can share an etcd.
    #[arg(long, env = "GUILDHALL_STORE_PREFIX", default_value = DEFAULT_PREFIX, value_name = "TEXT")]
    pub store_prefix: String,

    /// Name and password for etcd, with a colon between them.
    #[arg(
        long,
        env = "GUILDHALL_STORE_USER",
        hide_env_values = true,
        value_name = "NAME:PASSWORD"
    )]
    pub store_user: Option<String>,

    /// Certificate (PEM) of who signed etcd's; with it, connections to etcd are encrypted.
    #[arg(long, env = "GUILDHALL_STORE_CA", value_name = "FILE")]
    pub store_ca: Option<PathBuf>,

    /// Certificate (PEM) that this process shows to etcd.
    #[arg(long, env = "GUILDHALL_STORE_CERT", requires = "store_key", value_name = "FILE")]
    pub store_cert: Option<PathBuf>,

    /// Key (PEM) of that certificate.
    #[arg(long, env = "GUILDHALL_STORE_KEY", requires = "store_cert", value_name = "FILE")]
    pub store_key: Option<PathBuf>,
}

impl StoreConfig {
    /// A client of the store, which has not connected yet.
    ///
    /// # Errors
    /// A sentence that names the flag and what is wrong with it.
    pub fn open(&self) -> Result<Etcd, String> {
        if self.store.iter().all(|address| address.trim().is_empty()) {
            return Err("--store is needed: etcd, or the cluster port of a router".into());
        }
        let read = |flag: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|e| format!("{flag} {}: {e}", path.display()))
        };
        let user = self.store_user.as_deref().map(|text| {
            let (name, password) = text.split_once(':').ok_or("--store-user has no colon")?;
            Ok::<_, String>((name.to_owned(), password.to_owned()))
        });
        let identity = match (&self.store_cert, &self.store_key) {
            (Some(cert), Some(key)) => {
                Some((read("--store-cert", cert)?, read("--store-key", key)?))
            }
            _ => None,
        };
        let ca_certificate =
            self.store_ca.as_ref().map(|path| read("--store-ca", path)).transpose()?;
        if identity.is_some() && ca_certificate.is_none() {
            return Err("--store-cert needs --store-ca".into());
        }
        let encrypted = self.store.iter().find(|address| address.trim().starts_with("https://"));
        if let (Some(address), None) = (encrypted, &ca_certificate) {
            return Err(format!(
                "--store {address} needs --store-ca: no other certificate is trusted"
            ));
        }
        let endpoints = self.store.clone();
        Ok(Etcd::new(EtcdOptions { endpoints, user: user.transpose()?, ca_certificate, identity }))
    }
}

impl StoreConfig {
    /// What other processes of the cluster can reach of an address that this process listens on: in the place of "every
    /// address of this machine", the one from which it sends to the store. Nothing is sent.
    #[must_use]
    pub fn address_for_others(&self, listening: SocketAddr) -> SocketAddr {
        if !listening.ip().is_unspecified() {
            return listening;
        }
        let own = self.store.iter().find_map(|store| {
            let authority = store.rsplit("//").next().unwrap_or_default();
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect(authority.trim_end_matches('/')).ok()?;
            Some(socket.local_addr().ok()?.ip())
        });
        own.map_or(listening, |ip| SocketAddr::new(ip, listening.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &StoreConfig, expected: &str) {
        let Err(error) = config.open() else { panic!("{config:?} was accepted") };
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn others_are_told_an_address_that_they_can_reach() {
        let store = vec!["http://127.0.0.1:2379".into()];
        let config = StoreConfig { store, ..StoreConfig::default() };
        let told = |text: &str| config.address_for_others(text.parse().unwrap()).to_string();
        assert_eq!(told("0.0.0.0:50061"), "127.0.0.1:50061");
        assert_eq!(told("10.1.2.3:50061"), "10.1.2.3:50061");
        let alone = StoreConfig::default().address_for_others("0.0.0.0:1".parse().unwrap());
        assert_eq!(alone.to_string(), "0.0.0.0:1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let config = StoreConfig { store: vec!["127.0.0.1:1".into()], ..StoreConfig::default() };
        assert!(config.open().is_ok());
        check(&StoreConfig::default(), "--store is needed");
        check(&StoreConfig { store_user: Some("me".into()), ..config.clone() }, "--store-user");
        let encrypted = vec!["a:1".into(), "https://b:1".into()];
        check(&StoreConfig { store: encrypted, ..config.clone() }, "--store https://b:1 needs");
        check(&StoreConfig { store_ca: Some("/nowhere".into()), ..config }, "--store-ca /nowhere");
    }
}
