"""One sweep of the model over the examples, with input groups' activations summed as they pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meteora_rs.gates.tried import Rows
from meteora_rs.ops.precision import without_autocast
from meteora_rs.texts.loss import evaluating

from .data import Batch
from .discriminant import Metric
from .fast_products import fast_products
from .logistic import refine
from .statistics import ClassStatistics

ANSWERS = 2.0
"""How many times as much a token counts in refinement that predicts one of a response: answers are made there."""

HARD = 2.0
"""How many times more a token counts that the pass before gave to another class."""


@dataclass(frozen=True)
class Taught:
    """The tokens that teach, as they come: classes `[M]`, and which predict a token of a response, `[M]` bool."""

    labels: Tensor
    answering: Tensor


class GroupActivations:
    """What a sweep leaves of one input group: statistics, and a few whole activations with their classes."""

    def __init__(
        self,
        path: str,
        width: int,
        counts: Tensor,
        test_labels: Tensor,
        like: Tensor,
        judge: Rows | None = None,
        taught: Taught | None = None,
        sparse: int = 1,
    ) -> None:
        """`counts`: as in `ClassStatistics`; test_labels `[N]`: of the tokens that test, in the order they come.

        like: of the dtype and device in which these are kept. judge: rows W, b of an earlier pass, with which a
        teaching token x of class c has weight `1 + HARD · (1 - softmax(W x + b)_c)`: a class may be of several kinds,
        and the tokens of the rarer one, which look like another class's, would hardly count for its mean. taught: of
        the tokens that teach, if they shall be kept whole for `refined`. sparse: one teaching token in so many goes
        into the statistics (`Batch.in_sums`).
        """
        self.path = path
        self._judge = judge
        self.statistics = ClassStatistics(width, counts)
        self.test_labels = test_labels
        # All at once: small tensors that stay, among a pass's large ones that go, would scatter over the whole heap.
        self._tests = torch.empty(len(test_labels), width, dtype=like.dtype, device=like.device)
        self._tested = 0
        self._taught = taught
        self._teaching = torch.empty(0 if taught is None else len(taught.labels), width, dtype=torch.bfloat16)
        self._seen = 0
        self._sparse = sparse

    @property
    def kind(self) -> str:
        """The projection that is called first."""
        return self.path.rpartition(".")[2]

    def add(self, x: Tensor, batch: Batch) -> None:
        """Take what the batch's teaching and testing tokens have as input here; x is `[rows, length, in]`."""
        flat = x.detach().reshape(-1, x.shape[-1])
        teaching, own = flat[batch.teach.to(x.device)].float(), batch.token_labels[batch.teach]
        summed, whose = teaching, own
        if self._sparse > 1:
            some = batch.in_sums(self._sparse)
            summed, whose = teaching[some.to(x.device)], own[some]
        self.statistics.add(summed, whose, self._weights(summed, whose))
        if self._taught is not None and len(own):
            # About the pivot, or rounding would take what differs in the coordinates far from zero.
            self._teaching[self._seen : self._seen + len(own)] = teaching - self.statistics.pivot
            self._seen += len(own)
        count = len(batch.test)
        self._tests[self._tested : self._tested + count] = flat[batch.test.to(x.device)]
        self._tested += count

    def refined(self, start: Rows, metric: Metric, fixed: Rows | None = None) -> Rows:
        """`start`, refined on the teaching tokens (`logistic.refine`) beside the `fixed` rows of the other labels."""
        assert self._taught is not None
        pivot = self.statistics.pivot.cpu()
        rows, biases = (each.cpu() for each in start)
        metric = Metric(metric.scales.cpu(), metric.factor.cpu())
        x = self._teaching.float()
        weights = torch.ones(len(x), dtype=torch.float32).masked_fill(self._taught.answering, ANSWERS)
        start = rows, biases + rows @ pivot
        logits = None if fixed is None else torch.addmm(fixed[1] + fixed[0] @ pivot, x, fixed[0].T)
        rows, biases = refine(x, self._taught.labels, metric, start, weights=weights, fixed=logits)
        return rows, biases - rows @ pivot

    @without_autocast
    def _weights(self, x: Tensor, labels: Tensor) -> Tensor | None:
        if self._judge is None:
            return None
        rows, biases = (each.to(x.device) for each in self._judge)
        sure = torch.softmax(x @ rows.T + biases, 1).gather(1, labels.to(x.device)[:, None])[:, 0]
        return 1 + HARD * (1 - sure)

    def kept_back(self) -> tuple[Tensor, Tensor]:
        """The test tokens `[N, in]` float32 on the CPU and their classes `[N]`."""
        return self._tests[: self._tested].float().cpu(), self.test_labels[: self._tested]


def collect(
    model: nn.Module,
    groups: Sequence[GroupActivations],
    batches: Sequence[Batch],
    routing: Callable[[Batch], AbstractContextManager[Any]],
    done: Callable[[int], object],
) -> None:
    """Runs every batch under its routes through the model, as far as the last of `groups`, and fills these.

    `done` is told the number of real tokens after each batch. Dropout is off meanwhile.
    """
    # The head is a fifth of a small model's work, and no gate reads its output.
    body = getattr(model, "base_model", model)
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in batches:
            with _listening(model, groups, batch), routing(batch), fast_products(model), suppress(_Enough):
                body(input_ids=batch.ids.to(device), attention_mask=batch.mask.to(device), use_cache=False)
            done(int(batch.mask.sum()))


class _Enough(Exception):
    """Ends a forward pass: whatever would follow, nobody reads."""


@contextmanager
def _listening(model: nn.Module, groups: Sequence[GroupActivations], batch: Batch) -> Iterator[None]:
    ours = threading.get_ident()
    waiting = {group.path for group in groups}

    def hook_for(group: GroupActivations) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if threading.get_ident() == ours:  # the model serves other threads meanwhile
                group.add(inputs[0], batch)
                waiting.discard(group.path)
                if not waiting:
                    raise _Enough

        return hook

    handles = [model.get_submodule(group.path).register_forward_pre_hook(hook_for(group)) for group in groups]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
