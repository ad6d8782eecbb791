"""The accounts agree with what is loaded, and with the process."""

from __future__ import annotations

import json
from pathlib import Path

import meteora_rs
import pytest
from child import run
from meteora_rs import Meteora
from tiny import adapter

MIB = 1 << 20


def test_what_is_loaded_is_counted(loaded: Meteora) -> None:
    stats = loaded.stats()
    device = stats.tiers["device"]
    assert device.adapters == {record.name: record.bytes for record in loaded.adapters()}
    assert device.live == sum(device.adapters.values())
    assert device.live <= device.touched <= device.reserved
    assert (stats.slots.live, stats.slots.free, stats.evictions, stats.held) == (3, 1, 0, ())
    for usage in (stats.slots, stats.rank_rows):
        assert usage.total == usage.live + usage.pending + usage.held + usage.free
    assert {name: times.count for name, times in stats.loads.items()} == dict.fromkeys(
        ("parse", "pack", "gate", "publish"), 3
    )
    for times in stats.loads.values():
        assert 0 < times.last <= times.longest <= times.seconds
    assert stats.waits.count == 0
    assert loaded.stats().version == stats.version
    loaded.unload_adapter("law")
    assert loaded.stats().version > stats.version


def test_fragmentation(meteora: Meteora) -> None:
    for name in "abcd":
        meteora.load_adapter(adapter(meteora.model, 16), name)
    assert meteora.stats().pages.fragmentation == 0
    meteora.unload_adapter("a")
    meteora.unload_adapter("c")
    pages = meteora.stats().pages
    assert (pages.free, pages.largest_run, pages.fragmentation) == (8, 4, 0.5)
    assert pages.touched == pages.total == 16


def test_a_failed_load_counts_what_it_went_through(loaded: Meteora) -> None:
    before = loaded.stats().loads
    with pytest.raises(meteora_rs.errors.CapacityError):
        loaded.load_adapter(adapter(loaded.model, 65), "new")
    after = loaded.stats().loads
    assert [after[name].count - before[name].count for name in after] == [1, 0, 0, 0]


def test_it_is_plain_data(loaded: Meteora) -> None:
    with loaded.routing("math"):
        plain = json.loads(json.dumps(loaded.stats().to_dict()))
    assert plain["slots"] == {"total": 4, "live": 3, "pending": 0, "held": 0, "free": 1, "pinned": 0}
    assert plain["held"][0]["what"] == "routing" and plain["held"][0]["adapters"][0][0] == "math"
    assert plain["pages"]["fragmentation"] == 0 and plain["tiers"]["device"]["live"] > 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see the process' memory")
def test_the_accounts_agree_with_the_process(tmp_path: Path) -> None:
    """Pools take memory as rows are written: what is touched is what the process grew by, to 15% and 8 MiB.

    In a process of its own: in this one other tests' memory goes back meanwhile.
    """
    done = run(f"""
    import gc, json
    from pathlib import Path
    from tiny import write
    from transformers import LlamaConfig, LlamaForCausalLM

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    config = LlamaConfig(
        vocab_size=32, hidden_size=512, intermediate_size=1408, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=16, pool_rank=4096))
    folders = [
        write(adapter(model, 128, seed=seed, dtype=torch.float32), Path("{tmp_path}") / f"a{{seed}}")
        for seed in range(9)
    ]
    meteora.load_adapter(folders[0], "a0")  # what the first load brings in is not the pools'
    start, before = resident(), meteora.stats()
    for seed, folder in enumerate(folders[1:], start=1):
        meteora.load_adapter(folder, f"a{{seed}}")
    grown, after = resident() - start, meteora.stats()
    for seed in range(1, 9):
        meteora.unload_adapter(f"a{{seed}}")
    tiers = [stats.to_dict()["tiers"]["device"] for stats in (before, after, meteora.stats())]
    print(json.dumps([grown, *tiers]))
    """)
    assert done.returncode == 0, done.stderr
    grown, before, after, at_last = json.loads(done.stdout)
    touched = after["touched"] - before["touched"]
    assert after["live"] - before["live"] == touched > 70 * MIB
    assert abs(grown - touched) < 0.15 * touched + 8 * MIB
    assert after["reserved"] > after["touched"]
    assert at_last["touched"] == after["touched"]  # memory stays the process'
