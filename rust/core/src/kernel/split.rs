//! Tokens to tasks: contiguous ranges of about equal work.

use std::cell::Cell;
use std::ops::Range;

use super::parallel::Parallel;

/// Multiply-adds of about 15 µs of one core, which is what it takes to wake another.
const WORTH_THREADS: usize = 400_000;
/// Tokens that a task works on at once. Each block reads the adapters anew, so more is better: 256 are 4 to 11%
/// faster than 64 with 28 adapters of rank 8 in use (Zen 3, 576→1536).
pub(super) const BLOCK: usize = 256;

thread_local! {
    static BOUNDS: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` on ranges that cover `0..tokens`, in parallel where it pays; `cost` is a token's multiply-adds.
pub(super) fn split(
    tokens: usize,
    cost: impl Fn(usize) -> usize,
    pool: &dyn Parallel,
    work: &(dyn Fn(Range<usize>) + Sync),
) {
    let threads = pool.threads();
    if tokens < 2 || threads < 2 {
        return work(0..tokens);
    }
    let total: usize = (0..tokens).map(&cost).sum();
    if total < WORTH_THREADS {
        return work(0..tokens);
    }
    let tasks = tokens.min(tokens.div_ceil(BLOCK).next_multiple_of(threads));
    let mut bounds = BOUNDS.take();
    bounds.clear();
    bounds.push(0);
    let mut done = 0;
    for token in 0..tokens {
        // A token belongs to the task in whose share its first multiply-add falls.
        while bounds.len() < tasks && done * tasks >= bounds.len() * total {
            bounds.push(token);
        }
        done += cost(token);
    }
    bounds.resize(tasks, tokens);
    bounds.push(tokens);
    pool.run(tasks, &|task| work(bounds[task]..bounds[task + 1]));
    BOUNDS.set(bounds);
}
