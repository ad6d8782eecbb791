//! The CUDA devices of one model's buffers, and the snapshots that work on them may still read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::torch::cuda::stream;
use meteora_core::snapshot::Snapshot;
use meteora_cuda::{CudaError, Device, Fence};

/// Ended requests whose work is not waited for at once.
const PENDING: usize = 64;

/// What a registry knows of devices.
#[derive(Default)]
pub struct Devices {
    used: Mutex<Vec<&'static Device>>,
    /// A kernel runs later than the call that launched it: a snapshot's rows are free when its fences are passed.
    pending: Mutex<VecDeque<(Arc<Snapshot>, Vec<Fence>)>>,
}

/// A snapshot held by a request: it outlives the request's work on every device.
pub struct Held {
    pub snapshot: Arc<Snapshot>,
    pub devices: Arc<Devices>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.devices.retire(&self.snapshot);
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

    /// Keeps the snapshot until the work that this thread's current streams have now is done.
    fn retire(&self, snapshot: &Arc<Snapshot>) {
        let used = self.all();
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
        pending.push_back((snapshot.clone(), fences));
        if pending.len() > PENDING {
            let (_snapshot, fences) = pending.pop_front().unwrap_or_else(|| unreachable!());
            drop(pending);
            let _ = wait(&fences);
        }
    }

    /// Waits until the work of all requests that have ended is done.
    pub fn settle(&self) -> Result<(), CudaError> {
        let pending = std::mem::take(&mut *lock(&self.pending));
        pending.iter().try_for_each(|(_, fences)| wait(fences))
    }

    /// Whether no ended request has work that is not known to be done.
    pub fn is_idle(&self) -> bool {
        lock(&self.pending).is_empty()
    }

    /// The devices.
    pub fn all(&self) -> Vec<&'static Device> {
        lock(&self.used).clone()
    }
}

fn wait(fences: &[Fence]) -> Result<(), CudaError> {
    fences.iter().try_for_each(Fence::wait)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
