//! Random histories: after each step the registry is what the model says.

use std::collections::BTreeSet;
use std::rc::Rc;

use meteora_core::registry::{Intent, Usage};
use meteora_core::{DType, Error};
use proptest::prelude::*;

use super::model::{Live, Model, Pending};
use super::places::{PAGES, ROWS, SLOTS};

/// The bits of the adapters' slots.
const ADAPTERS: u32 = (1 << SLOTS) - 1;

#[derive(Debug, Clone)]
enum Op {
    Reserve {
        name: usize,
        rank: usize,
        dtype: DType,
        intent: Intent,
    },
    Publish(usize),
    Abandon(usize),
    Unload(usize),
    Pin(usize, bool),
    Gate(usize, bool),
    Base(bool),
    Hold,
    Release(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let name = 0usize..5;
    let dtype = prop_oneof![2 => Just(DType::F32), 1 => Just(DType::BF16)];
    let intent = prop_oneof![Just(Intent::Load), Just(Intent::Reload)];
    prop_oneof![
        6 => (name.clone(), 0usize..36, dtype, intent)
            .prop_map(|(name, rank, dtype, intent)| Op::Reserve { name, rank, dtype, intent }),
        6 => (0usize..4).prop_map(Op::Publish),
        1 => (0usize..4).prop_map(Op::Abandon),
        2 => name.clone().prop_map(Op::Unload),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, pinned)| Op::Pin(name, pinned)),
        1 => (name, any::<bool>()).prop_map(|(name, routable)| Op::Gate(name, routable)),
        1 => any::<bool>().prop_map(Op::Base),
        2 => Just(Op::Hold),
        3 => (0usize..4).prop_map(Op::Release),
    ]
}

