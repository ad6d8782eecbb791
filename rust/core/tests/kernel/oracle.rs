//! The op in float64, as plainly as can be, and the one helper that holds the kernels to it.

use super::activations::Activations;
use super::site::{read, Case};
use meteora_core::kernel::{apply, gated_lora, select, Parallel, Scoped, Selection, Serial, Site};
use meteora_core::layout::{PAGE_BYTES_PER_COLUMN, ROUTE_FIXED};
use meteora_core::DType;

/// The op in one call.
pub fn run(case: &Case, pool: &dyn Parallel) -> (Selection, Vec<u8>) {
    run_on(case, &case.site(), pool)
}

/// The same with the gate's screen.
pub fn run_screened(case: &Case, pool: &dyn Parallel) -> (Selection, Vec<u8>) {
    let screen = case.screen();
    let site = Site {
        screen: Some(&screen),
        ..case.site()
    };
    run_on(case, &site, pool)
}

/// The op on a site of the caller's.
pub fn run_on(case: &Case, site: &Site, pool: &dyn Parallel) -> (Selection, Vec<u8>) {
    let x = Activations::of(case.dtype, &case.x);
    let mut y = Activations::of(case.dtype, &case.base);
    let mut selection = Selection::default();
    gated_lora(
        site,
        &case.routes(),
        x.floats(),
        y.floats_mut(),
        &case.options,
        pool,
        &mut selection,
    );
    (selection, y.bytes())
}

/// The op in two calls.
pub fn run_apart(case: &Case, pool: &dyn Parallel) -> (Selection, Vec<u8>) {
    let x = Activations::of(case.dtype, &case.x);
    let mut y = Activations::of(case.dtype, &case.base);
    let mut selection = Selection::default();
    select(
        &case.site(),
        &case.routes(),
        x.floats(),
        &case.options,
        pool,
        &mut selection,
    );
    apply(&case.site(), &selection, x.floats(), y.floats_mut(), pool);
    (selection, y.bytes())
}

/// The places of one token that hold a slot.
pub fn chosen(selection: &Selection, token: usize) -> Vec<(usize, f32)> {
    let range = token * selection.stride..(token + 1) * selection.stride;
    let pairs = selection.slots[range.clone()]
        .iter()
        .zip(&selection.weights[range]);
    pairs
        .take_while(|(&slot, _)| slot >= 0)
        .map(|(&slot, &weight)| (slot as usize, weight))
        .collect()
}

/// Runs the case on every path, holds the results to the oracle and to one another bit for bit, and returns them.
pub fn check(case: &Case) -> (Selection, Vec<u8>) {
    let (selection, y) = run(case, &Serial);
    check_values(case, &selection, &y);
    let same = |what: &str, other: (Selection, Vec<u8>)| {
        assert_eq!(selection.slots, other.0.slots, "{what}: slots");
        assert_eq!(bits(&selection), bits(&other.0), "{what}: weights");
        assert!(y == other.1, "{what}: outputs");
    };
    same("screened", run_screened(case, &Serial));
    same("two calls", run_apart(case, &Serial));
    same("two threads", run(case, &Scoped(2)));
    same("three threads, two calls", run_apart(case, &Scoped(3)));
    let count = case.tokens();
    let row = case.out_features * case.dtype.size();
    let alone = |tokens: &[usize]| {
        let case = case.tokens_alone(tokens);
        let (_, part) = run(&case, &Serial);
        assert!(
            part == run_screened(&case, &Serial).1,
            "screened: tokens {tokens:?}"
        );
        for (i, &token) in tokens.iter().enumerate() {
            assert!(
                part[i * row..][..row] == y[token * row..][..row],
                "token {token} of {tokens:?}"
            );
        }
    };
    for token in (0..count).step_by(1 + count / 8) {
        alone(&[token]);
    }
    alone(&(0..count).rev().collect::<Vec<_>>());
    alone(&(0..count).filter(|t| t % 3 != 1).collect::<Vec<_>>());
    (selection, y)
}

fn bits(selection: &Selection) -> Vec<u32> {
    selection.weights.iter().map(|weight| weight.to_bits()).collect()
}

/// Holds selection and outputs to the formula in float64.
pub fn check_values(case: &Case, selection: &Selection, y: &[u8]) {
    for token in 0..case.tokens() {
        let pairs = chosen(selection, token);
        assert!(pairs.windows(2).all(|w| w[0].0 < w[1].0), "slots ascend");
        check_choice(case, token, &pairs);
        let row = token * case.out_features;
        if pairs
            .iter()
            .all(|&(slot, weight)| weight == 0.0 || case.adapters[slot].rank == 0)
        {
            let range = row * case.dtype.size()..(row + case.out_features) * case.dtype.size();
            assert!(
                y[range.clone()] == case.base[range],
                "token {token}: the base, bit for bit"
            );
            continue;
        }
        let terms = terms(case, token, &pairs);
        for column in 0..case.out_features {
            let base = read(case.dtype, &case.base, row + column);
            let (mut want, mut size) = (base, base.abs());
            for (b, c) in &terms {
                let term = c * b[column];
                (want, size) = (want + term, size + term.abs());
            }
            let got = read(case.dtype, y, row + column);
            let unit = match case.dtype {
                DType::F32 => 2f64.powi(-24),
                DType::F16 => 2f64.powi(-11),
                DType::BF16 => 2f64.powi(-8),
            };
            let allowed = want.abs() * unit * 1.01 + size * 4e-6 + 2f64.powi(-25);
            assert!(
                (got - want).abs() <= allowed,
                "token {token} column {column}: {got} not {want}"
            );
        }
    }
}

