//! Whom a request may use at all, whatever its routes say.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::held::Held;
use crate::naming::Naming;

/// The adapters' own names beyond which no route leads; by default there is no such bound.
///
/// What is beyond is as what nobody knows. The names are fixed: what an alias or a group comes to mean changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Reach(Option<Arc<BTreeSet<String>>>);

impl Reach {
    /// What a plan holds, and nothing else.
    pub fn of(held: &Held) -> Reach {
        let names = held.entries().iter().map(|entry| entry.name().to_owned());
        Reach(Some(Arc::new(names.collect())))
    }

    /// Whether there is a bound.
    pub fn is_bound(&self) -> bool {
        self.0.is_some()
    }

    /// Whether an adapter of this name of its own is within.
    pub fn has(&self, adapter: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(adapter))
    }

    /// The adapter's own name that a route's name stands for; none, if that is beyond.
    ///
    /// Where there is a bound, a name is held against the aliases that lead within, all of them, and no others: how long
    /// it takes tells nothing of what is beyond.
    pub fn resolve<'a>(&self, naming: &'a Naming, name: &'a str) -> Option<&'a str> {
        if !self.is_bound() {
            return Some(naming.resolve(name));
        }
        let within = naming.aliases().filter(|(_, target)| self.has(target));
        let own = self.has(name).then_some(name);
        within.fold(
            own,
            |found, (alias, target)| if alias == name { Some(target) } else { found },
        )
    }
}