impl Model {
    fn step(&mut self, op: Op) {
        let registry = self.registry.clone();
        let before = registry.stats().version;
        let name = |name: usize| format!("adapter-{name}");
        let (result, expected) = match op {
            Op::Reserve {
                name: n,
                rank,
                dtype,
                intent,
            } => return self.reserve(name(n), registry.need(rank, dtype), intent),
            Op::Publish(i) if i < self.pending.len() => {
                let pending = self.pending.remove(i);
                return self.publish(pending);
            }
            Op::Abandon(i) if i < self.pending.len() => {
                let Pending {
                    name,
                    withdrawn,
                    reservation,
                    ..
                } = self.pending.remove(i);
                drop(reservation);
                return self.live.extend(withdrawn.map(|old| (name, old)));
            }
            Op::Unload(n) => {
                let expected = self
                    .settled(&name(n))
                    .and_then(|live| if live.pinned { Err(true) } else { Ok(()) });
                if expected.is_ok() {
                    self.live.remove(&name(n));
                }
                (registry.unload(&name(n)).map(drop), expected)
            }
            Op::Pin(n, pinned) => (
                registry.pin(&name(n), pinned),
                self.settled(&name(n)).map(|live| live.pinned = pinned),
            ),
            Op::Gate(n, routable) => return self.gate(name(n), routable),
            Op::Base(routable) => {
                // Each snapshot that is held may have a slot of its own; there are two.
                if let Ok(reserved) = registry.reserve_gates(&[], routable) {
                    registry.publish_gates(reserved, &[], Some(routable));
                    self.base_routable = routable;
                }
                return;
            }
            Op::Hold => return self.held.push((registry.snapshot(), self.live.clone())),
            Op::Release(i) if i < self.held.len() => return drop(self.held.remove(i)),
            Op::Publish(_) | Op::Abandon(_) | Op::Release(_) => return,
        };
        match (result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(Error::AdapterInUse { .. }), Err(true))
            | (Err(Error::AdapterNotFound { .. }), Err(false)) => {
                assert_eq!(registry.stats().version, before, "what fails changes nothing");
            }
            (result, expected) => panic!("{result:?} {expected:?}"),
        }
    }

    /// Holds the registry, and every snapshot that is held, against the model.
    fn check(&self) {
        let bits = |live: &Live| {
            live.values()
                .filter(|g| g.routable)
                .map(|g| 1 << g.place.slot)
                .sum::<u32>()
        };
        let now = self.registry.snapshot();
        assert_eq!(now.candidates()[0] & ADAPTERS, bits(&self.live));
        assert_eq!(
            now.candidates()[0].count_ones() - bits(&self.live).count_ones(),
            u32::from(self.base_routable)
        );
        for (snapshot, live) in self
            .held
            .iter()
            .map(|(snapshot, live)| (snapshot, live))
            .chain([(&now, &self.live)])
        {
            let entries = snapshot
                .entries()
                .map(|e| (e.slot(), e.name().to_owned(), e.generation(), e.page_start()));
            let expected = live
                .iter()
                .map(|(name, g)| (g.place.slot, name.clone(), g.number, g.place.run.start));
            assert_eq!(
                entries.collect::<Vec<_>>(),
                expected.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
            );
            assert_eq!(snapshot.candidates()[0] & ADAPTERS, bits(live));
        }
        drop(now);

        let withdrawn = self
            .pending
            .iter()
            .filter_map(|p| Some((&p.name, p.withdrawn.as_ref()?)));
        let listed: BTreeSet<_> = self
            .live
            .iter()
            .chain(withdrawn)
            .map(|(name, g)| (g.place.slot, name.clone(), g.number, g.pinned))
            .collect();
        let records = self.registry.records();
        for record in &records {
            assert_eq!(self.registry.record(&record.name).unwrap(), *record);
        }
        let found = records
            .into_iter()
            .map(|r| (r.slot, r.name, r.generation, r.pinned));
        assert_eq!(found.collect::<Vec<_>>(), listed.into_iter().collect::<Vec<_>>());

        let places = self.places(None);
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                let pages_apart =
                    a.run.clone().all(|page| !b.run.contains(&page)) || Rc::ptr_eq(&a.rows, &b.rows);
                assert!(
                    a.slot != b.slot && pages_apart || self.replaces(a, b),
                    "{a:?} {b:?}"
                );
            }
        }

        let stats = self.registry.stats();
        let costs = |live: &Live, pinned: bool| {
            live.values()
                .filter(|g| g.pinned || !pinned)
                .map(|g| g.place.cost)
                .collect::<Vec<_>>()
        };
        let mut pending = Vec::new();
        let (mut all_pinned, all_live) = (costs(&self.live, true), costs(&self.live, false));
        for Pending { place, withdrawn, .. } in &self.pending {
            let cost = place.cost.max(withdrawn.as_ref().map_or(0, |old| old.place.cost));
            pending.push(cost);
            all_pinned.extend(withdrawn.as_ref().filter(|old| old.pinned).map(|_| cost));
        }
        let usage = |total, used, count: fn(&[usize]) -> usize| Usage {
            total,
            live: count(&all_live),
            pending: count(&pending),
            held: used - count(&all_live) - count(&pending),
            free: total - used,
            pinned: count(&all_pinned),
        };
        let slots: BTreeSet<usize> = places.iter().map(|place| place.slot).collect();
        assert_eq!(stats.slots, usage(SLOTS, slots.len(), <[usize]>::len));
        assert_eq!(
            stats.rank_rows,
            usage(ROWS, self.cost(None), |costs| costs.iter().sum())
        );
        let free = (0..PAGES)
            .filter(|&page| self.is_free(None, &(page..page + 1)))
            .count();
        assert_eq!(
            (stats.pages, stats.free_pages, stats.largest_run_pages),
            (PAGES, free, self.largest_run())
        );
        assert_eq!(stats.readers, self.held.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_registry_is_what_the_model_says(ops in proptest::collection::vec(any_op(), 1..60)) {
        let mut model = Model::new();
        for op in ops {
            model.step(op);
            model.check();
        }
        // The last handles go in whatever order: everything comes back.
        let Model { registry, held, pending, live, .. } = model;
        drop(held);
        drop(pending);
        for name in live.keys() {
            registry.pin(name, false).unwrap();
            registry.unload(name).unwrap();
        }
        let restored: Vec<_> = registry.records().into_iter().map(|record| record.name).collect();
        for name in restored {
            registry.pin(&name, false).unwrap();
            registry.unload(&name).unwrap();
        }
        let stats = registry.stats();
        prop_assert_eq!((stats.slots.free, stats.rank_rows.free, stats.free_pages), (SLOTS, ROWS, PAGES));
    }
}
