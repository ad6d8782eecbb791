//! Typed reading of a config's keys.

use regex::Regex;

use super::json::Json;
use super::limits::Limits;
use super::pattern::Pattern;
use super::targets::{Modules, Targets};
use super::Context;
use crate::error::Result;

/// Expressions cost up to half a megabyte and milliseconds each; plain names cost nothing.
const MAX_EXPRESSIONS: usize = 256;

/// The keys not yet read.
pub(crate) struct Reader<'a> {
    pub(crate) entries: Vec<(String, Json)>,
    pub(crate) limits: &'a Limits,
    pub(crate) context: &'a Context,
}

impl Reader<'_> {
    /// The value of a key, null if it is absent.
    pub(crate) fn take(&mut self, key: &str) -> Json {
        let place = self.entries.iter().position(|(name, _)| name == key);
        place.map_or(Json::Null, |place| self.entries.swap_remove(place).1)
    }

    pub(crate) fn take_or<T>(
        &mut self,
        key: &str,
        default: T,
        read: fn(&Self, &str, &Json) -> Result<T>,
    ) -> Result<T> {
        match self.entries.iter().any(|(name, _)| name == key) {
            true => {
                let value = self.take(key);
                read(self, key, &value)
            }
            // PEFT's own default.
            false => Ok(default),
        }
    }

    pub(crate) fn must_be<T>(&self, key: &str, what: &str, value: &Json) -> Result<T> {
        Err(self.context.format(format!("{key} must be {what}, not {value}")))
    }

    pub(crate) fn rank(&self, key: &str, value: &Json) -> Result<usize> {
        match value {
            Json::Int(rank) if (1..=self.limits.max_rank as i128).contains(rank) => Ok(*rank as usize),
            _ => self.must_be(
                key,
                &format!("an integer from 1 to {}", self.limits.max_rank),
                value,
            ),
        }
    }

    pub(crate) fn number(&self, key: &str, value: &Json) -> Result<f64> {
        let number = match value {
            Json::Int(number) => *number as f64,
            Json::Float(number) => *number,
            _ => f64::NAN,
        };
        // The scaling is an f32, and at most the alpha.
        match (number as f32).is_finite() {
            true => Ok(number),
            false => self.must_be(key, "a number within the range of float32", value),
        }
    }

    pub(crate) fn boolean(&self, key: &str, value: &Json) -> Result<bool> {
        match value {
            Json::Bool(value) => Ok(*value),
            Json::Null => Ok(false),
            _ => self.must_be(key, "true or false", value),
        }
    }

    pub(crate) fn patterns<T>(
        &mut self,
        key: &str,
        read: fn(&Self, &str, &Json) -> Result<T>,
    ) -> Result<Vec<(Pattern, T)>> {
        let entries = match self.take(key) {
            Json::Null => return Ok(Vec::new()),
            Json::Map(entries) => entries,
            other => return self.must_be(key, "an object of patterns", &other),
        };
        self.count(key, entries.len())?;
        let mut expressions = 0;
        let mut patterns = Vec::with_capacity(entries.len());
        for (text, value) in entries {
            let value = read(self, &format!("{key}[{:?}]", super::shown(&text)), &value)?;
            let pattern = Pattern::suffix(&text).map_err(|reason| self.bad_pattern(key, &text, &reason))?;
            expressions += usize::from(matches!(pattern, Pattern::Expression(_)));
            self.expressions(key, expressions)?;
            patterns.push((pattern, value));
        }
        Ok(patterns)
    }

    fn count(&self, key: &str, count: usize) -> Result<()> {
        let limit = self.limits.max_patterns;
        match count > limit {
            true => Err(self.context.format(format!(
                "{key} has {count} entries, more than the limit of {limit}"
            ))),
            false => Ok(()),
        }
    }

    fn expressions(&self, key: &str, count: usize) -> Result<()> {
        match count > MAX_EXPRESSIONS {
            true => Err(self
                .context
                .format(format!("{key} has more than {MAX_EXPRESSIONS} expressions"))),
            false => Ok(()),
        }
    }

    fn bad_pattern(&self, key: &str, text: &str, reason: &str) -> crate::error::Error {
        self.context
            .unsupported(format!("{key}=\"{}\"", super::shown(text)), reason)
    }

    /// All that says which modules are meant.
    pub(crate) fn targets(&mut self) -> Result<Targets> {
        let value = self.take("target_modules");
        let is_text = matches!(value, Json::Text(_));
        let target = match value {
            Json::Null => {
                return Err(self
                    .context
                    .format("target_modules is missing: it must name the modules"))
            }
            Json::Text(text) if text.eq_ignore_ascii_case("all-linear") => Modules::All,
            value => self.modules("target_modules", value)?,
        };
        let exclude = match self.take("exclude_modules") {
            value if value.is_inactive() => None,
            value => Some(self.modules("exclude_modules", value)?),
        };
        let (layers, names) = (self.take("layers_to_transform"), self.take("layers_pattern"));
        if is_text && (layers != Json::Null || names != Json::Null) {
            let reason =
                "layers_to_transform and layers_pattern can't be used when target_modules is a string";
            return Err(self.context.format(reason));
        }
        let layers = self.layers(layers)?;
        if layers.is_none() && !names.is_inactive() {
            return Err(self.context.format("layers_pattern needs layers_to_transform"));
        }
        let layer_patterns = self.layer_patterns(names)?;
        Ok(Targets {
            target,
            exclude,
            layers,
            layer_patterns,
        })
    }

    fn modules(&self, key: &str, value: Json) -> Result<Modules> {
        match value {
            Json::Text(text) => match Pattern::full(&text) {
                Ok(pattern) => Ok(Modules::Expression(pattern)),
                Err(reason) => Err(self.bad_pattern(key, &text, &reason)),
            },
            Json::List(list) => Ok(Modules::Names(self.texts(key, list)?.into_iter().collect())),
            other => self.must_be(key, "a string or a list of strings", &other),
        }
    }

    fn texts(&self, key: &str, list: Vec<Json>) -> Result<Vec<String>> {
        self.count(key, list.len())?;
        let text = |value| match value {
            Json::Text(text) => Ok(text),
            other => self.must_be(key, "a string or a list of strings", &other),
        };
        list.into_iter().map(text).collect()
    }

    fn layers(&self, value: Json) -> Result<Option<Vec<i128>>> {
        const KEY: &str = "layers_to_transform";
        let integer = |value: &Json| match value {
            Json::Int(layer) => Ok(*layer),
            other => self.must_be(KEY, "an integer or a list of integers", other),
        };
        match &value {
            Json::Null => Ok(None),
            Json::List(list) if list.is_empty() => Ok(None),
            Json::List(list) => {
                self.count(KEY, list.len())?;
                list.iter().map(integer).collect::<Result<_>>().map(Some)
            }
            single => Ok(Some(vec![integer(single)?])),
        }
    }

    fn layer_patterns(&self, value: Json) -> Result<Vec<Regex>> {
        const KEY: &str = "layers_pattern";
        let texts = match value {
            value if value.is_inactive() => return Ok(Vec::new()),
            Json::Text(text) => vec![text],
            Json::List(list) => self.texts(KEY, list)?,
            other => return self.must_be(KEY, "a string or a list of strings", &other),
        };
        self.expressions(KEY, texts.len())?;
        let compile =
            |text: String| Pattern::layer(&text).map_err(|reason| self.bad_pattern(KEY, &text, &reason));
        texts.into_iter().map(compile).collect()
    }
}
