//! Certificates for one test: an authority, and what it signed.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Who is trusted, and a certificate for this machine signed by it, which serves both ends of a connection.
pub struct Certificates {
    /// The certificate of the authority, PEM.
    pub authority: String,
    /// What it signed.
    pub identity: Identity,
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Makes both.
    pub fn generate() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let identity = Identity { certificate, key: key.serialize_pem() };

        let folder = tempfile::tempdir().unwrap();
        let write = |path: PathBuf, pem: &str| std::fs::write(path, pem).unwrap();
        let files = Self { authority, identity, folder };
        write(files.authority_file(), &files.authority);
        write(files.certificate_file(), &files.identity.certificate);
        write(files.key_file(), &files.identity.key);
        files
    }

    /// The authority's certificate as a file.
    pub fn authority_file(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// The certificate as a file.
    pub fn certificate_file(&self) -> PathBuf {
        self.file("certificate.pem")
    }

    /// The key as a file.
    pub fn key_file(&self) -> PathBuf {
        self.file("key.pem")
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }
}
