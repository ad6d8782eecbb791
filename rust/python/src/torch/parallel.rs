//! Torch's own threads for the kernels' tasks, so that two pools never spin against each other and
//! `torch.set_num_threads` holds.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

use meteora_core::kernel::Parallel;

use super::shim;

/// Torch's pool; one thread where torch is not there.
pub struct TorchPool;

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

extern "C" fn run_range(begin: i64, end: i64, job: *mut c_void) {
    // SAFETY: the Job that `run` passes, which outlives the parallel region.
    let job = unsafe { &*job.cast::<Job>() };
    // A panic must not unwind into torch; it goes on in the calling thread.
    let done = catch_unwind(AssertUnwindSafe(|| {
        (begin..end).for_each(|task| (job.task)(task as usize));
    }));
    if let Err(panic) = done {
        *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

impl Parallel for TorchPool {
    fn threads(&self) -> usize {
        let Some(shim) = shim::get() else { return 1 };
        let mut threads = 1;
        // SAFETY: a valid pointer for the result.
        unsafe { (shim.num_threads)(&mut threads) };
        threads as usize
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let Some(shim) = shim::get() else {
            return (0..tasks).for_each(task);
        };
        let job = Job {
            task,
            panic: Mutex::new(None),
        };
        let context = std::ptr::from_ref(&job).cast_mut().cast();
        // SAFETY: `run_range` takes the job for what it is; the call returns when all ranges are done.
        let status = unsafe { (shim.parallel_for)(0, tasks as i64, 1, run_range, context) };
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
        assert_eq!(status, 0, "torch_parallel_for");
    }
}
