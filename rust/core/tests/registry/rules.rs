//! Each rule by itself.

use meteora_core::registry::Intent;
use meteora_core::rows::Need;
use meteora_core::{DType, Error, Result};

use super::{info, load, message, registry, reload, state};

#[track_caller]
fn in_use(result: Result<impl Sized>, hint: &str) {
    match result {
        Err(Error::AdapterInUse { reason, .. }) => assert!(reason.contains(hint), "{reason}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was allowed"),
    }
}

#[test]
fn a_reload_keeps_the_id_and_a_new_load_does_not() {
    let registry = registry(4, 64);
    let first = load(&registry, "math", 8).unwrap();
    registry.pin("math", true).unwrap();
    let second = reload(&registry, "math", 16).unwrap();
    assert_eq!(first.id, second.id);
    assert!(second.generation > first.generation);
    assert!(second.pinned, "a reload keeps the pin");
    registry.pin("math", false).unwrap();
    registry.unload("math").unwrap();
    let third = load(&registry, "math", 8).unwrap();
    assert!(third.id > second.id && third.generation > second.generation);
}

#[test]
fn records_come_in_slot_order() {
    let registry = registry(4, 64);
    for name in ["c", "a", "b"] {
        load(&registry, name, 8).unwrap();
    }
    registry.unload("a").unwrap();
    load(&registry, "d", 9).unwrap();
    let records = registry.records();
    let places: Vec<_> = records
        .iter()
        .map(|r| (r.name.as_str(), r.slot, r.page_start, r.pages))
        .collect();
    assert_eq!(places, [("c", 0, 0, 2), ("d", 1, 6, 4), ("b", 2, 4, 2)]);
}

#[test]
fn a_live_name_is_not_loaded_again() {
    let registry = registry(4, 64);
    load(&registry, "math", 8).unwrap();
    in_use(load(&registry, "math", 8), "reload_adapter");
    let unknown = message(reload(&registry, "law", 8));
    assert_eq!(unknown, "no adapter named \"law\"; loaded: math");
    assert!(matches!(
        registry.unload("law"),
        Err(Error::AdapterNotFound { .. })
    ));
    assert!(matches!(
        registry.pin("law", true),
        Err(Error::AdapterNotFound { .. })
    ));
    assert!(matches!(
        registry.reserve_gates(&["law".to_owned()], false),
        Err(Error::AdapterNotFound { .. })
    ));
}

#[test]
fn one_change_of_a_name_at_a_time() {
    let registry = registry(4, 64);
    let need = registry.need(8, DType::F32);
    let first = registry.reserve("math", need, Intent::Load).unwrap();
    in_use(registry.reserve("math", need, Intent::Load), "another call");
    assert!(
        matches!(registry.unload("math"), Err(Error::AdapterNotFound { .. })),
        "not live yet"
    );
    registry.publish(first, info(8));
    let second = registry.reserve("math", need, Intent::Reload).unwrap();
    in_use(registry.reserve("math", need, Intent::Reload), "another call");
    in_use(registry.unload("math"), "another call");
    in_use(registry.pin("math", true), "another call");
    in_use(
        registry.reserve_gates(&["math".to_owned()], false),
        "another call",
    );
    drop(second);
    registry.unload("math").unwrap();
}

#[test]
fn a_pinned_adapter_is_unpinned_before_it_is_unloaded() {
    let registry = registry(4, 64);
    load(&registry, "math", 8).unwrap();
    registry.pin("math", true).unwrap();
    in_use(registry.unload("math"), "unpin");
    registry.pin("math", false).unwrap();
    registry.unload("math").unwrap();
}

#[test]
fn who_keeps_an_adapter_gives_back_its_own_pin_alone() {
    let registry = registry(4, 64);
    load(&registry, "math", 8).unwrap();
    let first = registry.keep("math").unwrap();
    let second = registry.keep("math").unwrap();
    drop(first);
    in_use(registry.unload("math"), "a fit or a training keeps it");
    let record = registry.record("math").unwrap();
    assert!(!record.pinned && record.kept && record.stays());
    registry.pin("math", true).unwrap();
    let need = registry.need(8, DType::F32);
    let reload = registry.reserve("math", need, Intent::Reload).unwrap();
    drop(second); // though it is being changed
    let record = registry.publish(reload, info(8));
    assert!(record.pinned && !record.kept, "the other pin");
    let third = registry.keep("math").unwrap();
    registry.pin("math", false).unwrap();
    in_use(registry.evict("math"), "pinned");
    drop(third);
    registry.unload("math").unwrap();
}

#[test]
fn a_pin_ends_with_its_adapter() {
    let registry = registry(1, 16);
    load(&registry, "math", 8).unwrap();
    let kept = registry.keep("math").unwrap();
    let need = registry.need(8, DType::F32);
    let mut reload = registry.reserve("math", need, Intent::Reload).unwrap();
    assert!(reload.in_place());
    reload.begin();
    drop(reload); // in the middle of writing: it is gone
    load(&registry, "math", 8).unwrap();
    drop(kept);
    registry.unload("math").unwrap();
}

#[test]
fn a_dropped_reservation_leaves_nothing() {
    let registry = registry(2, 32);
    load(&registry, "math", 8).unwrap();
    let before = state(&registry);
    let need = registry.need(16, DType::F32);
    for (name, intent) in [("law", Intent::Load), ("math", Intent::Reload)] {
        let reservation = registry.reserve(name, need, intent).unwrap();
        assert!(!reservation.in_place());
        assert_eq!(registry.records(), before.0, "nothing is published yet");
        assert_eq!(registry.stats().rank_rows.pending, 16);
        drop(reservation);
        assert_eq!(state(&registry), before);
    }
    // Through a panic as well.
    let handle = registry.clone();
    let panicked = std::thread::spawn(move || {
        let _reservation = handle.reserve("law", need, Intent::Load).unwrap();
        panic!("on purpose: a loader dies");
    });
    assert!(panicked.join().is_err());
    assert_eq!(state(&registry), before);
}

#[test]
fn readers_are_those_outside_the_registry() {
    let registry = registry(2, 16);
    assert_eq!(registry.readers(), 0);
    let first = registry.snapshot();
    load(&registry, "math", 8).unwrap();
    let second = registry.snapshot();
    assert_eq!(registry.readers(), 2);
    drop(first);
    assert_eq!(registry.readers(), 1);
    drop(second);
    assert_eq!(registry.readers(), 0);
}

#[test]
fn a_snapshot_outlives_its_registry() {
    let registry = registry(2, 16);
    load(&registry, "math", 8).unwrap();
    let snapshot = registry.snapshot();
    let pending = registry
        .reserve(
            "law",
            Need {
                pages: 1,
                rank_rows: 8,
            },
            Intent::Load,
        )
        .unwrap();
    drop(registry);
    assert_eq!(snapshot.find("math").unwrap().name(), "math");
    drop(snapshot);
    drop(pending);
}
