//! Names that stand for adapters: an alias for one, a group for several.
//!
//! Both are part of a snapshot, so a request sees one state of adapters and names together, and a switch is one
//! step. An alias is another name for a live adapter; no name is ever both. A group is a list of names, looked up
//! when a route uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::reach::Reach;

/// What begins a group's name in a list of adapters: `@tenant`.
pub const GROUP_MARK: char = '@';

/// Aliases and groups at one moment.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    pub(crate) aliases: BTreeMap<Arc<str>, Arc<str>>,
    pub(crate) groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl Naming {
    /// The adapter that `name` stands for: an alias' target, else `name` itself.
    pub fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, |target| target)
    }

    /// The names that `name` stands for in a list: a group's members for `@group`, else `name` itself.
    ///
    /// Errors: [`Error::Route`], which tells of no other group: it may belong to somebody else.
    pub fn expand<'a>(&'a self, name: &'a str) -> Result<Vec<&'a str>> {
        let Some(group) = name.strip_prefix(GROUP_MARK) else {
            return Ok(vec![name]);
        };
        let members = self.groups.get(group);
        let members = members
            .ok_or_else(|| Error::Route(format!("there is no group \"{name}\"; set_group() makes one")))?;
        Ok(members.iter().map(|member| &**member).collect())
    }

    /// The aliases that lead within `reach`, and the groups of which all members do.
    pub fn within(&self, reach: &Reach) -> Naming {
        let aliases = self.aliases.iter().filter(|(_, target)| reach.has(target));
        let groups = self
            .groups
            .iter()
            .filter(|(_, members)| members.iter().all(|member| reach.has(self.resolve(member))));
        let (aliases, groups) = (aliases.map(owned), groups.map(owned));
        Naming {
            aliases: aliases.collect(),
            groups: groups.collect(),
        }
    }

    /// Each alias with its target.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(alias, target)| (&**alias, &**target))
    }

    /// Each group with its members.
    pub fn groups(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.groups
            .iter()
            .map(|(group, members)| (&**group, members.iter().map(|member| &**member).collect()))
    }

    /// An alias whose target is `adapter`.
    pub(crate) fn alias_of(&self, adapter: &str) -> Option<&str> {
        self.aliases()
            .find_map(|(alias, target)| (target == adapter).then_some(alias))
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}
