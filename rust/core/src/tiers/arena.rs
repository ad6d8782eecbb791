//! One piece of memory, of a fixed size and in one place, lent out in blocks.
//!
//! It takes memory where blocks are written and gives it back when they are dropped, so what is lent is what the process
//! has. In one place, so that it can be page-locked for devices once; from then on it has all of its memory: a device reads
//! the pages that were there when they were locked, so that none may go.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use memmap2::{MmapMut, MmapOptions};

/// Blocks begin and end on pages of the system, so that each can be given back by itself.
pub const BLOCK_ALIGN: usize = 4096;

/// What keeps memory page-locked while it lives.
pub type PageLock = Box<dyn Send + Sync>;

/// The memory, and which of it is free.
pub struct Arena {
    base: *mut u8,
    len: usize,
    free: Mutex<Free>,
    /// Read while a block's pages are given back.
    pages_stay: RwLock<bool>,
    /// Dropped before `map`.
    page_lock: OnceLock<Result<PageLock, String>>,
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
        let mut options = MmapOptions::new();
        if !cfg!(miri) {
            options.no_reserve_swap(); // which miri does not know
        }
        let mut map = options.len(len).map_anon()?;
        let mut free = Free::default();
        free.give(0..len);
        Ok(Arc::new(Arena {
            base: map.as_mut_ptr(),
            len,
            free: Mutex::new(free),
            pages_stay: RwLock::default(),
            page_lock: OnceLock::new(),
            map,
        }))
    }

    /// Has `lock` page-lock the bytes at this address, if nobody has tried before. They stay where they are, page by page,
    /// until the lock is dropped.
    pub fn page_lock(&self, lock: impl FnOnce(usize, usize) -> Result<PageLock, String>) {
        let pages_stay = |stay: bool| *self.pages_stay.write().unwrap_or_else(PoisonError::into_inner) = stay;
        self.page_lock.get_or_init(|| {
            pages_stay(true); // when this is done, no block's pages are on their way to the system
            let lock = lock(self.base as usize, self.len);
            pages_stay(lock.is_ok());
            lock
        });
    }

    /// Whether it is page-locked, or why not; none if nobody has tried.
    pub fn page_locked(&self) -> Option<Result<(), &str>> {
        let lock = self.page_lock.get()?;
        Some(lock.as_ref().map(|_| ()).map_err(String::as_str))
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

impl Block {
    /// Whether devices can read it where it is.
    pub fn page_locked(&self) -> bool {
        matches!(self.arena.page_locked(), Some(Ok(())))
    }

    /// Whether its pages have gone back to the system: they read as zeros from now on.
    fn give_pages_back(&self) -> bool {
        let stay = self
            .arena
            .pages_stay
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *stay || cfg!(miri) {
            return false; // miri has no madvise
        }
        #[cfg(target_os = "linux")]
        {
            let (advice, Range { start, end }) = (memmap2::UncheckedAdvice::DontNeed, self.range.clone());
            // SAFETY: whole pages of a private mapping without a file, to which this block's is the only way; no device
            // reads them, nor begins to before `stay` is let go.
            unsafe { self.arena.map.unchecked_advise_range(advice, start, end - start) }.is_ok()
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.give_pages_back() {
            self.fill(0);
        }
        self.arena.lock().give(self.range.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicPtr;

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

    /// How many of a block's pages the process has.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn present(arena: &Arena) -> usize {
        let mut pages = vec![0u8; arena.len / BLOCK_ALIGN];
        // SAFETY: a mapping of ours, and a byte for each of its pages.
        let code = unsafe { libc::mincore(arena.base.cast(), arena.len, pages.as_mut_ptr()) };
        assert_eq!(code, 0);
        pages.iter().filter(|&&page| page & 1 == 1).count()
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn pages_go_with_their_block_until_they_are_locked() {
        let arena = Arena::new(4 * BLOCK_ALIGN).unwrap();
        let lend = || {
            let mut block = arena.lend(2 * BLOCK_ALIGN).unwrap();
            assert!(
                block.iter().all(|&byte| byte == 0),
                "nothing of the last one is left"
            );
            block.fill(7);
            block
        };
        drop(lend());
        assert_eq!(present(&arena), 0);
        arena.page_lock(|address, len| {
            assert_eq!((address, len), (arena.base as usize, arena.len));
            Ok(Box::new(()))
        });
        assert!(lend().page_locked());
        assert_eq!(present(&arena), 2, "a device may read them");
        drop(lend());
    }

    #[test]
    fn one_that_can_not_be_locked_gives_its_pages_back() {
        let arena = Arena::new(BLOCK_ALIGN).unwrap();
        assert_eq!(arena.page_locked(), None);
        arena.page_lock(|_, _| Err("no room".to_owned()));
        arena.page_lock(|_, _| unreachable!("once"));
        assert_eq!(arena.page_locked(), Some(Err("no room")));
        let block = arena.lend(1).unwrap();
        assert!(!block.page_locked());
        assert_eq!(block.give_pages_back(), cfg!(all(target_os = "linux", not(miri))));
    }

    #[test]
    fn the_lock_is_gone_before_the_memory() {
        struct Reads(AtomicPtr<u8>);
        impl Drop for Reads {
            fn drop(&mut self) {
                // SAFETY: the arena's first byte, until it is unmapped.
                assert_eq!(unsafe { **self.0.get_mut() }, 0);
            }
        }
        let arena = Arena::new(BLOCK_ALIGN).unwrap();
        arena.page_lock(|address, _| {
            assert_eq!(address, arena.base.addr());
            Ok(Box::new(Reads(arena.base.into()))) // which may be followed there, as an address may not
        });
        drop(arena);
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
