//! The arrow row against the top right singular vector of the dense product, found by another way.

mod peft_support;

use meteora_core::kernel::{arrow_row, force_portable};
use meteora_core::peft::{parse, Adapter, Limits, MemoryTensor, SiteShape, Source};
use peft_support::{config, f32_bytes, key};

/// An adapter of one module with these matrices.
fn adapter(a: &[f32], b: &[f32], rank: usize) -> Adapter {
    let (in_features, out_features) = (a.len() / rank, b.len() / rank);
    let site = SiteShape {
        path: "m".to_owned(),
        in_features,
        out_features,
        layer: None,
    };
    let half = |letter, values: &[f32], shape: [usize; 2]| MemoryTensor {
        name: key("m", letter),
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data: f32_bytes(values.iter().copied()),
    };
    let tensors = vec![
        half("A", a, [rank, in_features]),
        half("B", b, [out_features, rank]),
    ];
    let text = config("").replace("\"r\": 2", &format!("\"r\": {rank}"));
    let source = Source::Memory {
        config_json: &text,
        tensors,
    };
    parse("tiny", source, &[site], &Limits::default()).expect("an adapter")
}

fn row(a: &[f32], b: &[f32], rank: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; a.len() / rank];
    arrow_row(&adapter(a, b, rank).modules[0], &mut out);
    out
}

/// `|B A v|` in f64.
fn gain(a: &[f32], b: &[f32], rank: usize, v: &[f64]) -> f64 {
    let dot = |row: &[f32], v: &[f64]| row.iter().zip(v).map(|(&x, y)| f64::from(x) * y).sum::<f64>();
    let inner: Vec<f64> = a.chunks(v.len()).map(|row| dot(row, v)).collect();
    b.chunks(rank)
        .map(|row| dot(row, &inner).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The largest gain, by power iteration on the dense product.
fn largest_gain(a: &[f32], b: &[f32], rank: usize) -> f64 {
    let width = a.len() / rank;
    let at = |row: &[f32], i: usize| {
        (0..rank)
            .map(|k| f64::from(row[k]) * f64::from(a[k * width + i]))
            .sum::<f64>()
    };
    let dense: Vec<f64> = b
        .chunks(rank)
        .flat_map(|row| (0..width).map(move |i| at(row, i)))
        .collect();
    let mut v: Vec<f64> = (0..width).map(|i| 1.0 + (i as f64 * 0.7).sin()).collect();
    for _ in 0..3000 {
        let mut next = vec![0f64; width];
        for row in dense.chunks(width) {
            let y: f64 = row.iter().zip(&v).map(|(x, v)| x * v).sum();
            next.iter_mut().zip(row).for_each(|(next, x)| *next += x * y);
        }
        let norm = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = next.iter().map(|x| x / norm).collect();
    }
    gain(a, b, rank, &v)
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e3779b97f4a7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 40) as f32) / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

#[track_caller]
fn assert_top(a: &[f32], b: &[f32], rank: usize) {
    let row: Vec<f64> = row(a, b, rank).into_iter().map(f64::from).collect();
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() < 1e-6, "norm {norm}");
    let peak = row
        .iter()
        .fold(0f64, |peak, &x| if x.abs() > peak.abs() { x } else { peak });
    assert!(peak > 0.0, "the largest component is positive");
    let (found, most) = (gain(a, b, rank, &row), largest_gain(a, b, rank));
    assert!((found / most - 1.0).abs() < 1e-6, "gain {found}, largest {most}");
}

/// Sizes around those of vectors and of the pieces that sums are taken over; the one test that changes the
/// instruction set, which others beside it don't see in what they assert.
#[test]
fn random_products_of_every_size_on_both_instruction_sets() {
    let sizes = [
        (1, 5, 3),
        (2, 7, 9),
        (3, 13, 4),
        (4, 4, 4),
        (8, 33, 21),
        (16, 20, 18),
        (17, 70, 65),
        (16, 133, 200),
    ];
    for portable in [true, false] {
        force_portable(portable);
        for (seed, (rank, width, out)) in sizes.into_iter().enumerate() {
            let a = noise(rank * width, seed as u64 + 1);
            let b = noise(out * rank, seed as u64 + 77);
            assert_top(&a, &b, rank);
            let negative: Vec<f32> = a.iter().map(|x| -x).collect();
            assert_eq!(
                row(&a, &b, rank),
                row(&negative, &b, rank),
                "the sign does not matter"
            );
        }
    }
}

#[test]
fn a_rank_above_the_widths() {
    assert_top(&noise(9 * 3, 5), &noise(2 * 9, 6), 9);
}

#[test]
fn columns_of_b_that_depend_on_each_other_or_are_zero() {
    let a = noise(3 * 6, 7);
    let b: Vec<f32> = noise(5, 8).iter().flat_map(|&x| [x, 2.0 * x, 0.0]).collect();
    assert_top(&a, &b, 3);
}

#[test]
fn a_small_column_of_b_under_a_large_row_of_a() {
    let a = [[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 1e9, 0.0]].concat();
    let b = [[1.0, 0.0], [0.0, 1e-9]].concat();
    assert_eq!(row(&a, &b, 2), [0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn extreme_sizes() {
    for scale in [1e-38f32, 1e-30, 1e30, 3e38] {
        let a: Vec<f32> = noise(2 * 5, 9).iter().map(|x| x * scale).collect();
        let b: Vec<f32> = noise(4 * 2, 10).iter().map(|x| x * scale).collect();
        assert_top(&a, &b, 2);
    }
}

#[test]
fn equal_singular_values_give_one_of_their_vectors() {
    let identity = [1.0, 0.0, 0.0, 1.0];
    assert_eq!(row(&identity, &identity, 2), [1.0, 0.0]);
}

#[test]
fn a_zero_product_is_a_zero_row() {
    assert_eq!(row(&noise(2 * 5, 1), &[0.0; 6], 2), [0.0; 5]);
    assert_eq!(row(&[0.0; 10], &noise(6, 1), 2), [0.0; 5]);
    assert_eq!(
        row(&[1.0, 0.0, 0.0, 0.0], &[0.0, 1.0], 2),
        [0.0; 2],
        "neither is zero, the product is"
    );
}
