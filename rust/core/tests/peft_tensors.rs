//! Tensors that do not make an adapter for this model.

mod peft_support;

use meteora_core::peft::MemoryTensor;
use peft_support::*;

#[test]
fn half_a_pair() {
    for (kept, missing) in [("A", "no lora_B"), ("B", "no lora_A")] {
        let tensors = pair(Q0, 2)
            .into_iter()
            .filter(|tensor| tensor.name == key(Q0, kept))
            .collect();
        refused(from_memory(&config(""), tensors), &[&key(Q0, kept), missing]);
    }
}

#[test]
fn a_half_given_twice() {
    let mut tensors = pair(Q0, 2);
    tensors.push(tensor(key(Q0, "A").replace("lora_A", "lora_A.default"), &[2, 6]));
    refused(
        from_memory(&config(""), tensors),
        &["lora_A.default.weight", "is the second lora_A"],
    );
}

#[test]
fn a_module_that_is_not_there_is_missed_and_no_error() {
    assert_eq!(from_memory(&config(""), pair(Q1, 2)).unwrap().modules[0].site, 2);
}

#[test]
fn modules_that_the_model_lacks() {
    for path in [
        "model.layers.2.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "lm_head",
        "../q_proj",
    ] {
        let tensors = vec![tensor(key(path, "A"), &[2, 6]), tensor(key(path, "B"), &[4, 2])];
        refused(
            from_memory(&config(""), tensors),
            &[&key(path, "A"), "no linear module", path],
        );
    }
}

#[test]
fn ranks_that_lie() {
    for rank in [1, 3, 8] {
        let expected = format!("has shape [{rank}, 6], and rank 2");
        refused(
            from_memory(&config(""), pair(Q0, rank)),
            &[&key(Q0, "A"), &expected, "needs [2, 6]"],
        );
    }
    let mut tensors = pair(Q0, 2);
    tensors[1] = tensor(key(Q0, "B"), &[4, 3]);
    refused(
        from_memory(&config(""), tensors),
        &[&key(Q0, "B"), "needs [4, 2]"],
    );
}

#[test]
fn shapes_of_another_model() {
    for (index, shape) in [
        (0, &[2, 7][..]),
        (0, &[6, 2]),
        (0, &[12]),
        (0, &[2, 6, 1]),
        (0, &[]),
        (1, &[2, 4]),
        (1, &[8, 2]),
        (0, &[0, 6]),
    ] {
        let mut tensors = pair(Q0, 2);
        tensors[index] = tensor(tensors[index].name.clone(), shape);
        refused(
            from_memory(&config(""), tensors.clone()),
            &[&tensors[index].name, "has shape", "needs"],
        );
    }
}

#[test]
fn values_that_are_not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (half, place) in [(0, 0), (0, 11), (1, 7)] {
            let mut tensors = pair(Q0, 2);
            tensors[half].data[4 * place..4 * place + 4].copy_from_slice(&value.to_le_bytes());
            let parts = [
                &tensors[half].name,
                &format!("element {place} is NaN or infinite") as &str,
            ];
            refused(from_memory(&config(""), tensors.clone()), &parts);
        }
    }
    for (dtype, bits) in [
        ("F16", 0x7c00u16),
        ("F16", 0xfe00),
        ("BF16", 0x7f80),
        ("BF16", 0xffc0),
    ] {
        let mut tensors = pair(Q0, 2);
        tensors[1].dtype = dtype.to_owned();
        tensors[1].data = [&[0; 14][..], &bits.to_le_bytes()].concat();
        refused(from_memory(&config(""), tensors), &["lora_B", "element 7"]);
    }
}

#[test]
fn bytes_that_are_not_the_shape() {
    for length in [0, 47, 49] {
        let mut tensors = pair(Q0, 2);
        tensors[0].data.resize(length, 0);
        refused(
            from_memory(&config(""), tensors),
            &[&key(Q0, "A"), &format!("has {length} bytes")],
        );
    }
}

#[test]
fn whole_weights_and_other_methods() {
    for (name, part) in [
        ("base_model.model.lm_head.weight", "save_embedding_layers"),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
            "use_dora",
        ),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
            "lora_bias",
        ),
        (
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "expected base_model.model.",
        ),
        ("", "expected base_model.model."),
    ] {
        let mut tensors = pair(Q0, 2);
        tensors.push(tensor(name, &[2]));
        refused(from_memory(&config(""), tensors), &[part]);
    }
}

#[test]
fn hostile_text_does_not_reach_the_message_as_it_is() {
    let name = format!("base_model.model.\u{1b}[31m\n{}", "x".repeat(1 << 20));
    refused(
        from_memory(&config(""), vec![tensor(name, &[2])]),
        &["\\u{1b}", "\\n", "…"],
    );
    let shape = vec![1; 100_000];
    let data = vec![0; 4];
    let odd = MemoryTensor {
        name: key(Q0, "A"),
        dtype: "F32".to_owned(),
        shape,
        data,
    };
    refused(from_memory(&config(""), vec![odd]), &["has shape"]);
    let mut tensors = pair(Q0, 2);
    tensors[0].dtype = "z".repeat(1 << 20);
    refused(from_memory(&config(""), tensors), &["has dtype zzz"]);
}
