"""Gates made from texts: fitted in closed form, or trained by back-propagation; and LoRA-Flow's for whole layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from meteora_rs.errors import AdapterInUseError
from meteora_rs.handle.tiering import Tiering

if TYPE_CHECKING:
    from meteora_rs.gates.fit import FitReport
    from meteora_rs.gates.train import TrainReport


class Training(Tiering):
    """Fits and trainings."""

    def fit_gates(self, data: Mapping[str, Iterable[str] | Iterable[tuple[str, str]]], **options: Any) -> FitReport:
        """Fit the gates of adapters on examples of their work, in closed form (see `meteora_rs.gates.fit`).

        Where there is a host tier, they are brought to the device together, and kept there until it is done. Requests
        that begin meanwhile follow gates that are tried; a service that never pauses fits on a copy of the model, and
        brings what came of it here: `meteora.set_gates(copy.gate_rows())`.

        Args:
            data: for each adapter texts or (prompt, response) pairs; `"__base__"`: general text that no adapter
                should touch.
            options: `base=None` for no class of the base's, `tokenizer`, `passes`, `refine`, `shrinkage`,
                `temperature`, `memory_budget`, `seed`, `progress`; see `gates.fit.fit_gates`.

        Raises:
            AdapterInUseError: a request or another fit runs. Others as `gates.fit.fit_gates`.
        """
        from meteora_rs.gates.fit import fit_gates

        self._require_attached()
        texts: dict[str, Any] = {name: each if isinstance(each, str) else list(each) for name, each in data.items()}
        if not self._fitting.acquire(blocking=False):
            raise AdapterInUseError("another fit_gates tries gates on its way: wait for it to end")
        try:
            with self._kept_on_device(texts), self._flow_gate_aside():
                return fit_gates(self, texts, **options)
        finally:
            self._fitting.release()

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
        with self._kept_on_device(texts), self._flow_gate_aside():
            return train_gates(self, texts, **options)

    def train_flow_gate(self, texts: Iterable[str] | Iterable[tuple[str, str]], **options: Any) -> TrainReport:
        """Learn LoRA-Flow's layer gate for a task from some 200 examples, and set it (see `gates.train.flow`).

        Args:
            texts: texts or (prompt, response) pairs of the task, for which no adapter was trained.
            options: `adapters` (names; all routable ones), and those of `train_gates` that apply.
        """
        from meteora_rs.gates.train.flow import train_flow_gate

        self._require_attached()
        each: Any = texts if isinstance(texts, str) else list(texts)
        return train_flow_gate(self, each, **options)
