//! A reload where there is no room for a second generation: it takes its own place over, or says who reads it.

use meteora_core::registry::{AdapterRecord, GateKind, Intent, Registry, RegistryConfig, Reservation};
use meteora_core::{DType, Error, Result};

use super::info;

/// A registry for an fp16 model, one page for each eight rank rows, with adapters of these ranks: "0", "1", …
fn full(max_adapters: usize, pool_rank: usize, ranks: &[usize]) -> Registry {
    let registry = Registry::new(RegistryConfig {
        max_adapters,
        pool_rank,
        element_size: 2,
    });
    for (name, &rank) in ranks.iter().enumerate() {
        let need = registry.need(rank, DType::F16);
        let reservation = registry.reserve(&name.to_string(), need, Intent::Load).unwrap();
        registry.publish(reservation, info(rank));
    }
    registry
}

fn again(registry: &Registry, name: &str, rank: usize) -> Result<Reservation> {
    registry.reserve(name, registry.need(rank, DType::F16), Intent::Reload)
}

fn place(record: &AdapterRecord) -> (usize, usize, usize, usize) {
    (record.slot, record.page_start, record.pages, record.rank_rows)
}

#[test]
fn it_is_out_of_sight_and_comes_back_when_dropped() {
    let registry = full(2, 32, &[16, 16]);
    registry.pin("0", true).unwrap();
    let before = (registry.records(), registry.stats());
    let reservation = again(&registry, "0", 16).unwrap();
    assert!(reservation.in_place());
    assert_eq!(
        (reservation.slot(), reservation.page_start(), reservation.pages()),
        (0, 0, 2)
    );
    let snapshot = registry.snapshot();
    assert!(snapshot.get("0").is_none(), "no new reader can take it");
    assert!(snapshot.has("0") && snapshot.has("1") && !snapshot.has("2"));
    assert_eq!(
        snapshot.find("0").unwrap_err().to_string(),
        "adapter \"0\" is in use: it is being reloaded in its own place, as there is no room for a second generation; \
         try again when the reload has ended"
    );
    assert_eq!(
        snapshot.find("2").unwrap_err().to_string(),
        "no adapter named \"2\"; loaded: 0, 1"
    );
    assert_eq!(registry.records(), before.0, "it is still listed");
    assert_eq!(registry.record("0").unwrap(), before.0[0]);
    drop(snapshot);
    let stats = registry.stats();
    assert_eq!(
        (
            stats.rank_rows.live,
            stats.rank_rows.pending,
            stats.rank_rows.pinned
        ),
        (16, 16, 16)
    );
    for refused in [
        registry.unload("0").map(drop),
        registry.pin("0", false),
        again(&registry, "0", 8).map(drop),
    ] {
        assert!(matches!(refused, Err(Error::AdapterInUse { .. })));
    }
    drop(reservation);
    assert_eq!(registry.records(), before.0, "the same generation again");
    let after = registry.stats();
    assert_eq!(
        (after.slots, after.rank_rows, after.free_pages),
        (before.1.slots, before.1.rank_rows, 0)
    );
}

#[test]
fn what_was_written_over_does_not_come_back() {
    let registry = full(2, 32, &[16, 16]);
    registry.pin("0", true).unwrap();
    let mut reservation = again(&registry, "0", 16).unwrap();
    reservation.begin();
    drop(reservation);
    assert_eq!(registry.records().len(), 1);
    assert_eq!(
        registry.snapshot().find("0").unwrap_err().to_string(),
        "no adapter named \"0\"; loaded: 1"
    );
    let stats = registry.stats();
    assert_eq!(
        (stats.rank_rows.free, stats.rank_rows.pinned, stats.slots.free),
        (16, 0, 1)
    );
}

#[test]
fn it_is_published_under_its_old_id() {
    let registry = full(2, 32, &[16, 16]);
    let old = registry.records().remove(1);
    let reservation = again(&registry, "1", 16).unwrap();
    let new = registry.publish(reservation, info(16));
    assert_eq!((new.id, place(&new)), (old.id, place(&old)));
    assert!(new.generation > old.generation);
    assert_eq!(registry.record("1").unwrap(), new);
    assert_eq!(
        registry.snapshot().find("1").unwrap().generation(),
        new.generation
    );
    assert_eq!(registry.records()[1], new);
}

