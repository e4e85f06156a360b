//! What `guildhall up` leaves for the other commands of its user on this machine: where its cluster is, and its admin key.

use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, getuid, test_kill_process};
use serde::{Deserialize, Serialize};

/// The cluster that was started last. Who can read this can do what an admin can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalCluster {
    /// The process of `guildhall up`.
    pub(crate) process: u32,
    /// Address of the gRPC API.
    pub(crate) server: String,
    /// Address of the OpenAI API, without the version.
    pub(crate) http: String,
    /// Address of the admin API.
    pub(crate) admin: String,
    pub(crate) admin_api_key: String,
    /// Socket where faults are asked for.
    pub(crate) control: PathBuf,
}

/// A cluster that others find. Dropping it takes that back.
pub(crate) struct Announced {
    cluster: LocalCluster,
    file: PathBuf,
}

impl LocalCluster {
    /// Leaves it for others, in the place of what another cluster has left.
    ///
    /// # Errors
    /// The folder is somebody else's, or cannot be written.
    pub(crate) fn announce(&self, runtime_dir: &Path) -> anyhow::Result<Announced> {
        let file = file(runtime_dir);
        let folder = file.parent().unwrap_or(runtime_dir);
        let create = || -> anyhow::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            check_owner(folder)?;
            std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
            // Only its owner can read it, and nobody finds half of it.
            let mut new = tempfile::NamedTempFile::new_in(folder)?;
            new.write_all(&serde_json::to_vec_pretty(self)?)?;
            new.persist(&file)?;
            Ok(())
        };
        create().with_context(|| format!("writing {}", file.display()))?;
        Ok(Announced { cluster: self.clone(), file })
    }

    /// The cluster that was started last, if it runs.
    ///
    /// # Errors
    /// What is there is somebody else's, or cannot be read.
    pub(crate) fn find(runtime_dir: &Path) -> anyhow::Result<Option<Self>> {
        let file = file(runtime_dir);
        let read = || -> anyhow::Result<Option<Self>> {
            let bytes = match std::fs::read(&file) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                bytes => bytes?,
            };
            check_owner(&file)?;
            let found: Self = serde_json::from_slice(&bytes)?;
            Ok(Some(found).filter(Self::runs))
        };
        read().with_context(|| format!("reading {}", file.display()))
    }

    /// Whether this is its admin key, if one is given.
    pub(crate) fn has_key(&self, given: Option<&str>) -> bool {
        given.is_none_or(|key| key == self.admin_api_key)
    }

    fn runs(&self) -> bool {
        let pid = i32::try_from(self.process).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid).is_ok())
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        // Another cluster may have been started since; whatever fails here, readers look whether the process lives.
        let left = std::fs::read(&self.file).ok();
        let left = left.and_then(|bytes| serde_json::from_slice::<LocalCluster>(&bytes).ok());
        if left.as_ref() == Some(&self.cluster) {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

fn file(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("guildhall").join("up.json")
}

/// In a folder of everybody, somebody else could have been faster.
fn check_owner(path: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(path)?.uid();
    let own = getuid().as_raw();
    ensure!(owner == own, "{} belongs to user {owner}, not to user {own}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(process: u32) -> LocalCluster {
        LocalCluster {
            process,
            server: "http://127.0.0.1:1".into(),
            http: "http://127.0.0.1:2".into(),
            admin: "http://127.0.0.1:3".into(),
            admin_api_key: "hush".into(),
            control: "/a/socket".into(),
        }
    }

    #[test]
    fn the_last_cluster_that_runs_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(LocalCluster::find(folder).unwrap(), None);
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        let first = cluster(own).announce(folder).unwrap();
        assert_eq!(LocalCluster::find(folder).unwrap(), Some(cluster(own)));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&file(folder)), 0o600);
        assert_eq!(mode(file(folder).parent().unwrap()), 0o700);
        let second = cluster(parent).announce(folder).unwrap();
        drop(first);
        assert_eq!(LocalCluster::find(folder).unwrap(), Some(cluster(parent)));
        drop(second);
        assert_eq!(LocalCluster::find(folder).unwrap(), None);
    }

    #[test]
    fn what_does_not_run_any_more_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let _announced = cluster(ended.id()).announce(folder.path()).unwrap();
        assert_eq!(LocalCluster::find(folder.path()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_says_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("guildhall")).unwrap();
        std::fs::write(file(folder.path()), "{").unwrap();
        let error = format!("{:#}", LocalCluster::find(folder.path()).unwrap_err());
        assert!(error.contains("guildhall/up.json"), "{error}");
    }
}