/// The dot product of an input row and `row`, and the sum of its terms' sizes.
fn dot(case: &Case, token: usize, row: impl Fn(usize) -> f64) -> (f64, f64) {
    (0..case.in_features).fold((0.0, 0.0), |(sum, size), i| {
        let term = read(case.dtype, &case.x, token * case.in_features + i) * row(i);
        (sum + term, size + term.abs())
    })
}

/// Whether `pairs` is what the token's record asks for; near ties may go either way here.
fn check_choice(case: &Case, token: usize, pairs: &[(usize, f32)]) {
    let record = case.record(token);
    if record[0] == ROUTE_FIXED {
        let want: Vec<(usize, u32)> = record[2..][..2 * record[1] as usize]
            .chunks(2)
            .map(|p| (p[0] as usize, p[1] as u32))
            .collect();
        let got: Vec<(usize, u32)> = pairs.iter().map(|p| (p.0, p.1.to_bits())).collect();
        assert_eq!(got, want, "token {token}: fixed route");
        return;
    }
    let mut logits = Vec::new();
    for slot in (0..case.slots()).filter(|s| record[2 + s / 32] >> (s % 32) & 1 == 1) {
        let (product, size) = dot(case, token, |i| f64::from(case.gate[slot * case.in_features + i]));
        let product = if case.adapters[slot].sign_free {
            product.abs()
        } else {
            product
        };
        let logit = product + f64::from(case.gate_bias[slot]);
        if !logit.is_nan() && logit != f64::NEG_INFINITY {
            let logit = logit.min(f64::from(f32::MAX));
            logits.push((slot, logit, 1e-6 * size.min(1e30) + 1e-7 * logit.abs()));
        }
    }
    assert_eq!(
        pairs.len(),
        case.options.top_k.min(logits.len()),
        "token {token}: count"
    );
    let is_chosen = |slot: usize| pairs.iter().any(|pair| pair.0 == slot);
    let (inside, outside): (Vec<_>, Vec<_>) = logits.into_iter().partition(|l| is_chosen(l.0));
    assert_eq!(
        inside.len(),
        pairs.len(),
        "token {token}: {pairs:?} has a slot that is no candidate"
    );
    for i in &inside {
        assert!(
            outside.iter().all(|o| i.1 + i.2 + o.2 >= o.1),
            "token {token}: {pairs:?} is not the top"
        );
    }
    let temperature = f64::from(case.options.temperature);
    let largest = inside.iter().fold(f64::NEG_INFINITY, |m, l| m.max(l.1));
    let exponentials: Vec<f64> = inside
        .iter()
        .map(|l| ((l.1 - largest) / temperature).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    let error = inside.iter().fold(0.0, |m: f64, l| m.max(l.2)) / temperature;
    for (pair, e) in pairs.iter().zip(exponentials) {
        let want = e / sum;
        assert!(
            (f64::from(pair.1) - want).abs() <= want * (2.0 * error + 1e-6) + 1e-30,
            "{pair:?}: {want}"
        );
    }
    if case.options.top_k == 1 {
        assert!(pairs.iter().all(|pair| pair.1 == 1.0), "k = 1 gives exactly 1");
    }
}

/// Each rank row of `B`, and its coefficient, of a token's pairs.
fn terms(case: &Case, token: usize, pairs: &[(usize, f32)]) -> Vec<(Vec<f64>, f64)> {
    let mut terms = Vec::new();
    for &(slot, weight) in pairs.iter().filter(|pair| pair.1 != 0.0) {
        let adapter = case.adapters[slot];
        let page = case.table[slot].page_start as usize * PAGE_BYTES_PER_COLUMN;
        for r in 0..adapter.rank {
            let row = |pool: &[u8], width: usize| -> Vec<f64> {
                let bytes = &pool[page * width + r * width * adapter.dtype.size()..];
                (0..width).map(|i| read(adapter.dtype, bytes, i)).collect()
            };
            let a = row(&case.lora_a, case.in_features);
            let c = f64::from(weight) * f64::from(adapter.scaling) * dot(case, token, |i| a[i]).0;
            terms.push((row(&case.lora_b, case.out_features), c));
        }
    }
    terms
}
