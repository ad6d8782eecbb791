//! Adapters that are accepted, and what is read of them.

mod peft_support;

use meteora_core::pack::pack_module;
use meteora_core::DType;
use peft_support::*;

#[test]
fn folder_memory_and_bytes_are_one_adapter() {
    let tensors = [pair(Q0, 2), pair(DOWN0, 2)].concat();
    let bytes = safetensors(&tensors);
    let folder = folder(&config(""), &bytes);
    let from_folder = from_folder(folder.path()).unwrap();
    let reordered: Vec<_> = tensors.into_iter().rev().collect();
    let spaced = config("").replace(", ", ",\n  ");
    for adapter in [
        from_memory(&spaced, reordered).unwrap(),
        from_bytes(config("").as_bytes(), bytes).unwrap(),
    ] {
        assert_eq!(adapter.content_hash(), from_folder.content_hash());
        assert_eq!(
            adapter
                .modules
                .iter()
                .map(|module| module.site)
                .collect::<Vec<_>>(),
            [0, 1]
        );
    }
    assert_eq!(from_folder.bytes, 4 * (2 * (6 + 4) + 2 * (10 + 6)));
    assert_eq!((from_folder.max_rank, from_folder.pages()), (2, 2));
    assert_eq!(from_folder.dtypes, [DType::F32]);
}

