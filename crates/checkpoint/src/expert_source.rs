//! Where a node's experts come from: files of its own, or nodes that have them.

use std::path::{Path, PathBuf};

use crate::mapped::has_weights;
use crate::{Checkpoint, Error, Fingerprint, ModelConfig};

/// A model directory as an expert node needs it.
pub enum ExpertSource {
    /// With weights: experts are read from it.
    Local(Checkpoint),
    /// With no more than config.json: experts come from elsewhere.
    Remote(RemoteModel),
}

/// A model whose weights are elsewhere.
pub struct RemoteModel {
    dir: PathBuf,
    config: ModelConfig,
    fingerprint: Fingerprint,
}

impl ExpertSource {
    /// Opens a directory with weights, or one without whose model others know by `fingerprint`.
    ///
    /// That config.json belongs to this fingerprint cannot be checked without the weights; experts are checked one by
    /// one as they come.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; so also if there are neither weights nor a fingerprint.
    pub fn open(dir: &Path, fingerprint: Option<Fingerprint>) -> Result<Self, Error> {
        match fingerprint.filter(|_| !has_weights(dir)) {
            None => Checkpoint::open(dir).map(Self::Local),
            Some(fingerprint) => {
                let config = ModelConfig::from_file(&dir.join("config.json"))?;
                Ok(Self::Remote(RemoteModel { dir: dir.into(), config, fingerprint }))
            }
        }
    }

    /// Where it was opened.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match self {
            Self::Local(checkpoint) => checkpoint.dir(),
            Self::Remote(model) => &model.dir,
        }
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Local(checkpoint) => checkpoint.config(),
            Self::Remote(model) => &model.config,
        }
    }

    /// The same for two copies of a model, different for two models.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Local(checkpoint) => checkpoint.fingerprint(),
            Self::Remote(model) => model.fingerprint,
        }
    }
}
