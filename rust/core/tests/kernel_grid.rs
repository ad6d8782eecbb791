//! The kernels against the oracle over a grid of dtypes, ranks, widths, k and numbers of adapters.

mod kernel;

use kernel::{check, Adapter, Case};
use meteora_core::DType::{self, BF16, F16, F32};

const DTYPES: [DType; 3] = [F32, F16, BF16];

fn adapters(count: usize, ranks: &[usize], dtypes: &[DType]) -> Vec<Adapter> {
    (0..count)
        .map(|i| Adapter::new(ranks[i % ranks.len()], dtypes[i % dtypes.len()]))
        .collect()
}

#[test]
fn activations_times_weights() {
    for activations in DTYPES {
        for weights in DTYPES {
            check(&Case::new(
                (133, 133),
                &adapters(5, &[4], &[weights]),
                activations,
                9,
                2,
            ));
        }
    }
}

#[test]
fn unequal_ranks_and_dtypes_side_by_side() {
    for activations in DTYPES {
        let adapters = adapters(12, &[1, 2, 3, 8, 5, 64, 7, 16, 9, 32], &DTYPES);
        check(&Case::new((133, 72), &adapters, activations, 23, 3));
    }
}

#[test]
fn widths() {
    for (in_features, out_features) in [
        (1, 1),
        (7, 9),
        (8, 8),
        (133, 576),
        (576, 133),
        (576, 1536),
        (1536, 576),
    ] {
        let adapters = adapters(6, &[8, 3], &[BF16, F32]);
        check(&Case::new((in_features, out_features), &adapters, F32, 6, 2));
    }
    check(&Case::new((4096, 4096), &adapters(3, &[8], &[BF16]), BF16, 2, 2));
}

#[test]
fn every_k_by_every_n() {
    for n in [1, 2, 3, 8, 28, 33, 64] {
        for k in [1, 2, 3, 5, 8] {
            check(&Case::new((40, 24), &adapters(n, &[2], &[F16]), F32, 5, k));
        }
    }
}

#[test]
fn every_number_of_tokens() {
    for tokens in (0..20).chain([63, 64, 65, 130, 200]) {
        check(&Case::new(
            (48, 200),
            &adapters(7, &[4, 1], &[BF16]),
            F32,
            tokens,
            2,
        ));
    }
}

#[test]
fn enough_work_for_threads() {
    for activations in DTYPES {
        check(&Case::new(
            (576, 400),
            &adapters(9, &[8], &[BF16]),
            activations,
            131,
            2,
        ));
    }
}
