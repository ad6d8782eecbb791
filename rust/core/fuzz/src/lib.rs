//! What is fuzzed: each function answers any input, with a panic if the core does not keep its word.

use meteora_core::kernel::arrow_row;
use meteora_core::pack::pack_module;
use meteora_core::peft::{parse, Limits, MemoryTensor, SiteShape, Source};

fn site(path: &str, in_features: usize, out_features: usize) -> SiteShape {
    SiteShape {
        path: path.to_owned(),
        in_features,
        out_features,
        layer: path.contains("layers").then_some(0),
    }
}

fn half(path: &str, letter: &str, dtype: &str, shape: [usize; 2], data: Vec<u8>) -> MemoryTensor {
    MemoryTensor {
        name: format!("base_model.model.{path}.lora_{letter}.weight"),
        dtype: dtype.to_owned(),
        shape: shape.to_vec(),
        data,
    }
}

/// Any text as `adapter_config.json`, beside tensors that fit; whether it was accepted.
pub fn config(text: &str) -> bool {
    let path = "model.layers.0.self_attn.q_proj";
    let zeros = |letter: &str, shape: [usize; 2]| half(path, letter, "BF16", shape, vec![0; 2 * shape[0] * shape[1]]);
    let source = Source::Memory {
        config_json: text,
        tensors: vec![zeros("A", [1, 3]), zeros("B", [2, 1])],
    };
    let Ok(adapter) = parse("fuzz", source, &[site(path, 3, 2)], &Limits::default()) else {
        return false;
    };
    assert!(adapter
        .modules
        .iter()
        .all(|module| module.rank == 1 && module.scaling.is_finite()));
    true
}

/// Any bytes as `adapter_model.safetensors`; what is accepted can be packed and hashed.
pub fn safetensors(bytes: &[u8]) -> bool {
    const CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": "all-linear"}"#;
    let source = Source::Bytes {
        config_json: CONFIG,
        safetensors: bytes.to_vec(),
    };
    let sites = [site("q", 3, 2), site("m.v", 1, 1)];
    let Ok(adapter) = parse("fuzz", source, &sites, &Limits::default()) else {
        return false;
    };
    for module in &adapter.modules {
        let (mut a, mut b) = (vec![0; module.a.len()], vec![0; module.b.len()]);
        pack_module(module, &mut a, &mut b);
    }
    assert_eq!(adapter.content_hash().len(), 64);
    true
}

/// Any finite values in a pair: the arrow row is finite, and of norm one or zero.
pub fn arrow(bytes: &[u8]) -> bool {
    let (rank, width) = (3, bytes.len() / 12);
    if !(2..=64).contains(&width) {
        return false;
    }
    let (in_features, out_features) = (width / 2, width - width / 2);
    let (a, b) = bytes[..12 * width].split_at(12 * in_features);
    let tensors = vec![
        half("q", "A", "F32", [rank, in_features], a.to_vec()),
        half("q", "B", "F32", [out_features, rank], b.to_vec()),
    ];
    let config_json = r#"{"peft_type": "LORA", "r": 3, "target_modules": "all-linear"}"#;
    let source = Source::Memory { config_json, tensors };
    let Ok(adapter) = parse("fuzz", source, &[site("q", in_features, out_features)], &Limits::default()) else {
        return false;
    };
    let mut row = vec![0f32; in_features];
    arrow_row(&adapter.modules[0], &mut row);
    let norm = row
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    assert!(norm == 0.0 || (norm - 1.0).abs() < 1e-5, "{norm}");
    true
}
