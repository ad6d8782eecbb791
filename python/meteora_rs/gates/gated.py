"""What gates are made from, and the gate that stands in for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meteora_rs.gates.flow import FlowGate, checked, install
from meteora_rs.gates.kept import KeptTexts
from meteora_rs.serving.loads import Loads


class Gated(Loads):
    """A model whose gates can be fitted and trained."""

    kept_texts: KeptTexts | None = None
    """What the last fit kept for adapters that come with a few examples (`load_adapter(gate=[…])`)."""
    _flow: FlowGate | None = None
    _flow_hooks = False

    def _forget_texts(self, name: str) -> None:
        if self.kept_texts is not None:
            self.kept_texts = self.kept_texts.without_class(name)

    @property
    def flow_gate(self) -> FlowGate | None:
        """The gate that weights whole layers instead of the sites' own rows, if there is one."""
        return self._flow

    def set_flow_gate(self, gate: FlowGate | None) -> None:
        """Let `gate` weight the adapters, layer by layer, wherever a route leaves the choice to the gates (see
        `gates.flow`); None: the sites' own rows choose again. Requests that run keep what they began with.

        Raises:
            AdapterNotFoundError: one of its adapters is not live.
            AdapterFormatError: it was made for another model.
        """
        with self._writer:
            self._require_attached()
            flow = None if gate is None else checked(gate, self)
            if flow is not None:
                self._follow_flow_gates()
            self._follow(flow)

    @contextmanager
    def _flow_gate_aside(self) -> Iterator[None]:
        """Inside, the sites' own rows choose: they are what is being made."""
        aside = self._flow
        if aside is None:
            yield
            return
        self.set_flow_gate(None)
        try:
            yield
        finally:
            with self._writer:
                self._follow(aside)

    def _follow(self, flow: FlowGate | None) -> None:
        self._flow = flow
        self._context.follow(flow)

    def _follow_flow_gates(self) -> None:
        """Hook the decoder layers, once; who never has a flow gate pays nothing for it."""
        if not self._flow_hooks:
            self._patch.on_remove(install(self))
            self._flow_hooks = True
