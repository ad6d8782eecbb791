//! From a batch's routes to the records that kernels read.
//!
//! A batch has `n` routes, one for each row, or one alone for all. Kernels see tokens: token `t` of `T` follows
//! the record `row_route[t * n / T]`. Rows are contiguous in the tokens and have equal lengths, so a batch whose
//! rows were expanded, each repeated contiguously by beams or `num_return_sequences`, follows the same rule. Equal
//! routes share a record; records are as [`crate::layout`] lays them out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::held::Held;
use crate::layout::{route_width, ROUTE_AUTO, ROUTE_FIXED};
use crate::naming::GROUP_MARK;
use crate::reach::{Names, Reach};
use crate::registry::GateKind;
use crate::snapshot::{Entry, Snapshot};

/// Which adapters a row's tokens may use.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// The gates choose among the routable adapters, or among those of a list; and the base, if it is routable.
    Auto {
        /// The adapters that may be chosen, by name, alias or `@group`; all, without a list.
        only: Option<Vec<String>>,
    },
    /// One adapter, with weight 1.
    Named(String),
    /// Adapters with fixed weights, which are used as they are: they need not add up to 1.
    Mix(Vec<(String, f64)>),
    /// No adapter.
    Base,
}

/// A batch's routes, resolved against the adapters of one snapshot.
#[derive(Debug, Clone)]
pub struct RoutePlan {
    /// For each route, its record.
    pub row_route: Vec<i32>,
    /// The records, one after the other, each of `width` ints.
    pub records: Vec<i32>,
    /// Ints of a record.
    pub width: usize,
    /// Whether no row can use any adapter.
    pub all_base: bool,
    /// The adapters that the routes can reach: what keeps them in place while the plan is in use.
    pub held: Arc<Held>,
}

/// Resolves `routes`, one for each row of a batch or one alone for all.
///
/// Errors: [`Error::AdapterNotFound`] for a name that the snapshot lacks; [`Error::Route`] for no routes at all,
/// an empty list or mix, an unknown group or member, an adapter without a gate in `only`, one that is twice in a mix, and a weight that is
/// negative or not finite. A weight of zero leaves its adapter out.
pub fn plan(snapshot: &Snapshot, routes: &[Route]) -> Result<RoutePlan> {
    plan_within(snapshot, routes, &Reach::default())
}

/// The same for who may use the adapters within `reach` and no others: `Auto` means those, and what leads beyond is
/// refused as a name, or a group, that nobody knows. The base is everybody's.
///
/// Errors: as [`plan`].
pub fn plan_within(snapshot: &Snapshot, routes: &[Route], reach: &Reach) -> Result<RoutePlan> {
    if routes.is_empty() {
        return Err(Error::Route(
            "there are no routes; give one, or one for each row".to_owned(),
        ));
    }
    let width = route_width(snapshot.slots());
    let mut row_route = Vec::with_capacity(routes.len());
    let mut records = Vec::new();
    let mut reached = vec![0u32; snapshot.candidates().len()];
    let mut all_base = true;
    let mut known: HashMap<Vec<i32>, i32> = HashMap::new();
    let names = reach.names(snapshot.naming());
    for (row, route) in routes.iter().enumerate() {
        let record =
            record(snapshot, row, route, &names).map_err(|error| error.telling(|known| reach.has(known)))?;
        let next = known.len() as i32;
        let index = *known.entry(record).or_insert_with_key(|record| {
            all_base &= record[..2] == [ROUTE_FIXED, 0];
            add_reached(record, &mut reached);
            records.extend_from_slice(record);
            next
        });
        row_route.push(index);
    }
    Ok(RoutePlan {
        row_route,
        records,
        width,
        all_base,
        held: Arc::new(Held::new(snapshot, &reached)),
    })
}

/// Sets the bits of the slots that a record can lead to.
fn add_reached(record: &[i32], words: &mut [u32]) {
    if record[0] == ROUTE_AUTO {
        words
            .iter_mut()
            .zip(&record[2..])
            .for_each(|(word, &bits)| *word |= bits as u32);
        return;
    }
    for pair in record[2..].chunks_exact(2).take(record[1] as usize) {
        words[pair[0] as usize / 32] |= 1 << (pair[0] % 32);
    }
}

fn record(snapshot: &Snapshot, row: usize, route: &Route, known: &Names) -> Result<Vec<i32>> {
    let reach = known.reach();
    match route {
        Route::Base => Ok(fixed(snapshot, Vec::new())),
        Route::Named(name) => {
            let slot = snapshot.routed(name, known)?.slot();
            Ok(fixed(snapshot, vec![(slot, 1.0)]))
        }
        Route::Mix(weights) => {
            let made = mix(snapshot, row, weights, known);
            let told = made.map_err(|error| {
                error.telling_of_route(|live| reach.has(live) && weights.iter().any(|(name, _)| name == live))
            });
            Ok(fixed(snapshot, told?))
        }
        Route::Auto { only: None } => Ok(auto(snapshot, &choice(snapshot, reach))),
        Route::Auto { only: Some(names) } => {
            let made = listed(snapshot, row, names, known);
            let told = made.map_err(|error| {
                error.telling_of_route(|live| reach.has(live) && names.iter().any(|name| name == live))
            });
            Ok(auto(snapshot, &told?))
        }
    }
}

