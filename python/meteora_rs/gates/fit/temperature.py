"""The temperature of mixing, chosen by what it does to the model's loss on texts that never taught."""

from __future__ import annotations

from meteora_rs.config import SMALLEST

from .held_out import HeldOut

TEMPERATURES = (0.25, 0.5, 1.0)  # ascending
SHARPEST = 1 / 4096
"""The second of two adapters then has no weight to speak of: logits are log-posteriors, apart by nats. At 1/64 those
that are almost the same still mixed, which cost 0.007 nats."""


def choose_temperature(held: HeldOut, alone: float | None, top_k: int, own: float) -> tuple[float, dict[str, float]]:
    """The T whose mixed logits / T give the least loss on the responses of held-out texts, and the losses tried.

    From one adapter a token (its loss is `alone`, named `"top_k=1"`) T is raised as long as the loss falls. Where no
    mixture is better, it is so small that the best adapter is as good as alone. `top_k` and `own`, the temperature,
    are the model's. Returns T = 1 and no losses if no text is held out.
    """
    if alone is None:
        return 1.0, {}
    losses = {"top_k=1": alone}
    chosen, least = SHARPEST, alone
    for temperature in TEMPERATURES:
        held.trying(f"{temperature:g}")
        loss = held.mean(held.routed(max(2, top_k), max(temperature * own, SMALLEST)))
        losses[f"{temperature:g}"] = loss
        if not loss < least:
            break
        chosen, least = temperature, loss
    return chosen, losses
