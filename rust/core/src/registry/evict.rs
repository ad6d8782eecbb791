//! Adapters that leave the device for a while, and come back as themselves.

use std::sync::Arc;

use super::names::in_use;
use super::record::AdapterRecord;
use super::Registry;
use crate::error::Result;

impl Registry {
    /// Takes an adapter out of the published snapshot as [`Registry::unload`] does. It keeps its identity for when it is
    /// loaded again, and an alias may point to it meanwhile.
    ///
    /// Errors: [`crate::Error::AdapterNotFound`]; [`crate::Error::AdapterInUse`] if it is pinned or being changed.
    pub fn evict(&self, name: &str) -> Result<()> {
        let mut writer = self.shared.lock();
        let entry = self.shared.settled(&writer, name)?;
        if writer.pins.has(entry.id) {
            return Err(in_use(name, "it is pinned".to_owned()));
        }
        writer.evicted.insert(name.to_owned(), entry.id);
        self.shared
            .change(&mut writer, |next| next.entries[entry.slot()] = None);
        Ok(())
    }

    /// Forgets an evicted adapter: one that is loaded under its name is another.
    pub fn forget(&self, name: &str) {
        self.shared.lock().evicted.remove(name);
    }

    /// The live adapters that are not being changed, each with whether a request holds its slot or rows.
    pub fn residents(&self) -> Vec<(AdapterRecord, bool)> {
        let writer = self.shared.lock();
        let snapshot = self.shared.published.load();
        snapshot
            .entries()
            .filter(|entry| !writer.pending.contains_key(&*entry.name))
            .map(|entry| {
                // The published snapshot has one handle on the entry, and the entry the only one on slot and rows.
                let held = Arc::strong_count(entry) > 1
                    || Arc::strong_count(&entry.slot) > 1
                    || Arc::strong_count(&entry.rows) > 1;
                (writer.record(entry), held)
            })
            .collect()
    }
}
