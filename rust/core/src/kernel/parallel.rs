//! Who runs the tasks: the caller's thread pool, so that two pools never spin against each other.

/// A pool of threads, or none.
pub trait Parallel: Sync {
    /// Threads that tasks may run on at once.
    fn threads(&self) -> usize;
    /// Calls `task` with each of `0..tasks`, each once, in any order, and returns when all are done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// This many fresh threads for each call: for tests and examples, since starting them takes longer than most
/// calls.
#[derive(Debug, Clone, Copy)]
pub struct Scoped(
    /// The number of threads.
    pub usize,
);

impl Parallel for Scoped {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let threads = self.0.clamp(1, tasks.max(1));
        std::thread::scope(|scope| {
            for first in 0..threads {
                scope.spawn(move || (first..tasks).step_by(threads).for_each(task));
            }
        });
    }
}
