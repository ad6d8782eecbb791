//! From a source to a checked adapter.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapter, MemoryTensor, Module, SiteShape, Source, Store, TensorBytes};
use super::config::{self, Config};
use super::file::{self, Reading};
use super::folder::{io_error, Folder};
use super::limits::Limits;
use super::tensor_name::{self, Half};
use super::{header, values, Context, MEMORY};
use crate::dtype::DType;
use crate::error::Result;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PICKLED: &str = "adapter_model.bin";

/// A tensor whose key and contents are still unchecked.
struct Raw {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data: Data,
}

/// Where a tensor's bytes are: at hand, or in a file of which only the head has been read.
enum Data {
    Here(TensorBytes),
    InFile(Range<usize>),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Here(bytes) => bytes.len(),
            Data::InFile(range) => range.len(),
        }
    }

    /// The bytes, `file` being the whole file's; none that lie outside it.
    fn bytes(self, file: &Arc<Store>) -> Option<TensorBytes> {
        match self {
            Data::Here(bytes) => Some(bytes),
            Data::InFile(range) => TensorBytes::slice(file, range),
        }
    }
}

/// One half of a pair: its element type is known and its shape fits.
struct Checked {
    name: String,
    dtype: DType,
    data: Data,
}

/// Reads an adapter and checks all of it: name, options, header, keys, shapes, then values.
///
/// Of a file, no more than the head is read before keys and shapes are known to fit the model. Nothing is kept of an
/// adapter that is refused. Errors: [`AdapterFormat`](crate::Error::AdapterFormat), also of a file that changes
/// meanwhile; [`AdapterUnsupported`](crate::Error::AdapterUnsupported), [`Io`](crate::Error::Io).
pub fn parse(name: &str, source: Source<'_>, sites: &[SiteShape], limits: &Limits) -> Result<Adapter> {
    crate::name::check(name)?;
    let (config_json, context) = match source {
        Source::Folder(folder) => {
            std::fs::metadata(folder).map_err(|source| io_error(folder, source))?;
            return from_folder(name, &Folder::Anywhere(folder), sites, limits);
        }
        Source::Beneath(root, folder) => return from_folder(name, &root.folder(folder)?, sites, limits),
        Source::Memory { config_json, .. } => (config_json.as_bytes(), Context::new(name, MEMORY)),
        Source::Bytes { config_json, .. } => (config_json, Context::new(name, MEMORY)),
    };
    let config = config::parse(config_json, limits, &context)?;
    let (raw, store) = match source {
        Source::Memory { tensors, .. } => (in_memory(tensors, limits, &context)?, Vec::new()),
        Source::Bytes { safetensors, .. } => (announced(&safetensors, limits, &context)?, safetensors),
        Source::Folder(_) | Source::Beneath(..) => unreachable!("handled above"),
    };
    let pairs = place(raw, &config, sites, &context)?;
    adapter(name, pairs, Store::Heap(store), config, sites, &context)
}

fn from_folder(name: &str, folder: &Folder<'_>, sites: &[SiteShape], limits: &Limits) -> Result<Adapter> {
    let context = |file: &str| Context::new(name, folder.path(file).display().to_string());
    let config_context = context(CONFIG);
    let (text, stamp) = file::read(folder, CONFIG, &config_context, limits.max_config_bytes)?;
    let config = config::parse(&text, limits, &config_context)?;
    let tensors_context = context(TENSORS);
    let mut reading = match Reading::open(folder, TENSORS, &tensors_context, limits.max_file_bytes) {
        Err(error) if file::is_not_found(&error) && folder.metadata(PICKLED).is_ok() => {
            let reason = "pickled tensors can run code when they are read; save the adapter as safetensors";
            return Err(context(PICKLED).unsupported("safe_serialization=False", reason));
        }
        opened => opened?,
    };
    let head = reading.head(limits.max_header_bytes.saturating_add(header::PREFIX as u64))?;
    let raw = announced(head, limits, &tensors_context)?;
    let pairs = place(raw, &config, sites, &tensors_context)?;
    let (contents, tensors_stamp) = reading.finish()?;
    file::unchanged(folder, CONFIG, &config_context, stamp)?;
    let store = Store::Read(contents);
    let mut adapter = adapter(name, pairs, store, config, sites, &tensors_context)?;
    adapter.stamp = Some(format!("{stamp} {tensors_stamp}"));
    Ok(adapter)
}

