//! Threads that load, reload and unload while others read: what a reader holds never changes under it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meteora_core::registry::{AdapterInfo, Intent, Registry, RegistryConfig};
use meteora_core::{DType, Error};

use super::info;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Changes to make, and entries to see.
const ENOUGH: usize = 2000;
const DEADLINE: Duration = Duration::from_secs(60);

/// Pages and slots in the place of a model's buffers: a stamp in each, which `AdapterInfo::bytes` repeats.
struct Memory {
    pages: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
}

impl Memory {
    // Relaxed: the registry alone must order what is written before what is read.
    fn write(&self, slot: usize, start: usize, pages: usize, stamp: u64) {
        self.slots[slot].store(stamp, Ordering::Relaxed);
        self.pages[start..start + pages]
            .iter()
            .for_each(|page| page.store(stamp, Ordering::Relaxed));
    }

    fn check(&self, registry: &Registry) -> usize {
        let snapshot = registry.snapshot();
        for _ in 0..3 {
            for entry in snapshot.entries() {
                let stamp = entry.info().bytes;
                assert_eq!(
                    self.slots[entry.slot()].load(Ordering::Relaxed),
                    stamp,
                    "{entry:?}"
                );
                for page in &self.pages[entry.page_start()..][..entry.pages()] {
                    assert_eq!(page.load(Ordering::Relaxed), stamp, "{entry:?}");
                }
            }
            thread::yield_now();
        }
        snapshot.entries().count()
    }
}

/// One change, drawn by `stamp`; whether it was made.
fn change(registry: &Registry, memory: &Memory, stamp: u64) -> Result<bool, Error> {
    let name = NAMES[(stamp / 7 % 4) as usize];
    let intent = match stamp % 7 {
        0 => return registry.unload(name).map(|_| true),
        1..=3 => Intent::Load,
        _ => Intent::Reload,
    };
    let need = registry.need(8 + (stamp % 24) as usize, DType::F32);
    let reservation = registry.reserve(name, need, intent)?;
    if stamp % 5 == 0 {
        return Ok(false);
    }
    memory.write(
        reservation.slot(),
        reservation.page_start(),
        reservation.pages(),
        stamp,
    );
    registry.publish(
        reservation,
        AdapterInfo {
            bytes: stamp,
            ..info(8)
        },
    );
    Ok(true)
}

#[test]
fn what_a_reader_holds_is_not_rewritten() {
    // Room for three small adapters: places are reused at once, reloads go in place or meet readers.
    let registry = Registry::new(RegistryConfig {
        max_adapters: 3,
        pool_rank: 56,
        element_size: 4,
    });
    let memory = Memory {
        pages: (0..14).map(|_| AtomicU64::new(0)).collect(),
        slots: (0..3).map(|_| AtomicU64::new(0)).collect(),
    };
    let (stamps, made, seen) = (AtomicU64::new(1), AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    // By what was done, not by tries: on a busy machine a reader may sleep on a snapshot through thousands.
    let enough = || made.load(Ordering::Relaxed) >= ENOUGH && seen.load(Ordering::Relaxed) >= ENOUGH;
    let began = Instant::now();
    let write = || {
        while !enough() {
            assert!(
                began.elapsed() < DEADLINE,
                "{made:?} changes made, {seen:?} entries seen"
            );
            // A multiplier that scatters the draws; odd, so that no stamp comes twice.
            let stamp = stamps
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match change(&registry, &memory, stamp) {
                Ok(true) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Ok(false) => {}
                Err(Error::Capacity { .. }) => thread::yield_now(),
                Err(Error::AdapterInUse { .. } | Error::AdapterNotFound { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    let read = || {
        while !done.load(Ordering::Relaxed) {
            seen.fetch_add(memory.check(&registry), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let writers = [scope.spawn(write), scope.spawn(write)];
        let readers = [scope.spawn(read), scope.spawn(read)];
        // Readers stop even if a writer failed, so that the failure is seen.
        let written = writers.map(|writer| writer.join().is_ok());
        done.store(true, Ordering::Relaxed);
        let read = readers.map(|reader| reader.join().is_ok());
        assert_eq!((written, read), ([true; 2], [true; 2]));
    });
    memory.check(&registry);
    for record in registry.records() {
        registry.unload(&record.name).unwrap();
    }
    let stats = registry.stats();
    assert_eq!(
        (
            stats.readers,
            stats.slots.free,
            stats.rank_rows.free,
            stats.free_pages
        ),
        (0, 3, 56, 14)
    );
}
