//! The tiers: order of use, the host's budget, room on the device, the queue; each against a naive model.

mod histories;
mod host;
mod lru;
mod queue;
mod room;
mod zipf;

use meteora_core::registry::{AdapterInfo, GateKind, Registry, RegistryConfig};
use meteora_core::DType;

/// A registry of `slots` slots, with rows for each to have rank 8 in f32.
fn registry(slots: usize) -> Registry {
    Registry::new(RegistryConfig {
        max_adapters: slots,
        pool_rank: 8 * slots,
        element_size: 4,
    })
}

fn info() -> AdapterInfo {
    AdapterInfo {
        rank: 8,
        dtype: DType::F32,
        bytes: 64,
        gate: GateKind::Arrow,
        routable: true,
        sites: 1,
        source: "<memory>".to_owned(),
    }
}
