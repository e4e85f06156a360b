//! The tensors of all safetensors files of a directory, mapped into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::quantised::Part;
use crate::{Error, FloatType, MatrixBytes, Quantisation, ValueType};

/// Named tensors whose bytes are read from disk only when they are used.
pub(crate) struct MappedTensors {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
    /// How matrices are stored that are not plain.
    quantisation: Option<Quantisation>,
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Lets the system take the memory of these bytes back; they are read again if they are used again.
    fn release(&self, bytes: &Range<usize>) {
        // SAFETY: pages of a file that is mapped for reading only come back from the file as they were.
        let released = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
        // Nothing but memory depends on it.
        let _ = released;
    }
}

struct Entry {
    file: usize,
    dtype: Dtype,
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
    pub(crate) fn open(dir: &Path, quantisation: Option<Quantisation>) -> Result<Self, Error> {
        let index = dir.join(INDEX);
        if !index.exists() {
            let mut mapped = Self { files: Vec::new(), tensors: BTreeMap::new(), quantisation };
            mapped.add_file(&dir.join(SINGLE))?;
            return Ok(mapped);
        }
        let text = std::fs::read(&index).map_err(|e| Error::io(&index, e))?;
        let parsed: ShardIndex = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(&index, format!("not a shard index: {e}")))?;
        let mut mapped = Self { files: Vec::new(), tensors: BTreeMap::new(), quantisation };
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
                dtype: known(&name, info.dtype)?,
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

    /// A copy of a tensor in its own type, or in f32 if it is quantised; every value is a finite number.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let tensor = self.copied(name, shape)?;
        if let Some(entry) = self.tensors.get(name) {
            self.files[entry.file].release(&entry.bytes);
        }
        Ok(tensor)
    }

    fn copied(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let tensor = match *shape {
            [rows, columns] => {
                let shape = [rows, columns];
                self.matrix(name, shape)?.to_tensor(shape, self.quantisation)
            }
            _ => {
                let dtype = self.float_type(name, shape)?.dtype();
                tensor_of(dtype, shape, self.bytes(name, shape)?)
            }
        };
        tensor.map_err(|what| Error::tensor(name, what))
    }

    /// A matrix as it is in the file.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<MatrixBytes<'_>, Error> {
        let parts = self.quantisation.map(|format| format.parts(shape)).unwrap_or_default();
        let is_stored = |part: &Part| {
            self.tensors.get(&name_of(part, name)).is_some_and(|of| Some(of.dtype) == part.dtype)
        };
        if parts.first().is_some_and(is_stored) {
            return self.quantised_matrix(name, &parts);
        }
        let value_type = ValueType::Plain(self.float_type(name, &shape)?);
        Ok(MatrixBytes { value_type, parts: vec![self.bytes(name, &shape)?] })
    }

    /// The parts of a matrix, which are tensors of their own.
    fn quantised_matrix(&self, name: &str, parts: &[Part]) -> Result<MatrixBytes<'_>, Error> {
        let mut value_type = ValueType::Quantised(FloatType::F32);
        let mut bytes = Vec::new();
        for part in parts {
            let name = name_of(part, name);
            let found = self.entry(&name, &part.shape)?.dtype;
            match part.dtype {
                None => value_type = ValueType::Quantised(self.float_type(&name, &part.shape)?),
                Some(expected) if found != expected => {
                    let what = format!("has type {found:?}, not {expected:?}");
                    return Err(Error::tensor(&name, what));
                }
                Some(_) => {}
            }
            bytes.push(self.bytes(&name, &part.shape)?);
        }
        Ok(MatrixBytes { value_type, parts: bytes })
    }

    /// The type of a tensor that is not quantised.
    fn float_type(&self, name: &str, shape: &[usize]) -> Result<FloatType, Error> {
        match self.entry(name, shape)?.dtype {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::Bf16),
            other => {
                let what = format!(
                    "has type {other:?}, of which the quantization_config of config.json says nothing"
                );
                Err(Error::tensor(name, what))
            }
        }
    }

    /// Every tensor's name, type and shape, ordered by name.
    pub(crate) fn table(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
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
    if let Some(at) = first_non_finite(dtype, bytes) {
        return Err(format!("value {at} is not a finite number"));
    }
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu).map_err(|e| e.to_string())
}

/// The name of a part of a matrix.
fn name_of(part: &Part, matrix: &str) -> String {
    let module = matrix.strip_suffix("weight").unwrap_or(matrix);
    format!("{module}{}", part.name)
}

/// Refuses types that no format has.
fn known(name: &str, dtype: Dtype) -> Result<Dtype, Error> {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(dtype),
        // Of quantised matrices and their zeros, orders and shapes.
        Dtype::F8_E4M3 | Dtype::I8 | Dtype::I32 | Dtype::I64 => Ok(dtype),
        other => Err(Error::tensor(name, format!("has type {other:?}, which no format has"))),
    }
}

/// The index of the first infinity or NaN: a value whose exponent bits are all one.
fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let half = |mask: u16| {
        let (values, _) = bytes.as_chunks::<2>();
        first_of(values, |&value| u16::from_le_bytes(value) & mask == mask)
    };
    match dtype {
        DType::BF16 => half(0x7f80),
        DType::F16 => half(0x7c00),
        _ => {
            let (values, _) = bytes.as_chunks::<4>();
            first_of(values, |&value| u32::from_le_bytes(value) & 0x7f80_0000 == 0x7f80_0000)
        }
    }
}

/// The index of the first value of this kind, of which there is hardly ever one.
fn first_of<T>(values: &[T], kind: impl Fn(&T) -> bool + Copy) -> Option<usize> {
    /// A block is looked through without an early end, many values at a time.
    const BLOCK: usize = 1024;
    let mut blocks = values.chunks(BLOCK).enumerate();
    blocks.find_map(|(block, values)| {
        let any = values.iter().fold(false, |any, value| any | kind(value));
        any.then(|| values.iter().position(kind)).flatten().map(|at| block * BLOCK + at)
    })
}
