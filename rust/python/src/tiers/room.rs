//! Room on the device, for which others go.

use std::sync::Mutex;

use meteora_core::error::Error;
use meteora_core::registry::{AdapterInfo, AdapterRecord, Reservation};
use meteora_core::rows::Need;
use meteora_core::tiers::host::Hosted;
use meteora_core::tiers::room::Room;
use meteora_core::DType;
use meteora_cuda::CudaError;

use super::{Arrivals, Tiers};
use crate::adapter::Adapter;
use crate::buffers::Buffers;

impl Tiers {
    /// Places for all of `names`, which the host has, while those of `keep` stay; or what is short until running requests
    /// end.
    pub(super) fn room(
        &self,
        names: &[String],
        keep: &[String],
        sites: &[Buffers],
    ) -> Result<(Option<Arrivals>, String), Error> {
        let hosted = names
            .iter()
            .map(|name| self.host.get(name).ok_or_else(|| gone(name)))
            .collect::<Result<Vec<Hosted>, Error>>()?;
        let needs = hosted.iter().map(|hosted| hosted.need);
        let wanted: Vec<(&str, Need)> = names.iter().map(String::as_str).zip(needs).collect();
        Ok(match self.reserve(&wanted, keep, sites)? {
            Room::Later(shortage) => (None, shortage.to_string()),
            Room::Reserved(places) => {
                let arrivals = Arrivals {
                    slots: places.iter().map(Reservation::slot).collect(),
                    places: Mutex::new(places.into_iter().zip(hosted).collect()),
                };
                (Some(arrivals), String::new())
            }
        })
    }

    /// The same for an adapter that is being loaded.
    pub(super) fn room_for(
        &self,
        adapter: &Adapter,
        sites: &[Buffers],
    ) -> Result<(Option<Reservation>, String), Error> {
        let wanted = (adapter.inner.name.as_str(), self.need(adapter));
        Ok(match self.reserve(&[wanted], &[], sites)? {
            Room::Later(shortage) => (None, shortage.to_string()),
            Room::Reserved(places) => (places.into_iter().next(), String::new()),
        })
    }

    pub(super) fn need(&self, adapter: &Adapter) -> Need {
        let widest = adapter
            .inner
            .dtypes
            .iter()
            .copied()
            .max_by_key(|dtype| dtype.size());
        self.registry
            .need(adapter.inner.max_rank, widest.unwrap_or(DType::F32))
    }

    fn reserve(&self, wanted: &[(&str, Need)], keep: &[String], sites: &[Buffers]) -> Result<Room, Error> {
        // What the host has no copy of would be lost.
        let stays = |name: &str| keep.iter().any(|kept| kept == name) || !self.host.contains(name);
        self.residency.reserve(&self.registry, wanted, stays, |record| {
            self.bring_gates_home(record, sites).is_ok()
        })
    }

    /// Copies the gate rows of an adapter that is about to go, if they were changed since it came.
    fn bring_gates_home(&self, record: &AdapterRecord, sites: &[Buffers]) -> Result<(), CudaError> {
        let Some(hosted) = self.host.get(&record.name) else {
            return Ok(());
        };
        if hosted.generation == Some(record.generation) {
            return Ok(());
        }
        let rows = sites
            .iter()
            .map(|site| site.read_gate(record.slot))
            .collect::<Result<Vec<_>, _>>()?;
        let AdapterInfo { gate, routable, .. } = record.info;
        self.host
            .set_gates(&record.name, &hosted, gate, routable, |site, row| {
                row.copy_from_slice(&rows[site].0);
                rows[site].1
            });
        self.host.published(&record.name, &record.info, record.generation);
        Ok(())
    }
}

/// The host had it when it was looked up.
fn gone(name: &str) -> Error {
    Error::AdapterInUse {
        adapter: name.to_owned(),
        reason: "it left the host's memory while it was waited for; try again".to_owned(),
    }
}
