//! Aliases and groups, changed in one step with what they name.

use std::sync::Arc;

use super::writer::Writer;
use super::{Registry, Shared};
use crate::error::{Error, Result};
use crate::name;
use crate::naming::Naming;

impl Registry {
    /// Makes `alias` another name of the adapter `target` for requests that begin from now on. `registered` says
    /// that the caller knows the target, though it may not be live.
    ///
    /// Errors: [`Error::AdapterFormat`] (no legal name); [`Error::AdapterInUse`] (`alias` is an adapter's name, or
    /// `target` an alias); [`Error::AdapterNotFound`] (no such target).
    pub fn set_alias(&self, alias: &str, target: &str, registered: bool) -> Result<()> {
        name::check(alias)?;
        let mut writer = self.shared.lock();
        let snapshot = self.shared.published.load();
        let live = |name: &str| snapshot.get(name).is_some() || writer.withdrawn.contains_key(name);
        if live(alias) || writer.pending.contains_key(alias) {
            return Err(in_use(
                alias,
                "an adapter has this name; an alias takes another".to_owned(),
            ));
        }
        if let Some(own) = snapshot.naming().aliases.get(target) {
            return Err(in_use(
                target,
                format!("it is an alias itself; point to its adapter, {own:?}"),
            ));
        }
        if !live(target) && !registered {
            snapshot.find(target)?;
        }
        self.shared.rename(&mut writer, |naming| {
            naming.aliases.insert(alias.into(), target.into());
        });
        Ok(())
    }

    /// Forgets an alias; whether there was one.
    pub fn remove_alias(&self, alias: &str) -> bool {
        let mut writer = self.shared.lock();
        let known = self.shared.published.load().naming().aliases.contains_key(alias);
        if known {
            self.shared
                .rename(&mut writer, |naming| drop(naming.aliases.remove(alias)));
        }
        known
    }

    /// Makes `group` stand for `members`, by name or alias, in the lists of requests that begin from now on.
    ///
    /// Errors: [`Error::AdapterFormat`] (no legal name); [`Error::Route`] (no members).
    pub fn set_group(&self, group: &str, members: &[String]) -> Result<()> {
        name::check(group)?;
        for member in members {
            name::check(member)?;
        }
        if members.is_empty() {
            return Err(Error::Route(format!(
                "group {group:?} needs a member: a list that allows nothing is no list; remove_group() forgets it"
            )));
        }
        let members = members.iter().map(|member| member.as_str().into()).collect();
        self.shared.rename(&mut self.shared.lock(), |naming| {
            naming.groups.insert(group.into(), members);
        });
        Ok(())
    }

    /// Forgets a group; whether there was one.
    pub fn remove_group(&self, group: &str) -> bool {
        let mut writer = self.shared.lock();
        let known = self.shared.published.load().naming().groups.contains_key(group);
        if known {
            self.shared
                .rename(&mut writer, |naming| drop(naming.groups.remove(group)));
        }
        known
    }
}

impl Shared {
    fn rename(&self, writer: &mut Writer, edit: impl FnOnce(&mut Naming)) {
        self.change(writer, |next| edit(Arc::make_mut(&mut next.naming)));
    }

    /// Errors: [`Error::AdapterInUse`] if `name` is an alias, which stands for an adapter and is none.
    pub(super) fn no_alias(&self, name: &str) -> Result<()> {
        match self.published.load().naming().aliases.get(name) {
            Some(target) => Err(in_use(
                name,
                format!("it is an alias of {target:?}; changes take the adapter's own name"),
            )),
            None => Ok(()),
        }
    }
}

pub(super) fn in_use(name: &str, reason: String) -> Error {
    Error::AdapterInUse {
        adapter: name.to_owned(),
        reason,
    }
}
