//! Who goes for whom.

use meteora_core::held::Held;
use meteora_core::registry::{AdapterRecord, Registry};
use meteora_core::route::{plan, Route};
use meteora_core::rows::Need;
use meteora_core::tiers::room::{Residency, Room};
use meteora_core::{DType, Error, Result};
use std::sync::Arc;

use super::{info, registry};

struct Case {
    registry: Registry,
    residency: Residency,
}

impl Case {
    /// `names`, loaded and asked for in this order.
    fn new(slots: usize, names: &[&str]) -> Case {
        let (registry, residency) = (registry(slots), Residency::default());
        let case = Case { registry, residency };
        for name in names {
            case.bring(&[name]);
        }
        case
    }

    fn need(&self, rank: usize) -> Need {
        self.registry.need(rank, DType::F32)
    }

    fn room(&self, names: &[&str]) -> Result<Room> {
        let wanted: Vec<(&str, Need)> = names.iter().map(|name| (*name, self.need(8))).collect();
        self.residency
            .reserve(&self.registry, &wanted, |name| names.contains(&name), |_| true)
    }

    fn bring(&self, names: &[&str]) {
        self.residency.asked(names.iter().map(|name| (*name, false)));
        match self.room(names).unwrap() {
            Room::Reserved(places) => places.into_iter().for_each(|place| {
                self.registry.publish(place, info());
            }),
            Room::Later(error) => panic!("{error}"),
        }
    }

    fn live(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .registry
            .records()
            .into_iter()
            .map(|record| record.name)
            .collect();
        names.sort();
        names
    }

    fn hold(&self, name: &str) -> Arc<Held> {
        plan(&self.registry.snapshot(), &[Route::Named(name.to_owned())])
            .unwrap()
            .held
    }
}

#[test]
fn the_coldest_goes_and_what_is_asked_for_stays() {
    let case = Case::new(3, &["a", "b", "c"]);
    case.residency.asked([("a", true)]);
    case.bring(&["d"]);
    assert_eq!(case.live(), ["a", "c", "d"]);
    case.bring(&["e", "f"]);
    assert_eq!(case.live(), ["d", "e", "f"], "all of a request come together");
}

#[test]
fn the_same_request_keeps_what_it_has() {
    let case = Case::new(3, &["a", "b", "c"]);
    let wanted = [("d", case.need(8)), ("e", case.need(8))];
    let room = case
        .residency
        .reserve(&case.registry, &wanted, |name| name == "a", |_| true);
    assert!(matches!(room, Ok(Room::Reserved(places)) if places.len() == 2));
    assert_eq!(case.live(), ["a"]);
}

#[test]
fn pinned_ones_stay_and_the_error_says_so() {
    let case = Case::new(2, &["a", "b"]);
    case.registry.pin("a", true).unwrap();
    case.bring(&["c"]);
    assert_eq!(case.live(), ["a", "c"]);
    case.registry.pin("c", true).unwrap();
    let error = case.room(&["d"]).unwrap_err().to_string();
    assert!(
        error.contains("\"d\" does not fit: needs 1 slots, free 0 of 2") && error.contains("pinned 2"),
        "{error}"
    );
}

#[test]
fn who_is_held_goes_last_and_its_place_is_waited_for() {
    let case = Case::new(2, &["a", "b"]);
    let reader = case.hold("a");
    case.bring(&["c"]);
    assert_eq!(case.live(), ["a", "c"], "a is colder, but held");
    let other = case.hold("c");
    assert!(matches!(
        case.room(&["d"]),
        Ok(Room::Later(Error::Capacity { .. }))
    ));
    assert_eq!(case.live(), ["c"], "a serves nobody who begins now");
    assert!(matches!(case.room(&["d"]), Ok(Room::Later(_))));
    assert_eq!(case.live(), ["c"], "one place is enough");
    let seen = case.registry.freed();
    drop(reader);
    assert!(case.registry.freed() > seen);
    case.bring(&["d"]);
    assert_eq!(case.live(), ["c", "d"]);
    drop(other);
}

#[test]
fn no_waiting_helps_against_what_is_too_large() {
    let case = Case::new(2, &["a", "b"]);
    let wanted = [("d", case.need(64))];
    let room = case
        .residency
        .reserve(&case.registry, &wanted, |name| name == "d", |_| true);
    assert!(
        matches!(
            room,
            Err(Error::Capacity {
                needed: 64,
                free: 0,
                ..
            })
        ),
        "{room:?}"
    );
    assert_eq!(case.live(), ["a", "b"], "nobody goes in vain");
}

#[test]
fn two_pages_that_do_not_touch_are_no_run() {
    let case = Case::new(3, &["a", "b", "c"]);
    case.residency.asked([("b", true)]);
    let wanted = [("d", case.need(16))];
    let room = case
        .residency
        .reserve(&case.registry, &wanted, |name| name == "d", |_| true)
        .unwrap();
    assert!(matches!(room, Room::Reserved(_)));
    assert!(
        case.live().is_empty(),
        "a and c leave holes of one page each, so b goes too"
    );
}

#[test]
fn who_is_not_let_go_stays() {
    let case = Case::new(2, &["a", "b"]);
    let wanted = [("c", case.need(8))];
    let room = case
        .residency
        .reserve(&case.registry, &wanted, |_| false, |record| record.name != "a");
    assert!(matches!(room, Ok(Room::Reserved(_))));
    assert_eq!(case.live(), ["a"]);
    let room = case.residency.reserve(
        &case.registry,
        &[("d", case.need(8)), ("e", case.need(8))],
        |_| false,
        |_| false,
    );
    assert!(matches!(room, Ok(Room::Later(_)) | Err(Error::Capacity { .. })));
    assert_eq!(case.live(), ["a"]);
}

#[test]
fn an_adapter_comes_back_as_itself() {
    let case = Case::new(1, &["a"]);
    let before = case.registry.record("a").unwrap();
    let mut gone: Vec<AdapterRecord> = Vec::new();
    let wanted = [("b", case.need(8))];
    let room = case.residency.reserve(
        &case.registry,
        &wanted,
        |name| name == "b",
        |record| {
            gone.push(record.clone());
            true
        },
    );
    assert!(gone.iter().eq([&before]));
    drop(room);
    case.bring(&["a"]);
    let after = case.registry.record("a").unwrap();
    assert_eq!(after.id, before.id);
    assert!(
        after.generation > before.generation,
        "another slot may order its sums otherwise"
    );
    case.bring(&["b"]);
    case.registry.forget("a");
    case.bring(&["a"]);
    assert_ne!(case.registry.record("a").unwrap().id, before.id);
}
