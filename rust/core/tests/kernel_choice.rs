//! What the gates choose: ties, masks, not-a-numbers, infinities, sign-free slots, fixed routes, mixed rows.

mod kernel;

use kernel::oracle::{chosen, run};
use kernel::site::element;
use kernel::{auto, check, fixed, Adapter, Case, Random};
use meteora_core::kernel::Serial;
use meteora_core::layout::PAGE_BYTES_PER_COLUMN;
use meteora_core::DType::{BF16, F16, F32};

const WIDTHS: (usize, usize) = (133, 70);

fn adapters(count: usize) -> Vec<Adapter> {
    (0..count)
        .map(|i| Adapter::new(1 + i % 9, [BF16, F32, F16][i % 3]))
        .collect()
}

fn slots(case: &Case, token: usize) -> Vec<usize> {
    chosen(&run(case, &Serial).0, token)
        .iter()
        .map(|pair| pair.0)
        .collect()
}

#[test]
fn ties_go_to_the_lowest_slot() {
    for k in 1..6 {
        let mut case = Case::new(WIDTHS, &adapters(11), F32, 3, k);
        case.gate.fill(0.0);
        case.gate_bias.fill(0.25);
        case.gate_bias[9] = 0.5;
        check(&case);
        let want: Vec<usize> = (0..k - 1).chain([9]).collect();
        assert_eq!(slots(&case, 0), want);
    }
}

#[test]
fn only_candidates_are_chosen() {
    let case = Case::new(WIDTHS, &adapters(40), F32, 12, 3);
    let records = [
        auto(40, [5, 33, 39]),
        auto(40, [1]),
        auto(40, []),
        auto(40, 0..40),
    ];
    let (selection, _) = check(&case.routed(&records, &[0, 1, 2, 3]));
    for token in 0..3 {
        assert_eq!(
            chosen(&selection, token).iter().map(|p| p.0).collect::<Vec<_>>(),
            [5, 33, 39]
        );
        assert_eq!(chosen(&selection, token + 3), [(1, 1.0)]);
        assert_eq!(chosen(&selection, token + 6), []);
    }
}

#[test]
fn everything_masked_leaves_the_base() {
    let case = Case::new(WIDTHS, &adapters(4), BF16, 7, 2);
    let case = case.routed(&[auto(4, []), fixed(4, &[])], &[0, 1, 0]);
    assert_eq!(check(&case).1, case.base);
}

#[test]
fn slots_that_miss_the_site_add_nothing() {
    let mut some = adapters(5);
    some[1].rank = 0;
    some[4].rank = 0;
    let mut case = Case::new(WIDTHS, &some, F16, 9, 2);
    case.gate_bias[4] = 5.0; // chosen always
    let (selection, _) = check(&case);
    assert!((0..9).all(|t| chosen(&selection, t).iter().any(|pair| pair.0 == 4)));
    let case = case.routed(&[auto(5, [1, 4])], &[0]);
    assert_eq!(check(&case).1, case.base);
}

#[test]
fn nan_and_minus_infinity_are_never_chosen() {
    let mut case = Case::new(WIDTHS, &adapters(6), F32, 5, 4);
    case.gate[2 * 133 + 7] = f32::NAN;
    case.gate_bias[3] = f32::NEG_INFINITY;
    case.gate_bias[0] = f32::NAN;
    check(&case);
    assert_eq!(slots(&case, 4), [1, 4, 5]);
}

#[test]
fn plus_infinity_counts_as_the_largest_float() {
    let mut case = Case::new(WIDTHS, &adapters(6), F32, 5, 2);
    (case.gate_bias[5], case.gate_bias[2]) = (f32::INFINITY, f32::INFINITY);
    case.gate_bias[3] = f32::INFINITY;
    let (selection, _) = check(&case);
    assert_eq!(chosen(&selection, 0), [(2, 0.5), (3, 0.5)]);
}

#[test]
fn what_is_not_chosen_touches_no_bit() {
    let case = Case::new(WIDTHS, &adapters(8), F32, 21, 2).routed(&[auto(8, [0, 2, 5])], &[0]);
    let (selection, y) = check(&case);
    let mut poisoned = case.clone();
    let used = |slot: usize| selection.slots.contains(&(slot as i32));
    for slot in (0..8).filter(|&slot| !used(slot)) {
        let adapter = case.adapters[slot];
        let page = case.table[slot].page_start as usize * PAGE_BYTES_PER_COLUMN;
        let nan = element(adapter.dtype, f32::NAN);
        for (pool, width) in [(&mut poisoned.lora_a, WIDTHS.0), (&mut poisoned.lora_b, WIDTHS.1)] {
            for i in 0..adapter.rank * width {
                pool[page * width + i * nan.len()..][..nan.len()].copy_from_slice(&nan);
            }
        }
        if ![0, 2, 5].contains(&slot) {
            poisoned.gate[slot * WIDTHS.0..][..WIDTHS.0].fill(f32::NAN);
            poisoned.gate_bias[slot] = f32::NAN;
        }
    }
    assert!(run(&poisoned, &Serial).1 == y);
}

