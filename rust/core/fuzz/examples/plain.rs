//! The same targets without cargo-fuzz: seeds and what they turn into by drawn mutations. `plain RUNS SEED`.
//!
//! What is accepted becomes a seed itself, so that mutations add up. The input of a panic is printed in hex.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Instant;

use meteora_core_fuzz::{arrow, config, safetensors};

/// Seeds that are kept; later ones replace random earlier ones.
const KEPT: usize = 512;
const LONGEST: usize = 4096;
const WORDS: [&[u8]; 28] = [
    b"\"r\"", b"\"lora_alpha\"", b"\"rank_pattern\"", b"\"alpha_pattern\"", b"\"target_modules\"", b"\"peft_type\"",
    b"\"LORA\"", b"\"use_rslora\"", b"\"layers_to_transform\"", b"\"layers_pattern\"", b"\"exclude_modules\"", b"null",
    b"true", b"{}", b"[[", b"\"dtype\"", b"\"F32\"", b"\"BF16\"", b"\"shape\"", b"\"data_offsets\"", b"1e308", b"-1",
    b"18446744073709551615", b"9223372036854775808", b"base_model.model.q.lora_A.weight", b"(a|b)*", b"\\u0000",
    b"\xff\xff\xff\x7f",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        let to = (at + 1 + random.below(16)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at.min(to)..to)),
            3 => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            4 => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at.min(to)..to, word.iter().copied());
            }
            5 => {
                let again = input[at.min(to)..to].to_vec();
                input.splice(at..at, again);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LONGEST);
    input
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|x| x as u8));
    bytes
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "config" => [
            r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"}"#,
            r#"{"peft_type": "LORA", "r": 8, "target_modules": "all-linear", "rank_pattern": {"q_proj": 1},
                "alpha_pattern": {"^model\\..*q_proj$": 4.5}, "use_rslora": true, "task_type": "CAUSAL_LM"}"#,
            r#"{"peft_type": "LORA", "r": 1, "target_modules": ".*q_(proj|x)", "exclude_modules": ["k_proj"]}"#,
            r#"{"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "layers_to_transform": [0],
                "layers_pattern": ["layers"], "init_lora_weights": true, "loftq_config": {}}"#,
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "safetensors" => {
            let entry = |key: &str, shape: [usize; 2], from: usize| {
                let to = from + 4 * shape[0] * shape[1];
                format!(r#""base_model.model.{key}.weight":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
            };
            let pair = format!("{},{}", entry("q.lora_A", [1, 3], 0), entry("q.lora_B", [2, 1], 12));
            let more = format!("{},{}", entry("m.v.lora_A", [1, 1], 20), entry("m.v.lora_B", [1, 1], 24));
            vec![
                file(&format!("{{{pair}}}"), 20),
                file(&format!(r#"{{"__metadata__":{{"format":"pt"}},{pair},{more}}}"#), 28),
            ]
        }
        _ => (2..20)
            .map(|width: usize| (0..12 * width).map(|x| (x * 37 % 61) as u8).collect())
            .collect(),
    }
}

/// Runs one target; how many inputs were accepted.
fn run(target: &str, runs: usize, seed: u64) -> usize {
    let mut random = Random(2 * seed + 1);
    let mut kept = seeds(target);
    let mut accepted = 0;
    for number in 0..runs {
        let input = match kept.get(number) {
            Some(seed) if number < 20 => seed.clone(),
            _ => mutate(&mut random, &kept),
        };
        let answer = catch_unwind(AssertUnwindSafe(|| match target {
            "config" => std::str::from_utf8(&input).is_ok_and(config),
            "safetensors" => safetensors(&input),
            _ => arrow(&input),
        }));
        let Ok(good) = answer else {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{target}: run {number} of seed {seed}: {hex}");
            std::process::exit(1);
        };
        if good {
            accepted += 1;
            match kept.len() < KEPT {
                true => kept.push(input),
                false => {
                    let place = random.below(KEPT);
                    kept[place] = input;
                }
            }
        }
    }
    accepted
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |or: u64| arguments.next().map_or(or, |text| text.parse().expect("a number"));
    let (runs, seed) = (number(1_000_000) as usize, number(1));
    for target in ["config", "safetensors", "arrow"] {
        let start = Instant::now();
        let accepted = run(target, runs, seed);
        let seconds = start.elapsed().as_secs_f64();
        println!("{target}: {runs} runs from seed {seed} in {seconds:.0} s, {accepted} accepted, no panic");
    }
}
