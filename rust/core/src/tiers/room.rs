//! Who is on the device, and who goes when others are wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lru::Lru;
use crate::error::{Error, Result};
use crate::registry::{AdapterRecord, Intent, Registry, Reservation, Usage};
use crate::rows::Need;

/// The order in which resident adapters were last asked for, and how often what was asked for was there.
#[derive(Debug, Default)]
pub struct Residency {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    order: Lru<Arc<str>>,
    counts: Counts,
}

/// Since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Names that a request asked for and that were resident.
    pub hits: u64,
    /// Names that a request asked for and that had to be brought in.
    pub misses: u64,
    /// Adapters that went from the device for another.
    pub evictions: u64,
}

/// What came of asking for room.
#[derive(Debug)]
pub enum Room {
    /// A place for each, in the order asked.
    Reserved(Vec<Reservation>),
    /// There will be room when running requests, or loads of others, end; the error that says what is missing now.
    Later(Error),
}

impl Residency {
    /// A request asks for a name, which is resident or not: from now on it is the last that goes.
    pub fn asked<'a>(&self, names: impl IntoIterator<Item = (&'a str, bool)>) {
        let mut state = self.lock();
        for (name, resident) in names {
            match resident {
                true => state.counts.hits += 1,
                false => state.counts.misses += 1,
            }
            state.order.touch(&Arc::from(name));
        }
    }

    /// Makes a name the last that goes, though no request asks for it.
    pub fn touch(&self, name: &str) {
        self.lock().order.touch(&Arc::from(name));
    }

    /// Forgets a name that is neither resident nor wanted any more.
    pub fn forget(&self, name: &str) {
        self.lock().order.remove(name);
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Reserves a place for each of `wanted`, all or none. The caller has the first place of the
    /// [`Queue`](super::queue::Queue).
    ///
    /// Where there is no room, resident adapters go, the one not asked for for longest first: those that are neither
    /// pinned, nor said to stay, nor held by a running request; and if they don't suffice, those that are held, as many as
    /// are needed. These serve no request that begins from now on, and their place is free when the last that runs has
    /// ended: so a request gets its turn however busy the adapters are. `before` is called for each before it
    /// goes, and may say no.
    ///
    /// Errors: [`Error::Capacity`] if no waiting helps; [`Error::AdapterInUse`] if one of `wanted` is live or changing.
    pub fn reserve(
        &self,
        registry: &Registry,
        wanted: &[(&str, Need)],
        stays: impl Fn(&str) -> bool,
        mut before: impl FnMut(&AdapterRecord) -> bool,
    ) -> Result<Room> {
        let mut busy: Vec<String> = Vec::new();
        loop {
            let shortage = match reserve_all(registry, wanted) {
                Err(error @ Error::Capacity { .. }) => error,
                reserved => return reserved.map(Room::Reserved),
            };
            possible(registry, wanted, &stays)?;
            let stays = |name: &str| stays(name) || busy.iter().any(|busy| busy == name);
            let victim = match self.victim(registry, stays) {
                Some(victim) if !victim.held || !suffices(registry, wanted) => victim,
                _ if returning(registry) => return Ok(Room::Later(shortage)),
                _ => return Err(shortage),
            };
            if !before(&victim.record) {
                busy.push(victim.record.name);
                continue;
            }
            match registry.evict(&victim.record.name) {
                Ok(()) => {
                    let mut state = self.lock();
                    state.order.remove(victim.record.name.as_str());
                    state.counts.evictions += 1;
                }
                Err(_) => busy.push(victim.record.name), // pinned, reloaded or unloaded meanwhile
            }
        }
    }

    fn victim(&self, registry: &Registry, stays: impl Fn(&str) -> bool) -> Option<Victim> {
        let state = self.lock();
        registry
            .residents()
            .into_iter()
            .filter(|(record, _)| !record.stays() && !stays(&record.name))
            .map(|(record, held)| Victim { record, held })
            // A name that nobody has asked for yet is older than any.
            .min_by_key(|victim| {
                let turn = state.order.turn(victim.record.name.as_str());
                (victim.held, turn)
            })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Victim {
    record: AdapterRecord,
    held: bool,
}

fn reserve_all(registry: &Registry, wanted: &[(&str, Need)]) -> Result<Vec<Reservation>> {
    let reserve = |&(name, need): &(&str, Need)| registry.reserve(name, need, Intent::Load);
    wanted.iter().map(reserve).collect()
}

/// Whether there would be enough if all went that may: else none goes in vain. Runs of pages may still be too short.
///
/// Errors: [`Error::Capacity`], of all of `wanted` together.
fn possible(registry: &Registry, wanted: &[(&str, Need)], stays: impl Fn(&str) -> bool) -> Result<()> {
    let stats = registry.stats();
    let stay = |(record, _): &(AdapterRecord, bool)| record.stays() || stays(&record.name);
    let staying: Vec<(AdapterRecord, bool)> = registry.residents().into_iter().filter(stay).collect();
    let rows: usize = staying.iter().map(|(record, _)| record.rank_rows).sum();
    let (what, setting, usage, needed, pinned) = if wanted.len() + staying.len() > stats.slots.total {
        ("slots", "max_adapters", stats.slots, wanted.len(), staying.len())
    } else if rows_of(wanted) + rows > stats.rank_rows.total {
        ("rank rows", "pool_rank", stats.rank_rows, rows_of(wanted), rows)
    } else {
        return Ok(());
    };
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    Err(Error::Capacity {
        adapter: names.join(", "),
        what,
        needed,
        free: usage.free,
        largest_run: usage.free,
        total: usage.total,
        pinned,
        held: usage.held,
        setting,
    })
}

fn rows_of(wanted: &[(&str, Need)]) -> usize {
    wanted.iter().map(|(_, need)| need.rank_rows).sum()
}

/// Whether what nobody uses, with what comes back by itself, is enough. Runs of pages may still not be: then this is
/// asked again when something has come back.
fn suffices(registry: &Registry, wanted: &[(&str, Need)]) -> bool {
    let stats = registry.stats();
    let coming = |usage: Usage| usage.free + usage.held + usage.pending;
    returning(registry) && coming(stats.slots) >= wanted.len() && coming(stats.rank_rows) >= rows_of(wanted)
}

/// Whether anything comes back by itself.
fn returning(registry: &Registry) -> bool {
    let stats = registry.stats();
    let due = |usage: Usage| usage.held + usage.pending > 0;
    due(stats.slots) || due(stats.rank_rows)
}
