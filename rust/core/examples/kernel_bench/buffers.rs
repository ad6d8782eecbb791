//! Random buffers of a site.

use meteora_core::kernel::{screen_stride, write_screen, Site};
use meteora_core::layout::{pages, TableEntry, PAGE_BYTES_PER_COLUMN};
use meteora_core::DType;

/// The rank of all adapters.
pub const RANK: usize = 8;

/// The buffers of one site.
pub struct Buffers {
    gate: Vec<f32>,
    gate_bias: Vec<f32>,
    screen: Vec<u8>,
    lora_a: Vec<u8>,
    lora_b: Vec<u8>,
    table: Vec<TableEntry>,
}

/// A xorshift generator's next number in −1..1.
pub fn noise(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

impl Buffers {
    pub fn new(slots: usize, (from, to): (usize, usize), dtype: DType, seed: u64) -> Buffers {
        let mut state = seed * 0x9e37_79b9 + 1;
        let each = pages(RANK, dtype);
        let mut pool = |width: usize| -> Vec<u8> {
            let count = slots * each * PAGE_BYTES_PER_COLUMN * width / dtype.size();
            let values = (0..count).map(|_| noise(&mut state) * 0.05);
            match dtype {
                DType::BF16 => values
                    .flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
                    .collect(),
                DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
                DType::F16 => values.flat_map(|_| 0x2a66u16.to_le_bytes()).collect(),
            }
        };
        let (lora_a, lora_b) = (pool(from), pool(to));
        let gate: Vec<f32> = (0..slots * from).map(|_| noise(&mut state)).collect();
        let mut screen = vec![0; slots * screen_stride(from)];
        for (row, screen) in gate.chunks(from).zip(screen.chunks_mut(screen_stride(from))) {
            write_screen(row, 0.0, false, screen);
        }
        Buffers {
            gate,
            screen,
            gate_bias: vec![0.0; slots],
            lora_a,
            lora_b,
            table: (0..slots)
                .map(|s| TableEntry::new(s * each, RANK, dtype, 2.0))
                .collect(),
        }
    }

    pub fn site(&self, slots: usize, (in_features, out_features): (usize, usize)) -> Site<'_> {
        Site {
            in_features,
            out_features,
            slots,
            gate: &self.gate,
            gate_bias: &self.gate_bias,
            screen: Some(&self.screen),
            lora_a: &self.lora_a,
            lora_b_packed: &self.lora_b,
            table: &self.table,
        }
    }
}
