//! New gates: in place where nobody reads, else in slots of their own over the same rows.

use meteora_core::held::Held;
use meteora_core::registry::{GateKind, Registry};

use super::{load, message, registry, state};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn two(max_adapters: usize) -> Registry {
    let registry = registry(max_adapters, 16);
    load(&registry, "math", 8).unwrap();
    load(&registry, "law", 8).unwrap();
    registry
}

#[test]
fn without_a_reader_they_stay_where_they_are() {
    let registry = two(2);
    let old = registry.records();
    let reserved = registry.reserve_gates(&names(&["math"]), true).unwrap();
    assert!(reserved.in_place());
    assert_eq!(
        (reserved.slots(), reserved.old_slots(), reserved.base_slot()),
        (vec![0], vec![0], Some(2))
    );
    let new = registry.publish_gates(reserved, &[(GateKind::None, true)], Some(true));
    assert_eq!(
        (new[0].id, new[0].slot, new[0].weights),
        (old[0].id, 0, old[0].weights)
    );
    assert!(new[0].generation > old[1].generation);
    assert_eq!(
        registry.snapshot().candidates(),
        [0b110],
        "without a gate it is no candidate; the base comes after the adapters"
    );
    assert_eq!(registry.stats().rank_rows.live, 16, "one place, charged once");
}

#[test]
fn beside_a_reader_they_take_a_slot_and_share_the_rows() {
    let registry = two(4);
    let old = registry.records();
    let reader = Held::all(&registry.snapshot());
    let reserved = registry.reserve_gates(&names(&["math", "law"]), false).unwrap();
    assert_eq!((reserved.slots(), reserved.in_place()), (vec![2, 3], false));
    assert_eq!(registry.stats().slots.pending, 2);
    assert!(message(registry.unload("math")).contains("another call"));
    let gates = [(GateKind::Fitted, true), (GateKind::Fitted, false)];
    let new = registry.publish_gates(reserved, &gates, None);
    assert_eq!(
        new.iter().map(|r| (r.id, r.weights, r.slot)).collect::<Vec<_>>(),
        [(old[0].id, old[0].weights, 2), (old[1].id, old[1].weights, 3)]
    );
    let stats = registry.stats();
    assert_eq!((stats.slots.live, stats.slots.held), (2, 2));
    assert_eq!((stats.rank_rows.live, stats.rank_rows.held), (16, 0));
    assert_eq!(registry.snapshot().candidates(), [0b0100]);
    assert_eq!(reader.entries()[0].slot(), 0);
    drop(reader);
    assert_eq!(registry.stats().slots.free, 2);
    registry.unload("math").unwrap();
    assert_eq!(registry.stats().rank_rows.free, 8);
}

#[test]
fn without_room_nothing_changes() {
    let registry = two(3);
    let before = state(&registry);
    let reader = Held::all(&registry.snapshot());
    assert_eq!(
        message(registry.reserve_gates(&names(&["math", "law"]), false)),
        "adapter \"math\" is in use: running requests hold its gate rows; new ones take a slot of their own (2 needed, \
         1 free): try again when requests have ended, unload an adapter or raise max_adapters"
    );
    assert_eq!(state(&registry), before);
    drop(registry.reserve_gates(&names(&["math"]), true).unwrap());
    assert_eq!(state(&registry), before);
    drop(reader);
    registry.unload("math").unwrap();
}

#[test]
fn the_base_has_two_slots() {
    let registry = two(2);
    let publish = |registry: &Registry| {
        let reserved = registry.reserve_gates(&[], true)?;
        let slot = reserved.base_slot();
        registry.publish_gates(reserved, &[], Some(true));
        assert_eq!(registry.snapshot().base_slot(), slot);
        Ok::<_, meteora_core::Error>(slot.unwrap())
    };
    assert_eq!(publish(&registry).unwrap(), 2);
    let first = Held::all(&registry.snapshot());
    assert_eq!(publish(&registry).unwrap(), 3);
    assert!(message(publish(&registry)).contains("adapter \"__base__\" is in use"));
    drop(first);
    assert_eq!(publish(&registry).unwrap(), 2);
    let off = registry.reserve_gates(&[], false).unwrap();
    registry.publish_gates(off, &[], Some(false));
    assert_eq!(registry.snapshot().base_slot(), None);
    assert_eq!(registry.stats().slots.live, 2);
}
