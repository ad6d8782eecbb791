//! The op on the CPU.

use meteora_core::kernel::{gated_lora, Options, Routes, Selection, Site};
use meteora_core::layout::TableEntry;

use super::arguments::Arguments;
use super::parallel::TorchPool;
use super::shim::{Shim, Tensor};
use super::slices::{floats, floats_mut, slice};
use super::tensor::{empty_like, View};

/// The output, a new tensor.
pub fn compute(shim: &'static Shim, arguments: &Arguments) -> Result<Tensor, String> {
    let Arguments {
        base,
        x,
        routes,
        slots,
        ..
    } = arguments;
    let (x_code, base_code) = (arguments.x_dtype as u8, arguments.base_dtype as u8);
    let base_size = arguments.base_dtype.size();
    let out = empty_like(shim, base)?;
    let out_view = View::of(&out);
    let strided_x = (!x.is_contiguous()).then(|| x.gather(arguments.x_dtype.size()));
    let strided_base = (!base.is_contiguous()).then(|| base.gather(base_size));
    let x_address = strided_x
        .as_ref()
        .map_or(x.address, |bytes| bytes.as_ptr() as usize);
    let base_address = strided_base
        .as_ref()
        .map_or(base.address, |bytes| bytes.as_ptr() as usize);
    // SAFETY: contiguous CPU tensors, whose sizes and types have been checked and which the dispatcher's
    // caller holds; `out` is new, so nobody else has it, and does not overlap `base`.
    unsafe {
        std::ptr::copy_nonoverlapping(
            base_address as *const u8,
            out_view.address as *mut u8,
            base.len() * base_size,
        );
        let site = Site {
            in_features: arguments.in_features,
            out_features: arguments.out_features,
            slots: *slots,
            gate: slice(arguments.gate.address, arguments.gate.len()),
            gate_bias: slice(arguments.gate_bias.address, arguments.gate_bias.len()),
            screen: None,
            lora_a: slice(arguments.lora_a.address, arguments.lora_a.len()),
            lora_b_packed: slice(arguments.lora_b.address, arguments.lora_b.len()),
            table: slice::<TableEntry>(arguments.table.address, *slots),
        };
        let routes = Routes {
            row_route: slice(arguments.row_route.address, arguments.row_route.len()),
            records: slice(routes.address, routes.len()),
            width: routes.sizes[1] as usize,
        };
        // Counts and top_k are places for each token: unchecked, they could ask for more memory than there is.
        let mut counts = routes.records.chunks_exact(routes.width).map(|record| record[1]);
        if !counts.all(|count| usize::try_from(count).is_ok_and(|count| count <= *slots)) {
            return Err("the count of a route record must be 0 to slots".to_owned());
        }
        let options = Options {
            top_k: arguments.top_k,
            temperature: arguments.temperature,
        };
        let x = floats(x_address, x.len(), x_code);
        let y = floats_mut(out_view.address, base.len(), base_code);
        gated_lora(
            &site,
            &routes,
            x,
            y,
            &options,
            &TorchPool,
            &mut Selection::default(),
        );
    }
    Ok(out.release())
}
