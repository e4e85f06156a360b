//! Whom a process trusts to be its collector, where that is spoken to over TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error, PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::ClientTlsConfig;

use crate::OtlpConfig;

/// The authorities that a collector's certificate may be signed by: those of a file, or those of the system; none where
/// there is no TLS.
pub(super) fn authorities(config: &OtlpConfig, endpoint: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if !endpoint.starts_with("https://") {
        return Ok(roots);
    }
    match config.otlp_certificate.as_str() {
        "" => {
            // What a system cannot read of its own is no reason to trust nobody.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        file => {
            let unread = |error: Error| format!("reading {file:?}: {error}");
            for certificate in CertificateDer::pem_file_iter(file).map_err(unread)? {
                let certificate = certificate.map_err(unread)?;
                roots.add(certificate).map_err(|error| format!("{file:?}: {error}"))?;
            }
        }
    }
    match roots.is_empty() {
        true => Err("there is no certificate of anybody to trust".into()),
        false => Ok(roots),
    }
}

/// For gRPC.
pub(super) fn grpc(authorities: RootCertStore) -> ClientTlsConfig {
    ClientTlsConfig::new().trust_anchors(authorities.roots)
}

/// For HTTP.
pub(super) fn http(authorities: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(authorities).with_no_client_auth())
}
