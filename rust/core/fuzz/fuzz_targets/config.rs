//! Any text as `adapter_config.json`, beside tensors that fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meteora_core::peft::{parse, Limits, MemoryTensor, SiteShape, Source};

fuzz_target!(|text: &str| {
    let path = "model.layers.0.self_attn.q_proj";
    let site = SiteShape {
        path: path.to_owned(),
        in_features: 3,
        out_features: 2,
        layer: Some(0),
    };
    let half = |letter: &str, shape: [usize; 2]| MemoryTensor {
        name: format!("base_model.model.{path}.lora_{letter}.weight"),
        dtype: "BF16".to_owned(),
        shape: shape.to_vec(),
        data: vec![0; 2 * shape[0] * shape[1]],
    };
    let tensors = vec![half("A", [1, 3]), half("B", [2, 1])];
    let source = Source::Memory {
        config_json: text,
        tensors,
    };
    if let Ok(adapter) = parse("fuzz", source, &[site], &Limits::default()) {
        assert!(adapter
            .modules
            .iter()
            .all(|module| module.rank == 1 && module.scaling.is_finite()));
    }
});
