//! The op on a CUDA device: torch's memory and stream, our kernels.

use std::ffi::c_void;

use meteora_core::layout::{PAGE_BYTES_PER_COLUMN, PAGE_ROWS};
use meteora_cuda::launch::{launch, Call, Chosen, Piece, Slice};
use meteora_cuda::plan::Sizes;
use meteora_cuda::{CudaError, Device};

use super::arguments::Arguments;
use super::shim::{current_stream, Shim, Tensor};
use super::tensor::{empty_bytes, empty_like, Owned, View};
use crate::cuda::{device_of, emulated_stream, emulating};

/// Where the workspace begins is a multiple of this.
const ALIGNMENT: usize = 256;

/// The output, a new tensor.
pub fn compute(shim: &'static Shim, arguments: &Arguments) -> Result<Tensor, String> {
    let Arguments { base, x, .. } = arguments;
    let device = device_of(base.device.1)?;
    let out = copied(shim, arguments.handles[0], base)?;
    let strided_x = if x.is_contiguous() {
        None
    } else {
        Some(copied(shim, arguments.handles[1], x)?)
    };
    let x_address = strided_x
        .as_ref()
        .map_or(x.address, |copy| View::of(copy).address);
    let pages = |view: &View, width: usize| view.len() / (PAGE_BYTES_PER_COLUMN * width.max(1));
    let slice = Slice {
        gate: arguments.gate.address,
        gate_bias: arguments.gate_bias.address,
        lora_a: arguments.lora_a.address,
        lora_b_packed: arguments.lora_b.address,
        table: arguments.table.address,
        y: View::of(&out).address,
        out_features: arguments.out_features,
    };
    let pages =
        pages(&arguments.lora_a, arguments.in_features).min(pages(&arguments.lora_b, arguments.out_features));
    let call = Call {
        sizes: Sizes {
            tokens: x.sizes[..x.sizes.len() - 1].iter().product::<i64>() as usize,
            in_features: arguments.in_features,
            out_features: arguments.out_features,
            slices: 1,
            slots: arguments.slots,
            pages,
            // What the routes ask for is on the device: a token may use all slots.
            places: arguments.slots,
            rank_rows: pages * PAGE_ROWS,
        },
        piece: Piece::Whole,
        x: x_address,
        x_dtype: arguments.x_dtype,
        y_dtype: arguments.base_dtype,
        row_route: arguments.row_route.address,
        rows: arguments.row_route.len(),
        routes: arguments.routes.address,
        n_routes: arguments.routes.sizes[0] as usize,
        options: 0,
        top_k: arguments.top_k,
        temperature: arguments.temperature,
        slices: &[slice],
        shared_choice: true,
    };
    // SAFETY: contiguous tensors of the device, whose sizes and types have been checked. Torch's allocator gives their
    // memory to others only behind the work on this stream.
    unsafe {
        let stream = Stream::current(device)?;
        let workspace = Workspace::new(shim, &stream, &call.sizes)?;
        run(&stream, &call, &workspace, |_| Ok(()))?;
    }
    Ok(out.release())
}

/// Torch's current stream on a device, and which capture of a graph it is in.
pub struct Stream {
    pub device: &'static Device,
    pub handle: *mut c_void,
    pub capture: Option<u64>,
}

impl Stream {
    pub fn current(device: &'static Device) -> Result<Stream, String> {
        let handle = stream(device.ordinal)?;
        // SAFETY: torch's stream, which is of the primary context and is never destroyed.
        let capture = unsafe { device.capture(handle) }.map_err(|error| error.to_string())?;
        Ok(Stream {
            device,
            handle,
            capture,
        })
    }
}

/// Memory of torch's allocator for what a call keeps between its launches.
pub struct Workspace {
    memory: Option<Owned>,
    address: usize,
    /// A graph has a pool that keeps this for its replays; one that the emulator captures has none.
    keep: bool,
}

impl Workspace {
    pub fn new(shim: &'static Shim, stream: &Stream, sizes: &Sizes) -> Result<Workspace, String> {
        // SAFETY: a function without arguments.
        let cuda = unsafe { (shim.cuda)() };
        let at = if emulating() {
            (0, 0)
        } else {
            (cuda, stream.device.ordinal)
        };
        let memory = empty_bytes(shim, sizes.workspace(sizes.part()).bytes + ALIGNMENT, at)?;
        Ok(Workspace {
            address: View::of(&memory).address.next_multiple_of(ALIGNMENT),
            memory: Some(memory),
            keep: emulating() && stream.capture.is_some(),
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.keep {
            self.memory.take().map(Owned::release);
        }
    }
}

/// Launches `call` on the stream; `after_part` as in [`launch`].
///
/// # Safety
/// As [`launch`]; the workspace was made for these sizes on this stream, torch's current one.
pub unsafe fn run(
    stream: &Stream,
    call: &Call,
    workspace: &Workspace,
    after_part: impl FnMut(&Chosen) -> Result<(), CudaError>,
) -> Result<(), String> {
    // SAFETY: the caller's promise; torch's allocator gives the workspace to others only behind this.
    unsafe { launch(stream.device, stream.handle, call, workspace.address, after_part) }
        .map_err(|error| error.to_string())
}

/// Torch's current stream.
pub fn stream(ordinal: i32) -> Result<*mut c_void, String> {
    if emulating() {
        return Ok(emulated_stream());
    }
    current_stream(ordinal)
}

/// A contiguous copy.
fn copied(shim: &'static Shim, tensor: &Owned, view: &View) -> Result<Owned, String> {
    let copy = empty_like(shim, view)?;
    // SAFETY: live handles of tensors of one shape and type.
    match unsafe { (shim.copy_into)(copy.1, tensor.1, 1) } {
        0 => Ok(copy),
        _ => Err("a tensor could not be copied".to_owned()),
    }
}
