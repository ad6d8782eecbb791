//! `adapter_config.json`: every key is read, known to change nothing, or refused.

use super::json::Json;
use super::limits::Limits;
use super::pattern::Pattern;
use super::reader::Reader;
use super::targets::Targets;
use super::Context;
use crate::error::Result;

/// Keys that do not reach inference.
const INERT: [&str; 16] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "use_auth_token",
];

/// Keys that change the result when they are in use, and why they are not supported.
const REFUSED: [(&str, &str); 17] = [
    (
        "alora_invocation_tokens",
        "activated LoRA applies the adapter after certain tokens only",
    ),
    (
        "arrow_config",
        "routing belongs to the serving side: load the experts as adapters of their own",
    ),
    (
        "fan_in_fan_out",
        "the weights are for transposed modules (Conv1D), and the sites are linear",
    ),
    ("kasa_config", "KaSA changes the base weights and adds a diagonal"),
    ("layer_replication", "it changes the model's layers"),
    ("lora_bias", "biases are not applied"),
    (
        "megatron_config",
        "parallel linears of Megatron are not supported",
    ),
    (
        "modules_to_save",
        "the file replaces whole modules; train the adapter without them",
    ),
    ("monteclora_config", "the adapter is random by design"),
    (
        "target_parameters",
        "parameters outside linear modules can't be adapted",
    ),
    ("trainable_token_indices", "embeddings can't be adapted"),
    ("use_bdlora", "block-diagonal factors are not supported"),
    (
        "use_dora",
        "DoRA rescales the base weights; merge the adapter or train it without DoRA",
    ),
    ("use_qalora", "QALoRA pools the input"),
    ("velora_config", "VeLoRA is not supported"),
    ("xlora_depth", "X-LoRA is not supported"),
    ("enable_lora", "partly adapted fused modules are not supported"),
];

const CHANGED_BASE: &str = "the adapter fits changed base weights; convert it by saving it with PEFT's \
                            path_initial_model_for_weight_conversion";

/// What of a config concerns inference.
#[derive(Debug)]
pub(crate) struct Config {
    rank: usize,
    alpha: f64,
    rslora: bool,
    rank_pattern: Vec<(Pattern, usize)>,
    alpha_pattern: Vec<(Pattern, f64)>,
    /// Which modules are meant.
    pub(crate) targets: Targets,
    /// The model it was trained on.
    pub(crate) base_model: Option<String>,
}

impl Config {
    /// The rank of the module at `path`.
    pub(crate) fn rank(&self, path: &str) -> usize {
        first(&self.rank_pattern, path).unwrap_or(self.rank)
    }

    /// `alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA.
    pub(crate) fn scaling(&self, path: &str) -> f32 {
        let alpha = first(&self.alpha_pattern, path).unwrap_or(self.alpha);
        let rank = self.rank(path) as f64;
        (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}

fn first<T: Copy>(patterns: &[(Pattern, T)], path: &str) -> Option<T> {
    patterns
        .iter()
        .find(|(pattern, _)| pattern.matches(path))
        .map(|&(_, value)| value)
}

/// Reads the text of a config.
pub(crate) fn parse(text: &[u8], limits: &Limits, context: &Context) -> Result<Config> {
    if text.len() as u64 > limits.max_config_bytes {
        return Err(context.format(format!(
            "is larger than the limit of {} bytes",
            limits.max_config_bytes
        )));
    }
    let Json::Map(entries) =
        Json::parse(text, limits.max_json_depth).map_err(|reason| context.format(reason))?
    else {
        return Err(context.format("is not a JSON object"));
    };
    let mut reader = Reader {
        entries,
        limits,
        context,
    };
    peft_type(&mut reader)?;
    initialisation(&mut reader)?;
    bias(&mut reader)?;
    for (key, reason) in REFUSED {
        let value = reader.take(key);
        if !value.is_inactive() {
            return Err(context.unsupported(format!("{key}={value}"), reason));
        }
    }
    let config = Config {
        rank: reader.take_or("r", 8, Reader::rank)?,
        alpha: reader.take_or("lora_alpha", 8.0, Reader::number)?,
        rslora: reader.take_or("use_rslora", false, Reader::boolean)?,
        rank_pattern: reader.patterns("rank_pattern", Reader::rank)?,
        alpha_pattern: reader.patterns("alpha_pattern", Reader::number)?,
        targets: reader.targets()?,
        base_model: match reader.take("base_model_name_or_path") {
            Json::Text(name) => Some(name),
            _ => None,
        },
    };
    // What is left is unknown; a newer PEFT writes all its options, and those that are off change nothing.
    match reader
        .entries
        .iter()
        .find(|(key, value)| !INERT.contains(&key.as_str()) && !value.is_inactive())
    {
        Some((key, value)) => {
            let reason = "it is not known, and may change the result";
            Err(context.unsupported(format!("{}={value}", super::shown(key)), reason))
        }
        None => Ok(config),
    }
}

fn peft_type(reader: &mut Reader<'_>) -> Result<()> {
    match reader.take("peft_type") {
        Json::Text(name) if name == "LORA" => Ok(()),
        Json::Null => Err(reader
            .context
            .format("has no peft_type: it is not the config of a PEFT adapter")),
        other => Err(reader
            .context
            .unsupported(format!("peft_type={other}"), "only LORA adapters can be served")),
    }
}

fn bias(reader: &mut Reader<'_>) -> Result<()> {
    match reader.take("bias") {
        Json::Null => Ok(()),
        Json::Text(name) if name == "none" => Ok(()),
        other => Err(reader
            .context
            .unsupported(format!("bias={other}"), "trained biases are not applied")),
    }
}

/// Some initialisations move part of the base weights into the adapter, which then fits a changed model only.
fn initialisation(reader: &mut Reader<'_>) -> Result<()> {
    let value = reader.take("init_lora_weights");
    let reason = match &value {
        Json::Null | Json::Bool(_) => return Ok(()),
        Json::Text(name) => match name.as_str() {
            "gaussian" | "eva" | "orthogonal" | "mica" => return Ok(()),
            "loftq" => "the adapter fits a quantised copy of the base weights",
            "olora" | "corda" | "lora_ga" => CHANGED_BASE,
            name if name.starts_with("pissa") => CHANGED_BASE,
            _ => "it may change the base weights",
        },
        _ => return reader.must_be("init_lora_weights", "true, false or a name", &value),
    };
    Err(reader
        .context
        .unsupported(format!("init_lora_weights={value}"), reason))
}
