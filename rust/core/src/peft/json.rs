//! JSON in which every key stands once.
//!
//! Readers differ in which of two equal keys they take, so a file with both is not one adapter but two. Maps keep
//! their order: the first pattern that matches decides.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A JSON value; `Int` holds what was written without a point or exponent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    /// Parses one document, of at most `max_depth` levels of lists and objects; size is limited by the caller.
    pub(crate) fn parse(bytes: &[u8], max_depth: usize) -> Result<Json, String> {
        check_depth(bytes, max_depth)?;
        document(bytes)
    }

    /// Null, false or empty: what an option that is not in use looks like.
    pub(crate) fn is_inactive(&self) -> bool {
        match self {
            Json::Null | Json::Bool(false) => true,
            Json::Text(text) => text.is_empty(),
            Json::List(list) => list.is_empty(),
            Json::Map(map) => map.is_empty(),
            Json::Bool(true) | Json::Int(_) | Json::Float(_) => false,
        }
    }
}

/// Refuses what [`Json::parse`] does, and keeps nothing of the document: a third of the time. Depth is for
/// [`check_depth`].
pub(crate) fn check_keys(bytes: &[u8]) -> Result<(), String> {
    document::<Checked>(bytes).map(|_| ())
}

fn document<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("invalid JSON: {}", super::shown(&error.to_string())))
}

/// Counts open brackets outside of strings, before any parser sees the text: parsers recurse, and allocate as they go.
pub(crate) fn check_depth(bytes: &[u8], max_depth: usize) -> Result<(), String> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max_depth {
            return Err(format!(
                "invalid JSON: nested deeper than the limit of {max_depth} levels"
            ));
        }
    }
    Ok(())
}

/// Short, for messages: scalars as they are, collections by kind.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => value.fmt(f),
            Json::Int(value) => value.fmt(f),
            Json::Float(value) => value.fmt(f),
            Json::Text(text) => write!(f, "\"{}\"", super::shown(text)),
            Json::List(list) if list.is_empty() => f.write_str("[]"),
            Json::List(_) => f.write_str("[…]"),
            Json::Map(map) if map.is_empty() => f.write_str("{}"),
            Json::Map(_) => f.write_str("{…}"),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(Json::Map(entries))
    }
}

/// A value whose keys each stand once.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        let mut keys: Vec<Key<'de>> = Vec::new();
        while let Some(key) = map.next_key()? {
            keys.push(key);
            map.next_value::<Checked>()?;
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(A::Error::custom(format!("duplicate key {:?}", pair[0].0))),
            None => Ok(Checked),
        }
    }
}

/// A key, where it stands in the document unless it has escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'de>, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_any_depth() {
        for text in [
            r#"{"r": 8, "r": 16}"#,
            r#"{"a": [{"b": {"c": 1, "c": 1}}]}"#,
            r#"{"\u0072": 8, "r": 8}"#,
        ] {
            for refusal in [
                Json::parse(text.as_bytes(), 32).unwrap_err(),
                check_keys(text.as_bytes()).unwrap_err(),
            ] {
                assert!(refusal.contains("duplicate key"), "{text}: {refusal}");
            }
        }
    }

    #[test]
    fn what_is_not_json() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{}x", "NaN", "{\"a\": Infinity}", "\u{feff}{}", &deep] {
            assert!(Json::parse(text.as_bytes(), 32).is_err(), "{text:.20}");
            assert!(check_keys(text.as_bytes()).is_err(), "{text:.20}");
        }
        assert!(Json::parse(b"\"\xff\"", 32).is_err());
    }

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        for (text, depth) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a": [1, {"b": []}], "c": [[]]}"#, 4),
            (r#"["[[[[[", "\\", "\"[[[["]"#, 1),
        ] {
            assert!(Json::parse(text.as_bytes(), depth).is_ok(), "{text}");
            let deeper = depth
                .checked_sub(1)
                .map(|depth| Json::parse(text.as_bytes(), depth));
            assert!(
                deeper.is_none_or(|parsed| parsed.unwrap_err().contains("nested deeper")),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_keep_their_kind() {
        let list = Json::parse(b"[8, 8.0, 8e0, -1, 18446744073709551615, 1e400]", 32);
        assert!(list.is_err(), "1e400 is no number");
        let list = Json::parse(b"[8, 8.0, -1, 18446744073709551615]", 32).unwrap();
        let expected = [
            Json::Int(8),
            Json::Float(8.0),
            Json::Int(-1),
            Json::Int(u64::MAX.into()),
        ];
        assert_eq!(list, Json::List(expected.into()));
    }
}