#[test]
fn it_shrinks_where_it_stands_and_gives_the_rest_back() {
    let registry = full(2, 32, &[16, 16]);
    let reservation = again(&registry, "1", 8).unwrap();
    assert_eq!(
        registry.stats().free_pages,
        0,
        "the old run is kept until the new one is published"
    );
    let new = registry.publish(reservation, info(8));
    assert_eq!(place(&new), (1, 2, 1, 8));
    let stats = registry.stats();
    assert_eq!(
        (stats.rank_rows.live, stats.rank_rows.free, stats.free_pages),
        (24, 8, 1)
    );
}

#[test]
fn it_grows_over_its_own_pages() {
    let registry = full(3, 40, &[8, 16, 8]);
    registry.unload("2").unwrap();
    // Free: pages 3 and 4. Three pages fit only with its own.
    let reservation = again(&registry, "1", 24).unwrap();
    assert!(reservation.in_place());
    assert_eq!((reservation.page_start(), reservation.pages()), (1, 3));
    assert_eq!(registry.stats().rank_rows.pending, 24);
    drop(reservation);
    assert_eq!(
        (registry.stats().free_pages, registry.stats().rank_rows.live),
        (2, 24)
    );
    let reservation = again(&registry, "1", 32).unwrap();
    let new = registry.publish(reservation, info(32));
    assert_eq!(place(&new), (1, 1, 4, 32));
    assert_eq!(registry.stats().rank_rows.free, 0);
}

#[test]
fn slots_alone_may_be_short() {
    let registry = full(1, 64, &[16]);
    let reservation = again(&registry, "0", 32).unwrap();
    assert!(reservation.in_place());
    assert_eq!((reservation.slot(), reservation.page_start()), (0, 0));
    assert_eq!(place(&registry.publish(reservation, info(32))), (0, 0, 4, 32));
}

#[test]
fn readers_keep_it_and_the_error_says_so() {
    let registry = full(2, 16, &[16]);
    let reader = registry.snapshot();
    let before = (registry.records(), registry.stats().version);
    assert_eq!(
        again(&registry, "0", 16).unwrap_err().to_string(),
        "adapter \"0\" does not fit: needs 16 rank rows, free 0 of 16 (largest run 0), pinned 0, held 16 until \
         running requests end; unload an adapter or raise pool_rank"
    );
    assert_eq!(
        (registry.records(), registry.stats().version),
        before,
        "nothing happened"
    );
    // A gate change makes a generation over the same rows, which the reader of the one before still reads.
    let gates = registry.reserve_gates(&["0".to_owned()], false).unwrap();
    registry.publish_gates(gates, &[(GateKind::Fitted, true)], None);
    assert!(matches!(
        again(&registry, "0", 16),
        Err(Error::Capacity { what: "slots", .. })
    ));
    drop(reader);
    assert!(again(&registry, "0", 16).unwrap().in_place());
}

#[test]
fn readers_of_other_adapters_do_not_matter() {
    let registry = full(2, 32, &[16]);
    let before = registry.snapshot();
    let need = registry.need(16, DType::F16);
    let reservation = registry.reserve("late", need, Intent::Load).unwrap();
    registry.publish(reservation, info(16));
    assert!(again(&registry, "late", 16).unwrap().in_place());
    assert!(again(&registry, "0", 16).is_err());
    drop(before);
}

#[test]
fn what_is_too_large_even_for_its_own_place_is_refused() {
    let registry = full(2, 32, &[16, 16]);
    let before = registry.stats();
    assert_eq!(
        again(&registry, "0", 24).unwrap_err().to_string(),
        "adapter \"0\" does not fit: needs 24 rank rows, free 16 of 32 (largest run 16), pinned 0; unload an \
         adapter or raise pool_rank"
    );
    assert_eq!(registry.stats(), before);
}
