//! Which kernels a call launches, on which grids, and where its workspace has what: a pure function of the sizes.

use crate::abi::{
    choose_bytes, scatter_bytes, Op, DECODE_TOKENS, DENSE_ROWS, DENSE_TOKENS, DOT_GROUPS, DOT_SEGMENT,
    MAX_SLICES, MAX_SLOTS, SHRINK_BYTES,
};
use crate::error::CudaError;

/// Arrays of the workspace begin at multiples of this.
const ALIGNMENT: usize = 256;
/// Bytes of workspace that a call may take: a longer batch is worked off in parts.
const WORKSPACE: usize = 64 << 20;
/// Tokens in a part at most.
const PART: usize = 4096;
/// Groups of 128 threads that a multiprocessor has registers for, 128 a thread.
const GROUPS_AT_ONCE: usize = 4;
/// The largest y and z of a grid.
const GRID_Y: usize = 65_535;

/// The sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Tokens of the whole batch.
    pub tokens: usize,
    /// Input width.
    pub in_features: usize,
    /// The widest output among the slices.
    pub out_features: usize,
    /// Slices.
    pub slices: usize,
    /// Slots, the base's among them.
    pub slots: usize,
    /// Pages of each pool.
    pub pages: usize,
    /// The most adapters that one token can use.
    pub places: usize,
    /// Rank rows of all adapters that the routes admit, or more.
    pub rank_rows: usize,
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which kernel.
    pub op: Op,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
}

/// Where the arrays of the workspace begin, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Workspace {
    /// f32 `[slices, tokens, slots]`.
    pub logits: usize,
    /// i32 `[slices, tokens]`.
    pub chosen_count: usize,
    /// i32 `[slices, tokens, places]`.
    pub chosen_slots: usize,
    /// f32 `[slices, tokens, places]`.
    pub chosen_weights: usize,
    /// f32 `[slices, tokens, 8 * pages]`.
    pub u: usize,
    /// i32 `[slices, 2, slots]`.
    pub slot_counts: usize,
    /// i32 `[slices, 2, slots]`.
    pub slot_cursors: usize,
    /// i32 `[slices, slots + 2]`.
    pub segment_indptr: usize,
    /// i32 `[slices, tokens * places]`.
    pub pair_tokens: usize,
    /// i32 `[slices, tokens]`.
    pub token_order: usize,
    /// Its size.
    pub bytes: usize,
}

impl Sizes {
    /// Whether kernels take these sizes.
    ///
    /// # Errors
    /// More slices or slots, or larger dimensions, than they do.
    pub fn check(&self) -> Result<(), CudaError> {
        let limits = [
            ("slices", self.slices, MAX_SLICES),
            ("slots", self.slots, MAX_SLOTS),
            ("places", self.places, MAX_SLOTS),
            ("in_features", self.in_features, i32::MAX as usize),
            ("out_features", self.out_features, i32::MAX as usize),
            ("rank rows", 8 * self.pages, i32::MAX as usize),
        ];
        match limits.into_iter().find(|(_, size, most)| size > most) {
            Some((name, size, most)) => Err(CudaError::Shape(format!(
                "the CUDA kernels take at most {most} {name}, not {size}"
            ))),
            None => Ok(()),
        }
    }

    /// Tokens that are worked off at a time: all of them where the workspace stays small.
    pub fn part(&self) -> usize {
        let one = self
            .workspace(1)
            .bytes
            .saturating_sub(self.workspace(0).bytes)
            .max(1);
        self.tokens.min(PART).min((WORKSPACE / one).max(DECODE_TOKENS))
    }

    /// The workspace for `tokens` tokens.
    pub fn workspace(&self, tokens: usize) -> Workspace {
        let decode = self.is_decode();
        let mut bytes = 0;
        let mut place = |elements: usize| {
            let start = bytes;
            bytes += (4 * self.slices * elements).next_multiple_of(ALIGNMENT);
            start
        };
        let mut workspace = Workspace {
            logits: place(tokens * self.slots),
            chosen_count: place(tokens),
            chosen_slots: place(tokens * self.places),
            chosen_weights: place(tokens * self.places),
            u: place(tokens * 8 * self.pages),
            ..Workspace::default()
        };
        if !decode {
            workspace.slot_counts = place(2 * self.slots);
            workspace.slot_cursors = place(2 * self.slots);
            workspace.segment_indptr = place(self.slots + 2);
            workspace.pair_tokens = place(tokens * self.places);
            workspace.token_order = place(tokens);
        }
        workspace.bytes = bytes;
        workspace
    }

