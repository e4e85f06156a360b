//! The tensors of all safetensors files of a directory, mapped into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{Error, Fp8Blocks, MatrixBytes, ValueType};

/// Named tensors whose bytes are read from disk only when they are used.
pub(crate) struct MappedTensors {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
    /// How FP8 matrices are scaled.
    fp8: Option<Fp8Blocks>,
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

struct Entry {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl MappedTensors {
    /// Maps `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub(crate) fn open(dir: &Path, fp8: Option<Fp8Blocks>) -> Result<Self, Error> {
        let index = dir.join(INDEX);
        if !index.exists() {
            let mut mapped = Self { files: Vec::new(), tensors: BTreeMap::new(), fp8 };
            mapped.add_file(&dir.join(SINGLE))?;
            return Ok(mapped);
        }
        let text = std::fs::read(&index).map_err(|e| Error::io(&index, e))?;
        let parsed: ShardIndex = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(&index, format!("not a shard index: {e}")))?;
        let mut mapped = Self { files: Vec::new(), tensors: BTreeMap::new(), fp8 };
        for shard in parsed.weight_map.values().collect::<BTreeSet<_>>() {
            let plain = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
            if !plain {
                let what = format!("{shard:?} is no file name in this folder");
                return Err(Error::malformed(&index, what));
            }
            mapped.add_file(&dir.join(shard))?;
        }
        let absent = parsed.weight_map.keys().find(|name| !mapped.tensors.contains_key(*name));
        match absent {
            Some(name) => Err(Error::tensor(name, "is in the index, but in none of its files")),
            None => Ok(mapped),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the mapping is only read. A file that is changed or cut while it is mapped is outside of what any
        // reader of weights can defend against; expert hashes reveal changed bytes.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let (header_len, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| Error::malformed(path, format!("not a safetensors file: {e}")))?;
        let data_start = header_len + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                file: self.files.len(),
                dtype: dtype(&name, info.dtype)?,
                shape: info.shape.clone(),
                bytes: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(Error::tensor(&name, "is in two files"));
            }
        }
        self.files.push(MappedFile { path: path.into(), map });
        Ok(())
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry, Error> {
        let missing = || Error::tensor(name, "is missing");
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        if entry.shape != shape {
            let what = format!("has shape {:?}, but the configuration says {shape:?}", entry.shape);
            return Err(Error::tensor(name, what));
        }
        Ok(entry)
    }

    /// The bytes of a tensor as they are in the file.
    pub(crate) fn bytes(&self, name: &str, shape: &[usize]) -> Result<&[u8], Error> {
        let entry = self.entry(name, shape)?;
        let file = &self.files[entry.file];
        // The header was checked against the file's length when it was mapped.
        file.map
            .get(entry.bytes.clone())
            .ok_or_else(|| Error::tensor(name, format!("lies outside of {}", file.path.display())))
    }

    /// A copy of a tensor in its own type, or in f32 if it has scales; every value is a finite number.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let entry = self.entry(name, shape)?;
        let tensor = match (entry.dtype, shape) {
            (DType::F8E4M3, &[rows, columns]) => {
                self.matrix(name, [rows, columns])?.to_tensor([rows, columns], self.fp8)
            }
            (dtype, _) => tensor_of(dtype, shape, self.bytes(name, shape)?),
        };
        tensor.map_err(|what| Error::tensor(name, what))
    }

    /// A matrix as it is in the file.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<MatrixBytes<'_>, Error> {
        let values = self.bytes(name, &shape)?;
        let plain = |value_type| Ok(MatrixBytes { value_type, values, scales: &[] });
        match self.entry(name, &shape)?.dtype {
            DType::F32 => plain(ValueType::F32),
            DType::F16 => plain(ValueType::F16),
            DType::BF16 => plain(ValueType::Bf16),
            _ => self.fp8_matrix(name, shape, values),
        }
    }

    /// The matrix with its scales, which are a tensor of their own.
    fn fp8_matrix<'a>(
        &'a self,
        name: &str,
        shape: [usize; 2],
        values: &'a [u8],
    ) -> Result<MatrixBytes<'a>, Error> {
        let needs = "is FP8, but config.json has no quantization_config";
        let blocks = self.fp8.ok_or_else(|| Error::tensor(name, needs))?;
        let (name, shape) = (format!("{name}_scale_inv"), blocks.scales_of(shape));
        let value_type = match self.entry(&name, &shape)?.dtype {
            DType::F32 => ValueType::Fp8WithF32,
            DType::BF16 => ValueType::Fp8WithBf16,
            other => {
                return Err(Error::tensor(&name, format!("has type {other:?}, not F32 or BF16")));
            }
        };
        Ok(MatrixBytes { value_type, values, scales: self.bytes(&name, &shape)? })
    }

    /// Every tensor's name, type and shape, ordered by name.
    pub(crate) fn table(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        self.tensors.iter().map(|(name, e)| (name.as_str(), e.dtype, e.shape.as_slice()))
    }
}

/// Whether a directory has weights, of whatever quality.
#[must_use]
pub fn has_weights(dir: &Path) -> bool {
    dir.join(INDEX).exists() || dir.join(SINGLE).exists()
}

/// A tensor with a copy of these bytes; every value is a finite number.
pub(crate) fn tensor_of(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, String> {
    if dtype == DType::F8E4M3 {
        return Err("is FP8, but no matrix".into());
    }
    if let Some(at) = first_non_finite(dtype, bytes) {
        return Err(format!("value {at} is not a finite number"));
    }
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu).map_err(|e| e.to_string())
}

fn dtype(name: &str, dtype: Dtype) -> Result<DType, Error> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        Dtype::F8_E4M3 => Ok(DType::F8E4M3),
        other => {
            Err(Error::tensor(name, format!("has type {other:?}, not F32, F16, BF16 or F8_E4M3")))
        }
    }
}

/// The index of the first infinity or NaN: a value whose exponent bits are all one.
fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let half = |mask: u16| {
        let bits = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        bytes.chunks_exact(2).position(|pair| bits(pair) & mask == mask)
    };
    match dtype {
        DType::BF16 => half(0x7f80),
        DType::F16 => half(0x7c00),
        _ => {
            let bits = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            bytes.chunks_exact(4).position(|four| bits(four) & 0x7f80_0000 == 0x7f80_0000)
        }
    }
}
