"""Sites that are fed the same tensor."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from meteora_rs.site import Site


@dataclass(frozen=True)
class InputGroup:
    """Sites with one input (q, k, v; gate, up; or one site alone), leader first."""

    sites: list[Site]
    _unequal: set[int] = field(default_factory=set)

    @property
    def leader(self) -> Site:
        """The site that is called first and whose choice the others may take over."""
        return self.sites[0]

    def share(self, changed: Iterable[int], readable: Set[int] | None) -> None:
        """Let one evaluation of the gates serve all sites if the rows of a slot are the same at each.

        Args:
            changed: slots whose rows were written since the last call.
            readable: the slots that any request may read; None: all that were ever written.
        """
        if len(self.sites) == 1:
            return
        for slot in changed:
            (self._unequal.discard if self._equal(slot) else self._unequal.add)(slot)
        if readable is not None:
            self._unequal.intersection_update(readable)
        shares = not self._unequal
        for site in self.sites:
            site.kernel.shares_gate = shares

    def _equal(self, slot: int) -> bool:
        return all(self.leader.kernel.same_gate(site.kernel, slot) for site in self.sites[1:])
