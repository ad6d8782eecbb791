//! Two threads without the cost of waking one.

use meteora_core::kernel::Parallel;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A second thread that spins for work while it is alive, as a torch pool's threads do between calls.
pub struct Pair(Arc<State>);

#[derive(Default)]
struct State {
    /// Even: idle; odd: a task is posted.
    turn: AtomicUsize,
    over: AtomicBool,
    task: Mutex<Option<(usize, usize)>>,
}

impl Pair {
    pub fn new() -> Pair {
        let state = Arc::new(State::default());
        let theirs = state.clone();
        std::thread::spawn(move || {
            while !theirs.over.load(Ordering::Relaxed) {
                if theirs.turn.load(Ordering::Acquire) % 2 == 0 {
                    std::hint::spin_loop();
                    continue;
                }
                let parts = theirs.task.lock().unwrap().take().unwrap();
                // SAFETY: the two words of a `&dyn Fn` that `run` keeps alive until the turn is even again.
                let task: &(dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(parts) };
                task(1);
                theirs.turn.fetch_add(1, Ordering::Release);
            }
        });
        Pair(state)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Parallel for Pair {
    fn threads(&self) -> usize {
        2
    }
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let half = |half: usize| (half..tasks).step_by(2).for_each(task);
        let shared: &(dyn Fn(usize) + Sync) = &half;
        // SAFETY: the reference outlives its use, since this function waits for the other thread.
        let parts: (usize, usize) = unsafe { std::mem::transmute(shared) };
        *self.0.task.lock().unwrap() = Some(parts);
        self.0.turn.fetch_add(1, Ordering::Release);
        half(0);
        while self.0.turn.load(Ordering::Acquire) % 2 == 1 {
            std::hint::spin_loop();
        }
    }
}
