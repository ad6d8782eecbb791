//! The arguments of `meteora_rs::gated_lora`, checked.

use meteora_core::layout::route_width;
use meteora_core::DType;

use super::shim::Shim;
use super::tensor::{Owned, View};

/// The op's tensors, whose shapes, types and devices fit each other.
pub struct Arguments<'a> {
    pub base: View,
    pub x: View,
    /// The handles of base and x.
    pub handles: [&'a Owned; 2],
    pub base_dtype: DType,
    pub x_dtype: DType,
    pub gate: View,
    pub gate_bias: View,
    pub lora_a: View,
    pub lora_b: View,
    pub table: View,
    pub row_route: View,
    pub routes: View,
    pub in_features: usize,
    pub out_features: usize,
    pub slots: usize,
    /// At most `slots`.
    pub top_k: usize,
    pub temperature: f32,
}

impl<'a> Arguments<'a> {
    pub fn new(
        shim: &Shim,
        tensors: &'a [Owned],
        top_k: i64,
        temperature: f64,
    ) -> Result<Arguments<'a>, String> {
        let views: Vec<View> = tensors.iter().map(View::of).collect();
        let Ok([base, x, gate, gate_bias, lora_a, lora_b, table, row_route, routes]) =
            <[View; 9]>::try_from(views)
        else {
            return Err("nine tensors are needed".to_owned());
        };
        // SAFETY: functions without arguments.
        let (float32, int32, uint8) = unsafe { ((shim.float32)(), (shim.int32)(), (shim.uint8)()) };
        let require = |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        let (in_features, out_features) = (width(&x, "x")?, width(&base, "base")?);
        let slots = gate.sizes.first().copied().unwrap_or(0);
        require(
            x.sizes[..x.sizes.len() - 1] == base.sizes[..base.sizes.len() - 1],
            "x and base differ in shape",
        )?;
        require(
            gate.sizes == [slots, in_features] && gate.dtype == float32,
            "gate must be [slots, in] float32",
        )?;
        require(
            gate_bias.sizes == [slots] && gate_bias.dtype == float32,
            "gate_bias must be [slots] float32",
        )?;
        require(
            table.sizes == [slots, 4] && table.dtype == int32,
            "table must be [slots, 4] int32",
        )?;
        require(
            lora_a.dtype == uint8 && lora_b.dtype == uint8,
            "lora_A and lora_B_packed must be uint8",
        )?;
        require(
            row_route.sizes.len() == 1 && row_route.len() > 0,
            "row_route must be [n], n > 0",
        )?;
        require(
            routes.sizes.len() == 2 && routes.sizes[1] == route_width(slots as usize) as i64,
            "routes must be [R, 2 + 2 * slots]",
        )?;
        require(
            row_route.dtype == int32 && routes.dtype == int32,
            "row_route and routes must be int32",
        )?;
        require(
            top_k >= 1 && temperature as f32 > 0.0,
            "top_k must be at least 1, temperature above 0",
        )?;
        let state = [&gate, &gate_bias, &lora_a, &lora_b, &table, &row_route, &routes];
        require(
            state.iter().all(|view| view.is_contiguous()),
            "gates, pools, table and routes must be contiguous",
        )?;
        require(
            state.iter().chain(&[&x]).all(|view| view.device == base.device),
            "all tensors must be on the device of base",
        )?;
        Ok(Arguments {
            base_dtype: dtype(shim, base.dtype)?,
            x_dtype: dtype(shim, x.dtype)?,
            handles: [&tensors[0], &tensors[1]],
            in_features: in_features as usize,
            out_features: out_features as usize,
            slots: slots as usize,
            top_k: (top_k as usize).min(slots as usize),
            temperature: temperature as f32,
            base,
            x,
            gate,
            gate_bias,
            lora_a,
            lora_b,
            table,
            row_route,
            routes,
        })
    }
}

fn width(view: &View, name: &str) -> Result<i64, String> {
    view.sizes
        .last()
        .copied()
        .ok_or_else(|| format!("{name} must have at least one dimension"))
}

/// Our name of a torch dtype.
fn dtype(shim: &Shim, dtype: i32) -> Result<DType, String> {
    // SAFETY: functions without arguments.
    let known = unsafe { [(shim.float32)(), (shim.float16)(), (shim.bfloat16)()] };
    let found = known.iter().position(|&one| one == dtype);
    found
        .and_then(|code| DType::from_code(code as u8))
        .ok_or_else(|| "x and base must be float32, float16 or bfloat16".to_owned())
}
