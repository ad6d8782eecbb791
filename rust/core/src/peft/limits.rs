//! How large an adapter may be.

use super::Context;
use crate::error::Result;

/// Sizes beyond which a file is refused unread: none is reached by a real adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of `adapter_config.json`.
    pub max_config_bytes: u64,
    /// Bytes of the safetensors header; it grows some 16-fold when parsed.
    pub max_header_bytes: u64,
    /// Bytes of `adapter_model.safetensors`.
    pub max_file_bytes: u64,
    /// The rank of one module.
    pub max_rank: usize,
    /// Tensors of one adapter.
    pub max_tensors: usize,
    /// Levels of lists and objects in JSON; 127 at most.
    pub max_json_depth: usize,
    /// Entries of `rank_pattern`, `alpha_pattern`, `target_modules` and the like, each.
    pub max_patterns: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_config_bytes: 1 << 20,
            max_header_bytes: 4 << 20,
            max_file_bytes: 16 << 30,
            max_rank: 4096,
            max_tensors: 32_768,
            max_json_depth: 32,
            max_patterns: 4096,
        }
    }
}

impl Limits {
    /// Holds an adapter in memory against the limits of its tensors, before they are copied.
    ///
    /// Errors: [`AdapterFormat`](crate::Error::AdapterFormat).
    pub fn check_memory(&self, adapter: &str, tensors: usize, bytes: u64) -> Result<()> {
        self.check(tensors, bytes, &Context::new(adapter, super::MEMORY))
    }

    pub(crate) fn check(&self, tensors: usize, bytes: u64, context: &Context) -> Result<()> {
        let refuse = |what: String, limit: u64| {
            Err(context.format(format!("has {what}, more than the limit of {limit}")))
        };
        if tensors > self.max_tensors {
            return refuse(format!("{tensors} tensors"), self.max_tensors as u64);
        }
        if bytes > self.max_file_bytes {
            return refuse(format!("{bytes} bytes"), self.max_file_bytes);
        }
        Ok(())
    }
}
