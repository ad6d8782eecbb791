"""The scripts for a card: their Python runs, at sizes of no meaning, and their peers compute what the op computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import end_to_end, kernels, peers, sites  # noqa: E402

RUN = ROOT / "benchmarks/gpu/run.sh"
# In Python's place: a card is there, the tests on it fail, the kernels' timings hang after their first row.
STAND_IN = """#!/bin/bash
case "$*" in
  "-c "* | *doctor*) ;;
  *test_cuda_device*) echo "1 failed"; exit 1 ;;
  *gpu.kernels*) echo '{{"rows": [1]}}' > "${{@: -1}}"; sleep 60 ;;
  *) exec {python} "$@" ;;
esac
"""
TRITON_ON_A_CPU = """
import sys; sys.path[:0] = [{root!r}]
import torch
from benchmarks.gpu import peers, sites
sites.DEVICE = "cpu"
site = sites.make_site(260, 20, [8, 3, 16], 0)
x, base = torch.randn(2, 260).bfloat16(), torch.randn(2, 20).bfloat16()
weights = peers.stacked(site, 260, 20)
ours = site.call(base, x, 2)
torch.testing.assert_close(peers.triton(site, weights, base, x, 2), ours, rtol=2e-2, atol=2e-2)
"""

TRITON_FOR_A_CARD = """
import sys; sys.path[:0] = [{root!r}]
import triton
from triton.backends.compiler import GPUTarget
from benchmarks.gpu.triton_peer import INPUTS, OUTPUTS, expand, shrink
TYPES = {{"x": "*bf16", "a": "*bf16", "y": "*bf16", "b": "*bf16", "u": "*fp32", "weights": "*fp32", "slots": "*i64"}}
for kernel, constants in ((shrink, {{"RANK": 8, "INPUTS": INPUTS}}), (expand, {{"RANK": 8, "OUTPUTS": OUTPUTS}})):
    types = {{name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in kernel.arg_names}}
    source = triton.compiler.ASTSource(kernel, signature=types, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


def at_once(work: Callable[[], object], calls: int) -> tuple[float, float]:
    work()
    return 1.0, 0.0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on the CPU, small, and no clock."""
    monkeypatch.setattr(sites, "DEVICE", "cpu")
    monkeypatch.setattr(sites, "ADAPTERS", 3)
    for name, value in {"SHAPES": {"tiny": (64, 48)}, "RANKS": {key: [4, 8, 2] for key in ("8", "16", "mixed")},
                        "TOKENS": (1, 3), "COLD": 1, "COPIED": 1024, "in_graph": at_once}.items():  # fmt: skip
        monkeypatch.setattr(kernels, name, value)
    # Kernels for a card alone.
    monkeypatch.setattr(peers, "PEERS", {name: peer for name, peer in peers.PEERS.items() if name != "triton"})
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1}  # fmt: skip
    for name, value in {"CONFIGS": {"tiny": sizes}, "BATCHES": (1, 2), "PREFILL": 8, "HOT_BATCH": 2, "HOT_SECONDS": 1,
                        "ADAPTERS": 2, "captured": lambda work: work, "replayed": at_once,
                        "times": lambda work, repeats: [work(), 1.0, 2.0][1:]}.items():  # fmt: skip
        monkeypatch.setattr(end_to_end, name, value)


def test_the_kernels_script_runs(small: None, tmp_path: Path) -> None:
    kernels.main(tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert len(rows) == 6
    assert all(row["gather + bmm"] == 1.0 for row in rows)
    assert all(isinstance(row[name], float | str) for row in rows for name in ("vllm", "punica"))


def test_the_models_script_runs(small: None, tmp_path: Path) -> None:
    end_to_end.main(tmp_path / "out.json")
    (found,) = json.loads((tmp_path / "out.json").read_text()).values()
    ratios: dict[str, Any] = found["routed"]
    assert set(ratios) == {"decode 1", "decode 2", "prefill 8", "prefill 8, not captured"}
    assert set(found["steps_us"]) == {"p50", "p99", "p50 with loads", "p99 with loads"}


def test_one_call_leaves_one_result_whatever_fails(tmp_path: Path) -> None:
    stand_in, out = tmp_path / "python", tmp_path / "new" / "out.json"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stand_in), "PATH": "/usr/bin:/bin", "LIMIT": "5"}
    done = subprocess.run([RUN, out], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    found = json.loads(out.read_text())
    statuses = {name: step["status"] for name, step in found["steps"].items()}
    assert statuses == {"doctor": "0", "grid": "1", "memcheck": "missing", "racecheck": "missing",
                        "synccheck": "missing", "kernels": "124", "end_to_end": "no time left"}  # fmt: skip
    assert found["steps"]["grid"]["last"] == ["1 failed"]
    assert found["timings"] == {"kernels": {"rows": [1]}}
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] and found["versions"]["punica"] == "missing"


def test_without_a_card_nothing_is_measured(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([RUN, tmp_path / "out.json"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert done.stdout == "No CUDA device: nothing to measure.\n"


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "triton"])
def test_a_peer_computes_what_the_op_computes(small: None, name: str) -> None:
    site = sites.make_site(64, 48, [8, 3, 16], 0)
    x, base = torch.randn(5, 64).bfloat16(), torch.randn(5, 48).bfloat16()
    theirs = peers.PEERS[name](site, peers.stacked(site, 64, 48), base, x, 2)
    torch.testing.assert_close(theirs, site.call(base, x, 2), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("code", "interpreted"), [(TRITON_ON_A_CPU, "1"), (TRITON_FOR_A_CARD, "0")])
def test_so_does_the_one_in_triton_which_compiles_for_a_card(code: str, interpreted: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": interpreted, "TRITON_CACHE_DIR": str(tmp_path)}
    code = code.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Meta:
    """What vLLM's kernels are told of a batch: here each token's adapter alone."""

    @classmethod
    def make(cls, max_loras: int, max_num_tokens: int, device: torch.device) -> Meta:
        return cls()

    def prepare_tensors(self, token_lora_mapping: Tensor) -> None:
        assert token_lora_mapping.dtype == torch.int32
        self.mapping = token_lora_mapping

    def meta_args(self, token_nums: int, specialize_active_lora: bool) -> tuple[Tensor]:
        return (self.mapping[:token_nums],)


def vllm_shrink(x: Tensor, a: list[Tensor], out: Tensor, slots: Tensor, scaling: float) -> None:
    out.copy_(torch.einsum("tri,ti->tr", a[0][slots], x).float()[None] * scaling)


def vllm_expand(u: Tensor, b: list[Tensor], y: Tensor, slots: Tensor, offset_start: int, add_inputs: bool) -> None:
    assert add_inputs and offset_start == 0
    y += torch.einsum("tor,tr->to", b[0][slots].float(), u[0]).to(y.dtype)


def add_lora_bgmv(y: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: Tensor, layer: int, scale: float) -> None:
    assert slots.dtype == torch.int64 and all(part.is_contiguous() for part in (y, x, a, b, slots))
    y += (torch.einsum("tor,tri,ti->to", b[slots, layer], a[slots, layer], x) * scale).to(y.dtype)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("name", peers.GIVEN)
def test_others_kernels_are_called_as_their_sources_say(
    small: None, monkeypatch: pytest.MonkeyPatch, name: str, top_k: int
) -> None:
    """In torch here, by the signatures of vLLM 0.32 and punica 1.1."""
    theirs = {"LoRAKernelMeta": Meta, "lora_shrink": vllm_shrink, "lora_expand": vllm_expand}
    for path, content in {"vllm.lora.ops.triton_ops": theirs, "punica.ops": {"add_lora_bgmv": add_lora_bgmv}}.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        vars(sys.modules[path]).update(content)
    site = sites.make_site(64, 48, [8, 3, 16], 0)
    x, base = torch.randn(5, 64).bfloat16(), torch.randn(5, 48).bfloat16()
    work = peers.GIVEN[name](site, peers.stacked(site, 64, 48), base, x, top_k)
    torch.testing.assert_close(work(), site.call(base, x, top_k), rtol=4e-2, atol=4e-2)
