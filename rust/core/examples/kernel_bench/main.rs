//! Times the CPU kernels: `cargo run --release -p meteora-core --example kernel_bench [filter]`.
//!
//! Warm: one site again and again. Cold: so many sites in turn that no cache holds them. The share of peak takes
//! 16 multiply-adds a cycle and core at 3.4 GHz.

mod buffers;
mod pool;

use buffers::{noise, Buffers, RANK};
use meteora_core::kernel::{
    apply, gated_lora, isa, select, Floats, FloatsMut, Options, Parallel, Routes, Selection, Serial,
};
use meteora_core::layout::{route_width, ROUTE_AUTO};
use meteora_core::DType;
use pool::Pair;
use std::time::Instant;

const OPTIONS: Options = Options {
    top_k: 2,
    temperature: 1.0,
};
const PEAK: f64 = 16.0 * 3.4;
/// Bytes of gate rows in a cold run; the last level of cache has 32 MiB.
const COLD_BYTES: usize = 48 << 20;

#[derive(Clone, Copy)]
struct Setup {
    slots: usize,
    widths: (usize, usize),
    dtype: DType,
    tokens: usize,
    threads: usize,
    cold: bool,
}

fn time(setup: Setup) {
    let Setup {
        slots,
        widths,
        dtype,
        tokens,
        threads,
        cold,
    } = setup;
    let sites = if cold {
        COLD_BYTES / (slots * widths.0 * 4)
    } else {
        1
    };
    let buffers: Vec<Buffers> = (0..sites)
        .map(|i| Buffers::new(slots, widths, dtype, i as u64 + 1))
        .collect();
    let mut record = vec![0; route_width(slots)];
    (record[0], record[1]) = (ROUTE_AUTO, slots as i32);
    (0..slots).for_each(|s| record[2 + s / 32] |= 1 << (s % 32));
    let routes = Routes {
        row_route: &[0],
        records: &record,
        width: record.len(),
    };
    let mut state = 7;
    let inputs: Vec<Vec<f32>> = (0..7)
        .map(|_| (0..tokens * widths.0).map(|_| noise(&mut state)).collect())
        .collect();
    let mut y = vec![0.0; tokens * widths.1];
    let mut selection = Selection::default();
    let pool: Box<dyn Parallel> = if threads == 2 {
        Box::new(Pair::new())
    } else {
        Box::new(Serial)
    };
    // Gates alone, products alone, both in one call.
    let mut spent = [Vec::new(), Vec::new(), Vec::new()];
    let began = Instant::now();
    let mut i = 0;
    while i < 3 * sites.max(20) || began.elapsed().as_millis() < 600 {
        let site = buffers[i % sites].site(slots, widths);
        let x = Floats::F32(&inputs[i % inputs.len()]);
        let start = Instant::now();
        if i / sites % 2 == 0 {
            let y = FloatsMut::F32(&mut y);
            gated_lora(&site, &routes, x, y, &OPTIONS, pool.as_ref(), &mut selection);
            spent[2].push(start.elapsed().as_nanos() as u64);
        } else {
            select(&site, &routes, x, &OPTIONS, pool.as_ref(), &mut selection);
            let middle = Instant::now();
            spent[0].push((middle - start).as_nanos() as u64);
            apply(&site, &selection, x, FloatsMut::F32(&mut y), pool.as_ref());
            spent[1].push(middle.elapsed().as_nanos() as u64);
        }
        i += 1;
    }
    for times in &mut spent {
        times.drain(..3);
        times.sort_unstable();
    }
    let [gates, products, both] = &spent;
    let at = |times: &[u64], tenths: usize| times[times.len() * tenths / 10];
    let work = tokens * (slots * widths.0 + OPTIONS.top_k * RANK * (widths.0 + widths.1));
    println!(
        "N {slots:3}  {:4}→{:<4} {:8} tokens {tokens:4}  threads {threads}  {}  both: min {:7}  p10 {:7}  median {:7} ns, {:2.0}% of peak (min)  select {:7}  apply {:7} (min)",
        widths.0,
        widths.1,
        dtype.name(),
        if cold { "cold" } else { "warm" },
        both[0],
        at(both, 1),
        at(both, 5),
        work as f64 / both[0] as f64 / PEAK / threads as f64 * 100.0,
        gates[0],
        products[0],
    );
}

/// Time to read memory that no cache holds, to compare the cold rows with.
fn stream() {
    let values = vec![1u64; COLD_BYTES / 8 * 4];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let sum = std::hint::black_box(&values)
            .iter()
            .fold(0u64, |sum, v| sum.wrapping_add(*v));
        std::hint::black_box(sum);
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!(
        "stream: {:.1} GB/s on one thread",
        values.len() as f64 * 8e-9 / best
    );
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!("isa {}", isa());
    stream();
    let run = |group: &str, setup: Setup| {
        if group.contains(&filter) {
            time(setup);
        }
    };
    let one = Setup {
        slots: 28,
        widths: (576, 576),
        dtype: DType::BF16,
        tokens: 1,
        threads: 1,
        cold: false,
    };
    for slots in [8, 28, 64, 256] {
        run("decode", Setup { slots, ..one });
        run(
            "decode cold",
            Setup {
                slots,
                cold: true,
                ..one
            },
        );
    }
    run(
        "decode cold",
        Setup {
            widths: (576, 1536),
            cold: true,
            ..one
        },
    );
    run(
        "decode cold",
        Setup {
            widths: (1536, 576),
            cold: true,
            ..one
        },
    );
    for (tokens, threads) in [(2, 1), (4, 1), (16, 1), (4, 2), (16, 2)] {
        run(
            "batch",
            Setup {
                tokens,
                threads,
                ..one
            },
        );
    }
    for (tokens, threads) in [(128, 1), (1024, 1), (128, 2), (1024, 2)] {
        for widths in [(576, 576), (576, 1536), (1536, 576)] {
            run(
                "prefill",
                Setup {
                    widths,
                    tokens,
                    threads,
                    ..one
                },
            );
        }
    }
    let prefill = Setup {
        widths: (576, 1536),
        tokens: 128,
        ..one
    };
    run(
        "prefill",
        Setup {
            dtype: DType::F32,
            ..prefill
        },
    );
    run(
        "prefill",
        Setup {
            dtype: DType::F16,
            ..prefill
        },
    );
    run(
        "prefill cold",
        Setup {
            cold: true,
            threads: 2,
            ..prefill
        },
    );
}
