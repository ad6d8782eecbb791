//! One piece of memory, of a fixed size and in one place, lent out in blocks.
//!
//! In one place, so that it can be pinned for a device once. It takes memory where blocks are written and gives it back
//! when they are dropped, so what is lent is what the process has.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapOptions};

/// Blocks begin and end on pages of the system, so that each can be given back by itself.
pub const BLOCK_ALIGN: usize = 4096;

/// The memory, and which of it is free.
pub struct Arena {
    base: *mut u8,
    len: usize,
    free: Mutex<Free>,
    map: MmapMut,
}

// SAFETY: `base` points into `map`, which is ours until we are dropped; blocks are disjoint (`Free` lends no byte twice)
// and each is reached through its one `Block` only, by Rust's rules for references.
unsafe impl Send for Arena {}
// SAFETY: as above; `free` is behind a lock.
unsafe impl Sync for Arena {}

/// Free runs by their starts; none touches another.
#[derive(Debug, Default)]
struct Free(BTreeMap<usize, usize>);

impl Arena {
    /// An arena of `bytes`, rounded down to whole pages.
    ///
    /// Errors: the system's, if it hasn't got so much address space.
    pub fn new(bytes: usize) -> std::io::Result<Arc<Arena>> {
        let len = bytes / BLOCK_ALIGN * BLOCK_ALIGN;
        let mut map = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        let mut free = Free::default();
        free.give(0..len);
        Ok(Arc::new(Arena {
            base: map.as_mut_ptr(),
            len,
            free: Mutex::new(free),
            map,
        }))
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it can lend nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are not lent.
    pub fn free(&self) -> usize {
        self.lock().0.values().sum()
    }

    /// The largest block that can be lent now.
    pub fn largest_run(&self) -> usize {
        self.lock().0.values().copied().max().unwrap_or(0)
    }

    /// A block of at least `bytes`, all zeros; none if no free run is as large.
    pub fn lend(self: &Arc<Arena>, bytes: usize) -> Option<Block> {
        let range = self.lock().take(block_size(bytes))?;
        Some(Block {
            arena: Arc::clone(self),
            range,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a block of `bytes` takes of the arena.
pub fn block_size(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(BLOCK_ALIGN)
}

impl Free {
    /// The lowest run of `len` bytes.
    fn take(&mut self, len: usize) -> Option<Range<usize>> {
        let (start, run) = self
            .0
            .iter()
            .find(|(_, &run)| run >= len)
            .map(|(&start, &run)| (start, run))?;
        self.0.remove(&start);
        if run > len {
            self.0.insert(start + len, run - len);
        }
        Some(start..start + len)
    }

    fn give(&mut self, range: Range<usize>) {
        let (mut start, mut end) = (range.start, range.end);
        if start == end {
            return;
        }
        if let Some(run) = self.0.remove(&end) {
            end += run;
        }
        if let Some((&before, &run)) = self.0.range(..start).next_back() {
            if before + run == start {
                start = before;
            }
        }
        self.0.insert(start, end - start);
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} bytes, {} free)", self.len, self.free())
    }
}

/// A part of the arena that nobody else has; dropping it gives it back.
#[derive(Debug)]
pub struct Block {
    arena: Arc<Arena>,
    range: Range<usize>,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: inside the map (`Free` lends nothing else), which the arena keeps; nobody else has these bytes, and who
        // changes them through this block borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.arena.base.add(self.range.start), self.range.len()) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.arena.base.add(self.range.start), self.range.len()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        let cleared = {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: whole pages of a private mapping without a file, to which this block's is the only way: they read
            // as zeros from now on.
            unsafe {
                self.arena
                    .map
                    .unchecked_advise_range(advice, self.range.start, self.range.len())
            }
            .is_ok()
        };
        #[cfg(not(target_os = "linux"))]
        let cleared = false;
        if !cleared {
            self.fill(0);
        }
        self.arena.lock().give(self.range.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_disjoint_zero_and_come_back() {
        let arena = Arena::new(10 * BLOCK_ALIGN + 5).unwrap();
        assert_eq!((arena.len(), arena.free()), (10 * BLOCK_ALIGN, 10 * BLOCK_ALIGN));
        let mut blocks: Vec<Block> = (0..5).map(|_| arena.lend(BLOCK_ALIGN + 1).unwrap()).collect();
        assert!(arena.lend(1).is_none());
        for (value, block) in blocks.iter_mut().enumerate() {
            assert!(block.iter().all(|&byte| byte == 0));
            block.fill(value as u8 + 1);
        }
        for (value, block) in blocks.iter().enumerate() {
            assert_eq!(block.len(), 2 * BLOCK_ALIGN);
            assert!(block.iter().all(|&byte| byte == value as u8 + 1));
        }
        blocks.remove(1);
        blocks.remove(2);
        assert_eq!(
            (arena.free(), arena.largest_run()),
            (4 * BLOCK_ALIGN, 2 * BLOCK_ALIGN)
        );
        assert!(
            arena.lend(3 * BLOCK_ALIGN).is_none(),
            "two runs that do not touch"
        );
        assert!(
            arena.lend(BLOCK_ALIGN).unwrap().iter().all(|&byte| byte == 0),
            "nothing of the last one is left"
        );
        drop(blocks);
        assert_eq!(arena.largest_run(), 10 * BLOCK_ALIGN, "neighbours coalesce");
    }

    #[test]
    fn nothing_to_lend() {
        let arena = Arena::new(BLOCK_ALIGN - 1).unwrap();
        assert!(arena.is_empty() && arena.lend(1).is_none());
    }

    #[test]
    fn blocks_outlive_the_handle_and_are_written_in_parallel() {
        let arena = Arena::new(8 * BLOCK_ALIGN).unwrap();
        let blocks: Vec<Block> = (0..8).map(|_| arena.lend(BLOCK_ALIGN).unwrap()).collect();
        drop(arena);
        std::thread::scope(|scope| {
            for (value, mut block) in blocks.into_iter().enumerate() {
                scope.spawn(move || {
                    block.fill(value as u8);
                    assert!(block.iter().all(|&byte| byte == value as u8));
                });
            }
        });
    }
}
