//! The order of use against a list.

use meteora_core::tiers::lru::Lru;
use proptest::prelude::*;

proptest! {
    #[test]
    fn as_a_list_has_it(steps in prop::collection::vec((0u8..12, any::<bool>()), 0..200)) {
        let (mut lru, mut list) = (Lru::default(), Vec::new());
        for (key, touched) in steps {
            let there = list.contains(&key);
            list.retain(|&other| other != key);
            if touched {
                lru.touch(&key);
                list.push(key);
            } else {
                prop_assert_eq!(lru.remove(&key), there);
            }
            prop_assert!(lru.coldest_first().eq(&list));
            prop_assert_eq!((lru.len(), lru.is_empty()), (list.len(), list.is_empty()));
            prop_assert_eq!(lru.contains(&key), touched);
        }
    }
}
