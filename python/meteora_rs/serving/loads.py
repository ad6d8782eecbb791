"""What makes the loads of a model."""

from __future__ import annotations

from meteora_rs.serving.gating import Gating
from meteora_rs.serving.load import Load
from meteora_rs.serving.unloading import Unloading


class Loads(Gating, Unloading):
    """Adapters come and go, and their gates change."""

    @property
    def _load_class(self) -> type[Load]:
        if self.tiers is None:
            return Load
        from meteora_rs.serving.tiered_load import TieredLoad

        return TieredLoad
