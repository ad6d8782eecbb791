"""Loads warn, where they were called, of linears that a config targets and a file has no tensors for."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from meteora_rs import Meteora, MeteoraConfig, attach, attach_pretrained
from tiers_case import by, live
from tiny import adapter, equal, logits, prompt, tiny_model, usage, write
from transformers import PreTrainedModel

SAID = (
    "adapter 'new': 4 of the 14 linears that its config targets have no tensors, and stay as the base has them; "
    "the first is model.layers.0.self_attn.k_proj"
)


def partial(targets: Any = None, **config: Any) -> dict[str, Any]:
    """An adapter without tensors for k and v, both of which its config targets."""
    source = adapter(tiny_model(), targets=("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    seven = [*source["config"]["target_modules"], "k_proj", "v_proj"]
    source["config"].update(target_modules=targets or seven, **config)
    return source


def warned(action: Callable[[], Any]) -> list[str]:
    """What a call says, all of it in the name of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    assert all(each.category is UserWarning and each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


def test_each_load_says_it_once(loaded: Meteora, tmp_path: Path) -> None:
    folder = write(partial(), tmp_path / "it")
    said = f"{SAID} (file: {folder / 'adapter_model.safetensors'})"
    assert warned(lambda: loaded.load_adapter(folder, "new")) == [said]
    assert warned(lambda: loaded.reload_adapter("new", folder)) == [said]
    assert warned(lambda: loaded.reload_adapter("new", partial())) == [f"{SAID} (file: <memory>)"]
    loaded.save_pretrained(tmp_path / "bundle")
    assert warned(lambda: attach_pretrained(tiny_model(), tmp_path / "bundle")) == []


def test_awaited_loads_say_it_too(loaded: Meteora) -> None:
    async def both() -> None:
        await loaded.aload_adapter(partial(), "new")
        await loaded.areload_adapter("new", partial())

    assert warned(lambda: asyncio.run(both())) == 2 * [f"{SAID} (file: <memory>)"]


def test_what_is_read_again_says_nothing(tiered: Meteora, tmp_path: Path) -> None:
    folder = write(partial(), tmp_path / "it")
    assert len(warned(lambda: tiered.register_adapter(folder, "new"))) == 1
    assert warned(lambda: tiered.prefetch(["new"])) == []
    assert len(warned(lambda: tiered.reload_adapter("new", folder))) == 1
    tiered.prefetch(["a", "b"])
    assert len(warned(lambda: tiered.reload_adapter("new", folder))) == 1


@pytest.mark.parametrize(
    "source",
    [
        partial(["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "c_attn"]),
        partial("all-linear", exclude_modules=["k_proj", "v_proj"]),
        adapter(tiny_model(), ranks={"q_proj": 2, "down_proj": 8}),
        {
            "config": {**adapter(tiny_model())["config"], "layers_to_transform": [1]},
            "tensors": {key: value for key, value in adapter(tiny_model())["tensors"].items() if ".layers.1." in key},
        },
    ],
    ids=["no such modules", "excluded", "ranks", "layers"],
)
def test_no_false_alarm(meteora: Meteora, source: Any) -> None:
    assert warned(lambda: meteora.load_adapter(source, "new")) == []


@pytest.mark.parametrize("reload", [False, True])
def test_as_an_error_it_ends_the_load(loaded: Meteora, reload: bool) -> None:
    with loaded.routing("math"):
        before = logits(loaded.model, prompt())
    used = usage(loaded)
    with pytest.raises(UserWarning, match="have no tensors"):  # tests make an error of each warning
        if reload:
            loaded.reload_adapter("math", partial())
        else:
            loaded.load_adapter(partial(), "new")
    assert usage(loaded) == used
    with loaded.routing("math"):
        assert equal(logits(loaded.model, prompt()), before)


def test_as_an_error_it_comes_before_anything_has_made_room(tiered: Meteora) -> None:
    tiered.prefetch(["a", "b"])

    async def awaited() -> None:
        await tiered.aload_adapter(partial(), "new")

    calls: list[Callable[[], object]] = [
        lambda: tiered.load_adapter(partial(), "new"),
        lambda: asyncio.run(awaited()),
        lambda: tiered.register_adapter(partial(), "new"),
    ]
    for call in calls:
        with pytest.raises(UserWarning, match="have no tensors"):
            call()
        assert live(tiered) == {"a", "b"} and tiered.stats().evictions == 0


def test_as_an_error_it_comes_before_anything_is_written_over_its_own_place(model: PreTrainedModel) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model), "new")
    before = by(meteora, "new")
    with pytest.raises(UserWarning, match="have no tensors"):
        meteora.reload_adapter("new", partial())
    assert equal(by(meteora, "new"), before)
