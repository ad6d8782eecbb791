"""The host's memory where a CUDA device is in use, on the emulator: uploaded from where it is, if the driver will."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from cuda_call import library
from meteora_rs import Meteora
from meteora_rs.errors import MeteoraError
from tiers_case import HOST, attached, by
from tiny import adapter, equal, tiny_model


@pytest.fixture(autouse=True)
def driver(on_device: None) -> Iterator[None]:
    yield
    library().meteora_emulator_refuse_registration(0)
    library().meteora_emulator_allow_uploads(-1)


def with_two() -> Meteora:
    meteora = attached(tiny_model())
    for seed, name in enumerate(("a", "b")):
        meteora.register_adapter(adapter(meteora.model, 4, seed=seed), name)
    return meteora


def uploaded() -> int:
    return int(library().meteora_emulator_uploaded_from_registered())


def test_uploads_are_from_where_it_is_if_the_driver_allows_it() -> None:
    meteora, before = with_two(), uploaded()
    host = meteora.stats().tiers["host"]
    assert host.page_locked and host.not_locked is None
    assert host.touched == host.reserved == HOST
    direct = [by(meteora, name) for name in ("a", "b")]
    assert uploaded() - before == sum(host.adapters.values())

    library().meteora_emulator_refuse_registration(1)
    meteora, before = with_two(), uploaded()
    host = meteora.stats().tiers["host"]
    assert not host.page_locked and "cuMemHostRegister" in str(host.not_locked)
    assert 0 < host.touched < HOST
    assert all(map(equal, direct, [by(meteora, name) for name in ("a", "b")]))
    assert uploaded() == before


def test_it_is_unlocked_with_the_last_copy() -> None:
    gc.collect()
    before = library().meteora_emulator_registered()
    meteora = with_two()
    assert library().meteora_emulator_registered() - before == HOST
    meteora.detach()
    del meteora
    gc.collect()
    assert library().meteora_emulator_registered() == before


def test_what_an_upload_reads_is_nobody_elses_until_it_has_ended() -> None:
    """One that fails in the middle: its adapter's place in the host's memory goes to another."""
    meteora = with_two()
    expected = by(meteora, "b")
    library().meteora_emulator_allow_uploads(20)
    with pytest.raises(MeteoraError, match="cuMemcpyHtoDAsync"):
        meteora.prefetch(["a"])
    library().meteora_emulator_allow_uploads(-1)
    meteora.unload_adapter("a")
    meteora.register_adapter(adapter(meteora.model, 4, seed=2), "c")
    assert equal(by(meteora, "b"), expected)  # the emulator fails where an upload's source has changed
    meteora.prefetch(["c"])
