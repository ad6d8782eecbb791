//! Routes resolved against a snapshot, held from Python.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use meteora_core::held::Held;
use meteora_core::kernel::{Options, Routes};
use meteora_core::layout::ROUTE_FIXED;
use meteora_core::reach::Reach;
use meteora_core::route::{plan_within, Route};
use meteora_core::snapshot::{Entry, Snapshot};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::devices::{Devices, Fenced};
use crate::errors::{raise, to_py};

/// (kind, names, weights), as `meteora_rs.routes.to_native` makes it.
pub type RouteParts = (String, Vec<String>, Vec<f64>);

/// (slot, name, generation, gate, source) of an adapter that a request can reach.
type PlannedAdapter = (usize, String, u64, &'static str, String);

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct RoutePlan {
    row_route: Vec<i32>,
    records: Vec<i32>,
    width: usize,
    all_base: bool,
    /// Differs from that of every other plan of the process.
    pub serial: u64,
    pub options: Options,
    /// Those of all adapters that the routes admit.
    pub rank_rows: usize,
    names: Vec<(usize, String)>,
    /// Of the plans that are made while this one is in force.
    pub reach: Reach,
    /// The adapters that it can reach, for as long as anybody keeps them.
    held: Weak<Held>,
    /// What keeps the rows in place; None once it is left to [`Hold`]s.
    own: Mutex<Option<Fenced>>,
    devices: Arc<Devices>,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Hold {
    pub held: Fenced,
}

impl RoutePlan {
    pub fn new(
        snapshot: &Snapshot,
        routes: Vec<RouteParts>,
        options: Options,
        serial: u64,
        within: Option<&RoutePlan>,
        confine: bool,
        devices: Arc<Devices>,
    ) -> PyResult<RoutePlan> {
        let routes = routes.into_iter().map(to_core).collect::<PyResult<Vec<_>>>()?;
        let reach = within.map(|within| within.reach.clone()).unwrap_or_default();
        let made = plan_within(snapshot, &routes, &reach).map_err(|error| {
            to_py(match within {
                Some(within) => error.telling(|name| within.reaches(name)),
                None => error,
            })
        })?;
        let reached = made.held.entries().iter();
        let names = reached
            .map(|entry| (entry.slot(), entry.name().to_owned()))
            .collect();
        let rank_rows = made.held.entries().iter().map(|entry| entry.info().rank).sum();
        Ok(RoutePlan {
            rank_rows,
            row_route: made.row_route,
            records: made.records,
            width: made.width,
            all_base: made.all_base,
            serial,
            options,
            names,
            reach: if confine { Reach::of(&made.held) } else { reach },
            held: Arc::downgrade(&made.held),
            own: Mutex::new(Some(Fenced::new(made.held, devices.clone()))),
            devices,
        })
    }

    /// The most adapters that one token can use.
    pub fn places(&self) -> usize {
        let fixed = self
            .records
            .chunks_exact(self.width)
            .filter(|record| record[0] == ROUTE_FIXED);
        let most = fixed.map(|record| record[1] as usize).max().unwrap_or(0);
        most.max(self.options.top_k)
    }

    pub fn routes(&self) -> Routes<'_> {
        Routes {
            row_route: &self.row_route,
            records: &self.records,
            width: self.width,
        }
    }

    fn reaches(&self, name: &str) -> bool {
        self.held()
            .is_ok_and(|held| held.entries().iter().any(|entry| entry.name() == name))
    }

    fn held(&self) -> PyResult<Arc<Held>> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.as_ref().map(|held| Arc::clone(held));
        let gone = "the request has ended, or its adapters are being changed: it can't go on with them";
        own.or_else(|| self.held.upgrade())
            .ok_or_else(|| raise("MeteoraError", gone.to_owned()))
    }
}

impl Hold {
    pub fn new(held: Held, devices: Arc<Devices>) -> Hold {
        let held = Fenced::new(Arc::new(held), devices);
        Hold { held }
    }
}

#[pymethods]
impl Hold {
    fn slots(&self) -> Vec<usize> {
        self.held.entries().iter().map(|entry| entry.slot()).collect()
    }
}

#[pymethods]
impl RoutePlan {
    #[getter]
    fn is_base(&self) -> bool {
        self.all_base
    }

    /// Whether plans that are made while this one is in force are bound to a reach.
    #[getter]
    fn confines(&self) -> bool {
        self.reach.is_bound()
    }

    #[getter]
    fn width(&self) -> usize {
        self.width
    }

    #[getter]
    fn top_k(&self) -> usize {
        self.options.top_k
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.options.temperature
    }

    fn row_route<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &int_bytes(&self.row_route))
    }

    fn records<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &int_bytes(&self.records))
    }

    /// The adapters that the request can reach, by slot; said also when nobody holds them any more.
    fn names(&self) -> Vec<(usize, String)> {
        self.names.clone()
    }

    /// The generations that the request can reach, by slot.
    fn adapters(&self) -> PyResult<Vec<PlannedAdapter>> {
        let planned = |entry: &Arc<Entry>| {
            let (name, info) = (entry.name().to_owned(), entry.info());
            let source = info.source.clone();
            (entry.slot(), name, entry.generation(), info.gate.name(), source)
        };
        Ok(self.held()?.entries().iter().map(planned).collect())
    }

    /// What keeps the rows in place for as long as it lives.
    fn hold(&self) -> PyResult<Hold> {
        let held = Fenced::new(self.held()?, self.devices.clone());
        Ok(Hold { held })
    }

    fn release(&self) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn to_core((kind, mut names, weights): RouteParts) -> PyResult<Route> {
    Ok(match kind.as_str() {
        "auto" => Route::Auto { only: None },
        "only" => Route::Auto { only: Some(names) },
        "mix" => Route::Mix(names.into_iter().zip(weights).collect()),
        "base" => Route::Base,
        "named" if names.len() == 1 => Route::Named(names.remove(0)),
        _ => return Err(raise("RouteError", format!("route: no route of kind {kind:?}"))),
    })
}

fn int_bytes(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|int| int.to_ne_bytes()).collect()
}
