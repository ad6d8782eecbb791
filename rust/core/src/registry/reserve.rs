//! Finding a place: a fresh one, or an adapter's own.

use std::sync::Arc;

use super::capacity::Old;
use super::names::in_use;
use super::reservation::{Claim, Intent, Reservation};
use super::space::Shortage;
use super::writer::{busy, Pending, Writer};
use super::Shared;
use crate::error::Result;
use crate::rows::Need;
use crate::snapshot::Entry;

pub(super) fn reserve(shared: &Arc<Shared>, name: &str, need: Need, intent: Intent) -> Result<Reservation> {
    let mut writer = shared.lock();
    if writer.pending.contains_key(name) {
        return Err(busy(name));
    }
    shared.no_alias(name)?;
    let live = shared.published.load().find(name).cloned();
    let old = match (intent, live) {
        (Intent::Load, Ok(_)) => {
            let reason = "a live adapter has this name; use reload_adapter to replace it".to_owned();
            return Err(in_use(name, reason));
        }
        (Intent::Reload | Intent::ReloadIf(_), Err(unknown)) => return Err(unknown),
        (Intent::ReloadIf(expected), Ok(old)) if old.generation != expected => {
            let found = old.generation;
            let reason = format!(
                "its generation is {found}, where {expected} was expected: it was changed meanwhile; look at it again \
                 before replacing it"
            );
            return Err(in_use(name, reason));
        }
        (_, live) => live.ok(),
    };
    let claim = match (shared.pool.take(need), old) {
        (Ok((slot, rows)), _) => Claim {
            slot: Arc::new(slot),
            rows,
            withdrawn: None,
        },
        (Err(shortage), Some(old)) => shared.take_over(&mut writer, need, shortage, old)?,
        (Err(shortage), None) => return Err(shared.capacity(&writer, name, need, shortage, Old::None)),
    };
    let withdrawn = claim.withdrawn.as_ref();
    let pending = Pending {
        intent,
        slots: 1,
        rank_rows: claim.rows.cost + withdrawn.map_or(0, |old| old.rows.cost),
        pinned: withdrawn.is_some_and(|old| writer.pins.has(old.id)),
    };
    writer.pending.insert(name.to_owned(), pending);
    Ok(Reservation::new(shared, name, need, claim))
}

impl Shared {
    /// Takes the published generation `old` out of everybody's sight and lets the new one have its place.
    fn take_over(
        &self,
        writer: &mut Writer,
        need: Need,
        shortage: Shortage,
        old: Arc<Entry>,
    ) -> Result<Claim> {
        let name = Arc::clone(&old.name);
        let fits = self
            .pool
            .lock()
            .find(need, &old.rows.run, old.rows.cost)
            .map(|_| ());
        if let Err(shortage) = fits {
            return Err(self.capacity(writer, &name, need, shortage, Old::Free(&old)));
        }
        if self.is_read(&old) {
            return Err(self.capacity(writer, &name, need, shortage, Old::Held(&old)));
        }
        let record = writer.record(&old);
        writer.withdrawn.insert(Arc::clone(&name), record);
        self.change(writer, |next| next.entries[old.slot()] = None);
        // A reader may have come between the look above and the change. After it none can: if nobody else has
        // the generation now, nobody will.
        let old = match unshared(old) {
            Ok(old) => old,
            Err(old) => {
                writer.withdrawn.remove(&name);
                self.change(writer, |next| next.entries[old.slot()] = Some(Arc::clone(&old)));
                return Err(self.capacity(writer, &name, need, shortage, Old::Held(&old)));
            }
        };
        match self.pool.take_over(need, &old.rows) {
            Ok(rows) => Ok(Claim {
                slot: Arc::clone(&old.slot),
                rows,
                withdrawn: Some(old),
            }),
            // Not to be expected: since the look above, places can only have been given back.
            Err(shortage) => {
                let error = self.capacity(writer, &name, need, shortage, Old::Free(&old));
                self.restore(writer, old);
                Err(error)
            }
        }
    }

    /// Publishes a generation that was withdrawn.
    pub(super) fn restore(&self, writer: &mut Writer, old: Entry) {
        let old = Arc::new(old);
        writer.withdrawn.remove(&old.name);
        self.change(writer, |next| next.entries[old.slot()] = Some(Arc::clone(&old)));
    }

    /// Publishes that a generation which was withdrawn is no more.
    pub(super) fn forget(&self, writer: &mut Writer, old: Entry) {
        writer.withdrawn.remove(&old.name);
        writer.pins.forget(old.id);
        drop(old);
        self.change(writer, |_| {});
    }

    /// Whether anything but the published snapshot, held by nobody, and `old` itself leads to its place.
    fn is_read(&self, old: &Arc<Entry>) -> bool {
        let current = self.published.load();
        Arc::strong_count(&current) > 2
            || Arc::strong_count(old) > 2
            || Arc::strong_count(&old.slot) > 1
            || Arc::strong_count(&old.rows) > 1
    }
}

/// The entry, if nobody else has it or its slot and rows. Unlike the counts, this also waits for what the last
/// reader did before it let go.
fn unshared(entry: Arc<Entry>) -> std::result::Result<Entry, Arc<Entry>> {
    let mut entry = Arc::try_unwrap(entry)?;
    if Arc::get_mut(&mut entry.slot).is_some() && Arc::get_mut(&mut entry.rows).is_some() {
        Ok(entry)
    } else {
        Err(Arc::new(entry))
    }
}
