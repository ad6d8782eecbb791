//! Arbitrary input is answered, never with a panic; arbitrary adapters come back as they were.

mod peft_support;

use peft_support::*;
use proptest::prelude::*;

/// JSON of any shape, often with keys that mean something.
fn json() -> impl Strategy<Value = String> {
    let keys = prop_oneof![
        Just("r"),
        Just("lora_alpha"),
        Just("rank_pattern"),
        Just("alpha_pattern"),
        Just("target_modules"),
        Just("exclude_modules"),
        Just("layers_to_transform"),
        Just("layers_pattern"),
        Just("bias"),
        Just("init_lora_weights"),
        Just("use_rslora"),
        Just("use_dora"),
        Just("q_proj"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|x| x.to_string()),
        any::<i64>().prop_map(|x| x.to_string()),
        (-9i64..9).prop_map(|x| x.to_string()),
        "[a-z_.*+?()\\[\\]|^$-]{0,12}".prop_map(|x| format!("{x:?}")),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((keys.clone(), inner), 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, value)| format!("{key:?}: {value}"))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes(config_json: Vec<u8>, tensors: Vec<u8>) {
        prop_assert!(from_bytes(&config_json, tensors.clone()).is_err());
        prop_assert!(from_bytes(config("").as_bytes(), tensors).is_err());
    }

    #[test]
    fn any_value_of_any_key(key in "r|lora_alpha|rank_pattern|alpha_pattern|target_modules|exclude_modules|\
        layers_to_transform|layers_pattern|bias|init_lora_weights|use_rslora|use_dora|peft_type|other", value in json()) {
        let plain = r#""peft_type": "LORA", "target_modules": ["q_proj"], "r": 2"#;
        let text = format!("{{{plain}, \"{key}\": {value}}}");
        let once = text.replacen(&format!("\"{key}\""), "\"other\"", usize::from(plain.contains(&format!("{key:?}"))));
        for text in [text, once] {
            let _ = from_memory(&text, pair(Q0, 2));
        }
    }

    #[test]
    fn a_valid_file_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = safetensors(&[pair(Q0, 2), pair(DOWN0, 2)].concat());
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(adapter) = from_bytes(config("").as_bytes(), bytes) {
            for module in &adapter.modules {
                prop_assert_eq!(module.a.len(), module.rank * module.in_features * module.dtype.size());
                prop_assert_eq!(module.b.len(), module.rank * module.out_features * module.dtype.size());
            }
        }
    }

    #[test]
    fn adapters_come_back_as_they_were(
        ranks in prop::collection::vec(0usize..5, 4),
        seed in any::<u32>(),
        alpha in 1u32..64,
        rslora: bool,
    ) {
        let mut patterns = Vec::new();
        let mut tensors = Vec::new();
        for (site, &rank) in sites().iter().zip(&ranks).filter(|(_, &rank)| rank > 0) {
            patterns.push(format!("\"{}\": {rank}", site.path));
            let mut halves = pair(&site.path, rank);
            for half in &mut halves {
                let value = |x: usize| ((x as u32).wrapping_mul(2654435761) ^ seed) as f32 / u32::MAX as f32;
                half.data = f32_bytes((0..half.data.len() / 4).map(value));
            }
            tensors.extend(halves);
        }
        let extra = format!(r#", "rank_pattern": {{{}}}, "use_rslora": {rslora}"#, patterns.join(", "));
        let text = config(&extra).replace("\"lora_alpha\": 4", &format!("\"lora_alpha\": {alpha}"));
        let result = from_bytes(text.as_bytes(), safetensors(&tensors));
        if tensors.is_empty() {
            prop_assert!(result.is_err());
            return Ok(());
        }
        let adapter = result.unwrap();
        prop_assert_eq!(adapter.modules.len() * 2, tensors.len());
        for (module, halves) in adapter.modules.iter().zip(tensors.chunks(2)) {
            prop_assert_eq!(module.rank, ranks[module.site]);
            prop_assert_eq!(&*module.a, &halves[0].data[..]);
            prop_assert_eq!(&*module.b, &halves[1].data[..]);
            let rank = module.rank as f64;
            let expected = f64::from(alpha) / if rslora { rank.sqrt() } else { rank };
            prop_assert_eq!(module.scaling, expected as f32);
        }
    }
}
