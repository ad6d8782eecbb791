//! A thousand adapters over a pool of 64, popular as words are: hits and misses are exactly those of plain LRU.

use std::collections::VecDeque;

use meteora_core::registry::Registry;
use meteora_core::tiers::room::{Residency, Room};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{info, registry};

const ADAPTERS: usize = 1000;
const SLOTS: usize = 64;

/// Draws of ranks 0, 1, … with probability proportional to 1 / (rank + 1)^s.
struct Zipf {
    cumulated: Vec<f64>,
    random: TestRng,
}

impl Zipf {
    fn new(s: f64) -> Zipf {
        let mut sum = 0.0;
        let cumulated = (1..=ADAPTERS)
            .map(|rank| {
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        Zipf {
            cumulated,
            random: TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        }
    }

    fn draw(&mut self) -> usize {
        let unit = self.random.next_u64() as f64 / u64::MAX as f64;
        let at = unit * self.cumulated[ADAPTERS - 1];
        self.cumulated.partition_point(|&sum| sum < at).min(ADAPTERS - 1)
    }
}

/// The textbook's LRU: whether the key was there.
fn plain(cache: &mut VecDeque<usize>, key: usize) -> bool {
    let at = cache.iter().position(|&other| other == key);
    if let Some(at) = at {
        cache.remove(at);
    } else if cache.len() == SLOTS {
        cache.pop_front();
    }
    cache.push_back(key);
    at.is_some()
}

fn request(registry: &Registry, residency: &Residency, name: &str) -> bool {
    let resident = registry.snapshot().get(name).is_some();
    residency.asked([(name, resident)]);
    if !resident {
        let need = registry.need(8, meteora_core::DType::F32);
        let Room::Reserved(places) = residency
            .reserve(registry, &[(name, need)], |_| false, |_| true)
            .unwrap()
        else {
            panic!("nobody holds anything");
        };
        for place in places {
            registry.publish(place, info());
        }
    }
    resident
}

#[test]
fn hits_are_those_of_lru() {
    for s in [0.6, 1.0, 1.4] {
        let (registry, residency, mut draws) = (registry(SLOTS), Residency::default(), Zipf::new(s));
        let mut cache = VecDeque::new();
        let requests = 5000;
        let mut hits = 0;
        for _ in 0..requests {
            let key = draws.draw();
            let hit = request(&registry, &residency, &key.to_string());
            assert_eq!(hit, plain(&mut cache, key));
            hits += u64::from(hit);
        }
        let counts = residency.counts();
        assert_eq!((counts.hits, counts.misses), (hits, requests - hits));
        assert_eq!(counts.evictions, counts.misses - SLOTS as u64);
        assert_eq!(registry.records().len(), SLOTS);
    }
}
