//! The eager path on a CUDA device: one site's kernels on torch's stream, by address.

use std::ffi::c_void;

use meteora_core::kernel::Selection;
use meteora_core::DType;
use meteora_cuda::launch::{Call, Chosen, Slice};
use meteora_cuda::plan::Sizes;
use meteora_cuda::{download, CudaError, Device};

use crate::buffers::Buffers;
use crate::plan::RoutePlan;
use crate::torch::cuda::run;
use crate::torch::shim;

/// A plan's routes on a device: (address of row_route, its length, address of the records, their number).
pub type RouteAddresses = (usize, usize, usize, usize);

/// A call's activations: contiguous, on the buffers' device.
pub struct Activations {
    pub x: usize,
    pub y: usize,
    pub tokens: usize,
    pub x_dtype: DType,
    pub y_dtype: DType,
}

/// Adds the chosen adapters' products to y; `chosen` receives the choice, if it is given.
///
/// # Safety
/// The addresses are those of live tensors on `device` of the sizes that `buffers` and `activations` say; y is
/// nobody else's.
pub unsafe fn add(
    device: &'static Device,
    buffers: &Buffers,
    plan: &RoutePlan,
    (row_route, rows, routes, n_routes): RouteAddresses,
    activations: &Activations,
    mut chosen: Option<&mut Selection>,
) -> Result<(), String> {
    let shim = shim::get().ok_or("torch has not been found")?;
    let sizes = Sizes {
        tokens: activations.tokens,
        in_features: buffers.sizes.in_features,
        out_features: buffers.sizes.out_features,
        slices: 1,
        slots: buffers.sizes.slots,
        pages: buffers.sizes.pages,
        places: plan.places().min(buffers.sizes.slots),
        rank_rows: plan.rank_rows,
    };
    let slice = Slice {
        gate: buffers.gate,
        gate_bias: buffers.gate_bias,
        lora_a: buffers.lora_a,
        lora_b_packed: buffers.lora_b_packed,
        table: buffers.table,
        y: activations.y,
        out_features: buffers.sizes.out_features,
    };
    let call = Call {
        sizes,
        x: activations.x,
        x_dtype: activations.x_dtype,
        y_dtype: activations.y_dtype,
        row_route,
        rows,
        routes,
        n_routes,
        top_k: plan.options.top_k,
        temperature: plan.options.temperature,
        slices: &[slice],
        shared_choice: true,
    };
    if let Some(chosen) = chosen.as_deref_mut() {
        *chosen = Selection {
            stride: sizes.places,
            ..Selection::default()
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        run(shim, device, &call, |stream, part| match chosen.as_deref_mut() {
            Some(chosen) => read(device, stream, part, chosen),
            None => Ok(()),
        })
    }
}

/// Appends what the tokens of a part chose.
///
/// # Safety
/// `part` is what a launch on `stream` has left.
unsafe fn read(
    device: &Device,
    stream: *mut c_void,
    part: &Chosen,
    chosen: &mut Selection,
) -> Result<(), CudaError> {
    // SAFETY: arrays of the workspace of these sizes, written by the launch before on this stream.
    let ints = |address: usize, len: usize| unsafe {
        let mut bytes = vec![0u8; 4 * len];
        download(device, stream, address, &mut bytes)?;
        let words = bytes
            .chunks_exact(4)
            .map(|word| [word[0], word[1], word[2], word[3]]);
        Ok::<_, CudaError>(words.collect::<Vec<[u8; 4]>>())
    };
    let places = chosen.stride;
    let counts = ints(part.counts, part.tokens)?;
    let slots = ints(part.slots, part.tokens * places)?;
    let weights = ints(part.weights, part.tokens * places)?;
    for (token, count) in counts.into_iter().enumerate() {
        let count = usize::try_from(i32::from_ne_bytes(count)).unwrap_or(0);
        for place in 0..places {
            let used = place < count;
            let index = token * places + place;
            chosen.slots.push(if used {
                i32::from_ne_bytes(slots[index])
            } else {
                -1
            });
            chosen.weights.push(if used {
                f32::from_ne_bytes(weights[index])
            } else {
                0.0
            });
        }
    }
    Ok(())
}
