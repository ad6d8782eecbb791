//! New gates for live adapters: in slots of their own, over the same rows.

use std::sync::Arc;

use super::names::in_use;
use super::record::{AdapterInfo, AdapterRecord, GateKind};
use super::reservation::Intent;
use super::space::SlotLease;
use super::writer::{Pending, Writer};
use super::{Registry, Shared};
use crate::error::Result;
use crate::snapshot::Entry;

/// Slots for new gate rows, which nobody reads until they are published. Dropping it gives them back.
///
/// One that is [in place](GateReservation::in_place) has the adapters' own slots: no snapshot was held when it was
/// made, and the caller lets none be taken until it is published or dropped.
#[derive(Debug)]
pub struct GateReservation {
    shared: Arc<Shared>,
    adapters: Vec<(Arc<Entry>, Arc<SlotLease>)>,
    base: Option<SlotLease>,
    in_place: bool,
}

impl GateReservation {
    /// The slots to write, one for each adapter, in order.
    pub fn slots(&self) -> Vec<usize> {
        self.adapters.iter().map(|(_, slot)| slot.index).collect()
    }

    /// The slots that the adapters have until then.
    pub fn old_slots(&self) -> Vec<usize> {
        self.adapters.iter().map(|(entry, _)| entry.slot()).collect()
    }

    /// The slot to write for the base.
    pub fn base_slot(&self) -> Option<usize> {
        self.base.as_ref().map(|slot| slot.index)
    }

    /// Whether the slots are those that the adapters have now.
    pub fn in_place(&self) -> bool {
        self.in_place
    }
}

impl Drop for GateReservation {
    fn drop(&mut self) {
        let mut writer = self.shared.lock();
        for (entry, _) in &self.adapters {
            writer.pending.remove(&*entry.name);
        }
    }
}

impl Registry {
    /// Reserves slots for new gate rows of these adapters, and of the base: their own if no snapshot is held, else
    /// fresh ones.
    ///
    /// Errors: [`crate::Error::AdapterNotFound`]; [`crate::Error::AdapterInUse`] while one of them is being changed,
    /// or if snapshots are held and there are not enough free slots.
    pub fn reserve_gates(&self, names: &[String], base: bool) -> Result<GateReservation> {
        let mut writer = self.shared.lock();
        let entries = names
            .iter()
            .map(|name| self.shared.settled(&writer, name))
            .collect::<Result<Vec<_>>>()?;
        let in_place = self.shared.readers(&writer) == 0;
        let slots: Vec<Arc<SlotLease>> = if in_place {
            entries.iter().map(|entry| Arc::clone(&entry.slot)).collect()
        } else {
            let free = self.shared.pool.take_slots(entries.len());
            let free = free.map_err(|free| held(&names[0], entries.len(), free))?;
            free.into_iter().map(Arc::new).collect()
        };
        let base = match base {
            true => Some(
                self.shared
                    .pool
                    .take_base_slot()
                    .ok_or_else(|| held("__base__", 1, 0))?,
            ),
            false => None,
        };
        for name in names {
            let pending = Pending {
                intent: Intent::Reload,
                slots: usize::from(!in_place),
                rank_rows: 0,
                pinned: false,
            };
            writer.pending.insert(name.clone(), pending);
        }
        Ok(GateReservation {
            shared: Arc::clone(&self.shared),
            adapters: entries.into_iter().zip(slots).collect(),
            base,
            in_place,
        })
    }

    /// Makes written gates live, in one step: for each adapter its kind and whether the gates may choose it; for the
    /// base whether it is a class of its own, or None to leave it as it is.
    pub fn publish_gates(
        &self,
        mut reservation: GateReservation,
        gates: &[(GateKind, bool)],
        base_routable: Option<bool>,
    ) -> Vec<AdapterRecord> {
        assert_eq!(
            gates.len(),
            reservation.adapters.len(),
            "one gate for each adapter"
        );
        let mut writer = self.shared.lock();
        let next: Vec<(usize, Arc<Entry>)> = std::mem::take(&mut reservation.adapters)
            .into_iter()
            .zip(gates)
            .map(|((old, slot), &(gate, routable))| {
                writer.pending.remove(&*old.name);
                (
                    old.slot(),
                    Arc::new(regated(&mut writer, &old, slot, gate, routable)),
                )
            })
            .collect();
        let records = next.iter().map(|(_, entry)| writer.record(entry)).collect();
        let base = reservation.base.take().map(Arc::new);
        self.shared.change(&mut writer, |draft| {
            for (old, entry) in next {
                draft.entries[old] = None;
                let slot = entry.slot();
                draft.entries[slot] = Some(entry);
            }
            match base_routable {
                Some(true) => draft.base = base,
                Some(false) => draft.base = None,
                None => {}
            }
        });
        drop(writer); // the reservation's own drop takes the lock
        records
    }
}

fn regated(writer: &mut Writer, old: &Entry, slot: Arc<SlotLease>, gate: GateKind, routable: bool) -> Entry {
    Entry {
        name: Arc::clone(&old.name),
        id: old.id,
        generation: writer.next_generation(),
        info: AdapterInfo {
            gate,
            routable,
            ..old.info.clone()
        },
        slot,
        rows: Arc::clone(&old.rows),
    }
}

fn held(name: &str, needed: usize, free: usize) -> crate::Error {
    in_use(
        name,
        format!(
            "running requests hold its gate rows; new ones take a slot of their own ({needed} needed, {free} free): \
             try again when requests have ended, unload an adapter or raise max_adapters"
        ),
    )
}
