"""Where the memory is, and who holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from meteora_rs import _native
from meteora_rs.attached.times import STAGES, StageTimes
from meteora_rs.handle.tiering import Tiering
from meteora_rs.routing.leases import HeldSnapshot


@dataclass(frozen=True)
class Usage:
    """Where the units of one resource are: `total = live + pending + held + free`.

    `pending` are those of adapters that are being loaded, `held` those that only running requests keep, `pinned` those
    of pinned adapters, counted among the live or pending ones.
    """

    total: int
    live: int
    pending: int
    held: int
    free: int
    pinned: int


@dataclass(frozen=True)
class Pages:
    """The pages of the pools; `largest_run` is the longest run of free ones, `touched` those that were ever written.

    A page is 8 rank rows of 16 bits at every site. Memory once touched stays the process'.
    """

    total: int
    free: int
    largest_run: int
    touched: int

    @property
    def fragmentation(self) -> float:
        """The share of the free pages outside the longest run: 0 if the largest adapter that may fit does fit."""
        return 1 - self.largest_run / self.free if self.free else 0.0


@dataclass(frozen=True)
class TierBytes:
    """A tier's memory: `reserved` of address space, at most `touched` of it the process' memory, `live` of weights.

    `page_locked`: CUDA devices read the host's memory where it is, so all of it is touched, and none goes back.
    `not_locked`: why the driver would not have it so; adapters are copied once more on their way then.
    """

    reserved: int
    touched: int
    live: int
    adapters: dict[str, int]
    page_locked: bool = False
    not_locked: str | None = None


@dataclass(frozen=True)
class Admissions:
    """Requests' adapters and the tiers since the model was attached.

    `hits`: names that were asked for and on the device; `misses`: that were not; `dropped`: adapters that left the host
    for others and are read again when they are asked for; `waiting`: who is in the queue now; `waits`: of requests that
    found something missing, until they had all; `arrivals`: copies from the host to the device.
    """

    hits: int
    misses: int
    dropped: int
    waiting: int
    waits: StageTimes
    arrivals: StageTimes


@dataclass(frozen=True)
class Stats:
    """The accounts of one attached model at one moment: what `Meteora.stats()` returns.

    `version` grows with each change that requests can see; `loads` has the times of each stage (parse, pack, gate,
    publish), `waits` those of waiting for memory; `evictions` is how often an adapter left the device for others,
    `admissions` is None without a host tier; `held` says who holds
    adapters, oldest first.
    """

    version: int
    slots: Usage
    rank_rows: Usage
    pages: Pages
    tiers: dict[str, TierBytes]
    loads: dict[str, StageTimes]
    waits: StageTimes
    evictions: int
    admissions: Admissions | None
    held: tuple[HeldSnapshot, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers, for JSON."""
        plain = asdict(self)
        plain["pages"]["fragmentation"] = self.pages.fragmentation
        plain["held"] = [asdict(each) for each in self.held]
        return plain


class Accounts(Tiering):
    """What the memory is used for."""

    def stats(self) -> Stats:
        """Slots, rank rows, pages and bytes in use, times of the loads, and who holds adapters since when."""
        counts = self._registry.stats()
        times = self.times.get()
        return Stats(
            version=counts["version"],
            slots=Usage(**counts["slots"]),
            rank_rows=Usage(**counts["rank_rows"]),
            pages=Pages(counts["pages"], counts["free_pages"], counts["largest_run_pages"], counts["touched_pages"]),
            tiers={"device": self._device(counts["touched_pages"]), **self._host_tier()},
            loads={name: times[name] for name in STAGES},
            waits=times["wait"],
            evictions=0 if self.tiers is None else self.tiers.native.stats()["evictions"],
            admissions=self._admissions(times),
            held=tuple(lease.describe() for lease in self._context.leases.living()),
        )

    def _host_tier(self) -> dict[str, TierBytes]:
        if self.tiers is None:
            return {}
        counts, records = self.tiers.native.stats(), self.registered_adapters()
        hosted = {each.name: each.bytes for each in records if self.tiers.native.hosts(each.name)}
        locked = counts["page_locked"]
        touched = counts["total"] if locked else counts["total"] - counts["free"]
        live = sum(hosted.values())
        return {"host": TierBytes(counts["total"], touched, live, hosted, locked, counts["not_locked"])}

    def _admissions(self, times: dict[str, StageTimes]) -> Admissions | None:
        if self.tiers is None:
            return None
        counts = self.tiers.native.stats()
        return Admissions(
            counts["hits"], counts["misses"], counts["dropped"], counts["waiting"], times["admit"], times["arrive"]
        )

    def _device(self, touched_pages: int) -> TierBytes:
        buffers = [buffer for site in self.sites for buffer in site.buffers()]
        reserved = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
        columns = sum(site.in_features + site.out_features for site in self.sites)
        pools = sum(site.lora_A.numel() + site.lora_B_packed.numel() for site in self.sites)
        touched = reserved - pools + touched_pages * _native.PAGE_BYTES_PER_COLUMN * columns
        adapters = {record.name: record.bytes for record in self.adapters()}
        return TierBytes(reserved, touched, sum(adapters.values()), adapters)
