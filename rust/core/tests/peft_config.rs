//! Configs that are refused, by the name of what is wrong; and options that are off.

mod peft_support;

use meteora_core::Error;
use peft_support::*;

#[track_caller]
fn unsupported(extra: &str, option: &str) {
    let error = from_memory(&config(extra), pair(Q0, 2)).expect_err(extra);
    assert!(matches!(error, Error::AdapterUnsupported { .. }), "{error}");
    refused(Err(error), &[option, "<memory>"]);
}

#[test]
fn options_that_change_the_result() {
    let options = [
        "\"use_dora\": true",
        "\"lora_bias\": true",
        "\"modules_to_save\": [\"lm_head\"]",
        "\"layer_replication\": [[0, 1]]",
        "\"alora_invocation_tokens\": [1]",
        "\"target_parameters\": [\"x\"]",
        "\"trainable_token_indices\": [1]",
        "\"use_qalora\": true",
        "\"use_bdlora\": {\"nblocks\": 2}",
        "\"megatron_config\": {\"a\": 1}",
        "\"velora_config\": {\"scale\": 1.0}",
        "\"kasa_config\": {\"beta\": 1.0}",
        "\"monteclora_config\": {\"a\": 1}",
        "\"arrow_config\": {\"top_k\": 2}",
        "\"fan_in_fan_out\": true",
        "\"init_lora_weights\": \"pissa\"",
        "\"init_lora_weights\": \"pissa_niter_16\"",
        "\"init_lora_weights\": \"olora\"",
        "\"init_lora_weights\": \"corda\"",
        "\"init_lora_weights\": \"lora_ga\"",
        "\"init_lora_weights\": \"loftq\"",
        "\"init_lora_weights\": \"tomorrow\"",
        "\"never_heard_of\": 0.5",
        "\"never_heard_of\": [0]",
    ];
    for option in options {
        let name = option.split('"').nth(1).unwrap();
        unsupported(&format!(", {option}"), &format!("{name}="));
    }
}

#[test]
fn options_that_are_off_or_do_not_matter() {
    let off = r#", "use_dora": false, "modules_to_save": [], "layer_replication": null, "never_heard_of": null,
        "nor_this": {}, "or_this": "", "rank_pattern": {}, "alpha_pattern": null, "use_rslora": null,
        "lora_dropout": 0.1, "revision": "main", "peft_version": "0.99", "qalora_group_size": 16,
        "megatron_core": "megatron.core", "init_lora_weights": "gaussian", "eva_config": {"rho": 2.0},
        "loftq_config": {"loftq_bits": 4}, "auto_mapping": {"x": "y"}, "base_model_name_or_path": "someone/model""#;
    let adapter = from_memory(&config(off), pair(Q0, 2)).unwrap();
    assert_eq!(adapter.base_model.as_deref(), Some("someone/model"));
    for init in ["true", "false", "null", "\"eva\"", "\"orthogonal\"", "\"mica\""] {
        from_memory(&config(&format!(", \"init_lora_weights\": {init}")), pair(Q0, 2)).unwrap();
    }
}

#[test]
fn other_peft_types_and_biases() {
    let lora = config("");
    for (from, to, option) in [
        ("\"LORA\"", "\"IA3\"", "peft_type=\"IA3\""),
        ("\"LORA\"", "\"ADALORA\"", "peft_type=\"ADALORA\""),
        ("\"LORA\"", "7", "peft_type=7"),
        ("\"none\"", "\"all\"", "bias=\"all\""),
        ("\"none\"", "\"lora_only\"", "bias=\"lora_only\""),
    ] {
        refused(
            from_memory(&lora.replace(from, to), pair(Q0, 2)),
            &[option, "not supported"],
        );
    }
    refused(
        from_memory(&lora.replace("\"peft_type\": \"LORA\", ", ""), pair(Q0, 2)),
        &["peft_type"],
    );
}

