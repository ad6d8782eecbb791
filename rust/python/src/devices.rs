//! The CUDA devices of one model's buffers, and the adapters that work on them may still read.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::torch::cuda::stream;
use meteora_core::held::Held;
use meteora_cuda::{CudaError, Device, Fence};
use pyo3::prelude::*;

use crate::cuda::to_py;

/// Ended requests whose work is not waited for at once.
const PENDING: usize = 64;

/// What a registry knows of devices.
#[derive(Default)]
pub struct Devices {
    used: Mutex<Vec<&'static Device>>,
    /// A kernel runs later than the call that launched it: a request's rows are free when its fences are passed.
    pending: Mutex<VecDeque<(Arc<Held>, Vec<Fence>)>>,
}

/// The adapters that a request holds: for as long as it lives, and its work on every device.
pub struct Fenced {
    held: Arc<Held>,
    devices: Arc<Devices>,
}

impl Fenced {
    pub fn new(held: Arc<Held>, devices: Arc<Devices>) -> Fenced {
        Fenced { held, devices }
    }
}

impl Deref for Fenced {
    type Target = Arc<Held>;

    fn deref(&self) -> &Arc<Held> {
        &self.held
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        self.devices.retire(&self.held);
    }
}

impl Devices {
    /// Notes that buffers are on `device`.
    pub fn add(&self, device: &'static Device) {
        let mut used = lock(&self.used);
        if !used.iter().any(|known| known.ordinal == device.ordinal) {
            used.push(device);
        }
    }

    /// The first on which there were buffers.
    pub fn first(&self) -> Option<&'static Device> {
        lock(&self.used).first().copied()
    }

    /// Keeps the adapters until the work that this thread's current streams have now is done.
    fn retire(&self, held: &Arc<Held>) {
        let used = lock(&self.used).clone();
        let fences = used.into_iter().filter_map(|device| {
            let stream = stream(device.ordinal).ok()?;
            // A device that fails here fails in the request too, which reports it.
            // SAFETY: torch's current stream, which is of the primary context and is never destroyed.
            unsafe { Fence::record(device, stream).ok()? }
        });
        let fences: Vec<Fence> = fences.collect();
        if fences.is_empty() {
            return;
        }
        let mut pending = lock(&self.pending);
        pending.push_back((held.clone(), fences));
        if pending.len() > PENDING {
            let oldest = pending.pop_front();
            drop(pending);
            if let Some((_held, fences)) = oldest {
                let _ = wait(&fences); // what went wrong there, the request has met
            }
        }
    }

    /// Waits until the work of all requests that have ended is done.
    pub fn settle(&self, py: Python<'_>) -> PyResult<()> {
        let pending = std::mem::take(&mut *lock(&self.pending));
        if pending.is_empty() {
            return Ok(());
        }
        py.detach(|| pending.iter().try_for_each(|(_, fences)| wait(fences)))
            .map_err(to_py)
    }
}

fn wait(fences: &[Fence]) -> Result<(), CudaError> {
    fences.iter().try_for_each(Fence::wait)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
