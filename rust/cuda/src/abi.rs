//! The parameters and entry points of the kernels: the mirror of `cuda/abi.h`, which explains each field.
#![allow(missing_docs)] // The fields are documented where they are defined.

use crate::driver::Address;

/// `METEORA_ABI_VERSION`.
pub const VERSION: u32 = 1;
pub const MAX_SLICES: usize = 4;
pub const MAX_SLOTS: usize = 4097;
/// Up to this many tokens a call takes the decode path.
pub const DECODE_TOKENS: usize = 64;
/// Up to this many rank rows in the pools the decode path takes its dense form.
pub const DENSE_ROWS: usize = 256;
pub const SHRINK_BYTES: usize = 49_152;

pub const fn choose_bytes(slots: usize, places: usize) -> usize {
    4 + 4 * slots + 8 * places
}

pub const fn scatter_bytes(slots: usize) -> usize {
    8 * slots + 1024
}

/// The most dynamic shared memory that any function takes: beyond 48 KiB a function must be told.
pub const CHOOSE_BYTES_MAX: usize = choose_bytes(MAX_SLOTS, MAX_SLOTS).next_multiple_of(1024);

/// Element types of x and y: f32, f16, bf16, in the order of their codes.
pub const DTYPES: usize = 3;
const DTYPE_NAMES: [&str; DTYPES] = ["f32", "f16", "bf16"];

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
    pub reserved: i32,
    pub slices: [Slice; MAX_SLICES],
}

macro_rules! ops {
    ($($op:ident = $symbol:literal $of:ident $dynamic:literal;)*) => {
        /// The kernels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op {
            $($op,)*
        }

        /// How many there are.
        pub const OPS: usize = Op::ALL.len();

        impl Op {
            pub const ALL: &'static [Op] = &[$(Op::$op),*];

            /// The entry point for an element type.
            pub fn symbol(self, dtype: usize) -> String {
                let (name, of) = match self {
                    $(Op::$op => ($symbol, Of::$of),)*
                };
                match of {
                    Of::Nothing => name.to_owned(),
                    Of::X | Of::Y => format!("{name}_{}", DTYPE_NAMES[dtype]),
                }
            }

            /// Whose element type names the entry point.
            pub fn of(self) -> Of {
                match self {
                    $(Op::$op => Of::$of,)*
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

/// What an op's element type is that of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    X,
    Y,
    Nothing,
}

ops! {
    DecodeLogits = "decode_logits" X false;
    DecodeShrink = "decode_shrink" X true;
    DecodeExpand = "decode_expand" Y false;
    DecodeDense = "decode_dense" X false;
    DecodeChooseExpand = "decode_choose_expand" Y true;
    PrefillLogits = "prefill_logits" X false;
    PrefillChoose = "prefill_choose" Nothing true;
    PrefillScatter = "prefill_scatter" Nothing true;
    PrefillShrink = "prefill_shrink" X true;
    PrefillExpand = "prefill_expand" Y false;
}
