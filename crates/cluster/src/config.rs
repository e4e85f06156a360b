//! Settings of the store, the same for every process that uses it.

use std::path::PathBuf;

use crate::keys::DEFAULT_PREFIX;
use crate::store::{Etcd, EtcdOptions};

/// Where the cluster's state is, and how to get at it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StoreConfig {
    /// Where the cluster's state is: members of an etcd, separated by commas, or the cluster port of a router that keeps
    /// the state itself.
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
        let endpoints = self.store.clone();
        Ok(Etcd::new(EtcdOptions { endpoints, user: user.transpose()?, ca_certificate, identity }))
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
    fn what_is_wrong_is_named() {
        let config = StoreConfig { store: vec!["127.0.0.1:1".into()], ..StoreConfig::default() };
        assert!(config.open().is_ok());
        check(&StoreConfig::default(), "--store is needed");
        check(&StoreConfig { store_user: Some("me".into()), ..config.clone() }, "--store-user");
        check(&StoreConfig { store_ca: Some("/nowhere".into()), ..config }, "--store-ca /nowhere");
    }
}
