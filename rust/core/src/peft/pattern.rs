//! Python regular expressions of a config, matched as PEFT matches them.
//!
//! Matching is linear in the path. What Python's `re` and the regex crate read differently is refused, never guessed.

use regex::{Regex, RegexBuilder};

/// The longest pattern, in bytes.
const MAX_LEN: usize = 4096;
/// Bytes that one compiled pattern may take: a file may hold many.
const MAX_COMPILED: usize = 1 << 19;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// Word characters, dashes, and dots that stand for any character: the usual module name, far cheaper than an
    /// expression. Matches a path's end, at the start of a component.
    Words(String),
    /// Anything else.
    Expression(Box<Regex>),
}

impl Pattern {
    /// Matches a whole path: `re.fullmatch(text, path)`.
    pub(crate) fn full(text: &str) -> Result<Pattern, String> {
        check(text)?;
        expression(&format!("^(?:{text})$")).map(Pattern::Expression)
    }

    /// Matches a path's end, as keys of `rank_pattern` do: `re.match(rf"(.*\.)?({text})$", path)`.
    pub(crate) fn suffix(text: &str) -> Result<Pattern, String> {
        if text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        {
            return Ok(Pattern::Words(text.to_owned()));
        }
        check(text)?;
        expression(&format!("^(?:(.*\\.)?({text})$)")).map(Pattern::Expression)
    }

    /// Finds the layer's number after the name of the module list: the group `idx`.
    pub(crate) fn layer(text: &str) -> Result<Regex, String> {
        check(text)?;
        expression(&format!("^(?:(?:^|.*?\\.){text}\\.(?P<idx>\\d+)\\.)")).map(|regex| *regex)
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Pattern::Words(words) => {
                let mut path = path.chars().rev();
                let equal = words.chars().rev().all(|word| {
                    path.next()
                        .is_some_and(|c| if word == '.' { c != '\n' } else { c == word })
                });
                equal && path.next().is_none_or(|c| c == '.')
            }
            Pattern::Expression(regex) => regex.is_match(path),
        }
    }
}

fn expression(text: &str) -> Result<Box<Regex>, String> {
    let built = RegexBuilder::new(text)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build();
    built.map(Box::new).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the expression is too large".to_owned(),
        _ => "not an expression without look-around, back-references or syntax of Python's own".to_owned(),
    })
}

/// Refuses what compiles in both languages and means different things.
fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_LEN {
        return Err(format!("longer than {MAX_LEN} bytes"));
    }
    let chars: Vec<char> = text.chars().collect();
    let mut in_class = false;
    let mut depth = 0i32;
    let mut index = 0;
    while let Some(&c) = chars.get(index) {
        let next = chars.get(index + 1).copied();
        let refused = match (c, next) {
            ('\\', Some('p' | 'P' | 'z' | 'x' | 'u' | 'U' | '<' | '>')) => true,
            ('\\', Some('b')) => chars.get(index + 2) == Some(&'{'),
            ('[', _) if in_class => true,
            ('&' | '-' | '~' | '|', Some(second)) if in_class => c == second,
            ('*' | '+' | '?' | '}', Some('+')) if !in_class => true,
            // It would close a group that is not its own.
            (')', _) if !in_class => depth == 0,
            ('(', Some('?')) if !in_class => !known_group(&chars[index + 2..]),
            _ => false,
        };
        if refused {
            let place: String = chars[index..].iter().take(4).collect();
            return Err(format!(
                "{place:?} is not read alike by Python and by this library"
            ));
        }
        match c {
            '\\' => index += 1,
            '[' => {
                in_class = true;
                // A bracket that closes nothing yet is a literal one.
                index += usize::from(chars.get(index + 1) == Some(&'^'));
                index += usize::from(chars.get(index + 1) == Some(&']'));
            }
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            _ => {}
        }
        index += 1;
    }
    Ok(())
}

/// `(?:`, `(?P<name>`, and the flags i, s and m, with or without a group of their own.
fn known_group(after: &[char]) -> bool {
    let flags = after
        .iter()
        .take_while(|c| matches!(c, 'i' | 's' | 'm' | '-'))
        .count();
    match after {
        [':', ..] | ['P', '<', ..] => true,
        _ => flags > 0 && matches!(after.get(flags), Some(':' | ')')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "model.layers.1.self_attn.q_proj";

    #[test]
    fn keys_match_whole_components_at_the_end() {
        for key in [
            "q_proj",
            "self_attn.q_proj",
            PATH,
            "self.attn.q_proj",
            ".*q_proj",
            r"layers\.1\..*",
            "^model.*",
        ] {
            assert!(Pattern::suffix(key).unwrap().matches(PATH), "{key}");
        }
        // As in PEFT, a dot is any character and an alternative outside a group escapes the anchors.
        assert!(Pattern::suffix("layersX1.self_attn.q_proj|x").is_ok());
        for key in [
            "proj",
            "model",
            "layers.1",
            "xmodel.layers.1.self_attn.q_proj",
            "^q_proj",
            "k_proj|v_proj",
        ] {
            assert!(!Pattern::suffix(key).unwrap().matches(PATH), "{key}");
        }
        assert!(Pattern::suffix("k_proj|q_proj").unwrap().matches(PATH));
    }

    #[test]
    fn words_and_expression_agree() {
        for key in [
            "q_proj",
            "f_attn.q_proj",
            "1.self_attn.q_proj",
            "layers.1.self.attn.q.proj",
            "",
            ".",
        ] {
            let expression = Pattern::Expression(expression(&format!("^(?:(.*\\.)?({key})$)")).unwrap());
            for path in [PATH, "q_proj", "xq_proj", "é.q_proj", "model.", "a\n.q_proj"] {
                let words = Pattern::Words(key.to_owned());
                if !path.contains('\n') {
                    assert_eq!(words.matches(path), expression.matches(path), "{key} {path}");
                }
            }
        }
    }

    #[test]
    fn full_match_is_full() {
        assert!(Pattern::full(r".*\.(q|k)_proj").unwrap().matches(PATH));
        assert!(Pattern::full(r"x|.*q_proj").unwrap().matches(PATH));
        assert!(!Pattern::full("q_proj").unwrap().matches(PATH));
        assert!(Pattern::full(r"(?i)MODEL\.[^.]+\.[0-1]\.[]a-z_]+\.q_proj")
            .unwrap()
            .matches(PATH));
    }

    #[test]
    fn what_python_reads_otherwise_is_refused() {
        let patterns = [
            r"(?=a)",
            r"(?<!a)b",
            r"(a)\1",
            r"(?P=x)",
            r"a*+",
            r"a++b",
            r"\Z",
            r"\p{L}",
            r"[[:alpha:]]",
            r"[a&&b]",
            r"[a--b]",
            r"(?x) a",
            r"(?>a)",
            r"(?<n>a)",
            r"\<a",
            r"(",
            r"[",
            r"a{1000}{1000}{1000}",
            r"(?",
            r"\",
            "a)|(b",
        ];
        for pattern in patterns {
            assert!(Pattern::full(pattern).is_err(), "{pattern}");
            assert!(Pattern::suffix(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::full(&"a".repeat(MAX_LEN + 1)).is_err());
    }
}
