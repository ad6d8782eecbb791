"""Sites that are fed the same tensor."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from meteora_rs import _native
from meteora_rs.sites.site import Site


@dataclass
class InputGroup:
    """Sites with one input (q, k, v; gate, up; or one site alone), leader first."""

    sites: list[Site]
    _unequal: set[int] = field(default_factory=set)
    _shares: bool = False

    def __post_init__(self) -> None:
        self.leader.kernel.lead([site.kernel for site in self.sites[1:]])

    @property
    def leader(self) -> Site:
        """The site that is called first and whose choice the others may take over."""
        return self.sites[0]

    def note(self, slot: int, equal: bool) -> None:
        """Take down whether the sites have the same gate row in `slot`."""
        (self._unequal.discard if equal else self._unequal.add)(slot)

    def share(self, readable: Set[int] | None) -> None:
        """Let one evaluation of the gates serve all sites if their rows are the same in every slot in use.

        Args:
            readable: the slots that any request may read; None: all that were ever written.
        """
        if len(self.sites) == 1:
            return
        if readable is not None:
            self._unequal.intersection_update(readable)
        shares = not self._unequal
        if shares != self._shares:  # each load asks twice, and seldom has anything changed
            self._shares = shares
            for site in self.sites:
                site.kernel.shares_gate = shares


def equal_gates(groups: Sequence[InputGroup], slot: int) -> list[bool]:
    """For each group, whether its sites have the same gate row in `slot`, to the bit."""
    return _native.equal_gates([[site.kernel for site in group.sites] for group in groups], slot)
