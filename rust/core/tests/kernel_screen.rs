//! The screen: int8 gate rows that rule candidates out, and never the wrong ones.

mod kernel;

use kernel::oracle::{run, run_on, run_screened};
use kernel::{check, Activations, Adapter, Case, Random};
use meteora_core::kernel::{Serial, Site};
use meteora_core::DType::{BF16, F16, F32};

fn case(width: usize, slots: usize, tokens: usize, k: usize) -> Case {
    Case::new((width, 8), &vec![Adapter::new(1, BF16); slots], F32, tokens, k)
}

#[test]
fn widths_and_numbers() {
    for width in [1, 15, 16, 31, 32, 33, 133, 576, 2048, 2049, 4100] {
        for (slots, k) in [(15, 1), (16, 1), (17, 4), (64, 2), (130, 8), (40, 30)] {
            check(&case(width, slots, 1, k));
        }
    }
    for dtype in [F16, BF16] {
        check(&Case::new((133, 8), &vec![Adapter::new(3, F16); 40], dtype, 4, 2));
    }
}

/// Rows so close to one another that int8 can't tell them apart, ties among them.
#[test]
fn close_rows_and_ties() {
    let mut random = Random(5);
    for step in [0.0, 1e-7, 1e-5, 1e-3] {
        let mut case = case(133, 48, 3, 2);
        let first = case.gate[..133].to_vec();
        for row in case.gate.chunks_mut(133) {
            for (value, first) in row.iter_mut().zip(&first) {
                *value = first * (1.0 + step * random.float());
            }
        }
        case.gate_bias.fill(0.5);
        check(&case);
    }
}

/// A few huge inputs or elements, as in real activations, and sizes where f32 or the bounds end.
#[test]
fn outliers_and_extremes() {
    for (gate, x) in [
        (1.0, 1e-38),
        (1e-38, 1.0),
        (1e-44, 1e-44),
        (1e30, 1e25),
        (3e38, 3e38),
        (1e20, 1e-20),
    ] {
        let mut case = case(133, 33, 2, 2);
        case.gate.iter_mut().for_each(|value| *value *= gate);
        scale(&mut case, |_, value| value * x);
        assert_same(&case);
    }
    let mut case = case(576, 33, 4, 2);
    scale(
        &mut case,
        |i, value| if i % 97 == 3 { value * 3e3 } else { value },
    );
    case.gate.iter_mut().step_by(41).for_each(|value| *value *= 50.0);
    check(&case);
}

#[test]
fn not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut in_row = case(133, 33, 3, 2);
        in_row.gate[133 * 7 + 5] = bad;
        assert_same(&in_row);
        let mut in_bias = case(133, 33, 3, 2);
        in_bias.gate_bias[9] = bad;
        assert_same(&in_bias);
        let mut in_x = case(133, 33, 3, 2);
        scale(&mut in_x, |i, value| if i == 133 + 4 { bad } else { value });
        assert_same(&in_x);
    }
    let mut zero = case(133, 33, 3, 2);
    scale(&mut zero, |_, _| 0.0);
    assert_same(&zero);
}

#[test]
fn sign_free_rows() {
    let mut adapters = vec![Adapter::new(1, BF16); 40];
    adapters
        .iter_mut()
        .step_by(2)
        .for_each(|adapter| adapter.sign_free = true);
    check(&Case::new((133, 8), &adapters, F32, 4, 3));
}

/// What the screen is for: rows that are far from winning are not even read.
#[test]
fn losers_are_not_read() {
    let mut case = case(576, 64, 1, 2);
    let (screen, (want, _)) = (case.screen(), run(&case, &Serial));
    let x = Activations::of(F32, &case.x);
    let Activations::F32(x) = x else { unreachable!() };
    let logits: Vec<f32> = (0..64)
        .map(|s| {
            case.gate[s * 576..][..576]
                .iter()
                .zip(&x)
                .map(|(g, x)| g * x)
                .sum::<f32>()
                + case.gate_bias[s]
        })
        .collect();
    let mut sorted = logits.clone();
    sorted.sort_by(f32::total_cmp);
    for slot in (0..64).filter(|&slot| logits[slot] < sorted[40]) {
        case.gate[slot * 576..][..576].fill(f32::MAX);
    }
    let (got, _) = run_on(
        &case,
        &Site {
            screen: Some(&screen),
            ..case.site()
        },
        &Serial,
    );
    assert_eq!(want.slots, got.slots);
}

/// Bit for bit the choice without a screen, where the oracle's tolerance has no meaning.
fn assert_same(case: &Case) {
    let (plain, screened) = (run(case, &Serial), run_screened(case, &Serial));
    assert_eq!(plain.0.slots, screened.0.slots);
    assert_eq!(
        plain.0.weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>(),
        screened.0.weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>()
    );
    assert!(plain.1 == screened.1);
}

fn scale(case: &mut Case, new: impl Fn(usize, f32) -> f32) {
    for (i, bytes) in case.x.chunks_exact_mut(4).enumerate() {
        let value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.copy_from_slice(&new(i, value).to_le_bytes());
    }
}
