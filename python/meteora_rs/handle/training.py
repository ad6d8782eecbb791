"""Gates by back-propagation: those of the sites, and LoRA-Flow's for whole layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meteora_rs.handle.attached import Attached

if TYPE_CHECKING:
    from meteora_rs.gates.flow import FlowGate
    from meteora_rs.gates.train import TrainReport


class Training(Attached):
    """Training of gates, and the gate that only training makes."""

    _flow_hooks = False

    def train_gates(self, data: Mapping[str, Iterable[str] | Iterable[tuple[str, str]]], **options: Any) -> TrainReport:
        """Train the gates of live adapters by back-propagation (see `meteora_rs.gates.train`); needs accelerate.

        Args:
            data: as `fit_gates`.
            options: `beta`, `steps`, `top_k`, `cold`, `output_dir`, `resume_from_checkpoint`, …, and transformers'
                TrainingArguments; see `gates.train.train_gates`.
        """
        from meteora_rs.gates.train import train_gates

        self._require_attached()
        texts: dict[str, Any] = {name: each if isinstance(each, str) else list(each) for name, each in data.items()}
        with self._whole._kept_on_device(texts), self._flow_gate_aside():
            return train_gates(self._whole, texts, **options)

    @property
    def flow_gate(self) -> FlowGate | None:
        """The gate that weights whole layers instead of the sites' own rows, if there is one."""
        return self._context.flow

    def set_flow_gate(self, gate: FlowGate | None) -> None:
        """Let `gate` weight the adapters, layer by layer, wherever a route leaves the choice to the gates (see
        `gates.flow`); None: the sites' own rows choose again. Requests that run keep what they began with.

        Raises:
            AdapterNotFoundError: one of its adapters is not live.
            AdapterFormatError: it was made for another model.
        """
        from meteora_rs.gates.flow import checked

        with self._writer:
            self._require_attached()
            flow = None if gate is None else checked(gate, self._whole)
            if flow is not None:
                self._follow_flow_gates()
            self._context.follow(flow)

    @contextmanager
    def _flow_gate_aside(self) -> Iterator[None]:
        """Inside, the sites' own rows choose: they are what is being made."""
        aside = self._context.flow
        if aside is None:
            yield
            return
        self.set_flow_gate(None)
        try:
            yield
        finally:
            with self._writer:
                self._context.follow(aside)

    def _follow_flow_gates(self) -> None:
        """Hook the decoder layers, once; who never has a flow gate pays nothing for it."""
        if not self._flow_hooks:
            from meteora_rs.gates.flow import install

            self._patch.on_remove(install(self._whole))
            self._flow_hooks = True

    def train_flow_gate(self, texts: Iterable[str] | Iterable[tuple[str, str]], **options: Any) -> TrainReport:
        """Learn LoRA-Flow's layer gate for a task from some 200 examples, and set it (see `gates.train.flow`).

        Args:
            texts: texts or (prompt, response) pairs of the task, for which no adapter was trained.
            options: `adapters` (names; all routable ones), and those of `train_gates` that apply.
        """
        from meteora_rs.gates.train.flow import train_flow_gate

        self._require_attached()
        each: Any = texts if isinstance(texts, str) else list(texts)
        return train_flow_gate(self._whole, each, **options)
