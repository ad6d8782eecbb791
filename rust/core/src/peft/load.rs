//! From a source to a checked adapter.

use std::collections::HashMap;
use std::sync::Arc;

use super::adapter::{Adapter, Limits, MemoryTensor, Module, SiteShape, Source, Store, TensorBytes};
use super::config::{self, Config};
use super::tensor_name::{self, Half};
use super::{file, header, values, Context};
use crate::dtype::DType;
use crate::error::Result;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const MEMORY: &str = "<memory>";

/// A tensor whose key and contents are still unchecked.
struct Raw {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data: TensorBytes,
}

/// One half of a pair: its element type is known and its shape fits.
struct Checked {
    name: String,
    dtype: DType,
    data: TensorBytes,
}

/// Reads an adapter and checks all of it: name, options, header, keys, shapes, then values.
///
/// Nothing is kept of an adapter that is refused. Errors: [`AdapterFormat`](crate::Error::AdapterFormat),
/// [`AdapterUnsupported`](crate::Error::AdapterUnsupported), [`Io`](crate::Error::Io).
pub fn parse(name: &str, source: Source<'_>, sites: &[SiteShape], limits: &Limits) -> Result<Adapter> {
    crate::name::check(name)?;
    let (config, raw, context) = read(name, source, limits)?;
    if let Some(layer) = config
        .targets
        .missing_layer(sites.iter().map(|site| site.path.as_str()))
    {
        return Err(context.format(format!(
            "layers_to_transform: the model has no layer {layer} ({CONFIG})"
        )));
    }
    let halves = place(raw, &config, sites, &context)?;
    let modules = halves
        .into_iter()
        .map(|(site, pair)| join(site, pair, &config, sites, &context));
    let modules = modules.collect::<Result<Vec<Module>>>()?;
    if modules.is_empty() {
        return Err(context.format("holds no tensors"));
    }
    let mut dtypes: Vec<DType> = modules.iter().map(|module| module.dtype).collect();
    dtypes.sort_by_key(|dtype| *dtype as u8);
    dtypes.dedup();
    Ok(Adapter {
        name: name.to_owned(),
        bytes: modules
            .iter()
            .map(|module| (module.a.len() + module.b.len()) as u64)
            .sum(),
        max_rank: modules.iter().map(|module| module.rank).max().unwrap_or(0),
        dtypes,
        base_model: config.base_model,
        modules,
    })
}

/// The config, the tensors as they are, and the file that errors about tensors name.
fn read(name: &str, source: Source<'_>, limits: &Limits) -> Result<(Config, Vec<Raw>, Context)> {
    match source {
        Source::Folder(folder) => {
            std::fs::metadata(folder).map_err(|source| file::io(folder, source))?;
            let path = folder.join(CONFIG);
            let context = Context::new(name, path.display().to_string());
            let text = file::read(&path, &context, limits.max_config_bytes)?;
            let config = config::parse(&text, limits, &context)?;
            let path = folder.join(TENSORS);
            let context = Context::new(name, path.display().to_string());
            let map = match file::map(&path, &context, limits.max_file_bytes) {
                Err(error)
                    if file::is_not_found(&error) && file::exists(&folder.join("adapter_model.bin")) =>
                {
                    let reason =
                        "pickled tensors can run code when they are read; save the adapter as safetensors";
                    let context = Context::new(name, folder.join("adapter_model.bin").display().to_string());
                    return Err(context.unsupported("safe_serialization=False", reason));
                }
                map => map?,
            };
            let raw = from_safetensors(Store::Mapped(map), limits, &context)?;
            Ok((config, raw, context))
        }
        Source::Memory { config_json, tensors } => {
            let context = Context::new(name, MEMORY);
            let config = config::parse(config_json.as_bytes(), limits, &context)?;
            let raw = tensors.into_iter().map(
                |MemoryTensor {
                     name,
                     dtype,
                     shape,
                     data,
                 }| Raw {
                    name,
                    dtype,
                    shape,
                    data: data.into(),
                },
            );
            Ok((config, raw.collect(), context))
        }
        Source::Bytes {
            config_json,
            safetensors,
        } => {
            let context = Context::new(name, MEMORY);
            let config = config::parse(config_json, limits, &context)?;
            let raw = from_safetensors(Store::Heap(safetensors), limits, &context)?;
            Ok((config, raw, context))
        }
    }
}

