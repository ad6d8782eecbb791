//! What an adapter may be called.
//!
//! A name becomes a folder of a bundle, a `model` field of a request and a word in a log line, so it is kept to
//! characters that mean nothing to any of them.

use crate::error::{Error, Result};

/// The longest name, in bytes.
pub const MAX_LEN: usize = 128;

const RULE: &str =
    "a name has 1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-', begins with neither '.' \
                    nor '-', holds no \"..\", and does not begin with \"__\" (reserved, as in \"__base__\")";

/// Accepts `name` or says which rule it breaks ([`Error::AdapterFormat`]).
///
/// 1 to [`MAX_LEN`] characters of `[A-Za-z0-9._-]`; the first is neither `.` nor `-`; no `..`; names that begin
/// with `__` are reserved.
pub fn check(name: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let valid = (1..=MAX_LEN).contains(&name.len())
        && name.bytes().all(legal)
        && !name.starts_with(['.', '-'])
        && !name.starts_with("__")
        && !name.contains("..");
    if valid {
        return Ok(());
    }
    Err(Error::AdapterFormat {
        // A name may be megabytes of anything: enough of it to be recognised goes into the message.
        adapter: name.chars().take(MAX_LEN).collect(),
        tensor: None,
        file: "<name>".to_owned(),
        reason: RULE.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names() {
        for name in ["math", "a", "_x", "Qwen2.5-sql_v3", "0", &"n".repeat(MAX_LEN)] {
            check(name).unwrap();
        }
    }

    #[test]
    fn names_that_mean_something_elsewhere() {
        let long = "n".repeat(MAX_LEN + 1);
        for name in [
            "", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a..b", "__base__", "__x", "a b", "a\0b",
            "a\nb", "ünï", "a:b", "%2e", &long,
        ] {
            let message = check(name).unwrap_err().to_string();
            assert!(message.contains("(file: <name>)"), "{name:?}: {message}");
        }
    }
}
