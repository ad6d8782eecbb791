"""A whole routed model in float64, with the specification of the op in each linear."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from meteora_rs import Meteora, Route
from meteora_rs.ops.reference import gated_lora
from torch import Tensor, nn


def reference_model_output(
    base: nn.Module, meteora: Meteora, routes: Route | Sequence[Route], ids: Tensor, **more: Any
) -> Tensor:
    """The logits `[rows, tokens, vocabulary]` in float64 of `base`, a stock copy of the attached model.

    Each adapted linear adds `reference.gated_lora` on the tensors that the attached model's sites hold and
    the records of `routes`.
    """
    model = copy.deepcopy(base).double()
    with meteora.routing(routes):
        plan = meteora._context.current()
        row_route, records = plan.row_route, plan.routes

    def hook(site: Any) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return gated_lora(
                output, inputs[0], site.gate, site.gate_bias, site.lora_A, site.lora_B_packed, site.table,
                row_route, records, plan.top_k, plan.temperature,
            )  # fmt: skip

        return add

    for site in meteora.sites:
        model.get_submodule(site.path).register_forward_hook(hook(site))
    with torch.no_grad():
        out: Tensor = model(ids, **more).logits
    return out


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """The largest difference, as a part of the largest value of the reference."""
    difference = (actual.double() - reference.double()).abs().max()
    return float(difference / reference.double().abs().max())
