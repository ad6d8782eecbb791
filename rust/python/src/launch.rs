//! The eager path on a CUDA device: sites' kernels on torch's stream, by address.
//!
//! Sites with one input are called one after the other, each for an output of its own. The first of them computes what
//! hangs on the input alone for all (logits, choice, products with A) and keeps it; the others only expand. They may
//! if it is the same tensor object, unwritten since by its version counter, under the same plan, on the same stream and
//! in the same capture of a graph, if any: then the same memory is read at the same point of the stream's work.

use std::cell::Cell;
use std::ffi::c_void;

use meteora_core::kernel::Selection;
use meteora_core::layout::PAGE_ROWS;
use meteora_core::DType;
use meteora_cuda::launch::{Call, Chosen, Piece, Slice};
use meteora_cuda::plan::Sizes;
use meteora_cuda::{abi, download, CudaError, Device};
use pyo3::prelude::*;

use crate::buffers::Buffers;
use crate::plan::RoutePlan;
use crate::torch::cuda::{run, Stream, Workspace};
use crate::torch::shim;

/// The ints of `MeteoraCall::options`.
const OPTIONS_BYTES: usize = 4 * 4;

/// A plan's routes on a device: (address of row_route, its length, address of the records, their number).
pub type RouteAddresses = (usize, usize, usize, usize);

/// A call's activations: contiguous, on the buffers' device.
pub struct Activations<'py> {
    pub x: usize,
    pub y: usize,
    pub tokens: usize,
    pub x_dtype: DType,
    pub y_dtype: DType,
    /// The tensor that x is, or was copied from, and its version; None: nobody counts what is written to it.
    pub input: Option<(Bound<'py, PyAny>, u64)>,
}

/// A site, and those that take its input after it.
pub struct Group<'a> {
    /// The number and the buffers of each; the first is the site that is called.
    pub members: &'a [(usize, Buffers)],
    /// Whether the gate rows of all of them are equal in every slot that a plan made now can reach.
    pub shares_gate: bool,
}

/// What tells whether an input is the one that a leader has seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Situation {
    plan: u64,
    device: i32,
    stream: usize,
    capture: Option<u64>,
    x: usize,
    tokens: usize,
    x_dtype: DType,
    /// The input's, by the counter that autograd trusts.
    version: Option<u64>,
}

/// A call, and what it computes for sites that are to come.
struct Work {
    situation: Situation,
    /// Held, so that no other tensor takes its place.
    input: Option<Py<PyAny>>,
    sizes: Sizes,
    routes: RouteAddresses,
    slices: Vec<Slice>,
    shared_choice: bool,
    workspace: Workspace,
    /// The sites that are to come, each with its slice.
    waiting: Vec<(usize, usize)>,
}

thread_local! {
    /// The last call of this thread that sites are to come for; none of another input or plan is waited for.
    static LAST: Cell<Option<Work>> = const { Cell::new(None) };
}

/// Adds the chosen adapters' products to y, and returns whether that was put into a graph; `chosen` receives the
/// choice, if it is given.
///
/// A graph reads its routes from `graph_routes`, which has the four ints of `MeteoraCall::options` before row_route, and
/// says how many rows and records there is room for; they may change between its replays.
///
/// # Safety
/// The addresses are those of live tensors on `device` of the sizes that buffers and activations say; y is nobody
/// else's.
pub unsafe fn add(
    device: &'static Device,
    group: &Group,
    plan: &RoutePlan,
    routes: RouteAddresses,
    graph_routes: RouteAddresses,
    activations: &Activations,
    mut chosen: Option<&mut Selection>,
) -> Result<bool, String> {
    let last = LAST.take();
    let stream = Stream::current(device)?;
    let captured = stream.capture.is_some();
    if activations.tokens == 0 {
        return Ok(captured);
    }
    let input = activations.input.as_ref();
    let situation = Situation {
        plan: plan.serial,
        device: device.ordinal,
        stream: stream.handle as usize,
        capture: stream.capture,
        x: activations.x,
        tokens: activations.tokens,
        x_dtype: activations.x_dtype,
        version: input.map(|(_, version)| *version),
    };
    let (mut work, piece) = match last.and_then(|work| work.taken_up_by(group, &situation, input)) {
        Some((work, slice)) => (work, Piece::Continue(slice)),
        None => Work::new(
            &stream,
            group,
            plan,
            if captured { graph_routes } else { routes },
            situation,
            input,
        )?,
    };
    let (_, buffers) = group.members[0];
    let slice = match piece {
        Piece::Continue(slice) => slice,
        Piece::Whole | Piece::Begin => 0,
    };
    // The buffers as they are now: they may have moved since the leader was called.
    work.slices[slice] = slice_of(&buffers, activations.y);
    let (row_route, rows, records, n_routes) = work.routes;
    let call = Call {
        sizes: Sizes {
            out_features: buffers.sizes.out_features,
            ..work.sizes
        },
        piece,
        x: activations.x,
        x_dtype: activations.x_dtype,
        y_dtype: activations.y_dtype,
        row_route,
        rows,
        routes: records,
        n_routes,
        options: if captured { row_route - OPTIONS_BYTES } else { 0 },
        top_k: plan.options.top_k,
        temperature: plan.options.temperature,
        slices: &work.slices,
        shared_choice: work.shared_choice,
    };
    if let Some(chosen) = chosen.as_deref_mut() {
        *chosen = Selection {
            stride: work.sizes.places,
            ..Selection::default()
        };
    }
    // SAFETY: the caller's promise. A call that continues another was told by `taken_up_by` that it stands behind it on
    // its stream and in its graph, over the same x; only `Work` knows the workspace.
    unsafe {
        run(&stream, &call, &work.workspace, |part| {
            match chosen.as_deref_mut() {
                Some(chosen) => read(device, stream.handle, part, chosen),
                None => Ok(()),
            }
        })?;
    }
    if !work.waiting.is_empty() {
        LAST.set(Some(work));
    }
    Ok(captured)
}

