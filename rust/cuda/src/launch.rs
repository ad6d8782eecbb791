//! One call of `gated_lora` on a device: a few launches on the caller's stream.

use std::ffi::{c_uint, c_void};

use meteora_core::DType;

use crate::abi;
use crate::device::Device;
use crate::driver::{Address, Handle, LaunchAttribute, LaunchConfig};
use crate::error::CudaError;
use crate::plan::{Sizes, Step, Workspace};

const PROGRAMMATIC_SERIALIZATION: c_uint = 6;

/// One output slice: the state of its site, and the output that it is added to.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// `[slots, in]` f32.
    pub gate: usize,
    /// `[slots]` f32.
    pub gate_bias: usize,
    /// The pool of A.
    pub lora_a: usize,
    /// The pool of B transposed.
    pub lora_b_packed: usize,
    /// `[slots, 4]` i32.
    pub table: usize,
    /// `[tokens, out]`, contiguous.
    pub y: usize,
    /// Output width.
    pub out_features: usize,
}

/// Which of a call's launches are made. What is computed from x can be kept for slices whose outputs come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// All.
    Whole,
    /// All but the last for every slice, and the last for the first slice.
    Begin,
    /// The last, for this slice, in the workspace where the same call has begun.
    Continue(usize),
}

/// What a call computes; addresses are those of device memory.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Sizes; `slots` as in the slices, `out_features` that of the widest whose output is added to now.
    pub sizes: Sizes,
    /// What of it is done now.
    pub piece: Piece,
    /// `[tokens, in]`, contiguous.
    pub x: usize,
    /// Element type of x.
    pub x_dtype: DType,
    /// Element type of every y.
    pub y_dtype: DType,
    /// i32 `[rows]`.
    pub row_route: usize,
    /// Its length.
    pub rows: usize,
    /// i32 `[n_routes, 2 + 2 * slots]`.
    pub routes: usize,
    /// Records.
    pub n_routes: usize,
    /// 0, or i32 `[4]`: rows, records, top_k and the bits of the temperature, which the kernels then read there. What
    /// stands here as `rows` and `n_routes` is what there is room for.
    pub options: usize,
    /// Adapters that a gated token may mix, at most `slots`.
    pub top_k: usize,
    /// T of the softmax.
    pub temperature: f32,
    /// The slices; the first one's gates choose for all of them if `shared_choice`.
    pub slices: &'a [Slice],
    /// Whether all slices have the same gate rows.
    pub shared_choice: bool,
}

/// What the tokens of one part of a batch chose, at the first slice whose output was added to: in the workspace when the
/// stream has done the part, and until the next.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// Tokens of the part.
    pub tokens: usize,
    /// i32 `[tokens]`.
    pub counts: usize,
    /// i32 `[tokens, places]`, of which the first `counts` are written.
    pub slots: usize,
    /// f32 `[tokens, places]`.
    pub weights: usize,
}

/// Adds the chosen adapters' products to every slice's y, calling `after_part` behind each part of a batch that is
/// too long to be worked off at once; returns when the launches are on the stream.
///
/// # Errors
/// Sizes that no kernel takes, or a launch that the driver refuses.
///
/// # Safety
/// All addresses are those of memory of these sizes on `device`, which nobody writes before the stream has done the
/// call, and y and the workspace nobody else reads; `workspace` has `sizes.workspace(sizes.part()).bytes` bytes from a
/// multiple of 256 on; `stream` is a stream of the device's primary context. Where the call continues another, that one
/// had the same sizes but for `out_features`, was launched on this stream before it (in the same graph, if any), and
/// its workspace has been left alone.
pub unsafe fn launch(
    device: &Device,
    stream: Handle,
    call: &Call,
    workspace: usize,
    mut after_part: impl FnMut(&Chosen) -> Result<(), CudaError>,
) -> Result<(), CudaError> {
    call.sizes.check()?;
    let tokens = call.sizes.tokens;
    if tokens == 0 || call.slices.is_empty() {
        return Ok(());
    }
    let _current = device.enter()?;
    let part = call.sizes.part();
    let mut first = 0;
    while first < tokens {
        let count = part.min(tokens - first);
        let whole = parameters(call, workspace as Address, first, count);
        let (steps, last) = steps(call, &whole, count, device.multiprocessors);
        // The first launch of a call follows work of others, which has not been written to let it start early.
        for (place, step) in steps.iter().enumerate() {
            let parameters = if place + 1 < steps.len() { &whole } else { &last };
            let early = place > 0 && device.early;
            let attribute = LaunchAttribute::flag(PROGRAMMATIC_SERIALIZATION);
            let config = LaunchConfig {
                grid: step.grid,
                block: [step.block, 1, 1],
                shared_bytes: step.shared,
                stream,
                attributes: &attribute,
                attribute_count: c_uint::from(early),
            };
            let function = device.function(step.op);
            let mut arguments: [*mut c_void; 1] = [std::ptr::from_ref(parameters).cast_mut().cast()];
            // SAFETY: a function that takes one `MeteoraCall` by value, which the driver copies; the memory that it
            // names is the caller's promise.
            let code = unsafe {
                (device.driver.launch)(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut())
            };
            device.driver.check("launch", code)?;
        }
        after_part(&Chosen {
            tokens: count,
            counts: last.chosen_count as usize,
            slots: last.chosen_slots as usize,
            weights: last.chosen_weights as usize,
        })?;
        first += count;
    }
    Ok(())
}

