//! A parsed and checked adapter, not yet in any pool.

use std::path::PathBuf;

use meteora_core::peft;
use meteora_core::registry::{AdapterInfo, GateKind};
use meteora_core::DType;
use pyo3::prelude::*;

use crate::errors::{contained, to_py};
use crate::parsing::Parsing;

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Adapter {
    pub inner: peft::Adapter,
    pub source: String,
}

/// (name, dtype, shape, address, bytes) of a tensor in memory.
pub type TensorParts = (String, String, Vec<usize>, usize, usize);

impl Adapter {
    /// What is published of it.
    pub fn info(&self, gate: GateKind, routable: bool) -> AdapterInfo {
        AdapterInfo {
            rank: self.inner.max_rank,
            dtype: self.inner.dtypes.first().copied().unwrap_or(DType::F32),
            bytes: self.inner.bytes,
            gate,
            routable,
            sites: self.inner.modules.len(),
            source: self.source.clone(),
        }
    }

    pub fn from_folder(py: Python<'_>, name: &str, folder: PathBuf, parsing: &Parsing) -> PyResult<Adapter> {
        contained(py, || {
            let source = match &parsing.root {
                Some(root) => peft::Source::Beneath(root, &folder),
                None => peft::Source::Folder(&folder),
            };
            let inner = parsing.parse(name, source)?;
            Ok(Adapter {
                inner,
                source: folder.display().to_string(),
            })
        })?
        .map_err(to_py)
    }

    pub fn from_memory(
        py: Python<'_>,
        name: &str,
        config_json: &str,
        tensors: Vec<TensorParts>,
        parsing: &Parsing,
    ) -> PyResult<Adapter> {
        contained(py, || {
            let tensors = tensors.into_iter().map(copied).collect();
            let source = peft::Source::Memory { config_json, tensors };
            let inner = parsing.parse(name, source)?;
            Ok(Adapter {
                inner,
                source: "<memory>".to_owned(),
            })
        })?
        .map_err(to_py)
    }
}

#[pymethods]
impl Adapter {
    #[getter]
    fn name(&self) -> &str {
        &self.inner.name
    }

    #[getter]
    fn rank(&self) -> usize {
        self.inner.max_rank
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// The element type of the first module, as records have it.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.inner.dtypes.first().map_or("float32", |dtype| dtype.name())
    }

    #[getter]
    fn source(&self) -> &str {
        &self.source
    }

    /// Differs where a file does that it was read from; None for one from memory.
    #[getter]
    fn stamp(&self) -> Option<String> {
        self.inner.stamp.clone()
    }

    #[getter]
    fn base_model(&self) -> Option<&str> {
        self.inner.base_model.as_deref()
    }

    fn modules(&self) -> Vec<(String, usize, f32, &'static str)> {
        let module = |m: &peft::Module| (m.path.clone(), m.rank, m.scaling, m.dtype.name());
        self.inner.modules.iter().map(module).collect()
    }

    /// The linears that the config targets and that have no tensors.
    fn missing(&self) -> Vec<String> {
        self.inner.missing.clone()
    }

    fn content_hash(&self, py: Python<'_>) -> String {
        py.detach(|| self.inner.content_hash())
    }
}

/// Its bytes as they are now: a tensor of Python's may change while it is checked.
fn copied((name, dtype, shape, address, bytes): TensorParts) -> peft::MemoryTensor {
    let data = match bytes {
        0 => Vec::new(),
        // SAFETY: source.py passes the address of a contiguous CPU tensor of this size, and holds it during the call.
        _ => unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec(),
    };
    peft::MemoryTensor {
        name,
        dtype,
        shape,
        data,
    }
}

/// See `_native.pyi`.
#[pyfunction]
pub fn check_name(name: &str) -> PyResult<()> {
    meteora_core::name::check(name).map_err(to_py)
}
