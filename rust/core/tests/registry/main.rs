//! The registry: its rules one by one, reloads in place, random histories against a model, and threads.

mod capacity;
mod gates;
mod histories;
mod in_place;
mod model;
mod names;
mod places;
mod retired;
mod rules;
mod threads;

use meteora_core::registry::{AdapterInfo, AdapterRecord, GateKind, Intent, Registry, RegistryConfig};
use meteora_core::{DType, Result};

/// A registry for an fp32 model: two pages for each eight rank rows.
fn registry(max_adapters: usize, pool_rank: usize) -> Registry {
    Registry::new(RegistryConfig {
        max_adapters,
        pool_rank,
        element_size: 4,
    })
}

fn info(rank: usize) -> AdapterInfo {
    AdapterInfo {
        rank,
        dtype: DType::F32,
        bytes: 64 * rank as u64,
        gate: GateKind::Arrow,
        routable: true,
        sites: 7,
        source: "<memory>".to_owned(),
    }
}

fn load(registry: &Registry, name: &str, rank: usize) -> Result<AdapterRecord> {
    let reservation = registry.reserve(name, registry.need(rank, DType::F32), Intent::Load)?;
    Ok(registry.publish(reservation, info(rank)))
}

fn reload(registry: &Registry, name: &str, rank: usize) -> Result<AdapterRecord> {
    let reservation = registry.reserve(name, registry.need(rank, DType::F32), Intent::Reload)?;
    Ok(registry.publish(reservation, info(rank)))
}

/// All that a failed or abandoned change must leave as it was; versions may move.
fn state(registry: &Registry) -> (Vec<AdapterRecord>, [usize; 8]) {
    let stats = registry.stats();
    let (slots, rows) = (stats.slots, stats.rank_rows);
    let counts = [
        slots.live,
        slots.pending,
        slots.held,
        rows.live,
        rows.pending,
        rows.held,
        stats.free_pages,
        stats.largest_run_pages,
    ];
    (registry.records(), counts)
}

#[track_caller]
fn message(result: Result<impl Sized>) -> String {
    match result {
        Err(error) => error.to_string(),
        Ok(_) => panic!("was allowed"),
    }
}
