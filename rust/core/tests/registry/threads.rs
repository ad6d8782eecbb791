//! Threads that load, reload and unload while others read: what a reader holds never changes under it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use meteora_core::registry::{AdapterInfo, Intent, Registry, RegistryConfig};
use meteora_core::{DType, Error};

use super::info;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CHANGES: u64 = 4000;

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
        0 => return registry.unload(name).map(|()| true),
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
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| loop {
                    let stamp = stamps.fetch_add(1, Ordering::Relaxed);
                    if stamp > CHANGES {
                        break;
                    }
                    // A multiplier that scatters the draws; odd, so that no stamp comes twice.
                    let drawn = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
                    match change(&registry, &memory, drawn) {
                        Ok(true) => drop(made.fetch_add(1, Ordering::Relaxed)),
                        Ok(false) => {}
                        Err(
                            Error::Capacity { .. }
                            | Error::AdapterInUse { .. }
                            | Error::AdapterNotFound { .. },
                        ) => {}
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    seen.fetch_add(memory.check(&registry), Ordering::Relaxed);
                }
            });
        }
        // Readers stop even if a writer failed, so that the failure is seen.
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(
        made.into_inner() > 100 && seen.into_inner() > 0,
        "the test has to test something"
    );
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
