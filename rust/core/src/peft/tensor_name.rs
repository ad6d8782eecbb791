//! Keys of a PEFT state dict.

use super::Context;
use crate::error::Result;

const PREFIX: &str = "base_model.model.";
const EXPECTED: &str = "expected base_model.model.<module>.lora_A.weight or .lora_B.weight";

/// Which of the pair a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    A,
    B,
}

/// The module's path and the half that a key names.
///
/// `base_model.model.<path>.lora_A.weight`, or `.lora_A.<adapter>.weight` as a live model's state dict has it.
pub(crate) fn parse<'a>(key: &'a str, context: &Context) -> Result<(&'a str, Half)> {
    let Some(rest) = key.strip_prefix(PREFIX) else {
        return Err(context.tensor(key, EXPECTED));
    };
    if let Some(stem) = rest.strip_suffix(".weight") {
        let parent = stem.rsplit_once('.').map_or("", |(parent, _)| parent);
        for stem in [stem, parent] {
            match stem.rsplit_once('.') {
                Some((path, "lora_A")) => return Ok((path, Half::A)),
                Some((path, "lora_B")) => return Ok((path, Half::B)),
                _ => {}
            }
        }
    }
    let has = |part: &str| rest.split('.').any(|component| component == part);
    let (option, reason) = if has("lora_magnitude_vector") {
        (
            "use_dora",
            "the file holds DoRA magnitudes; merge the adapter or train it without DoRA",
        )
    } else if has("lora_embedding_A") || has("lora_embedding_B") {
        (
            "target_modules",
            "the file adapts an embedding; only linear modules can be adapted",
        )
    } else if has("base_layer") {
        // PEFT writes the whole layer beside the pair where embeddings or the head are targets.
        (
            "target_modules",
            "the file adapts an embedding or the head; only linear modules of decoder layers can be adapted",
        )
    } else if rest.ends_with(".bias") && has("lora_B") {
        ("lora_bias", "the file holds a bias of lora_B")
    } else if rest.ends_with(".bias") {
        ("bias", "the file holds trained biases of the base model")
    } else if has("modules_to_save") {
        (
            "modules_to_save",
            "the file holds whole modules beside the adapter",
        )
    } else if rest.ends_with("embed_tokens.weight") || rest.ends_with("lm_head.weight") {
        (
            "save_embedding_layers",
            "the file holds whole embeddings; save it with save_embedding_layers=False",
        )
    } else {
        return Err(context.tensor(key, EXPECTED));
    };
    Err(context.unsupported(option, format!("{reason} (tensor {})", super::shown(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        let context = Context::new("x", "f");
        let cases = [
            (
                "base_model.model.layers.0.q.lora_A.weight",
                ("layers.0.q", Half::A),
            ),
            (
                "base_model.model.layers.0.q.lora_B.weight",
                ("layers.0.q", Half::B),
            ),
            ("base_model.model.q.lora_B.default.weight", ("q", Half::B)),
            ("base_model.model.lora_A.lora_A.weight", ("lora_A", Half::A)),
        ];
        for (key, expected) in cases {
            assert_eq!(parse(key, &context).unwrap(), expected, "{key}");
        }
    }

    #[test]
    fn what_is_not_a_pair() {
        let context = Context::new("x", "f");
        let cases = [
            ("", "expected base_model.model."),
            ("model.q.lora_A.weight", "expected base_model.model."),
            ("base_model.model.lora_A.weight", "expected base_model.model."),
            (
                "base_model.model.q.lora_A.a.b.weight",
                "expected base_model.model.",
            ),
            ("base_model.model.q.lora_C.weight", "expected base_model.model."),
            ("base_model.model.q.lora_magnitude_vector.weight", "use_dora"),
            ("base_model.model.q.lora_B.bias", "lora_bias"),
            ("base_model.model.q.bias", "option bias"),
            (
                "base_model.model.model.embed_tokens.lora_embedding_A",
                "target_modules",
            ),
            ("base_model.model.lm_head.weight", "save_embedding_layers"),
            ("base_model.model.lm_head.base_layer.weight", "target_modules"),
        ];
        for (key, expected) in cases {
            let message = parse(key, &context).unwrap_err().to_string();
            assert!(message.contains(expected), "{key}: {message}");
        }
    }
}
