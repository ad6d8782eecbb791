//! Random batches against a naive reading of the rules.

use std::collections::{BTreeMap, BTreeSet};

use meteora_core::route::{plan, Route};
use proptest::prelude::*;

use super::Kind::{self, Absent, Named, Routable};
use super::{auto, meanings, snapshot, Meaning};

/// A route as drawn: names are slots, of which some are unknown.
fn any_route(slots: usize) -> impl Strategy<Value = Route> {
    let name = (0..slots + 1).prop_map(|slot| slot.to_string());
    let weight = prop_oneof![8 => 0.0..4.0, 1 => Just(0.0), 1 => Just(-1.0), 1 => Just(f64::NAN)];
    let weights = proptest::collection::btree_map(name.clone(), weight, 0..4);
    prop_oneof![
        Just(auto()),
        Just(Route::Base),
        name.clone().prop_map(Route::Named),
        proptest::collection::vec(name, 0..4).prop_map(|names| Route::Auto { only: Some(names) }),
        weights.prop_map(|weights| Route::Mix(weights.into_iter().rev().collect())),
    ]
}

/// The rules, read naively; nothing for what is refused.
fn expected(adapters: &[Kind], base_routable: bool, route: &Route) -> Option<Meaning> {
    let kind = |name: &String| {
        adapters
            .get(name.parse::<usize>().unwrap())
            .filter(|kind| **kind != Absent)
    };
    let slot = |name: &String| name.parse::<usize>().unwrap();
    let routable: BTreeSet<usize> = (0..adapters.len())
        .filter(|&slot| adapters[slot] == Routable)
        .collect();
    let chosen = match route {
        Route::Base => return Some(Meaning::Fixed(vec![])),
        Route::Named(name) => return kind(name).map(|_| Meaning::Fixed(vec![(slot(name), 1.0)])),
        Route::Mix(weights) => {
            let right = |(name, weight): &(String, f64)| kind(name).is_some() && *weight >= 0.0;
            let sorted: BTreeMap<usize, f32> =
                weights.iter().map(|(name, w)| (slot(name), *w as f32)).collect();
            let pairs = sorted.into_iter().filter(|pair| pair.1 != 0.0).collect();
            return (!weights.is_empty() && weights.iter().all(right)).then_some(Meaning::Fixed(pairs));
        }
        Route::Auto { only: None } => routable,
        Route::Auto { only: Some(names) } => {
            let right = !names.is_empty() && names.iter().all(|name| kind(name) == Some(&Routable));
            right.then(|| names.iter().map(slot).collect())?
        }
    };
    if chosen.is_empty() {
        return Some(Meaning::Fixed(vec![]));
    }
    Some(Meaning::Auto(
        chosen
            .into_iter()
            .chain(base_routable.then_some(adapters.len()))
            .collect(),
    ))
}

proptest! {
    #[test]
    fn random_batches_mean_what_the_rules_say(
        // Past 31 and 63 adapters the base's bit falls into the next word.
        (adapters, routes) in prop_oneof![0usize..6, 30usize..34, 62usize..66].prop_flat_map(|n| (
            proptest::collection::vec(prop_oneof![3 => Just(Routable), 1 => Just(Named), 1 => Just(Absent)], n),
            proptest::collection::vec(any_route(n), 1..6),
        )),
        base_routable: bool,
    ) {
        let snapshot = snapshot(&adapters, base_routable);
        let expected: Option<Vec<Meaning>> =
            routes.iter().map(|route| expected(&adapters, base_routable, route)).collect();
        match (plan(&snapshot, &routes), expected) {
            (Ok(plan), Some(expected)) => {
                prop_assert_eq!(meanings(&plan), &expected[..]);
                let distinct: BTreeSet<String> = expected.iter().map(|m| format!("{m:?}")).collect();
                prop_assert_eq!(plan.records.len(), distinct.len() * plan.width);
                prop_assert_eq!(plan.all_base, expected.iter().all(|m| *m == Meaning::Fixed(vec![])));
            }
            (Err(_), None) => {}
            (plan, expected) => prop_assert!(false, "{plan:?}\n{expected:?}"),
        }
    }
}