#[test]
fn values_of_the_wrong_kind() {
    let lora = config("");
    for rank in [
        "0",
        "-1",
        "true",
        "2.0",
        "\"2\"",
        "null",
        "[2]",
        "5000",
        "1e300",
        "99999999999999999999999",
    ] {
        refused(
            from_memory(&lora.replace("\"r\": 2", &format!("\"r\": {rank}")), pair(Q0, 2)),
            &["r must be"],
        );
    }
    for alpha in ["true", "\"4\"", "null", "1e300", "{}"] {
        let text = lora.replace("\"lora_alpha\": 4", &format!("\"lora_alpha\": {alpha}"));
        refused(from_memory(&text, pair(Q0, 2)), &["lora_alpha must be"]);
    }
    for (extra, part) in [
        (r#", "use_rslora": 1"#, "use_rslora must be"),
        (
            r#", "rank_pattern": {"q_proj": true}"#,
            "rank_pattern[\"q_proj\"] must be",
        ),
        (r#", "alpha_pattern": ["q_proj"]"#, "alpha_pattern must be"),
        (r#", "exclude_modules": 3"#, "exclude_modules must be"),
        (r#", "init_lora_weights": 3"#, "init_lora_weights must be"),
        (r#", "layers_to_transform": 0"#, "when target_modules is a string"),
    ] {
        refused(from_memory(&config(extra), pair(Q0, 2)), &[part]);
    }
    for (targets, extra, part) in [
        ("null", "", "target_modules is missing"),
        ("[3]", "", "target_modules must be"),
        ("{}", "", "target_modules must be"),
        (
            r#"["q_proj"]"#,
            r#", "layers_to_transform": [true]"#,
            "layers_to_transform must be",
        ),
        (
            r#"["q_proj"]"#,
            r#", "layers_to_transform": [0, 7]"#,
            "no layer 7",
        ),
        (r#"["q_proj"]"#, r#", "layers_to_transform": -1"#, "no layer -1"),
        (
            r#"["q_proj"]"#,
            r#", "layers_pattern": "layers""#,
            "layers_pattern needs",
        ),
    ] {
        refused(from_memory(&config_for(targets, extra), pair(Q0, 2)), &[part]);
    }
}

#[test]
fn expressions_that_python_reads_otherwise() {
    for pattern in [r"(?=q_proj)q_proj", r"(q)\\1", r"q_proj++", r"\\Z"] {
        let extra = format!(r#", "rank_pattern": {{"{pattern}": 2}}"#);
        unsupported(&extra, "rank_pattern=");
        refused(
            from_memory(&config_for(&format!("\"{pattern}\""), ""), pair(Q0, 2)),
            &["target_modules="],
        );
    }
}

#[test]
fn text_that_is_no_config() {
    let deep = format!(r#"{{"peft_type": {}"#, "[".repeat(200_000));
    let large = config(&format!(r#", "revision": "{}""#, "x".repeat(1 << 20)));
    let twice = config(r#", "r": 3"#);
    let many: Vec<String> = (0..4097).map(|x| format!("\"m{x}\": 2")).collect();
    let many = config(&format!(", \"rank_pattern\": {{{}}}", many.join(", ")));
    let costly: Vec<String> = (0..300).map(|x| format!("\"(m|{x})\": 2")).collect();
    let costly = config(&format!(", \"rank_pattern\": {{{}}}", costly.join(", ")));
    for (text, part) in [
        ("", "invalid JSON"),
        ("[]", "not a JSON object"),
        ("{", "invalid JSON"),
        (r#"{"peft_type": "LORA", "lora_alpha": NaN}"#, "invalid JSON"),
        ("{}", "no peft_type"),
        (&deep, "nested deeper than the limit of 32 levels"),
        (&large, "larger than the limit"),
        (&twice, "duplicate key \\\"r\\\""),
        (&many, "4097 entries"),
        (&costly, "more than 256 expressions"),
    ] {
        refused(from_memory(text, pair(Q0, 2)), &[part]);
    }
    refused(
        from_bytes(b"{\"peft_type\": \"\xff\"}", safetensors(&pair(Q0, 2))),
        &["invalid JSON"],
    );
}
