//! Attacks on the safetensors header, one by one.

mod peft_support;

use meteora_core::peft::{parse, Limits, Source};
use peft_support::*;

#[track_caller]
fn bytes_refused(bytes: Vec<u8>, parts: &[&str]) {
    let folder = folder(&config(""), &bytes);
    refused(
        from_folder(folder.path()),
        &[parts, &["adapter_model.safetensors"]].concat(),
    );
    refused(
        from_bytes(config("").as_bytes(), bytes),
        &[parts, &["<memory>"]].concat(),
    );
}

/// The header of one `[2, 6]` half with these entries, and its data.
fn one(entries: &str) -> Vec<u8> {
    file(&format!(r#"{{"{}": {{{entries}}}}}"#, key(Q0, "A")), &[0; 48])
}

#[test]
fn empty_file() {
    bytes_refused(vec![], &["only 0 bytes"]);
}

#[test]
fn shorter_than_its_length_field() {
    bytes_refused(vec![1, 0, 0], &["only 3 bytes"]);
}

#[test]
fn cut_anywhere() {
    let whole = safetensors(&pair(Q0, 2));
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        refused(from_bytes(config("").as_bytes(), cut), &["<memory>"]);
    }
}

#[test]
fn bytes_after_the_last_tensor() {
    let mut bytes = safetensors(&pair(Q0, 2));
    bytes.push(0);
    bytes_refused(bytes, &["not fully covered"]);
}

#[test]
fn lengths_that_lie() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 100_000_000, 4 << 20 | 1] {
        let mut bytes = safetensors(&pair(Q0, 2));
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes_refused(bytes, &[&length.to_string(), "more than the limit"]);
    }
    let mut bytes = safetensors(&pair(Q0, 2));
    bytes[..8].copy_from_slice(&4096u64.to_le_bytes());
    bytes_refused(bytes, &["4096 bytes announced"]);
}

#[test]
fn a_large_header_within_the_file() {
    let header = format!("{{{}}}", " ".repeat(4 << 20));
    bytes_refused(file(&header, &[]), &["more than the limit"]);
}

#[test]
fn not_utf8_and_not_json() {
    let mut bytes = safetensors(&pair(Q0, 2));
    bytes[10] = 0xff;
    bytes_refused(bytes, &["UTF-8"]);
    for header in ["", "[]", "{", "null", "{\"a\": 1}", &"[".repeat(100_000)] {
        bytes_refused(file(header, &[]), &["safetensors header: invalid JSON"]);
    }
}

#[test]
fn a_name_that_stands_twice() {
    let entry =
        |name: &str| format!(r#""{name}": {{"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}}"#);
    let name = key(Q0, "A");
    let escaped = name.replace("base", "\\u0062ase");
    for other in [&name, &escaped] {
        bytes_refused(
            file(&format!("{{{}, {}}}", entry(&name), entry(other)), &[0; 48]),
            &["duplicate key"],
        );
    }
}

#[test]
fn ranges_that_overlap_leave_holes_or_run_backwards() {
    let (a, b) = (key(Q0, "A"), key(Q0, "B"));
    for (first, second, length) in [
        ([0, 48], [40, 72], 72),
        ([0, 48], [0, 32], 48),
        ([0, 48], [56, 88], 88),
        ([8, 56], [56, 88], 88),
        ([48, 0], [0, 32], 48),
    ] {
        let header = format!(
            r#"{{"{a}": {{"dtype": "F32", "shape": [2, 6], "data_offsets": {first:?}}},
                "{b}": {{"dtype": "F32", "shape": [4, 2], "data_offsets": {second:?}}}}}"#
        );
        bytes_refused(
            file(&header, &vec![0; length]),
            &["safetensors header: invalid offset"],
        );
    }
}