#[test]
fn the_hash_is_of_all_that_counts() {
    let hash = |extra: &str, tensors| from_memory(&config(extra), tensors).unwrap().content_hash();
    let plain = hash("", pair(Q0, 2));
    assert_eq!(
        plain,
        hash(r#", "lora_dropout": 0.1, "inference_mode": false"#, pair(Q0, 2))
    );
    assert_eq!(plain.len(), 64);
    let mut changed = pair(Q0, 2);
    changed[1].data[0] ^= 1;
    for other in [
        hash(r#", "use_rslora": true"#, pair(Q0, 2)),
        hash("", pair(Q1, 2)),
        hash("", changed),
    ] {
        assert_ne!(plain, other);
    }
}

#[test]
fn ranks_and_alphas_follow_patterns() {
    let tensors = [pair(Q0, 3), pair(Q1, 2), pair(DOWN0, 1)].concat();
    let patterns = r#", "rank_pattern": {"layers.0.self_attn.q_proj": 3, "down_proj": 1, "q_proj": 2},
        "alpha_pattern": {"^model.layers.1.*": 32, "model.layers.0.mlp.down_proj": 0.5}"#;
    let scalings = |extra: &str| {
        let adapter = from_memory(&config(&format!("{patterns}{extra}")), tensors.clone()).unwrap();
        adapter
            .modules
            .iter()
            .map(|module| (module.rank, module.scaling))
            .collect::<Vec<_>>()
    };
    assert_eq!(scalings(""), [(3, 4.0 / 3.0), (1, 0.5), (2, 16.0)]);
    let (root3, root2) = (3f64.sqrt(), 2f64.sqrt());
    let expected = [(3, (4.0 / root3) as f32), (1, 0.5), (2, (32.0 / root2) as f32)];
    assert_eq!(scalings(r#", "use_rslora": true"#), expected);
}

#[test]
fn the_first_pattern_that_matches_decides() {
    let rank = |patterns: &str, rank| from_memory(&config(patterns), pair(Q0, rank)).map(|a| a.max_rank);
    assert_eq!(
        rank(r#", "rank_pattern": {"q_proj": 3, "self_attn.q_proj": 5}"#, 3).unwrap(),
        3
    );
    assert_eq!(
        rank(r#", "rank_pattern": {"self_attn.q_proj": 5, "q_proj": 3}"#, 5).unwrap(),
        5
    );
    assert_eq!(
        rank(r#", "rank_pattern": {"proj": 5, ".*layers.1.*": 3}"#, 2).unwrap(),
        2
    );
}

#[test]
fn targets_in_every_form() {
    let forms = [
        (r#"["q_proj"]"#, ""),
        (r#"["model.layers.0.self_attn.q_proj", "x"]"#, ""),
        (r#"".*\\.(q|k)_proj""#, ""),
        (r#""ALL-Linear""#, r#", "exclude_modules": ["down_proj"]"#),
        (r#"["q_proj", "down_proj"]"#, r#", "exclude_modules": ".*mlp.*""#),
        (r#"["q_proj"]"#, r#", "layers_to_transform": 0"#),
        (
            r#"["q_proj"]"#,
            r#", "layers_to_transform": [1, 0], "layers_pattern": "layers""#,
        ),
        (
            r#"["q_proj"]"#,
            r#", "layers_to_transform": [], "layers_pattern": []"#,
        ),
    ];
    for (targets, extra) in forms {
        from_memory(&config_for(targets, extra), pair(Q0, 2)).unwrap();
        refused(
            from_memory(&config_for(targets, extra), pair(DOWN0, 2)),
            &["does not target", DOWN0],
        );
    }
    refused(
        from_memory(
            &config_for(r#"["q_proj"]"#, r#", "layers_to_transform": [0]"#),
            pair(Q1, 2),
        ),
        &[Q1],
    );
}

#[test]
fn what_is_targeted_and_has_no_tensors() {
    let missing = |targets: &str, extra: &str| {
        from_memory(&config_for(targets, extra), pair(Q0, 2))
            .unwrap()
            .missing
    };
    let q = r#"["q_proj"]"#;
    assert_eq!(missing(q, ""), [Q1]);
    assert_eq!(
        missing(r#"["q_proj", "down_proj", "k_proj", "lm_head"]"#, "").len(),
        3
    );
    assert_eq!(missing(r#""all-linear""#, "")[..2], [DOWN0, Q1]);
    for (targets, extra) in [
        (q, r#", "layers_to_transform": [0]"#),
        (q, r#", "layers_to_transform": 0, "layers_pattern": "layers""#),
        (q, r#", "exclude_modules": ".*layers.1.*""#),
        (q, r#", "exclude_modules": ["layers.1.self_attn.q_proj"]"#),
        (r#"["layers.0.self_attn.q_proj", "k_proj"]"#, ""),
        (
            r#"".*\\.0\\..*q_proj""#,
            r#", "rank_pattern": {"down_proj": 4}, "modules_to_save": []"#,
        ),
    ] {
        assert!(missing(targets, extra).is_empty(), "{targets}{extra}");
    }
    let whole = [pair(Q0, 2), pair(Q1, 2)].concat();
    assert!(from_memory(&config_for(q, ""), whole).unwrap().missing.is_empty());
}

#[test]
fn element_types_stay_and_mixed_pairs_widen() {
    let mut tensors = [pair(Q0, 2), pair(DOWN0, 2), pair(Q1, 2)].concat();
    let values = |count: usize| (0..count).map(|x| x as f32 - 3.0);
    for (index, name) in [
        (0, "BF16"),
        (1, "torch.bfloat16"),
        (2, "float16"),
        (3, "F16"),
        (4, "F16"),
    ] {
        let tensor = &mut tensors[index];
        let count = tensor.shape.iter().product();
        tensor.dtype = name.to_owned();
        tensor.data = match name {
            "BF16" | "torch.bfloat16" => values(count)
                .flat_map(|x| half::bf16::from_f32(x).to_le_bytes())
                .collect(),
            _ => values(count)
                .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
                .collect(),
        };
    }
    let adapter = from_memory(&config(""), tensors).unwrap();
    let dtypes: Vec<DType> = adapter.modules.iter().map(|module| module.dtype).collect();
    assert_eq!(dtypes, [DType::BF16, DType::F16, DType::F32]);
    assert_eq!(adapter.dtypes, [DType::F32, DType::F16, DType::BF16]);
    assert_eq!(*adapter.modules[2].a, f32_bytes(values(12)));
    assert_eq!(adapter.pages(), 2, "the widest of the modules");
}

#[test]
fn keys_of_a_live_model() {
    let mut tensors = pair(Q0, 2);
    for tensor in &mut tensors {
        tensor.name = tensor.name.replace(".weight", ".default.weight");
    }
    assert_eq!(from_memory(&config(""), tensors).unwrap().modules[0].path, Q0);
}

#[test]
fn packed_rows() {
    let adapter = from_memory(&config(""), pair(Q0, 2)).unwrap();
    let module = &adapter.modules[0];
    let (mut a, mut b) = (vec![0; module.a.len()], vec![0; module.b.len()]);
    pack_module(module, &mut a, &mut b);
    assert_eq!(a, *module.a);
    let expected = [0, 2, 4, 6, 1, 3, 5, 7].map(|x| (x as f32 - 3.0) / 8.0);
    assert_eq!(b, f32_bytes(expected));
}