    /// The launches for `tokens` tokens (a part of the batch), in order.
    pub fn steps(&self, tokens: usize, multiprocessors: u32) -> Vec<Step> {
        let step = |op, x: usize, y: usize, z: usize, block, shared: usize| {
            debug_assert!(y <= GRID_Y);
            Step {
                op,
                grid: [x as u32, y as u32, z as u32],
                block,
                shared: shared as u32,
            }
        };
        let (slots, slices) = (self.slots, self.slices);
        let choose = choose_bytes(slots, self.places);
        let multiprocessors = multiprocessors as usize;
        if self.is_decode() {
            let quads = tokens.div_ceil(4);
            let columns = self.out_features.div_ceil(256);
            let segments = self.in_features.div_ceil(DOT_SEGMENT);
            if self.tokens <= DENSE_TOKENS && self.rank_rows * slices <= DENSE_ROWS && segments == 1 {
                return vec![
                    step(Op::DecodeDense, 4 * slots, quads, slices, 128, 0),
                    step(Op::DecodeChooseExpand, columns, tokens, slices, 128, choose),
                ];
            }
            // Enough blocks to fill the device twice, and no more than there are rank rows to share out.
            let split = (2 * multiprocessors / (tokens * slices).max(1)).clamp(1, 16);
            // A wide row is shared by several groups, so that it waits for memory once: while all fit the device.
            let block = |blocks: usize| {
                let room = GROUPS_AT_ONCE * multiprocessors / blocks.max(1);
                128 * room.clamp(1, segments.clamp(1, DOT_GROUPS)) as u32
            };
            let (rows, shares) = (block(slots * quads * slices), block(split * tokens * slices));
            return vec![
                step(Op::DecodeLogits, slots, quads, slices, rows, 0),
                step(Op::DecodeShrink, split, tokens, slices, shares, choose),
                step(Op::DecodeExpand, columns, tokens, slices, 128, 0),
            ];
        }
        vec![
            step(
                Op::PrefillLogits,
                slots.div_ceil(32),
                tokens.div_ceil(16),
                slices,
                256,
                0,
            ),
            step(Op::PrefillChoose, tokens, 1, slices, 32, choose),
            step(
                Op::PrefillScatter,
                tokens.div_ceil(128),
                1,
                slices,
                128,
                scatter_bytes(slots),
            ),
            step(
                Op::PrefillShrink,
                4 * multiprocessors,
                1,
                slices,
                128,
                SHRINK_BYTES,
            ),
            step(
                Op::PrefillExpand,
                self.out_features.div_ceil(32),
                tokens.div_ceil(64),
                slices,
                128,
                0,
            ),
        ]
    }

