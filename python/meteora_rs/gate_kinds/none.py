"""No gate: the adapter is used by name only."""

from __future__ import annotations

from meteora_rs.gate_kinds.gate import Gate


class NoGate(Gate):
    """Rows of zeros that no route lets the kernel read: `Auto` never chooses the adapter."""

    kind = "none"

    def parts(self) -> tuple[None, None]:
        """Zeros."""
        return None, None
