//! Who keeps adapters from being unloaded and evicted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AdapterId, Registry, Shared};
use crate::error::Result;

/// The pins, by adapter.
#[derive(Debug, Default)]
pub(crate) struct Pins(BTreeMap<AdapterId, Pin>);

#[derive(Debug, Default)]
struct Pin {
    /// By [`Registry::pin`], however often.
    set: bool,
    /// By so many [`Kept`].
    kept: usize,
}

/// An adapter that stays while this lives, whoever pins and unpins it.
#[derive(Debug)]
pub struct Kept {
    shared: Arc<Shared>,
    id: AdapterId,
}

impl Registry {
    /// Pins an adapter, or unpins it: a pinned one is never evicted, nor unloaded. A reload keeps the pin.
    ///
    /// Errors: [`crate::Error::AdapterNotFound`]; [`crate::Error::AdapterInUse`] while it is being changed.
    pub fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        let mut writer = self.shared.lock();
        let id = self.shared.settled(&writer, name)?.id;
        writer.pins.edit(id, |pin| pin.set = pinned);
        Ok(())
    }

    /// Has an adapter stay for as long as the result lives, as if it were pinned.
    ///
    /// Errors: as [`Registry::pin`].
    pub fn keep(&self, name: &str) -> Result<Kept> {
        let mut writer = self.shared.lock();
        let id = self.shared.settled(&writer, name)?.id;
        writer.pins.edit(id, |pin| pin.kept += 1);
        let shared = Arc::clone(&self.shared);
        Ok(Kept { shared, id })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // One that is gone with its own place, and its pins, has none to give back.
        let release = |pin: &mut Pin| pin.kept = pin.kept.saturating_sub(1);
        self.shared.lock().pins.edit(self.id, release);
    }
}

impl Pins {
    /// Whether it may neither be unloaded nor evicted.
    pub fn has(&self, id: AdapterId) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether [`Registry::pin`] has pinned it.
    pub fn is_set(&self, id: AdapterId) -> bool {
        self.0.get(&id).is_some_and(|pin| pin.set)
    }

    /// Whether a [`Kept`] has it stay.
    pub fn is_kept(&self, id: AdapterId) -> bool {
        self.0.get(&id).is_some_and(|pin| pin.kept > 0)
    }

    /// Forgets an adapter that is no more.
    pub fn forget(&mut self, id: AdapterId) {
        self.0.remove(&id);
    }

    fn edit(&mut self, id: AdapterId, edit: impl FnOnce(&mut Pin)) {
        let pin = self.0.entry(id).or_default();
        edit(pin);
        if !pin.set && pin.kept == 0 {
            self.0.remove(&id);
        }
    }
}
