//! A tiny model written byte by byte, so that any byte of it can be wrong.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use guildhall_checkpoint::{Checkpoint, Error, ModelConfig};
use guildhall_ids::{ExpertId, LayerIdx};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const GATE: &str = "model.layers.0.mlp.gate.weight";
pub(crate) const EXPERT_DOWN: &str = "model.layers.0.mlp.experts.1.down_proj.weight";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const HIDDEN: usize = 4;
const WIDTH: usize = 2;
const VOCAB: usize = 3;
const EXPERTS: u32 = 2;

/// The configuration of [`tensors`]: one layer with two experts.
pub(crate) fn config() -> Value {
    json!({
        "model_type": "qwen3_moe",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": WIDTH,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    })
}

/// `changes` in place of, or beside, the keys of `config`; null removes a key.
pub(crate) fn changed(mut config: Value, changes: &Value) -> Value {
    let keys = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(keys.remove(key)),
            value => drop(keys.insert(key.clone(), value.clone())),
        }
    }
    config
}

pub(crate) fn parse(config: &Value) -> Result<ModelConfig, Error> {
    ModelConfig::from_json(Path::new("config.json"), config.to_string().as_bytes())
}

/// One tensor as a safetensors file describes it.
#[derive(Clone)]
pub(crate) struct RawTensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Every tensor that [`read_everything`] reads, in bf16, with values that differ.
pub(crate) fn tensors() -> Vec<RawTensor> {
    let mut tensors = vec![bf16(EMBEDDING, &[VOCAB, HIDDEN]), bf16(GATE, &[2, HIDDEN])];
    for expert in 0..EXPERTS {
        let name = |matrix| format!("model.layers.0.mlp.experts.{expert}.{matrix}.weight");
        tensors.push(bf16(&name("gate_proj"), &[WIDTH, HIDDEN]));
        tensors.push(bf16(&name("up_proj"), &[WIDTH, HIDDEN]));
        tensors.push(bf16(&name("down_proj"), &[HIDDEN, WIDTH]));
    }
    tensors
}

pub(crate) fn bf16(name: &str, shape: &[usize]) -> RawTensor {
    let values = shape.iter().product::<usize>();
    // Small positive numbers: 0x3f00 is 0.5.
    let bytes = (0..values).flat_map(|i| (0x3f00 + i as u16).to_le_bytes()).collect();
    RawTensor { name: name.into(), dtype: "BF16", shape: shape.into(), bytes }
}

/// The bytes of a safetensors file with these tensors behind one another.
pub(crate) fn file(tensors: &[RawTensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = info(tensor.dtype, &tensor.shape, [start, data.len()]);
        header.insert(tensor.name.clone(), info);
    }
    assemble(Value::Object(header).to_string(), &data)
}

pub(crate) fn info(dtype: &str, shape: &[usize], offsets: [usize; 2]) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}

/// A header of whatever content before some data.
pub(crate) fn assemble(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// A model directory that is removed with its test.
pub(crate) struct Model {
    folder: TempDir,
}

impl Model {
    pub(crate) fn new() -> Self {
        let model = Self { folder: tempfile::tempdir().unwrap() };
        model.write("config.json", config().to_string());
        model.write(WEIGHTS, file(&tensors()));
        model
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Writes the tensors after `change`.
    pub(crate) fn write_tensors(&self, change: impl FnOnce(&mut Vec<RawTensor>)) {
        let mut tensors = tensors();
        change(&mut tensors);
        self.write(WEIGHTS, file(&tensors));
    }

    /// Replaces the single file by two shards, with the index after `change`.
    pub(crate) fn shard(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        std::fs::remove_file(self.path(WEIGHTS)).unwrap();
        let tensors = tensors();
        let mut index = Map::new();
        for (name, part) in [("a.safetensors", &tensors[..3]), ("b.safetensors", &tensors[3..])] {
            self.write(name, file(part));
            index.extend(part.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        }
        change(&mut index);
        self.write(INDEX, json!({"metadata": {}, "weight_map": index}).to_string());
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::open(self.dir())
    }
}

/// Opens a directory and reads every tensor of the tiny model.
pub(crate) fn read_everything(dir: &Path) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.tensor(EMBEDDING, &[VOCAB, HIDDEN])?;
    checkpoint.gate(LayerIdx(0))?;
    for expert in 0..EXPERTS {
        checkpoint.expert_bytes(ExpertId::new(0, expert))?;
        checkpoint.expert(ExpertId::new(0, expert))?;
    }
    Ok(())
}

/// An error with everything below it, as a process prints it.
pub(crate) fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Breaks a good model and expects an error with all of these words.
pub(crate) fn check(breaking: impl FnOnce(&Model), expected: &[&str]) {
    let model = Model::new();
    breaking(&model);
    let error = read_everything(model.dir()).expect_err(&format!("{expected:?}"));
    let text = message(&error);
    for words in expected {
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
}
