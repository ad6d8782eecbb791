"""What transformers' Trainer trains: the gates of the attached sites, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from meteora_rs.attached.attached import Attached
from meteora_rs.gates.tried import Classes
from meteora_rs.sites.site import Site

from .gate_loss import gate_loss
from .lm_loss import lm_loss

Rows = Mapping[str, Mapping[str, tuple[Tensor, float]]]

COLD_SPREAD = 1e-3
"""Standard deviation of a cold start: all classes are about as likely, and no two tie."""


class SiteGates(nn.Module):
    """One gate for each input group: `weights[g] [C, in]` and `biases[g] [C]`, float32; C classes.

    The sites of a group (q, k, v; gate, up) get the same rows, so that one evaluation serves them all as ever.
    The model itself is no submodule: checkpoints hold the gates alone, and no optimizer sees anything else.
    """

    def __init__(self, meteora: Attached, names: Sequence[str], start: Rows | None, top_k: int, seed: int) -> None:
        super().__init__()
        self.names = list(names)
        self._meteora = meteora
        self._top_k = top_k
        self._total_sites = len(meteora.sites)
        self.group_sizes = {group.leader.group: len(group.sites) for group in meteora.groups}
        self.paths = [group.leader.path for group in meteora.groups]
        draw = torch.Generator().manual_seed(seed)
        weights, biases = [], []
        for group in meteora.groups:
            path = group.leader.path
            if start is None:
                shape = len(names), group.leader.in_features
                weights.append(torch.randn(shape, generator=draw, dtype=torch.float32) * COLD_SPREAD)
                biases.append(torch.zeros(len(names), dtype=torch.float32))
            else:
                weights.append(torch.stack([start[name][path][0].cpu() for name in names]))
                biases.append(torch.tensor([start[name][path][1] for name in names], dtype=torch.float32))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    @property
    def through_model(self) -> bool:
        """Whether any gradient passes through the model.

        With one adapter a token its weight is 1 whatever the logits are, so neither term has one: the gates then
        train on what a forward pass without a graph shows, exactly as with it.
        """
        return self._top_k > 1

    def forward(self, targets: Tensor, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The language-model loss (mean over the responses' tokens) and the gate loss of a batch (see `data.collate`).

        The gate loss is the mean over all sites and all tokens that are no pads.
        """
        context = self._meteora._context
        classes = Classes(self._meteora, self.names, self._top_k)
        step = _Step(self, classes, inputs["attention_mask"], labels)
        graph = nullcontext() if self.through_model else torch.no_grad()
        with graph, context.enter(classes.plan.taken_over(step), "training"):
            loss = lm_loss(self._meteora.model, inputs, targets)
        return loss, step.finish().to(loss.device)

    def rows(self) -> dict[str, dict[str, tuple[Tensor, float]]]:
        """The gates in the form of `Meteora.set_gates`."""
        return {
            name: {
                path: (weight[place].detach().float().cpu().clone(), float(bias[place].detach()))
                for path, weight, bias in zip(self.paths, self.weights, self.biases, strict=True)
            }
            for place, name in enumerate(self.names)
        }


class _Step:
    """Computes the sites' parts of one forward pass with the gates in training, and sums the gate loss on the way.

    A layer that is computed again in the backward pass comes by a second time; its loss has been counted then.
    """

    def __init__(self, gates: SiteGates, classes: Classes, mask: Tensor, labels: Tensor) -> None:
        self._gates, self._classes = gates, classes
        self._places = mask.reshape(-1).nonzero()[:, 0]
        self._labels = labels.repeat_interleave(mask.shape[1])[self._places]
        self._sum: Tensor | None = None
        self._counted: set[int] = set()
        self._rows: tuple[Tensor, Tensor] | None = None

    def __call__(self, site: Site, base: Tensor, x: Tensor) -> Tensor:
        if site.leads:
            self._begin_group(site, x)
        assert self._rows is not None  # a group's leader is called first
        return self._classes.add(site, base, x, self._rows)

    def _begin_group(self, site: Site, x: Tensor) -> None:
        weight = self._gates.weights[site.group].to(x.device)
        bias = self._gates.biases[site.group].to(x.device)
        through = self._gates.through_model
        with torch.enable_grad():
            loss = gate_loss(
                x if through else x.detach(), weight, bias, self._labels.to(x.device), self._places.to(x.device)
            )
            if site.group not in self._counted:
                self._counted.add(site.group)
                share = loss * (self._gates.group_sizes[site.group] / self._gates._total_sites)
                self._sum = share if self._sum is None else self._sum + share.to(self._sum.device)
        self._rows = self._classes.spread((weight, bias))

    def finish(self) -> Tensor:
        """The gate loss of the pass; the graph is not kept here, where the graph itself would keep it alive."""
        assert self._sum is not None
        total, self._sum, self._rows = self._sum, None, None
        return total
