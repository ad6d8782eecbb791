//! Any bytes as `adapter_model.safetensors`; what is accepted can be packed and hashed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meteora_core::pack::pack_module;
use meteora_core::peft::{parse, Limits, SiteShape, Source};

const CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": "all-linear"}"#;

fuzz_target!(|bytes: &[u8]| {
    let site = |path: &str, in_features, out_features| SiteShape {
        path: path.to_owned(),
        in_features,
        out_features,
        layer: None,
    };
    let sites = [site("q", 3, 2), site("m.v", 1, 1)];
    let source = Source::Bytes {
        config_json: CONFIG,
        safetensors: bytes.to_vec(),
    };
    if let Ok(adapter) = parse("fuzz", source, &sites, &Limits::default()) {
        for module in &adapter.modules {
            let (mut a, mut b) = (vec![0; module.a.len()], vec![0; module.b.len()]);
            pack_module(module, &mut a, &mut b);
        }
        assert_eq!(adapter.content_hash().len(), 64);
    }
});