#[test]
fn ranges_beyond_the_file() {
    bytes_refused(
        one(r#""dtype": "F32", "shape": [2, 600], "data_offsets": [0, 4800]"#),
        &["not fully covered"],
    );
    let entries = format!(
        r#""dtype": "F32", "shape": [1], "data_offsets": [{}, {}]"#,
        u64::MAX - 3,
        u64::MAX
    );
    bytes_refused(one(&entries), &["safetensors header"]);
    bytes_refused(
        one(r#""dtype": "F32", "shape": [2, 6], "data_offsets": [-48, 0]"#),
        &["safetensors header"],
    );
}

#[test]
fn shapes_that_overflow_or_do_not_fit_their_bytes() {
    let shape = |shape: &str| {
        one(&format!(
            r#""dtype": "F32", "shape": {shape}, "data_offsets": [0, 48]"#
        ))
    };
    bytes_refused(shape("[4294967296, 4294967296, 2]"), &["overflow"]);
    bytes_refused(shape("[18446744073709551615, 6]"), &["overflow"]);
    for wrong in ["[2, 5]", "[]", "[0]", "[2, 6, 0]"] {
        bytes_refused(shape(wrong), &["invalid shape"]);
    }
    bytes_refused(shape("[2.0, 6]"), &["invalid JSON"]);
    bytes_refused(shape("6"), &["invalid JSON"]);
}

#[test]
fn element_types_of_other_kinds() {
    for (dtype, count) in [
        ("F64", 6),
        ("I64", 6),
        ("I32", 12),
        ("U8", 48),
        ("BOOL", 48),
        ("F8_E4M3", 48),
    ] {
        let mut tensors = pair(Q0, 2);
        tensors[0].dtype = dtype.to_owned();
        tensors[0].shape = vec![2, 6];
        tensors[0].data = vec![0; 12 * 48 / count];
        bytes_refused(
            safetensors(&tensors),
            &["lora_A.weight", "dtype", dtype, "expected float32"],
        );
    }
    bytes_refused(
        one(r#""dtype": "F31", "shape": [2, 6], "data_offsets": [0, 48]"#),
        &["invalid JSON"],
    );
}

#[test]
fn no_tensors() {
    for header in ["{}", r#"{"__metadata__": {"format": "pt"}}"#] {
        bytes_refused(file(header, &[]), &["holds no tensors"]);
    }
    refused(from_memory(&config(""), vec![]), &["holds no tensors"]);
}

#[test]
fn metadata_and_padding_are_fine() {
    let bytes = safetensors(&pair(Q0, 2));
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    // An odd number of blanks: data that is not aligned is read all the same.
    let header = header.replacen('{', r#"{"__metadata__": {"format": "pt"}, "#, 1) + "   ";
    let adapter = from_bytes(config("").as_bytes(), file(&header, &bytes[8 + length..])).unwrap();
    assert_eq!(
        adapter.content_hash(),
        from_memory(&config(""), pair(Q0, 2)).unwrap().content_hash()
    );
}

#[test]
fn limits_are_the_callers() {
    let (config, bytes) = (config(""), safetensors(&pair(Q0, 2)));
    let load = |limits: Limits| {
        let folder = folder(&config, &bytes);
        parse("tiny", Source::Folder(folder.path()), &sites(), &limits)
    };
    let limits = Limits::default;
    load(limits()).unwrap();
    refused(
        load(Limits {
            max_rank: 1,
            ..limits()
        }),
        &["r must be an integer from 1 to 1"],
    );
    refused(
        load(Limits {
            max_config_bytes: 10,
            ..limits()
        }),
        &["adapter_config.json", "limit of 10"],
    );
    refused(
        load(Limits {
            max_header_bytes: 10,
            ..limits()
        }),
        &["limit of 10"],
    );
    refused(
        load(Limits {
            max_file_bytes: 10,
            ..limits()
        }),
        &["adapter_model.safetensors", "limit of 10"],
    );
    refused(
        load(Limits {
            max_tensors: 1,
            ..limits()
        }),
        &["adapter_model.safetensors", "2 tensors", "limit of 1"],
    );
    refused(
        load(Limits {
            max_json_depth: 1,
            ..limits()
        }),
        &["adapter_model.safetensors", "nested deeper than the limit of 1"],
    );
    refused(
        load(Limits {
            max_json_depth: 0,
            ..limits()
        }),
        &["adapter_config.json", "nested deeper than the limit of 0"],
    );
    let memory = |limits| {
        let source = Source::Memory {
            config_json: &config,
            tensors: pair(Q0, 2),
        };
        parse("tiny", source, &sites(), &limits)
    };
    refused(
        memory(Limits {
            max_tensors: 1,
            ..limits()
        }),
        &["<memory>", "limit of 1"],
    );
    refused(
        memory(Limits {
            max_file_bytes: 10,
            ..limits()
        }),
        &["<memory>", "limit of 10"],
    );
}
