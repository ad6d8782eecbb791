//! Each rule by itself.

use std::sync::Arc;

use meteora_core::reach::Reach;
use meteora_core::registry::{Intent, Registry, RegistryConfig};
use meteora_core::route::{plan, plan_within, Route};
use meteora_core::snapshot::Snapshot;
use meteora_core::{DType, Error};

use super::Kind::{Absent, Named, Routable};
use super::{auto, meanings, mix, named, one, only, record_of, registry, snapshot, Meaning};

#[track_caller]
fn refused(snapshot: &Arc<Snapshot>, route: Route, hints: &[&str]) {
    // In row 1, behind a row that is right.
    match plan(snapshot, &[Route::Base, route]) {
        Err(Error::Route(message)) => {
            for hint in ["row 1"].iter().chain(hints) {
                assert!(message.contains(hint), "{message}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn gates_choose_among_the_routable() {
    let some = snapshot(&[Routable, Named, Absent, Routable], false);
    assert_eq!(one(&some, auto()), Meaning::Auto([0, 3].into()));
    assert_eq!(one(&some, only(&["3"])), Meaning::Auto([3].into()));
    assert_eq!(
        one(&some, only(&["3", "0", "3"])),
        Meaning::Auto([0, 3].into()),
        "twice is once"
    );
    let with_base = snapshot(&[Routable, Named, Absent, Routable], true);
    assert_eq!(one(&with_base, auto()), Meaning::Auto([0, 3, 4].into()));
    assert_eq!(one(&with_base, only(&["3"])), Meaning::Auto([3, 4].into()));
}

#[test]
fn the_base_where_there_is_nothing_to_choose() {
    for base_routable in [false, true] {
        for adapters in [&[][..], &[Absent], &[Named, Named]] {
            assert_eq!(
                one(&snapshot(adapters, base_routable), auto()),
                Meaning::Fixed(vec![])
            );
        }
    }
}

#[test]
fn fixed_weights_come_with_ascending_slots() {
    let adapters = snapshot(&[Routable, Named, Routable], true);
    assert_eq!(
        one(&adapters, named("1")),
        Meaning::Fixed(vec![(1, 1.0)]),
        "a name needs no gate"
    );
    let weights = mix(&[("2", 0.25), ("0", 3.0), ("1", 0.0)]);
    assert_eq!(one(&adapters, weights), Meaning::Fixed(vec![(0, 3.0), (2, 0.25)]));
    assert_eq!(
        one(&adapters, mix(&[("0", 0.0), ("1", -0.0)])),
        Meaning::Fixed(vec![])
    );
    assert_eq!(one(&adapters, Route::Base), Meaning::Fixed(vec![]));
}

#[test]
fn unknown_names_are_not_found_anywhere() {
    let adapters = snapshot(&[Routable, Absent], false);
    for route in [named("1"), only(&["0", "1"]), mix(&[("0", 0.5), ("1", 0.0)])] {
        match plan(&adapters, &[route]) {
            Err(Error::AdapterNotFound { name, known, .. }) => {
                assert_eq!((name.as_str(), known), ("1", vec!["0".into()]))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_said_of_part_of_the_names_says_so() {
    let adapters = snapshot(&[Routable, Routable], false);
    let said = |route: Route| plan(&adapters, &[route]).unwrap_err().to_string();
    assert_eq!(said(named("9")), "no adapter named \"9\"; loaded: 0, 1");
    let of_route = |known| {
        format!("no adapter named \"9\"; of the names in this route, loaded: {known}; registered_adapters() has all")
    };
    assert_eq!(said(only(&["9"])), of_route("none"));
    assert_eq!(said(mix(&[("1", 0.5), ("9", 0.5)])), of_route("1"));
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let adapters = snapshot(&[Routable, Named], true);
    assert!(matches!(plan(&adapters, &[]), Err(Error::Route(_))));
    refused(&adapters, only(&[]), &["only=[]"]);
    refused(&adapters, only(&["0", "1"]), &["\"1\"", "no gate", "by name"]);
    refused(&adapters, mix(&[]), &["empty"]);
    refused(&adapters, mix(&[("0", 0.5), ("0", 0.5)]), &["\"0\"", "twice"]);
    for weight in [-0.5, -1e-300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e39] {
        refused(&adapters, mix(&[("1", 0.5), ("0", weight)]), &["\"0\"", "weight"]);
    }
}

#[test]
fn equal_routes_share_a_record() {
    let adapters = snapshot(&[Routable, Routable], false);
    let routes = [
        auto(),
        named("1"),
        only(&["1", "0"]),
        mix(&[("1", 1.0), ("0", 0.0)]),
        Route::Base,
        auto(),
    ];
    let plan = plan(&adapters, &routes).unwrap();
    assert_eq!(
        plan.row_route,
        [0, 1, 0, 1, 2, 0],
        "by what they mean, not by how they are written"
    );
    assert_eq!(plan.records.len(), 3 * plan.width);
    assert!(!plan.all_base);
}

#[test]
fn a_plan_keeps_its_adapters() {
    let registry = Registry::new(RegistryConfig {
        max_adapters: 1,
        pool_rank: 8,
        element_size: 2,
    });
    let plan = plan(&registry.snapshot(), &[Route::Base]).unwrap();
    assert_eq!(registry.readers(), 1);
    assert!(plan.all_base);
    drop(plan);
    assert_eq!(registry.readers(), 0);
}

#[test]
fn a_request_keeps_what_it_can_reach_and_no_more() {
    let adapters = snapshot(&[Routable, Named, Routable, Absent], true);
    let kept = |routes: &[Route]| -> Vec<usize> {
        let plan = plan(&adapters, routes).unwrap();
        plan.held.entries().iter().map(|entry| entry.slot()).collect()
    };
    assert!(kept(&[Route::Base]).is_empty());
    assert_eq!(kept(&[named("1")]), [1]);
    assert_eq!(
        kept(&[auto()]),
        [0, 2],
        "what the gates can't choose isn't kept for them"
    );
    assert_eq!(kept(&[only(&["2"])]), [2]);
    let mix = mix(&[("0", 0.5), ("2", 0.0)]);
    assert_eq!(kept(std::slice::from_ref(&mix)), [0]);
    assert_eq!(kept(&[only(&["2"]), Route::Base, mix]), [0, 2]);
}

#[test]
fn rows_that_were_expanded_keep_their_routes() {
    let adapters = snapshot(&[Routable, Routable], false);
    let plan = plan(&adapters, &[named("0"), Route::Base, named("1")]).unwrap();
    for (rows, repeat) in [(3, 1), (6, 2), (12, 4)] {
        let tokens = rows * 5;
        for token in 0..tokens {
            let row = token / 5 / repeat;
            assert_eq!(record_of(&plan, token, tokens), record_of(&plan, row, 3));
        }
    }
}

#[test]
fn names_that_stand_for_others() {
    let registry = registry(&[Routable, Routable], false);
    registry.set_alias("prod", "1", false).unwrap();
    registry
        .set_group("tenant", &["prod".to_owned(), "0".to_owned()])
        .unwrap();
    registry
        .set_group("broken", &["0".to_owned(), "gone".to_owned()])
        .unwrap();
    let snapshot = registry.snapshot();
    assert_eq!(one(&snapshot, named("prod")), Meaning::Fixed(vec![(1, 1.0)]));
    assert_eq!(one(&snapshot, only(&["@tenant"])), Meaning::Auto([0, 1].into()));
    assert_eq!(one(&snapshot, only(&["prod"])), Meaning::Auto([1].into()));
    refused(
        &snapshot,
        mix(&[("prod", 0.5), ("1", 0.5)]),
        &["twice in the mix"],
    );
    refused(&snapshot, only(&["@broken"]), &["\"@broken\" lists \"gone\""]);
}

#[test]
fn what_is_beyond_the_reach_is_unknown() {
    let registry = registry(&[Routable, Named, Routable, Routable], true);
    registry.set_alias("mine", "0", false).unwrap();
    registry.set_alias("other", "3", false).unwrap();
    registry
        .set_group("within", &["mine".to_owned(), "2".to_owned()])
        .unwrap();
    registry
        .set_group("across", &["0".to_owned(), "3".to_owned()])
        .unwrap();
    let snapshot = registry.snapshot();
    let outer = plan(&snapshot, &[named("mine"), Route::Base, named("2")]).unwrap();
    let reach = Reach::of(&outer.held);
    let meaning = |route: Route| meanings(&plan_within(&snapshot, &[route], &reach).unwrap()).remove(0);
    assert_eq!(meaning(auto()), Meaning::Auto([0, 2, 4].into()), "and the base");
    assert_eq!(meaning(only(&["@within"])), Meaning::Auto([0, 2, 4].into()));
    assert_eq!(meaning(named("mine")), Meaning::Fixed(vec![(0, 1.0)]));
    assert_eq!(meaning(Route::Base), Meaning::Fixed(vec![]));

    let said = |route: Route| {
        plan_within(&snapshot, &[Route::Base, route], &reach)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(said(named("9")), "no adapter named \"9\"; loaded: 0, 2");
    for name in ["1", "3", "other"] {
        for form in [
            named,
            |name: &str| only(&["2", name]),
            |name: &str| mix(&[("0", 0.0), (name, 0.5)]),
        ] {
            assert_eq!(
                said(form(name)),
                said(form("9")).replace("\"9\"", &format!("{name:?}"))
            );
        }
    }
    assert_eq!(
        said(only(&["@across"])),
        said(only(&["@absent"])).replace("absent", "across")
    );
}

#[test]
fn a_reload_in_its_own_place_beyond_the_reach_is_unknown() {
    let registry = registry(&[Routable, Routable], false);
    let snapshot = registry.snapshot();
    let reach = Reach::of(&plan(&snapshot, &[named("0")]).unwrap().held);
    drop(snapshot);
    let _place = registry
        .reserve("1", registry.need(8, DType::F16), Intent::Reload)
        .unwrap();
    let snapshot = registry.snapshot();
    assert!(matches!(
        plan(&snapshot, &[named("1")]),
        Err(Error::AdapterInUse { .. })
    ));
    let error = plan_within(&snapshot, &[named("1")], &reach).unwrap_err();
    assert_eq!(error.to_string(), "no adapter named \"1\"; loaded: 0");
}
