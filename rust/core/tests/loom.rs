//! The registry under every order of events that two threads can have, up to three preemptions (`make loom`).
//!
//! `Memory` stands in the place of the pools: a stamp in each slot, which `AdapterInfo::bytes` repeats. Its accesses
//! are relaxed, so that the registry alone orders what is written before what is read.
#![cfg(loom)]

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;
use meteora_core::held::Held;
use meteora_core::registry::{AdapterInfo, GateKind, Intent, Registry, RegistryConfig};
use meteora_core::{DType, Error};

#[derive(Clone)]
struct World {
    registry: Registry,
    memory: Arc<Vec<AtomicU64>>,
}

impl World {
    /// Room for `slots` adapters of rank 8, `names` loaded with stamp 1.
    fn new(slots: usize, names: &[&str]) -> World {
        let world = World {
            registry: Registry::new(RegistryConfig {
                max_adapters: slots,
                pool_rank: 8 * slots,
                element_size: 4,
            }),
            memory: Arc::new((0..slots).map(|_| AtomicU64::new(0)).collect()),
        };
        names
            .iter()
            .for_each(|name| world.change(name, Intent::Load, 1).unwrap());
        world
    }

    fn change(&self, name: &str, intent: Intent, stamp: u64) -> Result<(), Error> {
        let need = self.registry.need(8, DType::F32);
        let reservation = self.registry.reserve(name, need, intent)?;
        self.memory[reservation.slot()].store(stamp, Ordering::Relaxed);
        let info = AdapterInfo {
            rank: 8,
            dtype: DType::F32,
            bytes: stamp,
            gate: GateKind::None,
            routable: false,
            sites: 1,
            source: String::new(),
        };
        self.registry.publish(reservation, info);
        Ok(())
    }

    /// A request: what it sees at its start is there to its end.
    fn request(&self) -> Vec<u64> {
        let held = Held::all(&self.registry.snapshot());
        let look = || -> Vec<u64> {
            let stamp = |slot: usize| self.memory[slot].load(Ordering::Relaxed);
            held.entries().iter().map(|entry| stamp(entry.slot())).collect()
        };
        let announced: Vec<u64> = held.entries().iter().map(|entry| entry.info().bytes).collect();
        assert_eq!(look(), announced);
        thread::yield_now();
        assert_eq!(look(), announced);
        announced
    }

    fn beside(&self, work: impl FnOnce(World) + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || work(world))
    }

    /// Nothing is held or pending, and as many slots are free as there are without `live` adapters.
    fn settled(&self, live: usize) {
        let stats = self.registry.stats();
        assert_eq!((stats.readers, stats.slots.held, stats.slots.pending), (0, 0, 0));
        assert_eq!(stats.slots.free, stats.slots.total - live);
    }
}

#[test]
fn a_load_beside_a_request() {
    loom::model(|| {
        let world = World::new(1, &[]);
        let loader = world.beside(|world| world.change("a", Intent::Load, 2).unwrap());
        let seen = world.request();
        assert!(seen.is_empty() || seen == [2]);
        loader.join().unwrap();
        world.settled(1);
    });
}

#[test]
fn a_place_is_reused_when_its_readers_are_gone() {
    loom::model(|| {
        let world = World::new(1, &["a"]);
        let loader = world.beside(|world| {
            world.registry.unload("a").unwrap();
            match world.change("b", Intent::Load, 2) {
                Ok(()) | Err(Error::Capacity { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        });
        world.request();
        loader.join().unwrap();
        world.settled(world.registry.records().len());
    });
}

#[test]
fn a_reload_in_its_own_place() {
    loom::model(|| {
        let world = World::new(1, &["a"]);
        let loader = world.beside(|world| match world.change("a", Intent::Reload, 2) {
            Ok(()) | Err(Error::Capacity { .. }) => {}
            Err(other) => panic!("{other}"),
        });
        world.request();
        loader.join().unwrap();
        world.settled(1);
    });
}

#[test]
fn a_reload_in_a_fresh_place() {
    loom::model(|| {
        let world = World::new(2, &["a"]);
        let loader = world.beside(|world| world.change("a", Intent::Reload, 2).unwrap());
        let seen = world.request();
        assert!(seen == [1] || seen == [2]);
        loader.join().unwrap();
        world.settled(1);
    });
}

#[test]
fn two_writers() {
    loom::model(|| {
        let world = World::new(2, &["a"]);
        let other = world.beside(|world| match world.registry.unload("a") {
            Ok(_) | Err(Error::AdapterInUse { .. }) => {}
            Err(other) => panic!("{other}"),
        });
        match world.change("a", Intent::Reload, 2) {
            Ok(()) | Err(Error::AdapterNotFound { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        other.join().unwrap();
        world.request();
        world.settled(world.registry.records().len());
    });
}

/// Waiting never times out here: a wake-up that is lost would be a deadlock, which is found.
#[test]
fn whoever_waits_for_memory_is_woken() {
    loom::model(|| {
        let world = World::new(1, &["a"]);
        let held = Held::all(&world.registry.snapshot());
        let reader = thread::spawn(move || drop(held));
        let retired = world.registry.unload("a").unwrap();
        assert!(retired.wait(std::time::Duration::from_secs(1000)));
        world.change("b", Intent::Load, 2).unwrap();
        reader.join().unwrap();
        world.settled(1);
    });
}