/// The tensors of a state dict, held to the same limits as a file.
fn in_memory(tensors: Vec<MemoryTensor>, limits: &Limits, context: &Context) -> Result<Vec<Raw>> {
    let bytes = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
    limits.check(tensors.len(), bytes, context)?;
    Ok(tensors.into_iter().map(here).collect())
}

fn here(tensor: MemoryTensor) -> Raw {
    Raw {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        data: Data::Here(tensor.data.into()),
    }
}

/// The tensors that a safetensors file announces.
fn announced(file: &[u8], limits: &Limits, context: &Context) -> Result<Vec<Raw>> {
    let raw = |entry: header::Entry| Raw {
        name: entry.name,
        dtype: entry.dtype,
        shape: entry.shape,
        data: Data::InFile(entry.range),
    };
    Ok(header::parse(file, limits, context)?
        .into_iter()
        .map(raw)
        .collect())
}

type Pair = [Option<Checked>; 2];

/// Gives each tensor its place, by site: keys, targets, element types and shapes are checked, values are not read.
fn place(
    raw: Vec<Raw>,
    config: &Config,
    sites: &[SiteShape],
    context: &Context,
) -> Result<Vec<(usize, Pair)>> {
    let paths = sites.iter().map(|site| site.path.as_str());
    if let Some(layer) = config.targets.missing_layer(paths) {
        return Err(context.format(format!(
            "layers_to_transform: the model has no layer {layer} ({CONFIG})"
        )));
    }
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

/// Makes the adapter of its placed tensors; `store` holds those that are ranges of a file.
fn adapter(
    name: &str,
    pairs: Vec<(usize, Pair)>,
    store: Store,
    config: Config,
    sites: &[SiteShape],
    context: &Context,
) -> Result<Adapter> {
    let store = Arc::new(store);
    let modules = pairs
        .into_iter()
        .map(|(site, pair)| join(site, pair, &store, &config, sites, context));
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
        missing: missing(&modules, &config, sites),
        max_rank: modules.iter().map(|module| module.rank).max().unwrap_or(0),
        dtypes,
        base_model: config.base_model,
        stamp: None,
        modules,
    })
}

fn missing(modules: &[Module], config: &Config, sites: &[SiteShape]) -> Vec<String> {
    let given: HashSet<usize> = modules.iter().map(|module| module.site).collect();
    let without = sites.iter().enumerate().filter(|(at, _)| !given.contains(at));
    without
        .map(|(_, site)| &site.path)
        .filter(|path| config.targets.contains(path))
        .cloned()
        .collect()
}

/// Makes a module of two halves: both there, every value finite, one element type.
fn join(
    at: usize,
    pair: Pair,
    store: &Arc<Store>,
    config: &Config,
    sites: &[SiteShape],
    context: &Context,
) -> Result<Module> {
    let site = &sites[at];
    let (a, b) = match pair {
        [Some(a), Some(b)] => (a, b),
        [Some(a), None] => return Err(context.tensor(&a.name, format!("{} has no lora_B", site.path))),
        [_, Some(b)] => return Err(context.tensor(&b.name, format!("{} has no lora_A", site.path))),
        [None, None] => return Err(context.format(format!("{} has neither lora_A nor lora_B", site.path))),
    };
    // Two types can't share a table entry; f32 holds every value of either.
    let dtype = if a.dtype == b.dtype { a.dtype } else { DType::F32 };
    let checked = |half: Checked| {
        let Some(data) = half.data.bytes(store) else {
            return Err(context.tensor(&half.name, "its data lies outside the file"));
        };
        if let Some(element) = values::first_non_finite(half.dtype, &data) {
            return Err(context.tensor(&half.name, format!("element {element} is NaN or infinite")));
        }
        Ok(match half.dtype == dtype {
            true => data,
            false => values::widen(half.dtype, &data).into(),
        })
    };
    Ok(Module {
        site: at,
        path: site.path.clone(),
        rank: config.rank(&site.path),
        in_features: site.in_features,
        out_features: site.out_features,
        scaling: config.scaling(&site.path),
        dtype,
        a: checked(a)?,
        b: checked(b)?,
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