#[test]
fn a_fixed_weight_of_zero_multiplies_nothing() {
    let case = Case::new(WIDTHS, &adapters(3), F32, 4, 1);
    let mut case = case.routed(&[fixed(3, &[(0, 0.0), (2, 0.5)])], &[0]);
    let page = case.table[0].page_start as usize * PAGE_BYTES_PER_COLUMN;
    let nan = element(case.adapters[0].dtype, f32::NAN);
    case.lora_a[page * WIDTHS.0..][..nan.len()].copy_from_slice(&nan);
    check(&case);
}

#[test]
fn sign_free_slots_count_by_size() {
    let mut some = adapters(9);
    some.iter_mut()
        .step_by(2)
        .for_each(|adapter| adapter.sign_free = true);
    let mut case = Case::new(WIDTHS, &some, F32, 17, 3);
    check(&case);
    // A negated row of a sign-free slot is the same row.
    let before = run(&case, &Serial);
    case.gate[4 * 133..5 * 133]
        .iter_mut()
        .for_each(|value| *value = -*value);
    let after = run(&case, &Serial);
    assert!(before.0.slots == after.0.slots && before.1 == after.1);
}

#[test]
fn temperature() {
    for temperature in [0.25, 4.0, 30.0] {
        let mut case = Case::new(WIDTHS, &adapters(7), F32, 5, 3);
        case.options.temperature = temperature;
        check(&case);
    }
}

#[test]
fn fixed_routes_may_hold_more_slots_than_top_k() {
    let mix: Vec<(usize, f32)> = (0..7).map(|slot| (slot, 0.1 + slot as f32)).collect();
    let case = Case::new(WIDTHS, &adapters(9), F16, 8, 2).routed(&[fixed(9, &mix), auto(9, 0..9)], &[1, 0]);
    let (selection, _) = check(&case);
    assert_eq!(selection.stride, 7);
    assert_eq!(chosen(&selection, 0).len(), 2);
    assert_eq!(chosen(&selection, 7).len(), 7);
}

#[test]
fn rows_of_all_kinds_side_by_side() {
    let mut random = Random(42);
    for round in 0..30 {
        let count = 1 + random.below(30);
        let dtype = [F32, F16, BF16][round % 3];
        let (tokens, k) = (random.below(40), 1 + random.below(8));
        let case = Case::new(
            (1 + random.below(80), 1 + random.below(80)),
            &adapters(count),
            dtype,
            tokens,
            k,
        );
        let records: Vec<Vec<i32>> = (0..6)
            .map(|kind| match kind % 3 {
                0 => auto(count, (0..count).filter(|_| random.below(3) > 0)),
                1 => fixed(count, &[(random.below(count), 1.0)]),
                _ => fixed(count, &[]),
            })
            .collect();
        let rows: Vec<i32> = (0..1 + random.below(7)).map(|_| random.below(6) as i32).collect();
        check(&case.routed(&records, &rows));
    }
}

#[test]
fn a_selection_is_reused() {
    let large = Case::new(WIDTHS, &adapters(5), F32, 30, 4);
    let small = Case::new(WIDTHS, &adapters(5), F32, 2, 1);
    let (mut selection, _) = run(&large, &Serial);
    let room = selection.slots.capacity();
    let x = kernel::Activations::of(F32, &small.x);
    let (site, routes) = (small.site(), small.routes());
    meteora_core::kernel::select(
        &site,
        &routes,
        x.floats(),
        &small.options,
        &Serial,
        &mut selection,
    );
    assert_eq!((selection.stride, selection.slots.len()), (1, 2));
    assert_eq!(selection.slots.capacity(), room);
    assert_eq!(selection.slots, run(&small, &Serial).0.slots);
}

#[test]
#[should_panic(expected = "gate: [slots, in_features]")]
fn sizes_that_contradict_are_refused() {
    let mut case = Case::new(WIDTHS, &adapters(2), F32, 1, 1);
    case.gate.pop();
    run(&case, &Serial);
}

#[test]
#[should_panic(expected = "out of range")]
fn table_entries_that_point_out_of_the_pool_are_refused() {
    let mut case = Case::new(WIDTHS, &adapters(2), F32, 1, 2);
    case.table[1].page_start = 1 << 20;
    run(&case, &Serial);
}
