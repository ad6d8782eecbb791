//! Who was used how long ago.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keys in the order of their last use; each step costs the logarithm of their number.
#[derive(Debug)]
pub struct Lru<K> {
    turns: HashMap<K, u64>,
    order: BTreeMap<u64, K>,
    turn: u64,
}

impl<K> Default for Lru<K> {
    fn default() -> Lru<K> {
        Lru {
            turns: HashMap::new(),
            order: BTreeMap::new(),
            turn: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Lru<K> {
    /// Makes `key` the one that was used last, whether it was there or not.
    pub fn touch(&mut self, key: &K) {
        self.turn += 1;
        if let Some(before) = self.turns.insert(key.clone(), self.turn) {
            self.order.remove(&before);
        }
        self.order.insert(self.turn, key.clone());
    }

    /// Forgets a key; whether it was there.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let turn = self.turns.remove(key);
        turn.is_some_and(|turn| self.order.remove(&turn).is_some())
    }

    /// Whether the key is there.
    pub fn contains<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.turns.contains_key(key)
    }

    /// When the key was used last: the larger the later; none if it is not there, which is before any.
    pub fn turn<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<u64>
    where
        K: Borrow<Q>,
    {
        self.turns.get(key).copied()
    }

    /// The keys, the one that was not used for longest first.
    pub fn coldest_first(&self) -> impl Iterator<Item = &K> {
        self.order.values()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}
