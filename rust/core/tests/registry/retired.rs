//! What is unloaded comes back when its last reader is gone, and who waits is told.

use std::thread;
use std::time::{Duration, Instant};

use meteora_core::held::Held;
use meteora_core::registry::GateKind;

use super::{load, registry};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

#[test]
fn at_once_without_a_reader() {
    let registry = registry(2, 16);
    load(&registry, "math", 8).unwrap();
    let freed = registry.freed();
    assert!(registry.unload("math").unwrap().wait(NOW));
    assert!(registry.freed() > freed);
    assert!(registry.wait_freed(freed, LONG) > freed);
    let now = registry.freed();
    assert_eq!(registry.wait_freed(now, Duration::from_millis(5)), now);
}

#[test]
fn when_the_last_reader_is_gone() {
    let registry = registry(3, 16);
    load(&registry, "math", 8).unwrap();
    load(&registry, "law", 8).unwrap();
    let (first, second) = (Held::all(&registry.snapshot()), Held::all(&registry.snapshot()));
    let retired = registry.unload("math").unwrap();
    let later = Held::all(&registry.snapshot());
    assert!(!retired.wait(NOW));
    assert!(retired.is_held_by(&first) && !retired.is_held_by(&later));
    drop(first);
    assert!(!retired.wait(Duration::from_millis(5)));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            assert!(retired.wait(LONG));
            began.elapsed() < LONG / 2
        });
        thread::sleep(Duration::from_millis(5));
        drop(second);
        assert!(waiting.join().unwrap());
    });
    assert_eq!(registry.stats().slots.free, 2);
}

#[test]
fn rows_that_an_older_gate_shares_are_not_back_yet() {
    let registry = registry(2, 16);
    load(&registry, "math", 8).unwrap();
    let reader = Held::all(&registry.snapshot());
    let gates = registry.reserve_gates(&["math".to_owned()], false).unwrap();
    registry.publish_gates(gates, &[(GateKind::Fitted, true)], None);
    let retired = registry.unload("math").unwrap();
    assert!(!retired.wait(NOW) && retired.is_held_by(&reader));
    drop(reader);
    assert!(retired.wait(NOW));
}