fn from_safetensors(store: Store, limits: &Limits, context: &Context) -> Result<Vec<Raw>> {
    let entries = header::parse(&store, limits, context)?;
    let store = Arc::new(store);
    let raw = |entry: header::Entry| match TensorBytes::slice(&store, entry.range) {
        Some(data) => Ok(Raw {
            name: entry.name,
            dtype: entry.dtype,
            shape: entry.shape,
            data,
        }),
        None => Err(context.tensor(&entry.name, "its data lies outside the file")),
    };
    entries.into_iter().map(raw).collect()
}

type Pair = [Option<Checked>; 2];

/// Gives each tensor its place, by site: keys, targets, element types and shapes are checked, values are not read.
fn place(
    raw: Vec<Raw>,
    config: &Config,
    sites: &[SiteShape],
    context: &Context,
) -> Result<Vec<(usize, Pair)>> {
    let index: HashMap<&str, usize> = sites
        .iter()
        .enumerate()
        .map(|(at, site)| (site.path.as_str(), at))
        .collect();
    let mut pairs: HashMap<usize, Pair> = HashMap::new();
    for Raw {
        name,
        dtype,
        shape,
        data,
    } in raw
    {
        let (path, half) = tensor_name::parse(&name, context)?;
        let Some(&at) = index.get(path) else {
            let reason = format!("the model has no linear module {} to adapt", super::shown(path));
            return Err(context.tensor(&name, reason));
        };
        if !config.targets.contains(path) {
            return Err(context.tensor(&name, format!("{CONFIG} does not target {path}")));
        }
        let rank = config.rank(path);
        let (letter, expected) = match half {
            Half::A => ("A", [rank, sites[at].in_features]),
            Half::B => ("B", [sites[at].out_features, rank]),
        };
        if shape != expected {
            let shape = super::shown(&format!("{shape:?}"));
            let reason = format!("has shape {shape}, and rank {rank} in {path} needs {expected:?}");
            return Err(context.tensor(&name, reason));
        }
        let Some(dtype) = element_type(&dtype) else {
            let reason = format!(
                "has dtype {}; expected float32, float16 or bfloat16",
                super::shown(&dtype)
            );
            return Err(context.tensor(&name, reason));
        };
        let size = expected[0]
            .checked_mul(expected[1])
            .and_then(|count| count.checked_mul(dtype.size()));
        if size != Some(data.len()) {
            return Err(context.tensor(&name, format!("has {} bytes, which is not its shape", data.len())));
        }
        let place = &mut pairs.entry(at).or_default()[half as usize];
        if let Some(first) = place {
            let reason = format!(
                "is the second lora_{letter} of {path}, after {}",
                super::shown(&first.name)
            );
            return Err(context.tensor(&name, reason));
        }
        *place = Some(Checked { name, dtype, data });
    }
    let mut pairs: Vec<(usize, Pair)> = pairs.into_iter().collect();
    pairs.sort_by_key(|(at, _)| *at);
    Ok(pairs)
}

/// Makes a module of two halves: both there, every value finite, one element type.
fn join(at: usize, pair: Pair, config: &Config, sites: &[SiteShape], context: &Context) -> Result<Module> {
    let site = &sites[at];
    let (a, b) = match pair {
        [Some(a), Some(b)] => (a, b),
        [Some(a), None] => return Err(context.tensor(&a.name, format!("{} has no lora_B", site.path))),
        [_, Some(b)] => return Err(context.tensor(&b.name, format!("{} has no lora_A", site.path))),
        [None, None] => return Err(context.format(format!("{} has neither lora_A nor lora_B", site.path))),
    };
    for half in [&a, &b] {
        if let Some(element) = values::first_non_finite(half.dtype, &half.data) {
            return Err(context.tensor(&half.name, format!("element {element} is NaN or infinite")));
        }
    }
    // Two types can't share a table entry; f32 holds every value of either.
    let dtype = if a.dtype == b.dtype { a.dtype } else { DType::F32 };
    let convert = |half: Checked| match half.dtype == dtype {
        true => half.data,
        false => values::widen(half.dtype, &half.data).into(),
    };
    Ok(Module {
        site: at,
        path: site.path.clone(),
        rank: config.rank(&site.path),
        in_features: site.in_features,
        out_features: site.out_features,
        scaling: config.scaling(&site.path),
        dtype,
        a: convert(a),
        b: convert(b),
    })
}

/// The element type, as torch or safetensors spell it.
fn element_type(text: &str) -> Option<DType> {
    match text.strip_prefix("torch.").unwrap_or(text) {
        "F32" | "float32" | "float" => Some(DType::F32),
        "F16" | "float16" | "half" => Some(DType::F16),
        "BF16" | "bfloat16" => Some(DType::BF16),
        _ => None,
    }
}
