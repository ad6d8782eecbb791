"""The emulator itself: it finds each planted bug, and lets the same kernel without the bug pass."""

from __future__ import annotations

import shutil

import pytest
import torch

if shutil.which("g++") is None:
    pytest.skip("the emulator needs g++", allow_module_level=True)

from cuda_call import Call, Fault, Slice, launch, library
from torch import Tensor

FAULTS = {
    "barrier": "without a barrier between them",
    "second_barrier": "without a barrier between them",
    "warp_barrier": "without a barrier between them",
    "divergent_shuffle": "threads wait for others that never come",
    "read": "x \\+ .* out of bounds",
    "stride": "out of bounds",
    "read_only": "gate_bias \\+ 0 of 4, which is read-only",
    "alignment": "misaligned",
    "dependency": "before griddepcontrol.wait",
    "wait": "a cp.async has not delivered",
    "wait_barrier": "(without a barrier between them|a cp.async has not delivered)",
}


def run(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and u of one launch of a planted kernel."""
    random = torch.Generator().manual_seed(1)
    # The last row is the allocation's last: 24 rows of 16, each of a stride of 24.
    x = torch.randn(24, 24, generator=random).half()
    u, bias = torch.zeros(192), torch.zeros(1)
    call = Call(x=x.data_ptr(), x_stride=24, tokens=24, in_features=16, slots=1, pages=1, u_stride=8, n_slices=1,
                total_tokens=24, x_dtype=1, u=u.data_ptr())  # fmt: skip
    call.slices[0] = Slice(gate_bias=bias.data_ptr(), out_features=1)
    library().meteora_emulator_seed(seed)
    launch(f"planted_{name}", call, (1, 1, 1), 32 if name.startswith("fragment") else 128, 2048)
    return x[:, :16], u


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_bug_is_found(name: str) -> None:
    for seed in range(4):
        run(name, seed)
        with pytest.raises(Fault, match=FAULTS[name]):
            run(f"{name}_bug", seed)


def test_a_wrong_fragment_makes_a_wrong_product() -> None:
    x, u = run("fragment")
    right = x[:16].float() @ x[16:].float().T
    torch.testing.assert_close(u[:128].view(16, 8), right)
    _, u = run("fragment_bug")
    assert (u[:128].view(16, 8) - right).abs().max() > 0.1


def test_random_orders_show_what_hangs_on_one() -> None:
    assert {float(run("order", seed)[1][1]) for seed in range(8)} == {1.0}
    assert {float(run("order_bug", seed)[1][1]) for seed in range(8)} == {0.0, 1.0}


def test_a_fault_says_where() -> None:
    where = r"^planted_read_bug, block \(0, 0, 0\), thread 0: reads 2 bytes at x \+ 1136 of 1136"
    with pytest.raises(Fault, match=where):
        run("read_bug")


def test_more_shared_memory_than_was_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="CUresult 1"):
        launch("planted_barrier", Call(), (1, 1, 1), 128, 100 << 10, raise_limit=False)
