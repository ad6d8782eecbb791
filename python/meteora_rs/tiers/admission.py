"""One request's way to have all of its adapters on the device."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from meteora_rs import _native
from meteora_rs.attached.attached import Attached
from meteora_rs.routes import NativeRoute
from meteora_rs.sites.groups import equal_gates
from meteora_rs.tiers.tiers import Tiers
from meteora_rs.tiers.turn import Turn

LONGEST_PAUSE = 0.02
"""Seconds between two looks for room in an event loop."""


class Admission:
    """Brings in what is registered and not resident; inside the block nobody takes it away before there is a plan.

    A request that finds all its adapters resident passes at once. Others take their turn: the first brings its adapters
    in, all together, and evicts for them, and has the turn until the block ends.
    """

    def __init__(
        self, meteora: Attached, tiers: Tiers, routes: Sequence[NativeRoute], within: _native.RoutePlan | None
    ) -> None:
        self._meteora, self._tiers = meteora, tiers
        self._names, missing, beyond = tiers.native.asked(routes, within)
        self.unknown = beyond + [name for name in missing if not tiers.knows(name)]
        """Names that nobody knows, or that `within` may not: the plan is refused, and nothing brought in for it."""
        self._wanted = [] if self.unknown else missing
        self._turn = Turn(meteora, tiers.native, ", ".join(self._wanted))

    def rests(self, name: str) -> bool:
        """Whether a name of these routes is known to somebody."""
        return name not in self.unknown

    @property
    def in_turn(self) -> bool:
        """Whether something was missing, so that it has stood in line."""
        return bool(self._wanted)

    def attempt(self) -> bool:
        """Bring in what is missing if it is this request's turn and there is room; whether all is there.

        Raises:
            CapacityError: it will never fit.
            AdapterFormatError, OSError: an adapter had to be read again, and its files are not what they were.
        """
        if not self._wanted:
            return True
        if not self._turn.come():
            return False
        # All of them: what was there when this one asked may have gone for those before it.
        while missing := self._tiers.native.missing(self._names):
            if not all(self._tiers.knows(name) for name in missing):
                return True  # unloaded meanwhile: the plan says so
            for name in missing:
                if not self._tiers.native.hosts(name):
                    self._tiers.fetch(name)
            if not self._bring(missing):
                return False
        return True

    async def enter_async(self) -> None:
        """As `__enter__`; what takes long runs in a thread, and other tasks run while it waits."""
        pause = 0.001
        while self._wanted:
            work = self._meteora._admitting.submit(self.attempt)
            try:
                if await asyncio.wrap_future(work):  # given up, it asks for no error of the thread's
                    return
                self._turn.check_time()
                await asyncio.sleep(pause)
            except BaseException:
                # The thread may be at it still: the turn is its own until it has ended, even when the loop is closed.
                work.add_done_callback(lambda _: self.leave())
                raise
            pause = min(2 * pause, LONGEST_PAUSE)

    def __enter__(self) -> Admission:
        """Wait until all is there.

        Raises:
            CapacityError: it will never fit, or not within `admission_timeout`. Others as `attempt`.
        """
        try:
            with self._meteora.times.waiting(self._wanted):
                while not self.attempt():
                    self._turn.wait()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Let the next have its turn."""
        self.leave()

    def leave(self) -> None:
        """Let the next have its turn."""
        self._turn.leave()

    def _bring(self, names: list[str]) -> bool:
        """Bring in these, unless one is replaced meanwhile; False: there is no room now. Nothing is done halfway."""
        meteora, native = self._meteora, self._tiers.native
        kernels = [site.kernel for site in meteora.sites]
        arrivals = self._turn.make_room(lambda: native.make_room(names, self._names, kernels))
        if arrivals is None:
            return False
        try:
            with meteora.times.stage("arrive"):
                arrivals.write(kernels)
                equal = {slot: equal_gates(meteora.groups, slot) for slot in arrivals.slots}
            with meteora._writer:
                meteora._require_attached()
                meteora._share_gates(equal)  # before a request can read the slots
                native.publish(arrivals)
                meteora._share_gates()
                meteora._context.refresh()
        finally:
            arrivals.abandon()
        return True
