"""What is held, against what running requests say that they hold."""

from __future__ import annotations

from meteora_rs import Meteora

LOOKS = 20
PAUSE = 0.05
"""Seconds between two looks."""


class Accounts:
    """Notices rows that no request is said to hold: who waits for them waits in vain.

    For a moment that is so whenever a request has its plan and is not listed yet. So it has to last, and the looks
    count, not the seconds: on a busy machine the one who looks is as late as the others.
    """

    def __init__(self, meteora: Meteora) -> None:
        self._meteora, self._unsaid = meteora, 0

    def look(self) -> None:
        """Compare the accounts with the requests.

        Raises:
            AssertionError: for `LOOKS` looks in a row, more slots were held than requests say that they hold.
        """
        # Before and after: what a request holds that begins or ends meanwhile is not to be missed.
        live, said = self._slots()
        held = self._meteora.stats().slots.held
        still_live, said_now = self._slots()
        unsaid = held - len((said | said_now) - (live & still_live))
        self._unsaid = self._unsaid + 1 if unsaid > 0 else 0
        assert self._unsaid < LOOKS, f"{unsaid} slots are held, and no request says so: {self._meteora.stats()}"

    def _slots(self) -> tuple[set[int], set[int]]:
        """Those of live adapters, and those that requests hold."""
        leases = self._meteora._context.leases.living()
        said = {slot for lease in leases for slot, *_ in lease.plan.adapters()}
        return {record.slot for record in self._meteora.adapters()}, said
