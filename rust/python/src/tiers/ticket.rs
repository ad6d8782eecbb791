//! A place in the line of those who wait for room.

use std::sync::{Arc, Mutex};

use meteora_core::tiers::queue;
use pyo3::prelude::*;

use super::lock;
use crate::reservation::timeout;

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Ticket {
    inner: Mutex<Option<Arc<queue::Ticket>>>,
}

impl Ticket {
    pub(super) fn new(ticket: queue::Ticket) -> Ticket {
        Ticket {
            inner: Mutex::new(Some(Arc::new(ticket))),
        }
    }
}

#[pymethods]
impl Ticket {
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let timeout = timeout(seconds)?;
        let ticket = lock(&self.inner).clone();
        Ok(py.detach(|| ticket.is_some_and(|ticket| ticket.wait(timeout))))
    }

    fn leave(&self) {
        lock(&self.inner).take();
    }
}
