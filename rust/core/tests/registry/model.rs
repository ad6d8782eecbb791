//! The registry, modelled: places in plain lists, and everything looked up by scanning.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use meteora_core::registry::{GateKind, Intent, Registry, RegistryConfig, Reservation};
use meteora_core::rows::Need;
use meteora_core::snapshot::Snapshot;
use meteora_core::Error;

use super::info;
use super::places::{Place, ROWS, SLOTS};

#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub id: u64,
    pub number: u64,
    pub pinned: bool,
    pub routable: bool,
    pub place: Rc<Place>,
}

pub struct Pending {
    pub reservation: Reservation,
    pub name: String,
    pub intent: Intent,
    pub place: Rc<Place>,
    pub withdrawn: Option<Generation>,
}

pub type Live = BTreeMap<String, Generation>;

pub struct Model {
    pub registry: Registry,
    pub live: Live,
    pub base_routable: bool,
    pub pending: Vec<Pending>,
    pub held: Vec<(Arc<Snapshot>, Live)>,
    pub ids: u64,
    pub generations: u64,
}

/// What the model says of a reservation.
enum Expected {
    Fresh(Place),
    InPlace(Place),
    InUse,
    NotFound,
    Full,
}

impl Model {
    pub fn new() -> Model {
        let config = RegistryConfig {
            max_adapters: SLOTS,
            pool_rank: ROWS,
            element_size: 4,
        };
        Model {
            registry: Registry::new(config),
            live: Live::new(),
            base_routable: false,
            pending: Vec::new(),
            held: Vec::new(),
            ids: 0,
            generations: 0,
        }
    }

    fn expect(&self, name: &str, need: Need, intent: Intent) -> Expected {
        let live = self.live.get(name);
        match (intent, live) {
            _ if self.pending.iter().any(|pending| pending.name == name) => return Expected::InUse,
            (Intent::Load, Some(_)) => return Expected::InUse,
            (Intent::Reload, None) => return Expected::NotFound,
            _ => {}
        }
        let cost = need.rank_rows;
        let slot = (0..SLOTS).find(|slot| self.places(None).iter().all(|place| place.slot != *slot));
        if let (Some(slot), Some(run)) = (slot, self.first_fit(None, need)) {
            let rows = Rc::default();
            return Expected::Fresh(Place {
                slot,
                run,
                cost,
                rows,
            });
        }
        let Some(Generation { place: own, .. }) = live else {
            return Expected::Full;
        };
        let reads = |live: &Live| {
            live.values()
                .any(|generation| Rc::ptr_eq(&generation.place.rows, &own.rows))
        };
        if self.held.iter().any(|(_, live)| reads(live)) {
            return Expected::Full;
        }
        let stays = need.pages > 0 && need.pages <= own.run.len();
        match self.first_fit(Some(own), need) {
            Some(_) if stays => Expected::InPlace(Place {
                slot: own.slot,
                run: own.run.start..own.run.start + need.pages,
                cost,
                rows: Rc::default(),
            }),
            Some(run) => Expected::InPlace(Place {
                slot: own.slot,
                run,
                cost,
                rows: Rc::default(),
            }),
            None => Expected::Full,
        }
    }

    pub fn reserve(&mut self, name: String, need: Need, intent: Intent) {
        let expected = self.expect(&name, need, intent);
        let before = self.registry.stats().version;
        let (reservation, place, withdrawn) = match (self.registry.reserve(&name, need, intent), expected) {
            (Ok(reservation), Expected::Fresh(place)) => (reservation, place, None),
            (Ok(reservation), Expected::InPlace(place)) => (reservation, place, self.live.remove(&name)),
            (Err(error), expected) => {
                match (error, expected) {
                    (Error::AdapterInUse { .. }, Expected::InUse) => {}
                    (Error::AdapterNotFound { .. }, Expected::NotFound) => {}
                    // Whatever was short, the numbers show it.
                    (
                        Error::Capacity {
                            needed,
                            free,
                            largest_run,
                            ..
                        },
                        Expected::Full,
                    ) => {
                        assert!(needed > free || needed > largest_run);
                    }
                    (error, _) => panic!("{error}"),
                }
                return assert_eq!(
                    self.registry.stats().version,
                    before,
                    "what fails changes nothing"
                );
            }
            (Ok(reservation), _) => panic!("{reservation:?}"),
        };
        let got = (
            reservation.slot(),
            reservation.page_start(),
            reservation.pages(),
            reservation.in_place(),
        );
        assert_eq!(
            got,
            (place.slot, place.run.start, place.run.len(), withdrawn.is_some())
        );
        self.pending.push(Pending {
            reservation,
            name,
            intent,
            place: Rc::new(place),
            withdrawn,
        });
    }

    pub fn publish(&mut self, pending: Pending) {
        let Pending {
            reservation,
            name,
            place,
            withdrawn,
            ..
        } = pending;
        let record = self.registry.publish(reservation, info(8));
        let old = withdrawn.or_else(|| self.live.remove(&name));
        self.generations += 1;
        self.ids += u64::from(old.is_none());
        let generation = Generation {
            id: old.as_ref().map_or(self.ids, |old| old.id),
            number: self.generations,
            pinned: old.is_some_and(|old| old.pinned),
            routable: true,
            place,
        };
        assert_eq!(
            (record.id.0, record.generation, record.pinned),
            (generation.id, generation.number, generation.pinned)
        );
        self.live.insert(name, generation);
    }

    /// New gates: where they are if nobody reads, else in a slot of their own over the same rows.
    pub fn gate(&mut self, name: String, routable: bool) {
        let quiet = self.held.is_empty();
        let slot = (0..SLOTS).find(|slot| self.places(None).iter().all(|place| place.slot != *slot));
        let number = self.generations + 1;
        let before = self.registry.stats().version;
        let reserved = self.registry.reserve_gates(std::slice::from_ref(&name), false);
        let place = match (self.settled(&name), quiet, slot) {
            (Ok(live), true, _) => Rc::clone(&live.place),
            (Ok(live), false, Some(slot)) => Rc::new(Place {
                slot,
                run: live.place.run.clone(),
                cost: live.place.cost,
                rows: Rc::clone(&live.place.rows),
            }),
            (Ok(_), false, None) | (Err(true), ..) => {
                assert!(matches!(reserved, Err(Error::AdapterInUse { .. })));
                return assert_eq!(self.registry.stats().version, before);
            }
            (Err(false), ..) => return assert!(matches!(reserved, Err(Error::AdapterNotFound { .. }))),
        };
        let reserved = reserved.unwrap();
        assert_eq!((reserved.slots(), reserved.in_place()), (vec![place.slot], quiet));
        self.registry
            .publish_gates(reserved, &[(GateKind::Fitted, routable)], None);
        let live = self.settled(&name).unwrap();
        (live.routable, live.number, live.place) = (routable, number, place);
        self.generations = number;
    }

    /// The live generation that may be changed, or whether its name is in use rather than unknown.
    pub fn settled(&mut self, name: &str) -> Result<&mut Generation, bool> {
        let reloading = self
            .pending
            .iter()
            .any(|p| p.name == name && p.intent == Intent::Reload);
        if reloading {
            Err(true)
        } else {
            self.live.get_mut(name).ok_or(false)
        }
    }
}