    /// By the whole batch, so that a last short part takes the same path as the others.
    fn is_decode(&self) -> bool {
        self.tokens <= DECODE_TOKENS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(tokens: usize) -> Sizes {
        Sizes {
            tokens,
            in_features: 4096,
            out_features: 14_336,
            slices: 1,
            slots: 33,
            pages: 64,
            places: 2,
            rank_rows: 257,
        }
    }

    #[test]
    fn few_tokens_take_three_launches_or_two_where_the_pool_is_small() {
        let ops = |sizes: Sizes| {
            sizes
                .steps(sizes.tokens, 132)
                .iter()
                .map(|step| step.op)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ops(sizes(1)),
            [Op::DecodeLogits, Op::DecodeShrink, Op::DecodeExpand]
        );
        assert_eq!(
            ops(Sizes {
                rank_rows: 256,
                ..sizes(4)
            }),
            [Op::DecodeDense, Op::DecodeChooseExpand]
        );
        assert_eq!(
            ops(Sizes {
                rank_rows: 256,
                slices: 2,
                ..sizes(4)
            })[0],
            Op::DecodeLogits
        );
        assert_eq!(ops(sizes(65)).len(), 5);
    }

    #[test]
    fn a_wide_row_is_shared_by_as_many_groups_as_the_device_has_room_for() {
        let groups = |in_features: usize, tokens: usize| {
            let sizes = Sizes {
                in_features,
                rank_rows: 8,
                ..sizes(tokens)
            };
            let steps = sizes.steps(tokens, 132);
            (steps[0].op, steps[0].block / 128, steps[1].block / 128)
        };
        assert_eq!(groups(4096, 1), (Op::DecodeDense, 1, 1));
        assert_eq!(groups(4096, 5), (Op::DecodeLogits, 1, 1));
        assert_eq!(groups(8192, 1), (Op::DecodeLogits, 2, 2));
        assert_eq!(groups(14_336, 4), (Op::DecodeLogits, 4, 4));
        assert_eq!(groups(28_672, 1), (Op::DecodeLogits, 4, 4));
        assert_eq!(groups(14_336, 16), (Op::DecodeLogits, 4, 2));
        assert_eq!(groups(14_336, 64), (Op::DecodeLogits, 1, 2));
    }

    #[test]
    fn grids_cover_tokens_slots_and_columns() {
        for tokens in [1, 3, 4, 64, 65, 129, 4096] {
            for slots in [1, 4, 33, 4098] {
                for out_features in [1, 128, 257, 14_336] {
                    let sizes = Sizes {
                        slots,
                        out_features,
                        ..sizes(tokens)
                    };
                    for step in sizes.steps(tokens, 132) {
                        let [x, y, _] = step.grid.map(|size| size as usize);
                        assert!(x > 0 && y > 0 && y <= GRID_Y, "{step:?}");
                        match step.op {
                            Op::DecodeLogits => assert!(x == slots && 4 * y >= tokens),
                            Op::DecodeDense => assert!(x == 4 * slots && 4 * y >= tokens),
                            Op::DecodeShrink => assert!(y == tokens),
                            Op::DecodeExpand | Op::DecodeChooseExpand => {
                                assert!(256 * x >= out_features && y == tokens);
                            }
                            Op::PrefillLogits => assert!(32 * x >= slots && 16 * y >= tokens),
                            Op::PrefillChoose => assert!(x == tokens),
                            Op::PrefillScatter => assert!(128 * x >= tokens),
                            Op::PrefillShrink => assert!(x == 4 * 132),
                            Op::PrefillExpand => assert!(32 * x >= out_features && 64 * y >= tokens),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn arrays_of_the_workspace_do_not_overlap() {
        let sizes = Sizes {
            slices: 3,
            ..sizes(300)
        };
        let at = sizes.workspace(300);
        let ends = [
            (at.logits, 300 * 33),
            (at.chosen_count, 300),
            (at.chosen_slots, 300 * 2),
            (at.chosen_weights, 300 * 2),
            (at.u, 300 * 512),
            (at.slot_counts, 2 * 33),
            (at.slot_cursors, 2 * 33),
            (at.segment_indptr, 35),
            (at.pair_tokens, 300 * 2),
            (at.token_order, 300),
        ];
        let mut next = 0;
        for (start, elements) in ends {
            assert!(start >= next && start % ALIGNMENT == 0);
            next = start + 4 * 3 * elements;
        }
        assert!(next <= at.bytes);
    }

    #[test]
    fn a_long_batch_is_cut_to_a_bounded_workspace() {
        assert_eq!(sizes(1000).part(), 1000);
        assert_eq!(sizes(100_000).part(), PART);
        let wide = Sizes {
            slots: 4098,
            places: 4098,
            pages: 4096,
            ..sizes(100_000)
        };
        assert!(wide.part() >= DECODE_TOKENS && wide.workspace(wide.part()).bytes <= WORKSPACE + (1 << 20));
    }

    #[test]
    fn sizes_beyond_the_kernels_are_refused_by_name() {
        let error = Sizes {
            slots: 5000,
            ..sizes(1)
        }
        .check()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the CUDA kernels take at most 4098 slots, not 5000"
        );
    }
}
