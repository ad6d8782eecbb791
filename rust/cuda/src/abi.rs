//! The parameters and entry points of the kernels: the mirror of `cuda/abi.h`, which explains each field.
#![allow(missing_docs)] // The fields are documented where they are defined.

use crate::driver::Address;

/// `METEORA_ABI_VERSION`.
pub const VERSION: u32 = 5;
pub const MAX_SLICES: usize = 4;
pub const MAX_SLOTS: usize = 4098;
/// Up to this many tokens a call takes the decode path.
pub const DECODE_TOKENS: usize = 64;
/// Up to this many tokens, and this many rank rows in the pools, the decode path takes its dense form.
pub const DENSE_TOKENS: usize = 4;
pub const DENSE_ROWS: usize = 256;
/// Elements of a row that 128 threads take at a time, and how many such groups a row is shared by at most.
pub const DOT_SEGMENT: usize = 4096;
pub const DOT_GROUPS: usize = 4;
pub const SHRINK_BYTES: usize = 49_152;

pub const fn choose_bytes(slots: usize, places: usize) -> usize {
    4 + 4 * slots + 8 * places
}

pub const fn scatter_bytes(slots: usize) -> usize {
    8 * slots + 1024
}

/// The most dynamic shared memory that any function takes: beyond 48 KiB a function must be told.
pub const CHOOSE_BYTES_MAX: usize = choose_bytes(MAX_SLOTS, MAX_SLOTS).next_multiple_of(1024);

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Slice {
    pub gate: Address,
    pub gate_bias: Address,
    pub lora_a: Address,
    pub lora_b_packed: Address,
    pub table: Address,
    pub y: Address,
    pub y_stride: i64,
    pub out_features: i32,
    pub leader: i32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Call {
    pub x: Address,
    pub x_stride: i64,
    pub row_route: Address,
    pub routes: Address,
    pub options: Address,

    pub logits: Address,
    pub chosen_count: Address,
    pub chosen_slots: Address,
    pub chosen_weights: Address,
    pub u: Address,
    pub slot_counts: Address,
    pub slot_cursors: Address,
    pub segment_indptr: Address,
    pub pair_tokens: Address,
    pub token_order: Address,

    pub first_token: i64,
    pub total_tokens: i64,
    pub tokens: i32,
    pub rows: i32,
    pub n_routes: i32,
    pub slots: i32,
    pub in_features: i32,
    pub places: i32,
    pub top_k: i32,
    pub pages: i32,
    pub u_stride: i32,
    pub n_slices: i32,
    pub temperature: f32,
    pub x_dtype: i16,
    pub y_dtype: i16,
    pub slices: [Slice; MAX_SLICES],
}

macro_rules! ops {
    ($($op:ident = $symbol:literal $dynamic:literal;)*) => {
        /// The kernels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op {
            $($op,)*
        }

        /// How many there are.
        pub const OPS: usize = Op::ALL.len();

        impl Op {
            pub const ALL: &'static [Op] = &[$(Op::$op),*];

            /// The entry point.
            pub fn symbol(self) -> &'static str {
                match self {
                    $(Op::$op => $symbol,)*
                }
            }

            /// Whether it takes shared memory by the launch.
            pub fn uses_dynamic_shared(self) -> bool {
                match self {
                    $(Op::$op => $dynamic,)*
                }
            }
        }
    };
}

ops! {
    DecodeLogits = "decode_logits" false;
    DecodeShrink = "decode_shrink" true;
    DecodeExpand = "decode_expand" false;
    DecodeDense = "decode_dense" false;
    DecodeChooseExpand = "decode_choose_expand" true;
    PrefillLogits = "prefill_logits" false;
    PrefillChoose = "prefill_choose" true;
    PrefillScatter = "prefill_scatter" true;
    PrefillShrink = "prefill_shrink" true;
    PrefillExpand = "prefill_expand" false;
}