impl Work {
    /// A call for the group's first member, which computes what it can for the others too.
    fn new(
        stream: &Stream,
        group: &Group,
        plan: &RoutePlan,
        routes: RouteAddresses,
        situation: Situation,
        input: Option<&(Bound<'_, PyAny>, u64)>,
    ) -> Result<(Work, Piece), String> {
        let shim = shim::get().ok_or("torch has not been found")?;
        let captured = situation.capture.is_some();
        let own = group.members[0].1;
        let slots = own.sizes.slots;
        let mut sizes = Sizes {
            tokens: situation.tokens,
            in_features: own.sizes.in_features,
            out_features: own.sizes.out_features,
            slices: group.members.len(),
            slots,
            pages: own.sizes.pages,
            // A graph is replayed under routes that are not known yet.
            places: if captured { slots } else { plan.places().min(slots) },
            rank_rows: if captured {
                PAGE_ROWS * own.sizes.pages
            } else {
                plan.rank_rows
            },
        };
        let together = input.is_some()
            && (2..=abi::MAX_SLICES).contains(&sizes.slices)
            && sizes.part() == sizes.tokens // else the next part takes the workspace
            && group.members.iter().all(|(_, other)| other.memory == own.memory);
        let members = if together {
            group.members
        } else {
            &group.members[..1]
        };
        sizes.slices = members.len();
        let waiting = members.iter().enumerate().skip(1);
        let work = Work {
            situation,
            input: input
                .filter(|_| together)
                .map(|(input, _)| input.clone().unbind()),
            sizes,
            routes,
            slices: members.iter().map(|(_, buffers)| slice_of(buffers, 0)).collect(),
            // Gate rows that are equal now may not be so when a graph is replayed.
            shared_choice: group.shares_gate && !captured,
            workspace: Workspace::new(shim, stream, &sizes)?,
            waiting: waiting.map(|(slice, &(site, _))| (site, slice)).collect(),
        };
        Ok((work, if together { Piece::Begin } else { Piece::Whole }))
    }

    /// This, with the slice of the site that is called, if it was waited for with this very input.
    fn taken_up_by(
        mut self,
        group: &Group,
        situation: &Situation,
        input: Option<&(Bound<'_, PyAny>, u64)>,
    ) -> Option<(Work, usize)> {
        let (input, known) = (&input?.0, self.input.as_ref()?);
        if self.situation != *situation || !input.is(known) {
            return None;
        }
        let site = group.members[0].0;
        let place = self.waiting.iter().position(|&(other, _)| other == site)?;
        let (_, slice) = self.waiting.swap_remove(place);
        Some((self, slice))
    }
}

fn slice_of(buffers: &Buffers, y: usize) -> Slice {
    Slice {
        gate: buffers.gate,
        gate_bias: buffers.gate_bias,
        lora_a: buffers.lora_a,
        lora_b_packed: buffers.lora_b_packed,
        table: buffers.table,
        y,
        out_features: buffers.sizes.out_features,
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
