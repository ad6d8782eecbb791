//! What the kernel tests share: random sites, a naive float64 oracle, and `check`, which holds every path to it.

#![allow(dead_code, unused_imports)] // each test file uses a part

pub mod activations;
pub mod oracle;
pub mod site;

pub use activations::Activations;
pub use oracle::check;
pub use site::{auto, fixed, Adapter, Case, Random};
