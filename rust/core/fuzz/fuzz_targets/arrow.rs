//! Any finite values in a pair: the arrow row is finite, and of norm one or zero.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meteora_core::arrow::arrow_row;
use meteora_core::peft::{parse, Limits, MemoryTensor, SiteShape, Source};

fuzz_target!(|bytes: &[u8]| {
    let (rank, width) = (3, bytes.len() / 12);
    if !(2..=64).contains(&width) {
        return;
    }
    let (in_features, out_features) = (width / 2, width - width / 2);
    let site = SiteShape {
        path: "q".to_owned(),
        in_features,
        out_features,
        layer: None,
    };
    let half = |letter: &str, shape: [usize; 2], data: &[u8]| MemoryTensor {
        name: format!("base_model.model.q.lora_{letter}.weight"),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data: data.to_vec(),
    };
    let (a, b) = bytes[..12 * width].split_at(12 * in_features);
    let tensors = vec![
        half("A", [rank, in_features], a),
        half("B", [out_features, rank], b),
    ];
    let config_json = r#"{"peft_type": "LORA", "r": 3, "target_modules": "all-linear"}"#;
    let Ok(adapter) = parse(
        "fuzz",
        Source::Memory { config_json, tensors },
        &[site],
        &Limits::default(),
    ) else {
        return;
    };
    let mut row = vec![0f32; in_features];
    arrow_row(&adapter.modules[0], &mut row);
    let norm = row
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    assert!(norm == 0.0 || (norm - 1.0).abs() < 1e-5, "{norm}");
});
