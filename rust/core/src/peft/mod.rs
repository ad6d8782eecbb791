//! A PEFT LoRA adapter, from a folder or from memory, checked in full before anything of it is used.

pub mod adapter;
mod config;
mod contents;
mod file;
mod folder;
mod header;
mod json;
mod limits;
mod load;
mod pattern;
mod reader;
mod targets;
mod tensor_name;
mod values;

pub use adapter::{Adapter, MemoryTensor, Module, SiteShape, Source, TensorBytes};
pub use folder::Root;
pub use limits::Limits;
pub use load::parse;
pub(crate) use values::to_f32;

use crate::error::Error;

/// The file that errors about an adapter in memory name.
const MEMORY: &str = "<memory>";

/// The adapter and the file that an error is about.
#[derive(Clone)]
pub(crate) struct Context {
    adapter: String,
    file: String,
}

impl Context {
    fn new(adapter: &str, file: impl Into<String>) -> Context {
        Context {
            adapter: adapter.to_owned(),
            file: file.into(),
        }
    }

    /// Something about the file as a whole.
    fn format(&self, reason: impl Into<String>) -> Error {
        Error::AdapterFormat {
            adapter: self.adapter.clone(),
            tensor: None,
            file: self.file.clone(),
            reason: reason.into(),
        }
    }

    /// Something about one tensor.
    fn tensor(&self, tensor: &str, reason: impl Into<String>) -> Error {
        Error::AdapterFormat {
            adapter: self.adapter.clone(),
            tensor: Some(shown(tensor)),
            file: self.file.clone(),
            reason: reason.into(),
        }
    }

    /// An option that would change the result and is not supported.
    fn unsupported(&self, option: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::AdapterUnsupported {
            adapter: self.adapter.clone(),
            option: option.into(),
            file: self.file.clone(),
            reason: reason.into(),
        }
    }
}

/// Text of a file as it may stand in a message: on one line, and not megabytes of it.
fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
