//! An opened model directory.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use guildhall_ids::{ExpertId, LayerIdx};

use crate::mapped::MappedTensors;
use crate::names::{self, FfnNames};
use crate::{
    Error, ExpertBytes, ExpertHash, ExpertTensors, Fingerprint, GenerationDefaults, HashCache,
    ModelConfig,
};

/// A Hugging Face model directory with its weights mapped; a tensor is read when it is asked for.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    generation: GenerationDefaults,
    fingerprint: Fingerprint,
    tensors: MappedTensors,
}

/// The shared expert of a layer.
pub struct SharedExpertTensors {
    /// Its matrices.
    pub ffn: ExpertTensors,
    /// What its sigmoid gate multiplies with: [1, hidden].
    pub gate: Tensor,
}

impl Checkpoint {
    /// Opens a directory with config.json and safetensors files, and checks every header.
    ///
    /// # Errors
    /// Anything wrong with these files; the error names the file, the key or the tensor.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config_path = dir.join("config.json");
        let config = ModelConfig::from_file(&config_path)?;
        let generation = GenerationDefaults::read(dir)?;
        let tensors = MappedTensors::open(dir, config.quantisation)?;
        let fingerprint = Fingerprint::compute(&config_path, &config, &tensors)?;
        Ok(Self { dir: dir.into(), config, generation, fingerprint, tensors })
    }

    /// Where it was opened.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How its sequences end.
    #[must_use]
    pub fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// The same for two copies of a model, different for two models.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// A tensor of the dense part by its name in the files.
    ///
    /// # Errors
    /// If it is missing, has another shape than `shape`, or a value that is no finite number.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.tensors.tensor(name, shape)
    }

    /// The gate of a layer: [experts, hidden].
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn gate(&self, layer: LayerIdx) -> Result<Tensor, Error> {
        let shape = [self.config.moe.n_experts, self.config.hidden_size];
        self.tensor(&names::gate(self.config.family, layer), &shape)
    }

    /// The feed-forward network of a dense layer of this width.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn dense_ffn(&self, layer: LayerIdx, width: usize) -> Result<ExpertTensors, Error> {
        self.ffn(&names::dense_ffn(layer), width)
    }

    /// The shared expert of a layer, if the model has them.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn shared_expert(&self, layer: LayerIdx) -> Result<Option<SharedExpertTensors>, Error> {
        let Some(shared) = self.config.moe.shared_expert else { return Ok(None) };
        let ffn = self.ffn(&names::shared_expert(layer), shared.width)?;
        let gate = self.tensor(&names::shared_expert_gate(layer), &[1, self.config.hidden_size])?;
        Ok(Some(SharedExpertTensors { ffn, gate }))
    }

    /// An expert, without looking at its hash.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn expert(&self, id: ExpertId) -> Result<ExpertTensors, Error> {
        self.ffn(&names::expert(self.config.family, id), self.config.moe.expert_width)
    }

    /// An expert whose bytes hash to what `hashes` has recorded (or records now).
    ///
    /// # Errors
    /// As [`Self::tensor`], and [`Error::Corrupt`].
    pub fn verified_expert(
        &self,
        id: ExpertId,
        hashes: &HashCache,
    ) -> Result<(ExpertTensors, ExpertHash), Error> {
        let (_, hash) = self.verified_bytes(id, hashes)?;
        Ok((self.expert(id)?, hash))
    }

    /// The same as bytes where they are mapped, for somebody who has only the configuration.
    ///
    /// # Errors
    /// As [`Self::expert_bytes`], and [`Error::Corrupt`].
    pub fn verified_bytes(
        &self,
        id: ExpertId,
        hashes: &HashCache,
    ) -> Result<(ExpertBytes<'_>, ExpertHash), Error> {
        let bytes = self.expert_bytes(id)?;
        let hash = bytes.hash();
        hashes.verify(&self.dir, id, &hash)?;
        Ok((bytes, hash))
    }

    /// The bytes of an expert where they are mapped, whatever they are.
    ///
    /// # Errors
    /// If a matrix is missing or has another shape.
    pub fn expert_bytes(&self, id: ExpertId) -> Result<ExpertBytes<'_>, Error> {
        let names = names::expert(self.config.family, id);
        let [gate, up, down] = self.config.ffn_shapes(self.config.moe.expert_width);
        Ok(ExpertBytes {
            gate: self.tensors.matrix(&names[0], gate)?,
            up: self.tensors.matrix(&names[1], up)?,
            down: self.tensors.matrix(&names[2], down)?,
        })
    }

    fn ffn(&self, names: &FfnNames, width: usize) -> Result<ExpertTensors, Error> {
        let [gate, up, down] = self.config.ffn_shapes(width);
        Ok(ExpertTensors {
            gate: self.tensor(&names[0], &gate)?,
            up: self.tensor(&names[1], &up)?,
            down: self.tensor(&names[2], &down)?,
        })
    }
}
