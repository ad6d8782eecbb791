//! The queue: first come, first served, and nobody is passed by for one who gave up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use meteora_core::tiers::queue::Queue;

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(20);

#[test]
fn turns_come_in_order() {
    let queue = Arc::new(Queue::default());
    let (first, second, third) = (queue.join(), queue.join(), queue.join());
    assert!(first.wait(Duration::ZERO));
    assert!(!second.wait(SHORT) && !third.wait(SHORT));
    drop(second); // gave up
    assert!(!third.wait(SHORT));
    drop(first);
    assert!(third.wait(Duration::ZERO));
    drop(third);
    assert!(queue.is_empty());
}

#[test]
fn who_leaves_wakes_the_next() {
    let queue = Arc::new(Queue::default());
    let served = Mutex::new(Vec::new());
    let first = queue.join();
    let tickets: Vec<_> = (0..8).map(|_| queue.join()).collect();
    assert_eq!(queue.len(), 9);
    std::thread::scope(|scope| {
        for (number, ticket) in tickets.into_iter().enumerate() {
            let served = &served;
            scope.spawn(move || {
                assert!(ticket.wait(LONG));
                served.lock().unwrap().push(number);
            });
        }
        drop(first);
    });
    assert!(served.into_inner().unwrap().into_iter().eq(0..8));
}
