//! Which modules an adapter's config means.

use std::collections::HashSet;

use regex::Regex;

use super::pattern::Pattern;

/// `target_modules` or `exclude_modules`.
#[derive(Debug)]
pub(crate) enum Modules {
    /// `"all-linear"`.
    All,
    /// A string: an expression for the whole path.
    Expression(Pattern),
    /// A list: whole paths, or their last components.
    Names(HashSet<String>),
}

impl Modules {
    fn names_whole(&self, path: &str) -> bool {
        matches!(self, Modules::Names(names) if names.contains(path))
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Modules::All => true,
            Modules::Expression(pattern) => pattern.matches(path),
            // Every ending that begins at a component, so that the cost does not grow with the list.
            Modules::Names(names) => {
                names.contains(path)
                    || path
                        .match_indices('.')
                        .any(|(dot, _)| names.contains(&path[dot + 1..]))
            }
        }
    }
}

/// `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern` together.
#[derive(Debug)]
pub(crate) struct Targets {
    pub(crate) target: Modules,
    pub(crate) exclude: Option<Modules>,
    /// The only layers meant, if the list restricts them.
    pub(crate) layers: Option<Vec<i128>>,
    /// How to find a path's layer, first match; empty: the first number below the second component or later.
    pub(crate) layer_patterns: Vec<Regex>,
}

impl Targets {
    /// Whether the config means the module at `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        if self.exclude.as_ref().is_some_and(|exclude| exclude.matches(path)) || !self.target.matches(path) {
            return false;
        }
        match &self.layers {
            // A module that is named in full is meant whatever its layer.
            Some(layers) if !self.target.names_whole(path) => {
                self.layer(path).is_some_and(|layer| layers.contains(&layer))
            }
            _ => true,
        }
    }

    /// The first of the layers to transform that no path has.
    pub(crate) fn missing_layer<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Option<i128> {
        let wanted = self.layers.as_ref()?;
        let there: HashSet<i128> = paths.filter_map(|path| self.layer(path)).collect();
        wanted.iter().copied().find(|layer| !there.contains(layer))
    }

    fn layer(&self, path: &str) -> Option<i128> {
        if self.layer_patterns.is_empty() {
            let components: Vec<&str> = path.split('.').collect();
            // Something, a list's name, the number, something: PEFT's r".*?\.[^.]*\.(\d+)\.", first match.
            let numbers = components.get(2..components.len().saturating_sub(1))?;
            return numbers
                .iter()
                .find(|part| is_number(part))
                .and_then(|part| part.parse().ok());
        }
        let found = self
            .layer_patterns
            .iter()
            .find_map(|pattern| pattern.captures(path))?;
        found.name("idx")?.as_str().parse().ok()
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Modules {
        Modules::Names(list.iter().map(|name| (*name).to_owned()).collect())
    }

    fn targets(target: Modules) -> Targets {
        Targets {
            target,
            exclude: None,
            layers: None,
            layer_patterns: vec![],
        }
    }

    const Q1: &str = "model.layers.1.self_attn.q_proj";

    #[test]
    fn lists_match_paths_and_their_endings() {
        for list in [&["q_proj"][..], &["self_attn.q_proj", "x"], &[Q1]] {
            assert!(targets(names(list)).contains(Q1), "{list:?}");
        }
        for list in [&[][..], &["proj"], &["_proj"], &["model"], &[".q_proj"], &[""]] {
            assert!(!targets(names(list)).contains(Q1), "{list:?}");
        }
    }

    #[test]
    fn layers_restrict_endings_and_not_whole_names() {
        let mut some = targets(names(&["q_proj", "model.layers.2.self_attn.q_proj"]));
        some.layers = Some(vec![0, 1]);
        assert!(some.contains(Q1));
        assert!(some.contains("model.layers.2.self_attn.q_proj"));
        assert!(!some.contains("model.layers.3.self_attn.q_proj"));
        assert!(!some.contains("model.q_proj"));
        assert!(
            some.contains("model.layers.1.experts.7.q_proj"),
            "the first number is the layer"
        );
        assert_eq!(some.missing_layer([Q1].into_iter()), Some(0));
        assert!(
            !some.contains("layers.1.q_proj"),
            "PEFT wants a component before the list"
        );
        some.layer_patterns = vec![Pattern::layer("h").unwrap(), Pattern::layer("layers").unwrap()];
        assert!(some.contains("layers.1.q_proj"));
        some.layer_patterns.pop();
        assert!(!some.contains(Q1));
    }

    #[test]
    fn exclusion_wins() {
        let mut all = targets(Modules::All);
        assert!(all.contains(Q1));
        all.exclude = Some(names(&["q_proj"]));
        assert!(!all.contains(Q1));
        all.exclude = Some(Modules::Expression(Pattern::full(r".*layers\.0.*").unwrap()));
        assert!(all.contains(Q1));
    }
}