/// The record of fixed weights; of the base, without any.
fn fixed(snapshot: &Snapshot, mut weights: Vec<(usize, f32)>) -> Vec<i32> {
    weights.sort_unstable_by_key(|&(slot, _)| slot);
    let mut record = vec![0; route_width(snapshot.slots())];
    record[..2].copy_from_slice(&[ROUTE_FIXED, weights.len() as i32]);
    for (pair, (slot, weight)) in record[2..].chunks_exact_mut(2).zip(weights) {
        pair.copy_from_slice(&[slot as i32, weight.to_bits() as i32]);
    }
    record
}

/// The record of a choice by gates; of the base, where there is no adapter to choose.
fn auto(snapshot: &Snapshot, words: &[u32]) -> Vec<i32> {
    let count: u32 = words.iter().map(|word| word.count_ones()).sum();
    if count == u32::from(snapshot.base_slot().is_some()) {
        return fixed(snapshot, Vec::new());
    }
    let mut record = vec![0; route_width(snapshot.slots())];
    record[..2].copy_from_slice(&[ROUTE_AUTO, count as i32]);
    for (to, &word) in record[2..].iter_mut().zip(words) {
        *to = word as i32;
    }
    record
}

/// The weights of a mix that aren't zero, with their slots.
fn mix(
    snapshot: &Snapshot,
    row: usize,
    weights: &[(String, f64)],
    known: &Names,
) -> Result<Vec<(usize, f32)>> {
    if weights.is_empty() {
        return Err(Error::Route(format!(
            "row {row}: the mix is empty; give weights, or use the base"
        )));
    }
    let mut fixed: Vec<(usize, f32)> = Vec::with_capacity(weights.len());
    for (name, weight) in weights {
        let slot = snapshot.routed(name, known)?.slot();
        // Kernels get an f32: a weight that overflows there isn't finite either, and one that underflows is zero.
        let rounded = *weight as f32;
        if !rounded.is_finite() || *weight < 0.0 {
            let reason = "weights are finite and not negative";
            return Err(Error::Route(format!(
                "row {row}: adapter {name:?} has weight {weight}; {reason}"
            )));
        }
        if fixed.iter().any(|&(other, _)| other == slot) {
            return Err(Error::Route(format!(
                "row {row}: adapter {name:?} is twice in the mix"
            )));
        }
        fixed.push((slot, rounded));
    }
    fixed.retain(|&(_, weight)| weight != 0.0);
    Ok(fixed)
}

/// The candidate bits of all that is within `reach`, the base's among them if it is routable.
fn choice(snapshot: &Snapshot, reach: &Reach) -> Vec<u32> {
    let mut words = snapshot.candidates().to_vec();
    if reach.is_bound() {
        for entry in snapshot.entries().filter(|entry| !reach.has(entry.name())) {
            words[entry.slot() / 32] &= !(1 << (entry.slot() % 32));
        }
    }
    words
}

/// The candidate bits of a list, the base's among them if it is routable.
fn listed(snapshot: &Snapshot, row: usize, names: &[String], known: &Names) -> Result<Vec<u32>> {
    if names.is_empty() {
        return Err(Error::Route(format!(
            "row {row}: only=[] allows no adapter; list some, or use the base"
        )));
    }
    let mut words = vec![0u32; snapshot.candidates().len()];
    let mut admit = |slot: usize| words[slot / 32] |= 1 << (slot % 32);
    for name in names {
        for member in known.expand(name)? {
            let entry = snapshot
                .routed(member, known)
                .map_err(|error| of_group(error, row, name))?;
            if !entry.is_routable() {
                return Err(Error::Route(format!("row {row}: {}", not_routable(entry))));
            }
            admit(entry.slot());
        }
    }
    if let Some(slot) = snapshot.base_slot() {
        admit(slot);
    }
    Ok(words)
}

/// An unknown member is told of without the names that exist: some may belong to others than the group's users.
fn of_group(error: Error, row: usize, group: &str) -> Error {
    match error {
        Error::AdapterNotFound { name, .. } if group.starts_with(GROUP_MARK) => Error::Route(format!(
            "row {row}: group \"{group}\" lists \"{name}\", which is no live adapter; load it, or set_group() without it"
        )),
        other => other,
    }
}

fn not_routable(entry: &Entry) -> String {
    let name = entry.name();
    match entry.info().gate {
        GateKind::None => format!(
            "adapter {name:?} has no gate (gate=\"none\"), so Auto can't choose it; give it a gate, or route to it by name"
        ),
        _ => format!("adapter {name:?} is not routable, so Auto can't choose it; route to it by name"),
    }
}
