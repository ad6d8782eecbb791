//! meteora-core: serve many LoRA adapters on one model, the model choosing for each token and layer.
//!
//! No Python, no CUDA, no torch. See `ARCHITECTURE.md` for the map.

pub mod dtype;
pub mod error;
pub mod held;
pub mod kernel;
pub mod layout;
pub mod name;
pub mod naming;
pub mod pack;
pub mod peft;
pub mod reach;
pub mod registry;
pub mod route;
pub mod rows;
pub mod snapshot;
mod sync;
pub mod tiers;
mod transpose;

pub use dtype::DType;
pub use error::{Error, Result};
