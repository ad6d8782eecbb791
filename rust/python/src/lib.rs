//! The Python boundary of meteora-rs.
#![allow(missing_docs)] // PyO3 items are documented in `_native.pyi`.

use pyo3::prelude::*;

#[pymodule]
mod _native {}
