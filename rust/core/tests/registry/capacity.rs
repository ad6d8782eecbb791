//! What fits, when room comes back, and what the error says.

use meteora_core::registry::{Intent, Registry, RegistryConfig};
use meteora_core::DType;

use super::{load, message, registry, state};

#[test]
fn rows_are_reused_when_the_last_reader_is_gone() {
    let registry = registry(1, 16);
    let old = load(&registry, "old", 16).unwrap();
    let (reader, late) = (registry.snapshot(), registry.snapshot());
    registry.unload("old").unwrap();
    assert_eq!(
        reader.find("old").unwrap().page_start(),
        old.page_start,
        "the reader sees what it saw"
    );
    assert!(registry.snapshot().get("old").is_none());
    assert_eq!(
        message(load(&registry, "new", 8)),
        "adapter \"new\" does not fit: needs 1 slots, free 0 of 1 (largest run 0), pinned 0, held 1 until running \
         requests end; unload an adapter or raise max_adapters"
    );
    drop(reader);
    assert_eq!(registry.stats().rank_rows.held, 16);
    drop(late);
    assert_eq!(registry.stats().rank_rows.held, 0);
    assert_eq!(load(&registry, "new", 8).unwrap().slot, 0);
}

#[test]
fn capacity_errors_say_what_is_needed_and_who_has_it() {
    let registry = registry(8, 32);
    for name in ["a", "b", "c", "d"] {
        load(&registry, name, 8).unwrap();
    }
    registry.pin("b", true).unwrap();
    registry.unload("a").unwrap();
    registry.unload("c").unwrap();
    let before = state(&registry);
    assert_eq!(
        message(load(&registry, "e", 16)),
        "adapter \"e\" does not fit: needs 16 rank rows, free 16 of 32 (largest run 8), pinned 8; unload an \
         adapter or raise pool_rank"
    );
    assert_eq!(
        message(load(&registry, "e", 20)),
        "adapter \"e\" does not fit: needs 24 rank rows, free 16 of 32 (largest run 8), pinned 8; unload an \
         adapter or raise pool_rank"
    );
    assert_eq!(state(&registry), before);
}

#[test]
fn element_types_share_the_pools() {
    let half = Registry::new(RegistryConfig {
        max_adapters: 4,
        pool_rank: 32,
        element_size: 2,
    });
    let wide = half
        .reserve("fp32", half.need(8, DType::F32), Intent::Load)
        .unwrap();
    assert_eq!(
        (wide.pages(), half.stats().rank_rows.pending),
        (2, 16),
        "twice the model's element"
    );
    let full = registry(4, 32);
    let narrow = full
        .reserve("bf16", full.need(8, DType::BF16), Intent::Load)
        .unwrap();
    assert_eq!(
        (narrow.pages(), full.stats().rank_rows.pending),
        (1, 8),
        "half the pages, the same budget"
    );
}

#[test]
fn an_adapter_without_rows_takes_a_slot_only() {
    let registry = registry(2, 8);
    load(&registry, "full", 8).unwrap();
    let empty = load(&registry, "empty", 0).unwrap();
    assert_eq!((empty.slot, empty.pages, empty.rank_rows), (1, 0, 0));
}