/// The launches of the call's piece for `count` tokens, and the parameters of the last.
fn steps(call: &Call, whole: &abi::Call, count: usize, multiprocessors: u32) -> (Vec<Step>, abi::Call) {
    let mut steps = call.sizes.steps(count, multiprocessors);
    let slice = match call.piece {
        Piece::Whole => return (steps, *whole),
        Piece::Begin => 0,
        Piece::Continue(slice) => {
            steps.drain(..steps.len() - 1);
            slice
        }
    };
    if let Some(last) = steps.last_mut() {
        last.grid[2] = 1;
    }
    (steps, only(whole, slice))
}

/// The parameters of the last launch for one slice.
fn only(whole: &abi::Call, slice: usize) -> abi::Call {
    let of_slice = whole.slices[slice];
    let leader = of_slice.leader as Address;
    let (tokens, places) = (whole.tokens as Address, whole.places as Address);
    let mut slices = [abi::Slice::default(); abi::MAX_SLICES];
    slices[0] = abi::Slice {
        leader: 0,
        ..of_slice
    };
    abi::Call {
        logits: whole.logits + 4 * leader * tokens * whole.slots as Address,
        chosen_count: whole.chosen_count + 4 * leader * tokens,
        chosen_slots: whole.chosen_slots + 4 * leader * tokens * places,
        chosen_weights: whole.chosen_weights + 4 * leader * tokens * places,
        u: whole.u + 4 * slice as Address * tokens * whole.u_stride as Address,
        segment_indptr: whole.segment_indptr + 4 * leader * (whole.slots as Address + 2),
        token_order: whole.token_order + 4 * leader * tokens,
        n_slices: 1,
        slices,
        ..*whole
    }
}

fn parameters(call: &Call, workspace: Address, first: usize, count: usize) -> abi::Call {
    let sizes = &call.sizes;
    let at: Workspace = sizes.workspace(count);
    let mut parameters = abi::Call {
        x: (call.x + first * sizes.in_features * call.x_dtype.size()) as Address,
        x_stride: sizes.in_features as i64,
        row_route: call.row_route as Address,
        routes: call.routes as Address,
        options: call.options as Address,
        logits: workspace + at.logits as Address,
        chosen_count: workspace + at.chosen_count as Address,
        chosen_slots: workspace + at.chosen_slots as Address,
        chosen_weights: workspace + at.chosen_weights as Address,
        u: workspace + at.u as Address,
        slot_counts: workspace + at.slot_counts as Address,
        slot_cursors: workspace + at.slot_cursors as Address,
        segment_indptr: workspace + at.segment_indptr as Address,
        pair_tokens: workspace + at.pair_tokens as Address,
        token_order: workspace + at.token_order as Address,
        first_token: first as i64,
        total_tokens: sizes.tokens as i64,
        tokens: count as i32,
        rows: call.rows as i32,
        n_routes: call.n_routes as i32,
        slots: sizes.slots as i32,
        in_features: sizes.in_features as i32,
        places: sizes.places as i32,
        top_k: call.top_k.min(sizes.slots) as i32,
        pages: sizes.pages as i32,
        u_stride: 8 * sizes.pages as i32,
        n_slices: call.slices.len() as i32,
        temperature: call.temperature,
        x_dtype: call.x_dtype as i16,
        y_dtype: call.y_dtype as i16,
        ..abi::Call::default()
    };
    for (place, (to, slice)) in parameters.slices.iter_mut().zip(call.slices).enumerate() {
        *to = abi::Slice {
            gate: slice.gate as Address,
            gate_bias: slice.gate_bias as Address,
            lora_a: slice.lora_a as Address,
            lora_b_packed: slice.lora_b_packed as Address,
            table: slice.table as Address,
            y: (slice.y + first * slice.out_features * call.y_dtype.size()) as Address,
            y_stride: slice.out_features as i64,
            out_features: slice.out_features as i32,
            leader: if call.shared_choice { 0 } else { place as i32 },
        };
    }
    parameters
}

impl LaunchAttribute {
    /// The attribute `id`, switched on.
    fn flag(id: c_uint) -> LaunchAttribute {
        let mut value = [0; 16];
        value[0] = 1;
        LaunchAttribute {
            id,
            pad: [0; 4],
            value,
        }
    }
}
