//! Whom a request may use at all, whatever its routes say.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
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

    /// The aliases and groups that lead within, and no others.
    pub fn names<'a>(&'a self, naming: &'a Naming) -> Names<'a> {
        let naming = if self.is_bound() {
            Cow::Owned(naming.within(self))
        } else {
            Cow::Borrowed(naming)
        };
        Names { reach: self, naming }
    }
}

/// What a route's names mean within a reach.
///
/// Where there is a bound, what leads beyond is not among them, so that how long a look-up takes tells nothing of it.
/// One is made for all routes of a plan: that goes through all aliases and groups, look-ups don't.
#[derive(Debug)]
pub struct Names<'a> {
    reach: &'a Reach,
    naming: Cow<'a, Naming>,
}

impl Names<'_> {
    /// Beyond which nothing is named.
    pub fn reach(&self) -> &Reach {
        self.reach
    }

    /// The adapter's own name that a route's name stands for; none, if that is beyond.
    pub fn resolve<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        Some(self.naming.resolve(name)).filter(|adapter| self.reach.has(adapter))
    }

    /// As [`Naming::expand`].
    pub fn expand<'n>(&'n self, name: &'n str) -> Result<Vec<&'n str>> {
        self.naming.expand(name)
    }
}
