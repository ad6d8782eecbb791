//! Routes to records: each rule by itself, and random batches against a naive reading of the rules.

mod model;
mod rules;

use std::collections::BTreeSet;
use std::sync::Arc;

use meteora_core::layout::{route_width, ROUTE_AUTO, ROUTE_FIXED};
use meteora_core::registry::{AdapterInfo, GateKind, Intent, Registry, RegistryConfig};
use meteora_core::route::{plan, Route, RoutePlan};
use meteora_core::snapshot::Snapshot;
use meteora_core::DType;

/// Adapters "0", "1", … in slots 0, 1, …, routable or not, of which those marked absent were unloaded.
fn snapshot(adapters: &[Kind], base_routable: bool) -> Arc<Snapshot> {
    registry(adapters, base_routable).snapshot()
}

fn registry(adapters: &[Kind], base_routable: bool) -> Registry {
    let config = RegistryConfig {
        max_adapters: adapters.len(),
        pool_rank: 8 * adapters.len(),
        element_size: 2,
    };
    let registry = Registry::new(config);
    for (slot, kind) in adapters.iter().enumerate() {
        let need = registry.need(8, DType::F16);
        let reservation = registry.reserve(&slot.to_string(), need, Intent::Load).unwrap();
        assert_eq!(reservation.slot(), slot);
        let gate = if *kind == Kind::Named {
            GateKind::None
        } else {
            GateKind::Arrow
        };
        let info = AdapterInfo {
            rank: 8,
            dtype: DType::F16,
            bytes: 0,
            gate,
            routable: true,
            sites: 1,
            source: String::new(),
        };
        registry.publish(reservation, info);
    }
    for (slot, _) in adapters
        .iter()
        .enumerate()
        .filter(|(_, kind)| **kind == Kind::Absent)
    {
        registry.unload(&slot.to_string()).unwrap();
    }
    let gates = registry.reserve_gates(&[], base_routable).unwrap();
    registry.publish_gates(gates, &[], Some(base_routable));
    registry
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Routable,
    Named,
    Absent,
}

fn auto() -> Route {
    Route::Auto { only: None }
}

fn only(names: &[&str]) -> Route {
    Route::Auto {
        only: Some(names.iter().map(|name| name.to_string()).collect()),
    }
}

fn named(name: &str) -> Route {
    Route::Named(name.to_owned())
}

fn mix(weights: &[(&str, f64)]) -> Route {
    Route::Mix(
        weights
            .iter()
            .map(|&(name, weight)| (name.to_owned(), weight))
            .collect(),
    )
}

/// What a record means.
#[derive(Debug, Clone, PartialEq)]
enum Meaning {
    Fixed(Vec<(usize, f32)>),
    Auto(BTreeSet<usize>),
}

/// Reads a record as a kernel does, and checks that it has one form only: what is unused is zero.
fn meaning(record: &[i32], slots: usize) -> Meaning {
    assert_eq!(record.len(), route_width(slots));
    let count = record[1] as usize;
    let (meaning, used) = match record[0] {
        ROUTE_FIXED => {
            let pairs = record[2..].chunks_exact(2).take(count);
            (
                Meaning::Fixed(
                    pairs
                        .map(|p| (p[0] as usize, f32::from_bits(p[1] as u32)))
                        .collect(),
                ),
                2 + 2 * count,
            )
        }
        ROUTE_AUTO => {
            let set = (0..slots).filter(|slot| record[2 + slot / 32] as u32 >> (slot % 32) & 1 == 1);
            let set: BTreeSet<usize> = set.collect();
            assert_eq!(set.len(), count);
            (Meaning::Auto(set), 2 + slots.div_ceil(32))
        }
        kind => panic!("kind {kind}"),
    };
    assert!(record[used..].iter().all(|&int| int == 0), "{record:?}");
    meaning
}

/// The record that token `token` of `tokens` follows, by the rule that all kernels keep.
fn record_of(plan: &RoutePlan, token: usize, tokens: usize) -> &[i32] {
    let index = plan.row_route[token * plan.row_route.len() / tokens] as usize;
    &plan.records[index * plan.width..][..plan.width]
}

fn meanings(plan: &RoutePlan) -> Vec<Meaning> {
    let rows = plan.row_route.len();
    (0..rows)
        .map(|row| meaning(record_of(plan, row, rows), (plan.width - 2) / 2))
        .collect()
}

fn one(snapshot: &Arc<Snapshot>, route: Route) -> Meaning {
    meanings(&plan(snapshot, &[route]).unwrap()).remove(0)
}
