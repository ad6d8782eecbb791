"""The gate term of the training objective, for one input group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meteora_rs.ops.precision import without_autocast


def gate_loss(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    """The mean cross-entropy of softmax(W x + b) over all classes against each token's own class, in nats.

    x `[…, in]` of any float dtype; weight `[C, in]` and bias `[C]` float32; places `[N]` int64 indices into the
    flattened tokens, the ones that count; labels `[N]` int64, their classes. Returns a float32 scalar; computed in
    float32, also under autocast. For the backward pass `[N, C]` numbers are kept, not the input.

    Source: MeteoRA, arXiv 2405.13053, section 3.3.
    """
    loss: Tensor = _GateLoss.apply(x, weight, bias, labels, places)
    return loss


class _GateLoss(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])[places].float()
        log_p = torch.log_softmax(tokens @ weight.T + bias, dim=-1)
        loss = -log_p.gather(1, labels[:, None]).mean()
        # d loss / d logits; with it all gradients follow, and the input needs not be kept.
        error = log_p.exp()
        error[torch.arange(len(labels), device=labels.device), labels] -= 1
        error /= max(1, len(labels))
        ctx.save_for_backward(error, weight, places, error.T @ tokens, error.sum(0))
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return loss

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        error, weight, places, grad_weight, grad_bias = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            flat = torch.zeros(ctx.shape[:-1].numel(), ctx.shape[-1], dtype=torch.float32, device=error.device)
            flat[places] = grad * (error @ weight)
            grad_x = flat.to(ctx.dtype).reshape(ctx.shape)
        return grad_x, grad * grad_weight, grad * grad_bias, None, None
