//! The mirror of `cuda/abi.h` against the header itself, as a C compiler lays it out.

use std::fmt::Write;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use meteora_cuda::abi::{self, choose_bytes, scatter_bytes, Call, Slice};

macro_rules! offsets {
    ($rust:ty, $c:literal: $($field:ident)*) => {
        [$((format!("offsetof({}, {})", $c, stringify!($field)), offset_of!($rust, $field))),*]
    };
}

#[test]
fn structs_and_constants_are_those_of_the_header() {
    let mut expected: Vec<(String, usize)> = vec![
        ("sizeof(MeteoraCall)".to_owned(), size_of::<Call>()),
        ("sizeof(MeteoraSlice)".to_owned(), size_of::<Slice>()),
        ("METEORA_ABI_VERSION".to_owned(), abi::VERSION as usize),
        ("METEORA_MAX_SLICES".to_owned(), abi::MAX_SLICES),
        ("METEORA_MAX_SLOTS".to_owned(), abi::MAX_SLOTS),
        ("METEORA_DECODE_TOKENS".to_owned(), abi::DECODE_TOKENS),
        ("METEORA_DENSE_TOKENS".to_owned(), abi::DENSE_TOKENS),
        ("METEORA_DENSE_ROWS".to_owned(), abi::DENSE_ROWS),
        ("METEORA_DOT_SEGMENT".to_owned(), abi::DOT_SEGMENT),
        ("METEORA_DOT_GROUPS".to_owned(), abi::DOT_GROUPS),
        ("METEORA_SHRINK_BYTES".to_owned(), abi::SHRINK_BYTES),
        ("METEORA_CHOOSE_BYTES(33, 5)".to_owned(), choose_bytes(33, 5)),
        ("METEORA_SCATTER_BYTES(33)".to_owned(), scatter_bytes(33)),
    ];
    expected.extend(offsets!(Slice, "MeteoraSlice":
        gate gate_bias lora_a lora_b_packed table y y_stride out_features leader));
    expected.extend(offsets!(Call, "MeteoraCall":
        x x_stride row_route routes options logits chosen_count chosen_slots chosen_weights u slot_counts slot_cursors
        segment_indptr pair_tokens token_order first_token total_tokens tokens rows n_routes slots in_features places
        top_k pages u_stride n_slices temperature x_dtype y_dtype slices));

    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/abi.h");
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include {:?}\nint main(void) {{\n",
        header
    );
    for (expression, _) in &expected {
        writeln!(source, "    printf(\"%zu\\n\", (size_t)({expression}));").unwrap();
    }
    source.push_str("    return 0;\n}\n");
    let folder = tempfile::tempdir().unwrap();
    let (file, program) = (folder.path().join("abi.c"), folder.path().join("abi"));
    std::fs::write(&file, source).unwrap();
    let compiled = Command::new("cc")
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("a C compiler");
    assert!(compiled.success());
    let output = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let found: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
    for ((expression, mine), header) in expected.iter().zip(&found) {
        assert_eq!(mine, header, "{expression}");
    }
    assert_eq!(found.len(), expected.len());
}
