//! Tiny adapters, well-formed and not.
#![allow(dead_code, missing_docs)]

use std::path::Path;

use meteora_core::peft::{parse, Adapter, Limits, MemoryTensor, SiteShape, Source};
use meteora_core::Result;

pub const Q0: &str = "model.layers.0.self_attn.q_proj";
pub const Q1: &str = "model.layers.1.self_attn.q_proj";
pub const DOWN0: &str = "model.layers.0.mlp.down_proj";

/// Two layers of `q_proj` (6 to 4) and `down_proj` (10 to 6).
pub fn sites() -> Vec<SiteShape> {
    let site = |layer: usize, name: &str, in_features, out_features| SiteShape {
        path: format!("model.layers.{layer}.{name}"),
        in_features,
        out_features,
        layer: Some(layer),
    };
    (0..2)
        .flat_map(|at| {
            [
                site(at, "self_attn.q_proj", 6, 4),
                site(at, "mlp.down_proj", 10, 6),
            ]
        })
        .collect()
}

/// A config of rank 2 and alpha 4 for all linears; `extra` is JSON entries that begin with a comma.
pub fn config(extra: &str) -> String {
    config_for(r#""all-linear""#, extra)
}

pub fn config_for(target_modules: &str, extra: &str) -> String {
    let body = r#""peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "task_type": "CAUSAL_LM""#;
    format!(r#"{{{body}, "target_modules": {target_modules}{extra}}}"#)
}

pub fn key(path: &str, half: &str) -> String {
    format!("base_model.model.{path}.lora_{half}.weight")
}

pub fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// An f32 tensor of small, different values.
pub fn tensor(name: impl Into<String>, shape: &[usize]) -> MemoryTensor {
    let count = shape.iter().product::<usize>();
    let data = f32_bytes((0..count).map(|x| (x as f32 - 3.0) / 8.0));
    MemoryTensor {
        name: name.into(),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data,
    }
}

/// The pair of a site in [`sites`].
pub fn pair(path: &str, rank: usize) -> Vec<MemoryTensor> {
    let site = sites()
        .into_iter()
        .find(|site| site.path == path)
        .expect("a site");
    vec![
        tensor(key(path, "A"), &[rank, site.in_features]),
        tensor(key(path, "B"), &[site.out_features, rank]),
    ]
}

/// The bytes of a safetensors file; the header is written by hand, so that it can be wrong.
pub fn safetensors(tensors: &[MemoryTensor]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let MemoryTensor {
            name,
            dtype,
            shape,
            data: bytes,
        } = tensor;
        let range = [data.len(), data.len() + bytes.len()];
        entries.push(format!(
            r#""{name}": {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": {range:?}}}"#
        ));
        data.extend_from_slice(bytes);
    }
    file(&format!("{{{}}}", entries.join(", ")), &data)
}

/// A header and what follows it.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub fn from_memory(config: &str, tensors: Vec<MemoryTensor>) -> Result<Adapter> {
    let source = Source::Memory {
        config_json: config,
        tensors,
    };
    parse("tiny", source, &sites(), &Limits::default())
}

pub fn from_bytes(config: &[u8], safetensors: Vec<u8>) -> Result<Adapter> {
    let source = Source::Bytes {
        config_json: config,
        safetensors,
    };
    parse("tiny", source, &sites(), &Limits::default())
}

pub fn from_folder(folder: &Path) -> Result<Adapter> {
    parse("tiny", Source::Folder(folder), &sites(), &Limits::default())
}

/// A folder that holds both files.
pub fn folder(config: &str, safetensors: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("adapter_config.json"), config).expect("written");
    std::fs::write(folder.path().join("adapter_model.safetensors"), safetensors).expect("written");
    folder
}

/// Asserts that the message of an error holds every part.
#[track_caller]
pub fn refused(result: Result<Adapter>, parts: &[&str]) {
    let message = result.expect_err("a refusal").to_string();
    for part in parts.iter().chain(&["\"tiny\""]) {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(message.len() < 2000, "a message of {} bytes", message.len());
}
