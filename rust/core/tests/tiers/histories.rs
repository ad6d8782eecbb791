//! Random requests, pins and holds against a naive model of who is on the device.

use std::collections::BTreeMap;
use std::sync::Arc;

use meteora_core::held::Held;
use meteora_core::registry::Registry;
use meteora_core::route::{plan, Route};
use meteora_core::rows::Need;
use meteora_core::tiers::room::{Residency, Room};
use meteora_core::{DType, Error};
use proptest::prelude::*;

use super::{info, registry};

#[derive(Debug, Clone)]
enum Step {
    Request(Vec<u8>),
    Pin(u8, bool),
    Hold(u8),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0u8..7;
    prop_oneof![
        5 => prop::collection::btree_set(name.clone(), 1..4).prop_map(|names| Step::Request(names.into_iter().collect())),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, pinned)| Step::Pin(name, pinned)),
        2 => name.prop_map(Step::Hold),
        2 => any::<usize>().prop_map(Step::Release),
    ]
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Brought,
    Later,
    Never,
}

/// Who is resident, each with the number of its stay; `asked`, the last one last; stays that are held, and by how many.
#[derive(Debug, Default)]
struct Model {
    slots: usize,
    resident: BTreeMap<u8, usize>,
    pinned: Vec<u8>,
    asked: Vec<u8>,
    held: BTreeMap<usize, usize>,
    stays: usize,
}

impl Model {
    /// Places of those who have gone and are held still.
    fn due(&self) -> usize {
        let gone = |stay: &&usize| !self.resident.values().any(|other| other == *stay);
        self.held.keys().filter(gone).count()
    }

    fn request(&mut self, names: &[u8]) -> Outcome {
        self.asked.retain(|name| !names.contains(name));
        self.asked.extend(names);
        let missing: Vec<u8> = names
            .iter()
            .copied()
            .filter(|name| !self.resident.contains_key(name))
            .collect();
        let stays = |name: &u8| self.pinned.contains(name) || names.contains(name);
        let staying = self.resident.keys().filter(|name| stays(name)).count();
        loop {
            let free = self.slots - self.resident.len() - self.due();
            if free >= missing.len() {
                break;
            }
            if missing.len() + staying > self.slots {
                return Outcome::Never;
            }
            let turn = |name: &u8| self.asked.iter().position(|asked| asked == name);
            let is_held = |name: &u8| self.held.contains_key(&self.resident[name]);
            let may_go = self
                .resident
                .keys()
                .copied()
                .filter(|name| !self.pinned.contains(name) && !names.contains(name));
            let victim = may_go.min_by_key(|name| (is_held(name), turn(name)));
            match victim {
                Some(victim) if !is_held(&victim) || self.due() == 0 || free + self.due() < missing.len() => {
                    self.resident.remove(&victim);
                    self.asked.retain(|&name| name != victim);
                }
                _ if self.due() > 0 => return Outcome::Later,
                _ => return Outcome::Never,
            }
        }
        for name in missing {
            self.stays += 1;
            self.resident.insert(name, self.stays);
        }
        Outcome::Brought
    }
}

fn request(registry: &Registry, residency: &Residency, names: &[u8]) -> Outcome {
    let names: Vec<String> = names.iter().map(u8::to_string).collect();
    let snapshot = registry.snapshot();
    let is_live = |name: &str| snapshot.get(name).is_some();
    residency.asked(names.iter().map(|name| (name.as_str(), is_live(name))));
    let missing = names.iter().filter(|name| !is_live(name));
    let wanted: Vec<(&str, Need)> = missing
        .map(|name| (name.as_str(), registry.need(8, DType::F32)))
        .collect();
    drop(snapshot);
    let stays = |name: &str| names.iter().any(|other| other == name);
    match residency.reserve(registry, &wanted, stays, |_| true) {
        Ok(Room::Reserved(places)) => {
            for place in places {
                registry.publish(place, info());
            }
            Outcome::Brought
        }
        Ok(Room::Later(_)) => Outcome::Later,
        Err(Error::Capacity { .. }) => Outcome::Never,
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #[test]
    fn as_the_naive_model_has_it(slots in 1usize..5, steps in prop::collection::vec(step(), 0..80)) {
        let (registry, residency) = (registry(slots), Residency::default());
        let mut model = Model { slots, ..Model::default() };
        let mut holds: Vec<(Arc<Held>, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Request(names) => {
                    let outcome = request(&registry, &residency, &names);
                    prop_assert_eq!(outcome, model.request(&names));
                }
                Step::Pin(name, pinned) => {
                    let resident = model.resident.contains_key(&name);
                    prop_assert_eq!(registry.pin(&name.to_string(), pinned).is_ok(), resident);
                    if resident {
                        model.pinned.retain(|&other| other != name);
                        model.pinned.extend(pinned.then_some(name));
                    }
                }
                Step::Hold(name) => {
                    if let Some(&stay) = model.resident.get(&name) {
                        let held = plan(&registry.snapshot(), &[Route::Named(name.to_string())]).unwrap().held;
                        holds.push((held, stay));
                        *model.held.entry(stay).or_default() += 1;
                    }
                }
                Step::Release(which) if !holds.is_empty() => {
                    let (held, stay) = holds.swap_remove(which % holds.len());
                    drop(held);
                    let left = model.held.get_mut(&stay).unwrap();
                    *left -= 1;
                    if *left == 0 {
                        model.held.remove(&stay);
                    }
                }
                Step::Release(_) => {}
            }
            let live: Vec<String> = registry.records().into_iter().map(|record| record.name).collect();
            prop_assert_eq!(live.len(), model.resident.len());
            prop_assert!(live.iter().all(|name| model.resident.contains_key(&name.parse().unwrap())));
            let stats = registry.stats().slots;
            prop_assert_eq!((stats.held, stats.pending), (model.due(), 0));
        }
    }
}
