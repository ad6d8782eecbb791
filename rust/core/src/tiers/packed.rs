//! An adapter in the host's memory, as the pools and the gate tensors hold it.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use super::arena::{block_size, Arena, Block};
use crate::dtype::DType;
use crate::pack::pack_module;
use crate::peft::{Adapter, SiteShape};

/// One site's rows: what [`pack_module`] writes.
#[derive(Debug, Clone, Copy)]
pub struct PackedModule<'a> {
    /// Index of the site.
    pub site: usize,
    /// Rank rows.
    pub rank: usize,
    /// The scaling.
    pub scaling: f32,
    /// The element type.
    pub dtype: DType,
    /// A, `[rank, in_features]`.
    pub a: &'a [u8],
    /// B transposed, `[rank, out_features]`.
    pub b: &'a [u8],
    /// Whether devices can read both where they are.
    pub page_locked: bool,
}

#[derive(Debug)]
struct Place {
    site: usize,
    rank: usize,
    scaling: f32,
    dtype: DType,
    a: Range<usize>,
    b: Range<usize>,
}

/// What goes with a gate row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GateForm {
    /// Added to the logit.
    pub bias: f32,
    /// Whether the logit is `|row · x| + bias`.
    pub sign_free: bool,
}

#[derive(Debug)]
struct Gates {
    block: Block,
    forms: Vec<GateForm>,
}

/// Rank rows and gate rows, ready to be copied. The rank rows never change; gate rows may, between uses.
#[derive(Debug)]
pub struct Packed {
    places: Vec<Place>,
    /// Widths of all sites.
    widths: Vec<usize>,
    rows: Block,
    gates: RwLock<Gates>,
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let value = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    bytes.chunks_exact(4).map(value)
}

/// Bytes of the arena that an adapter takes for a model of these sites.
pub fn packed_size(adapter: &Adapter, sites: &[SiteShape]) -> usize {
    block_size(adapter.bytes as usize) + block_size(gate_bytes(sites))
}

fn gate_bytes(sites: &[SiteShape]) -> usize {
    sites.iter().map(|site| site.in_features * 4).sum()
}

impl Packed {
    /// Packs an adapter; `gate` fills the row of each site. None if the arena has no room: nothing is kept then.
    pub fn new(
        adapter: &Adapter,
        sites: &[SiteShape],
        arena: &Arc<Arena>,
        gate: impl FnMut(usize, &mut [f32]) -> GateForm,
    ) -> Option<Packed> {
        let mut rows = arena.lend(adapter.bytes as usize)?;
        let block = arena.lend(gate_bytes(sites))?;
        let mut end = 0;
        let mut next = |len: usize| {
            end += len;
            end - len..end
        };
        let mut places = Vec::with_capacity(adapter.modules.len());
        for module in &adapter.modules {
            let (a, b) = (next(module.a.len()), next(module.b.len()));
            let (left, right) = rows[a.start..b.end].split_at_mut(a.len());
            pack_module(module, left, right);
            places.push(Place {
                site: module.site,
                rank: module.rank,
                scaling: module.scaling,
                dtype: module.dtype,
                a,
                b,
            });
        }
        let forms = vec![GateForm::default(); sites.len()];
        let packed = Packed {
            places,
            widths: sites.iter().map(|site| site.in_features).collect(),
            rows,
            gates: RwLock::new(Gates { block, forms }),
        };
        packed.set_gates(gate);
        Some(packed)
    }

    /// The modules, sites ascending.
    pub fn modules(&self) -> impl Iterator<Item = PackedModule<'_>> {
        let page_locked = self.rows.page_locked();
        self.places.iter().map(move |place| PackedModule {
            site: place.site,
            rank: place.rank,
            scaling: place.scaling,
            dtype: place.dtype,
            a: &self.rows[place.a.clone()],
            b: &self.rows[place.b.clone()],
            page_locked,
        })
    }

    /// Replaces the gate rows: `gate` fills that of each site.
    pub fn set_gates(&self, mut gate: impl FnMut(usize, &mut [f32]) -> GateForm) {
        let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
        let Gates { block, forms } = &mut *gates;
        let (mut row, mut rest) = (Vec::new(), &mut block[..]);
        for (site, (&width, form)) in self.widths.iter().zip(forms).enumerate() {
            row.clear();
            row.resize(width, 0.0);
            *form = gate(site, &mut row);
            let bytes;
            (bytes, rest) = rest.split_at_mut(width * 4);
            for (to, value) in bytes.chunks_exact_mut(4).zip(&row) {
                to.copy_from_slice(&value.to_ne_bytes());
            }
        }
    }

    /// Copies a site's gate row; what goes with it.
    pub fn gate(&self, site: usize, row: &mut [f32]) -> GateForm {
        let gates = self.gates.read().unwrap_or_else(PoisonError::into_inner);
        let start: usize = self.widths[..site].iter().map(|width| width * 4).sum();
        let bytes = &gates.block[start..start + self.widths[site] * 4];
        row.iter_mut()
            .zip(floats(bytes))
            .for_each(|(to, value)| *to = value);
        gates.forms[site]
    }

    /// The gate rows of all sites.
    pub fn gate_rows(&self) -> Vec<(Vec<f32>, GateForm)> {
        let row = |(site, &width): (usize, &usize)| {
            let mut row = vec![0.0; width];
            let form = self.gate(site, &mut row);
            (row, form)
        };
        self.widths.iter().enumerate().map(row).collect()
    }

    /// Bytes of the arena that it takes.
    pub fn bytes(&self) -> usize {
        let gates = self.gates.read().unwrap_or_else(PoisonError::into_inner);
        self.rows.len() + gates.block.len()
    }
}
