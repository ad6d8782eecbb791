//! Random sites, routes and inputs.

use half::{bf16, f16};
use meteora_core::kernel::{screen_stride, write_screen, Options, Routes, Site};
use meteora_core::layout::{self, TableEntry, KIND_ABS, PAGE_BYTES_PER_COLUMN, ROUTE_AUTO, ROUTE_FIXED};
use meteora_core::DType;

/// A xorshift generator.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() >> 11) as usize % end
    }
    /// In −1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.float() * scale).collect()
    }
}

/// What one slot holds.
#[derive(Debug, Clone, Copy)]
pub struct Adapter {
    pub rank: usize,
    pub dtype: DType,
    pub scaling: f32,
    pub sign_free: bool,
}

impl Adapter {
    pub fn new(rank: usize, dtype: DType) -> Adapter {
        Adapter {
            rank,
            dtype,
            scaling: 2.0,
            sign_free: false,
        }
    }
}

/// `value` as an element of `dtype`.
pub fn element(dtype: DType, value: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => value.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

/// The element at `index` of `bytes`.
pub fn read(dtype: DType, bytes: &[u8], index: usize) -> f64 {
    let at = &bytes[index * dtype.size()..];
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(at[..4].try_into().unwrap())),
        DType::F16 => f16::from_le_bytes(at[..2].try_into().unwrap()).to_f64(),
        DType::BF16 => bf16::from_le_bytes(at[..2].try_into().unwrap()).to_f64(),
    }
}

/// A record with these (slot, weight) pairs.
pub fn fixed(slots: usize, pairs: &[(usize, f32)]) -> Vec<i32> {
    let mut record = vec![ROUTE_FIXED, pairs.len() as i32];
    record.extend(
        pairs
            .iter()
            .flat_map(|&(slot, weight)| [slot as i32, weight.to_bits() as i32]),
    );
    record.resize(layout::route_width(slots), 0);
    record
}

/// A record with these candidates.
pub fn auto(slots: usize, candidates: impl IntoIterator<Item = usize>) -> Vec<i32> {
    let mut record = vec![0; layout::route_width(slots)];
    record[0] = ROUTE_AUTO;
    for slot in candidates {
        record[1] += 1;
        record[2 + slot / 32] |= 1 << (slot % 32);
    }
    record
}

/// One call's inputs.
#[derive(Clone)]
pub struct Case {
    pub in_features: usize,
    pub out_features: usize,
    pub adapters: Vec<Adapter>,
    pub gate: Vec<f32>,
    pub gate_bias: Vec<f32>,
    pub lora_a: Vec<u8>,
    pub lora_b: Vec<u8>,
    pub table: Vec<TableEntry>,
    pub dtype: DType,
    pub x: Vec<u8>,
    pub base: Vec<u8>,
    pub records: Vec<i32>,
    pub row_route: Vec<i32>,
    pub options: Options,
}

impl Case {
    /// Random weights and inputs; one row whose route is auto over all slots.
    pub fn new(
        (in_features, out_features): (usize, usize),
        adapters: &[Adapter],
        dtype: DType,
        tokens: usize,
        top_k: usize,
    ) -> Case {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (in_features * 31 + tokens * 7 + top_k) as u64);
        let slots = adapters.len();
        let mut page = 1; // page 0 stays NaN
        let mut table = Vec::new();
        for adapter in adapters {
            let mut entry = TableEntry::new(page, adapter.rank, adapter.dtype, adapter.scaling);
            entry.kind |= if adapter.sign_free { KIND_ABS } else { 0 };
            table.push(entry);
            page += layout::pages(adapter.rank, adapter.dtype);
        }
        let mut pool = |width: usize| {
            let mut bytes = vec![0xff; page * PAGE_BYTES_PER_COLUMN * width]; // NaN in every dtype
            for (entry, adapter) in table.iter().zip(adapters) {
                let mut at = entry.page_start as usize * PAGE_BYTES_PER_COLUMN * width;
                for _ in 0..adapter.rank * width {
                    let value = element(adapter.dtype, random.float() * 0.1);
                    bytes[at..at + value.len()].copy_from_slice(&value);
                    at += value.len();
                }
            }
            bytes
        };
        let (lora_a, lora_b) = (pool(in_features), pool(out_features));
        let gate = random.floats(slots * in_features, 0.2);
        let gate_bias = random.floats(slots, 0.5);
        let mut values = |count: usize| -> Vec<u8> {
            (0..count)
                .flat_map(|_| element(dtype, random.float() * 2.0))
                .collect()
        };
        let (x, base) = (values(tokens * in_features), values(tokens * out_features));
        Case {
            in_features,
            out_features,
            adapters: adapters.to_vec(),
            gate,
            gate_bias,
            lora_a,
            lora_b,
            table,
            dtype,
            x,
            base,
            records: auto(slots, 0..slots),
            row_route: vec![0],
            options: Options {
                top_k,
                temperature: 1.0,
            },
        }
    }

    pub fn tokens(&self) -> usize {
        self.x.len() / self.dtype.size() / self.in_features
    }

    pub fn slots(&self) -> usize {
        self.adapters.len()
    }

    pub fn route_width(&self) -> usize {
        layout::route_width(self.slots())
    }

    /// The same with these records, and rows on them.
    pub fn routed(mut self, records: &[Vec<i32>], row_route: &[i32]) -> Case {
        self.records = records.concat();
        self.row_route = row_route.to_vec();
        self
    }

    pub fn site(&self) -> Site<'_> {
        Site {
            in_features: self.in_features,
            out_features: self.out_features,
            slots: self.slots(),
            gate: &self.gate,
            gate_bias: &self.gate_bias,
            screen: None,
            lora_a: &self.lora_a,
            lora_b_packed: &self.lora_b,
            table: &self.table,
        }
    }

    /// The gate's screen, up to date.
    pub fn screen(&self) -> Vec<u8> {
        let rows = self.gate.chunks(self.in_features).enumerate();
        rows.flat_map(|(slot, row)| {
            let mut screen = vec![0xaa; screen_stride(self.in_features)];
            write_screen(
                row,
                self.gate_bias[slot],
                self.table[slot].sign_free(),
                &mut screen,
            );
            screen
        })
        .collect()
    }

    pub fn routes(&self) -> Routes<'_> {
        Routes {
            row_route: &self.row_route,
            records: &self.records,
            width: self.route_width(),
        }
    }

    /// The record of a token, alone.
    pub fn record(&self, token: usize) -> &[i32] {
        let route = self.row_route[token * self.row_route.len() / self.tokens()] as usize;
        &self.records[route * self.route_width()..][..self.route_width()]
    }

    /// These tokens as a call of their own, in this order.
    pub fn tokens_alone(&self, tokens: &[usize]) -> Case {
        let rows = |bytes: &[u8], features: usize| -> Vec<u8> {
            let size = features * self.dtype.size();
            tokens
                .iter()
                .flat_map(|&t| &bytes[t * size..][..size])
                .copied()
                .collect()
        };
        let mut alone = self.clone();
        alone.x = rows(&self.x, self.in_features);
        alone.base = rows(&self.base, self.out_features);
        alone.records = tokens.iter().flat_map(|&t| self.record(t)).copied().collect();
        alone.row_route = (0..tokens.len() as i32).collect();
        alone
    }
}
