//! Aliases and groups: part of a snapshot, never both a name and an alias.

use std::sync::Arc;

use meteora_core::reach::Reach;
use meteora_core::registry::Intent;
use meteora_core::snapshot::{Entry, Snapshot};
use meteora_core::{DType, Error};

use super::{load, message, registry, reload};

fn routed(snapshot: &Snapshot, name: &str) -> Result<Arc<Entry>, Error> {
    snapshot
        .routed(name, &Reach::default().names(snapshot.naming()))
        .cloned()
}

#[test]
fn a_snapshot_keeps_what_a_name_meant() {
    let registry = registry(4, 64);
    load(&registry, "v1", 8).unwrap();
    load(&registry, "v2", 8).unwrap();
    registry.set_alias("prod", "v1", false).unwrap();
    let before = registry.snapshot();
    registry.set_alias("prod", "v2", false).unwrap();
    let after = registry.snapshot();
    assert_eq!(routed(&before, "prod").unwrap().name(), "v1");
    assert_eq!(routed(&after, "prod").unwrap().name(), "v2");
    assert_eq!(routed(&after, "v1").unwrap().name(), "v1");
    assert!(after.version() > before.version());
    assert_eq!(registry.record("prod").unwrap().name, "v2");
    assert!(registry.remove_alias("prod") && !registry.remove_alias("prod"));
    assert!(routed(&registry.snapshot(), "prod").is_err());
}

#[test]
fn a_name_is_an_adapter_or_an_alias() {
    let registry = registry(4, 64);
    load(&registry, "v1", 8).unwrap();
    registry.set_alias("prod", "v1", false).unwrap();
    let version = registry.stats().version;
    let need = registry.need(8, DType::F32);
    let loading = registry.reserve("new", need, Intent::Load).unwrap();
    for (refused, reason) in [
        (message(load(&registry, "prod", 8)), "it is an alias of \"v1\""),
        (message(reload(&registry, "prod", 8)), "it is an alias of \"v1\""),
        (message(registry.unload("prod")), "it is an alias of \"v1\""),
        (message(registry.pin("prod", true)), "it is an alias of \"v1\""),
        (message(registry.unload("v1")), "the alias \"prod\" points to it"),
        (
            message(registry.set_alias("v1", "v1", false)),
            "an adapter has this name",
        ),
        (
            message(registry.set_alias("new", "v1", false)),
            "an adapter has this name",
        ),
        (
            message(registry.set_alias("next", "prod", false)),
            "it is an alias itself",
        ),
        (
            message(registry.set_alias("next", "v9", false)),
            "no adapter named \"v9\"",
        ),
        (
            message(registry.set_alias("__next__", "v1", false)),
            "does not begin with \"__\"",
        ),
    ] {
        assert!(refused.contains(reason), "{refused}");
    }
    assert_eq!(registry.stats().version, version, "what fails changes nothing");
    drop(loading);
    registry.set_alias("later", "v9", true).unwrap();
    assert!(matches!(
        routed(&registry.snapshot(), "later"),
        Err(Error::AdapterNotFound { name, .. }) if name == "v9"
    ));
}

#[test]
fn a_target_may_be_reloaded_in_place() {
    let registry = registry(1, 8);
    load(&registry, "v1", 8).unwrap();
    registry.set_alias("prod", "v1", false).unwrap();
    let need = registry.need(8, DType::F32);
    let reservation = registry.reserve("v1", need, Intent::Reload).unwrap();
    assert!(reservation.in_place());
    assert!(matches!(
        routed(&registry.snapshot(), "prod"),
        Err(Error::AdapterInUse { .. })
    ));
    registry.set_alias("other", "v1", false).unwrap();
    drop(reservation);
    assert_eq!(routed(&registry.snapshot(), "other").unwrap().name(), "v1");
}

#[test]
fn groups_are_lists_of_names() {
    let registry = registry(4, 64);
    load(&registry, "v1", 8).unwrap();
    registry
        .set_group("tenant", &["v1".to_owned(), "v2".to_owned()])
        .unwrap();
    let naming = Arc::clone(registry.snapshot().naming());
    assert_eq!(naming.expand("@tenant").unwrap(), ["v1", "v2"]);
    assert_eq!(naming.expand("tenant").unwrap(), ["tenant"]);
    let unknown = message(naming.expand("@other"));
    assert_eq!(
        unknown,
        "route: there is no group \"@other\"; set_group() makes one"
    );
    assert!(message(registry.set_group("tenant", &[])).contains("needs a member"));
    assert!(message(registry.set_group("@tenant", &["v1".to_owned()])).contains("a name has 1 to 128"));
    assert!(message(registry.set_group("tenant", &["@x".to_owned()])).contains("a name has 1 to 128"));
    assert!(registry.remove_group("tenant") && !registry.remove_group("tenant"));
    assert!(registry.snapshot().naming().expand("@tenant").is_err());
}

#[test]
fn a_reload_of_one_generation_only() {
    let registry = registry(4, 64);
    let old = load(&registry, "v1", 8).unwrap();
    let need = registry.need(8, DType::F32);
    let wrong = registry.reserve("v1", need, Intent::ReloadIf(old.generation + 1));
    assert_eq!(
        message(wrong),
        "adapter \"v1\" is in use: its generation is 1, where 2 was expected: it was changed meanwhile; look at it \
         again before replacing it"
    );
    let right = registry
        .reserve("v1", need, Intent::ReloadIf(old.generation))
        .unwrap();
    assert!(message(registry.unload("v1")).contains("another call"));
    drop(right);
    let unknown = registry.reserve("v2", need, Intent::ReloadIf(old.generation));
    assert!(matches!(unknown, Err(Error::AdapterNotFound { .. })));
}
