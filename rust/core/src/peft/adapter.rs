//! What parsing takes and what it gives: sites, limits and sources in, a checked adapter out.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::contents::Contents;
use super::folder::Root;
use crate::dtype::DType;

/// The shape of one adapted linear of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteShape {
    /// The module's path in the model, as in `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// The decoder layer it belongs to, where there is one.
    pub layer: Option<usize>,
}

/// A tensor handed over in memory. The bytes are owned: a tensor of Python's may change while it is checked.
#[derive(Debug, Clone)]
pub struct MemoryTensor {
    /// Its key in the state dict.
    pub name: String,
    /// The element type as torch or safetensors spell it: `bfloat16`, `torch.bfloat16`, `BF16`.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// Contiguous, little-endian.
    pub data: Vec<u8>,
}

/// Where an adapter comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`.
    Folder(&'a Path),
    /// The same, beneath a root that nothing may lead out of.
    Beneath(&'a Root, &'a Path),
    /// A config and a state dict.
    Memory {
        /// The text of `adapter_config.json`.
        config_json: &'a str,
        /// The state dict.
        tensors: Vec<MemoryTensor>,
    },
    /// The contents of the two files.
    Bytes {
        /// The contents of `adapter_config.json`.
        config_json: &'a [u8],
        /// The contents of `adapter_model.safetensors`.
        safetensors: Vec<u8>,
    },
}

/// The bytes of one tensor: a range of what was read of the file, or all that was handed over. Not aligned.
#[derive(Clone)]
pub struct TensorBytes {
    store: Arc<Store>,
    range: Range<usize>,
}

/// What owns bytes.
pub(crate) enum Store {
    Read(Contents),
    Heap(Vec<u8>),
}

impl Deref for Store {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Store::Read(contents) => contents,
            Store::Heap(bytes) => bytes,
        }
    }
}

impl TensorBytes {
    /// A range of a store, if the store has it.
    pub(crate) fn slice(store: &Arc<Store>, range: Range<usize>) -> Option<TensorBytes> {
        store.get(range.clone())?;
        Some(TensorBytes {
            store: Arc::clone(store),
            range,
        })
    }
}

impl From<Vec<u8>> for TensorBytes {
    fn from(bytes: Vec<u8>) -> TensorBytes {
        let range = 0..bytes.len();
        TensorBytes {
            store: Arc::new(Store::Heap(bytes)),
            range,
        }
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.store[self.range.clone()]
    }
}

impl fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// One site's pair of matrices: `y += scaling * B (A x)`.
#[derive(Debug, Clone)]
pub struct Module {
    /// Index into the sites that were passed to [`parse`](super::parse).
    pub site: usize,
    /// The site's path.
    pub path: String,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// Columns of A.
    pub in_features: usize,
    /// Rows of B.
    pub out_features: usize,
    /// `alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA.
    pub scaling: f32,
    /// The element type of both.
    pub dtype: DType,
    /// `[rank, in_features]`.
    pub a: TensorBytes,
    /// `[out_features, rank]`.
    pub b: TensorBytes,
}

/// An adapter that fits the model: every tensor known, paired, of the configured shape, and finite.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// The pairs, sites ascending, at most one for each site.
    pub modules: Vec<Module>,
    /// The paths of the sites that the config targets and that have no tensors, in the sites' order.
    pub missing: Vec<String>,
    /// Bytes of all the pairs.
    pub bytes: u64,
    /// The largest rank.
    pub max_rank: usize,
    /// The element types there are, by ascending code.
    pub dtypes: Vec<DType>,
    /// The model it was trained on, where the config says so.
    pub base_model: Option<String>,
    /// Of the files that it was read from: another one, if either is another file or was written to since.
    pub stamp: Option<String>,
}

impl Adapter {
    /// SHA-256, in hex, of what the adapter adds: for each module by path its rank, scaling, element type and
    /// weights. The same from a folder and from memory, however the files are written; reads all the weights.
    pub fn content_hash(&self) -> String {
        let mut modules: Vec<&Module> = self.modules.iter().collect();
        modules.sort_by(|left, right| left.path.cmp(&right.path));
        let mut hash = Sha256::new();
        hash.update(b"meteora adapter 1\n");
        for module in modules {
            for number in [
                module.path.len(),
                module.rank,
                module.in_features,
                module.out_features,
            ] {
                hash.update((number as u64).to_le_bytes());
            }
            hash.update(&module.path);
            hash.update([module.dtype as u8]);
            hash.update(module.scaling.to_bits().to_le_bytes());
            hash.update(&*module.a);
            hash.update(&*module.b);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
