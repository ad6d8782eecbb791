//! The registry under every order of events that two threads can have, and three with up to four preemptions (`make
//! loom`).
//!
//! `memory` stands in the place of the pools: a stamp in each slot, which `AdapterInfo::bytes` repeats; `gates` in that
//! of the gate rows: whether the slot's is a fitted one. Their accesses are relaxed, so that the registry alone orders
//! what is written before what is read.
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
    gates: Arc<Vec<AtomicU64>>,
}

impl World {
    /// Room for `slots` adapters of rank 8, `names` loaded with stamp 1.
    fn new(slots: usize, names: &[&str]) -> World {
        let stamps = || Arc::new((0..slots).map(|_| AtomicU64::new(0)).collect());
        let world = World {
            registry: Registry::new(RegistryConfig {
                max_adapters: slots,
                pool_rank: 8 * slots,
                element_size: 4,
            }),
            memory: stamps(),
            gates: stamps(),
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
        self.gates[reservation.slot()].store(0, Ordering::Relaxed);
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

    /// New gates for "a", where requests run.
    fn fit(&self) -> Result<(), Error> {
        let reservation = self.registry.reserve_gates(&["a".to_owned()], false)?;
        assert!(!reservation.in_place());
        let (slot, old) = (reservation.slots()[0], reservation.old_slots()[0]);
        // Rows are where they were; here the new slot has a stamp of its own.
        let stamp = self.memory[old].load(Ordering::Relaxed);
        self.memory[slot].store(stamp, Ordering::Relaxed);
        self.gates[slot].store(1, Ordering::Relaxed);
        self.registry
            .publish_gates(reservation, &[(GateKind::Fitted, true)], None);
        Ok(())
    }

    /// A request: what it sees at its start is there to its end; stamps and gates of the adapters.
    fn request(&self) -> Vec<u64> {
        let held = Held::all(&self.registry.snapshot());
        let look = || -> Vec<(u64, u64)> {
            let at = |each: &[AtomicU64], slot: usize| each[slot].load(Ordering::Relaxed);
            let stamps = |slot: usize| (at(&self.memory, slot), at(&self.gates, slot));
            held.entries().iter().map(|entry| stamps(entry.slot())).collect()
        };
        let announced: Vec<(u64, u64)> = held
            .entries()
            .iter()
            .map(|entry| (entry.info().bytes, (entry.info().gate == GateKind::Fitted) as u64))
            .collect();
        assert_eq!(look(), announced);
        thread::yield_now();
        assert_eq!(look(), announced);
        announced.into_iter().map(|(stamp, _)| stamp).collect()
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

#[test]
fn new_gates_beside_a_request() {
    loom::model(|| {
        let world = World::new(2, &["a"]);
        let running = Held::all(&world.registry.snapshot()); // so that they take a slot of their own
        let fit = world.beside(|world| world.fit().unwrap());
        assert_eq!(world.request(), [1]);
        fit.join().unwrap();
        drop(running);
        assert_eq!(world.request(), [1]);
        world.settled(1);
    });
}

#[test]
fn one_that_is_evicted_and_comes_back() {
    loom::model(|| {
        let world = World::new(1, &["a"]);
        let loader = world.beside(|world| {
            world.registry.evict("a").unwrap();
            match world.change("a", Intent::Load, 2) {
                Ok(()) | Err(Error::Capacity { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        });
        let seen = world.request();
        assert!(seen.is_empty() || seen == [1] || seen == [2]);
        loader.join().unwrap();
        world.settled(world.registry.records().len());
    });
}

#[test]
fn two_requests_beside_a_reload() {
    let mut orders = loom::model::Builder::new();
    orders.preemption_bound = Some(4); // seconds; all of them are minutes
    orders.check(|| {
        let world = World::new(2, &["a"]);
        let loader = world.beside(|world| world.change("a", Intent::Reload, 2).unwrap());
        let other = world.beside(|world| {
            let seen = world.request();
            assert!(seen == [1] || seen == [2]);
        });
        let seen = world.request();
        assert!(seen == [1] || seen == [2]);
        loader.join().unwrap();
        other.join().unwrap();
        world.settled(1);
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
